"""Statistics against numbers worked out by hand, on the folder that `purified_folder` describes."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from purified_folder import TEACHERS, report, write_purified

from kp_data.hub.explorer import statistics
from kp_data.hub.explorer.calibration import reliability
from kp_data.hub.explorer.charts import sections
from kp_data.hub.explorer.dataset import ANYBODY, Dataset, Part
from kp_data.hub.explorer.local import FolderCatalogue
from kp_data.hub.explorer.rows import Rows
from kp_data.hub.explorer.statistics import agreement, column_statistics, histogram, subjects, teachers
from kp_data.tables import write_json

NUM = 10


def opened(folder: Path) -> tuple[Rows, Dataset]:
    catalogue = FolderCatalogue(folder)
    return Rows(folders=[catalogue.folder]), catalogue.open(ANYBODY, catalogue.name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten questions; ada is right always, bo on even ones, cy never, and cy's calls 0 and 5 failed."""
    folder = write_purified(tmp_path / "pure", NUM)
    write_json({**report(NUM), "teachers": list(TEACHERS)}, folder / "report.json")
    return folder


def changed(file: Path, column: str, values: pa.Array) -> None:
    table = pq.read_table(file)
    pq.write_table(table.set_column(table.schema.get_field_index(column), column, values), file)


def test_accuracy_counts_what_came_and_leaves_out_calls_that_failed(folder: Path) -> None:
    rows, dataset = opened(folder)
    found = {fact.name: fact for fact in teachers(rows, dataset.of_config("panel"), dataset.of_config("purified"))}
    assert [(name, fact.accuracy, fact.judged, fact.failed) for name, fact in found.items()] == [
        ("ada", 1.0, 10, 0),
        ("bo", 0.5, 10, 0),
        ("cy", 0.0, 8, 2),
    ]
    assert [fact.kept for fact in found.values()] == [1.0, 0.0, 0.0]
    assert found["ada"].cost_usd == pytest.approx(0.01)
    assert found["cy"].cost_usd is None
    # "cy thinks of item 3." in full.
    assert found["cy"].chars == (20.0, 20.0, 20.0)


def test_answers_that_nobody_judged_are_judged_by_the_gold_that_is_known_now(folder: Path) -> None:
    changed(folder / "responses.parquet", "correct", pa.nulls(3 * NUM, pa.bool_()))
    rows, dataset = opened(folder)
    found = teachers(rows, dataset.of_config("panel"), dataset.of_config("purified"))
    assert [(fact.name, fact.accuracy, fact.judged) for fact in found] == [
        ("ada", 1, 10),
        ("bo", 0.5, 10),
        ("cy", 0, 8),
    ]


def test_an_answer_that_could_not_be_read_is_wrong(folder: Path) -> None:
    table = pq.read_table(folder / "responses.parquet").to_pylist()
    for row in table[:3]:
        row |= {"answer": None, "answer_index": None, "correct": None, "error": None, "rationale": "hm"}
    pq.write_table(
        pa.Table.from_pylist(table, pq.read_schema(folder / "responses.parquet")), folder / "responses.parquet"
    )
    rows, dataset = opened(folder)
    found = teachers(rows, dataset.of_config("panel"), dataset.of_config("purified"))
    assert [(fact.accuracy, fact.judged) for fact in found] == [(0.9, 10), (0.4, 10), (0, 9)]


def test_the_same_accuracy_stands_in_the_report(folder: Path) -> None:
    from kp_data.summary import summarise

    rows, dataset = opened(folder)
    found = teachers(rows, dataset.of_config("panel"), dataset.of_config("purified"))
    reported = summarise(folder).teachers
    assert [(fact.name, fact.accuracy, fact.judged) for fact in found] == [
        (each.name, each.accuracy, each.num_judged) for each in reported
    ]


def test_agreement_is_the_share_of_questions_that_both_answered(folder: Path) -> None:
    rows, dataset = opened(folder)
    found = agreement(rows, dataset.of_config("panel"))
    assert found is not None
    assert found.teachers == TEACHERS
    # bo says what ada says on even questions, what cy says on odd ones; cy answered 8, of them 4 odd.
    assert found.share_TT == ((1.0, 0.5, 0.0), (0.5, 1.0, 0.5), (0.0, 0.5, 1.0))
    assert found.num_questions == NUM


def test_agreement_of_very_many_questions_is_drawn_from_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "AGREEMENT_QUESTIONS", 4)
    rows, dataset = opened(folder)
    found = agreement(rows, dataset.of_config("panel"))
    assert found is None or 0 < found.num_questions < NUM


def test_nobody_agrees_where_there_is_one_teacher(folder: Path) -> None:
    table = pq.read_table(folder / "responses.parquet")
    pq.write_table(table.filter(pa.compute.equal(table["teacher"], "ada")), folder / "responses.parquet")
    rows, dataset = opened(folder)
    assert agreement(rows, dataset.of_config("panel")) is None
    assert agreement(rows, ()) is None


def test_conflicts_are_counted_by_subject_the_largest_first(folder: Path) -> None:
    changed(folder / "purified.parquet", "subject", pa.array(["law"] * 6 + ["art"] * 3 + [None]))
    changed(folder / "purified.parquet", "conflict", pa.array([True, False] * 5))
    rows, dataset = opened(folder)
    found = [(fact.subject, fact.num, fact.conflict) for fact in subjects(rows, dataset.parts[0])]
    assert found == [("law", 6, 0.5), ("art", 3, pytest.approx(2 / 3))]


def test_columns_are_described_as_the_viewer_does(folder: Path) -> None:
    changed(
        folder / "purified.parquet", "score", pa.array([0.0, 0.25, 0.5, 0.75, 1.0, None, float("nan"), 1.0, 1.0, 1.0])
    )
    rows, dataset = opened(folder)
    found = {each["column_name"]: each for each in column_statistics(rows, dataset.parts[0])}
    score = found["score"]["column_statistics"]
    assert (score["nan_count"], score["min"], score["max"], score["median"]) == (2, 0.0, 1.0, 0.875)
    assert [number for *_, number in histogram(score)] == [1, 0, 1, 0, 0, 1, 0, 1, 0, 4]
    assert found["split"]["column_type"] == "string_label"
    assert found["split"]["column_statistics"]["frequencies"] == {"train": 4, "validation": 2, "test": 2, "ood": 2}
    assert found["choices"]["column_statistics"]["mean"] == 3.0
    assert found["conflict"]["column_statistics"]["frequencies"] == {"True": 10}
    assert found["context"]["column_statistics"]["nan_proportion"] == 1.0


def test_vectors_are_described_from_the_footer_alone(tmp_path: Path) -> None:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array([0.5] * 12, pa.float32()), 3)
    pq.write_table(pa.table({"embedding": vectors}), tmp_path / "whole.parquet")
    gaps = pa.array([[1.0, 2.0, 3.0], None], pa.list_(pa.float32(), 3))
    pq.write_table(pa.table({"embedding": gaps}), tmp_path / "gaps.parquet")
    for name, missing in (("whole", 0), ("gaps", 1)):
        part = Part("c", "s", (tmp_path / f"{name}.parquet",))
        assert part.is_whole("embedding") == (missing == 0)
        (found,) = column_statistics(Rows(folders=[tmp_path]), part)
        assert found["column_statistics"]["nan_count"] == missing
        assert found["column_statistics"]["max"] == 3


def test_what_was_counted_holds_until_the_file_changes(folder: Path) -> None:
    rows, dataset = opened(folder)
    assert rows.values(dataset.parts[0], "teacher", most=5) == (("ada", 10),)
    changed(folder / "purified.parquet", "teacher", pa.array(["bo"] * NUM))
    again = FolderCatalogue(folder).open(ANYBODY, "local/pure")
    assert rows.values(again.parts[0], "teacher", most=5) == (("bo", 10),)


def scored(folder: Path, num: int) -> None:
    """Every score is 0.75, and three of four are right; the rows of `test` alone are all right."""
    table = pq.read_table(folder / "purified.parquet")
    right = [number % 4 != 3 for number in range(num)]
    split = ["test" if good and number < num // 2 else "train" for number, good in enumerate(right)]
    gold = table["answer_index"].to_pylist()
    answers = [answer if good else (answer + 1) % 3 for answer, good in zip(gold, right, strict=True)]
    for column, values in (("purified_answer_index", answers), ("split", split), ("score", [0.75] * num)):
        changed(folder / "purified.parquet", column, pa.array(values, table.schema.field(column).type))


def test_calibration_is_measured_on_the_test_split_where_there_is_one(tmp_path: Path) -> None:
    folder = write_purified(tmp_path / "pure", 400)
    scored(folder, 400)
    rows, dataset = opened(folder)
    found = reliability(rows, dataset.parts[0])
    assert found is not None
    measured, where = found
    assert (measured.num, where) == (150, "of the test split")
    assert measured.bins[0].observed == 1.0
    assert measured.ece == pytest.approx(0.25)


@pytest.mark.parametrize(("meaning", "shown"), [("probability of being right", True), ("strength", False)])
def test_calibration_is_shown_only_of_scores_that_claim_to_be_probabilities(
    tmp_path: Path, meaning: str, shown: bool
) -> None:
    folder = write_purified(tmp_path / "pure", 120)
    write_json({**report(120), "fit": {"score_meaning": meaning}}, folder / "report.json")
    scored(folder, 120)
    rows, dataset = opened(folder)
    headings = [section.heading for section in sections(rows, dataset, dataset.parts[0])]
    assert any("mean what it says" in heading for heading in headings) == shown
    assert "How long they write" in headings


@pytest.mark.parametrize("broken", [{"reliability": {"bins": [{"predicted": "x"}]}}, {"fit": []}, {"reliability": 3}])
def test_a_report_that_makes_no_sense_spoils_no_page(folder: Path, broken: dict[str, object]) -> None:
    write_json({**report(NUM), **broken}, folder / "report.json")
    rows, dataset = opened(folder)
    assert sections(rows, dataset, dataset.parts[0])


def test_lengths_stand_in_characters_at_every_line(folder: Path) -> None:
    rows, dataset = opened(folder)
    section = next(each for each in sections(rows, dataset, dataset.parts[0]) if each.heading == "How long they write")
    assert "21 (21–21)" in str(section.chart)
    assert "%</text>" not in str(section.chart)
