"""A question's story, from a folder: who said what, where they part, what was kept."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from purified_folder import TEACHERS, report, write_purified

from kp_data.errors import DataError
from kp_data.hub import build_release
from kp_data.hub.explorer.dataset import ANYBODY, Dataset, NotFound
from kp_data.hub.explorer.layout import parts_of
from kp_data.hub.explorer.local import FolderCatalogue
from kp_data.hub.explorer.rows import Rows
from kp_data.hub.explorer.story import Story, find_question, neighbours, next_conflict, tell
from kp_data.tables import write_json


def told(folder: Path, dataset: Dataset, question_id: str) -> Story:
    rows = Rows(folders=[folder])
    return tell(rows, dataset, find_question(rows, dataset, question_id))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = write_purified(tmp_path / "pure")
    write_json({**report(10), "teachers": list(TEACHERS)}, folder / "report.json")
    return folder


def test_a_purified_folder_is_browsed_as_two_parts(folder: Path) -> None:
    dataset = FolderCatalogue(folder).open(ANYBODY, "local/pure")
    assert [(part.config, part.split, part.num_rows) for part in dataset.parts] == [
        ("purified", "all", 10),
        ("panel", "all", 30),
    ]


def test_voices_stand_by_conclusion_with_their_scores_and_the_kept_one_marked(folder: Path) -> None:
    dataset = FolderCatalogue(folder).open(ANYBODY, "local/pure")
    story = told(folder, dataset, "q001")
    assert story.groups == (("stay", ("bo", "cy")), ("fall", ("ada",)))
    assert [(voice.teacher, voice.group, voice.score, voice.kept) for voice in story.voices] == [
        ("bo", 0, 0.5, False),
        ("cy", 0, None, False),
        ("ada", 1, 1.0, True),
    ]
    assert (story.conflict, story.kept_from, story.method) == (True, "ada", "best-single")
    assert "accuracy of this teacher" in story.score_means


def test_a_teacher_that_failed_is_shown_with_its_failure_and_without_a_conclusion(folder: Path) -> None:
    dataset = FolderCatalogue(folder).open(ANYBODY, "local/pure")
    story = told(folder, dataset, "q000")
    failed = next(voice for voice in story.voices if voice.teacher == "cy")
    assert (failed.error, failed.rationale, failed.group, failed.kept) == ("timeout", None, None, False)
    assert failed == story.voices[-1]


def test_a_panel_without_purification_has_voices_and_nothing_kept(folder: Path, tmp_path: Path) -> None:
    from purified_folder import questions

    from kp_data.tables import table_of_questions, write_parquet

    panel = tmp_path / "panel"
    write_parquet(table_of_questions(questions(10)), panel / "questions.parquet")
    (panel / "responses.parquet").write_bytes((folder / "responses.parquet").read_bytes())
    story = told(panel, FolderCatalogue(panel).open(ANYBODY, "local/panel"), "q001")
    assert (story.kept, story.method, len(story.voices), story.conflict) == (None, None, 3, True)


def test_an_unknown_question_is_not_found(folder: Path) -> None:
    dataset = FolderCatalogue(folder).open(ANYBODY, "local/pure")
    with pytest.raises(NotFound, match="no question has this id"):
        told(folder, dataset, "q'; DROP TABLE x; --")


def test_the_rows_before_and_after_are_named(folder: Path) -> None:
    dataset = FolderCatalogue(folder).open(ANYBODY, "local/pure")
    rows = Rows(folders=[folder])
    assert neighbours(rows, find_question(rows, dataset, "q004")) == ("q003", "q005")
    assert neighbours(rows, find_question(rows, dataset, "q000")) == (None, "q001")
    assert neighbours(rows, find_question(rows, dataset, "q009")) == ("q008", None)


def test_the_next_conflict_is_the_next_row_on_which_teachers_part(folder: Path) -> None:
    table = pq.read_table(folder / "purified.parquet")
    conflict = pa.array([number in (2, 7) for number in range(10)])
    pq.write_table(
        table.set_column(table.schema.get_field_index("conflict"), "conflict", conflict), folder / "purified.parquet"
    )
    dataset, rows = FolderCatalogue(folder).open(ANYBODY, "local/pure"), Rows(folders=[folder])
    found = [next_conflict(rows, find_question(rows, dataset, f"q{number:03d}")) for number in (0, 2, 6, 7)]
    assert found == ["q002", "q007", "q007", None]


def test_a_release_folder_is_browsed_by_its_card(folder: Path, tmp_path: Path) -> None:
    release = build_release(folder, version="1.0.0", name="ada/set")
    for path, content in release.files.items():
        (tmp_path / "out" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / path).write_bytes(content)
    dataset = FolderCatalogue(tmp_path / "out").open(ANYBODY, "local/out")
    assert dataset.configs == ("purified", "panel")
    assert [part.split for part in dataset.of_config("purified")] == ["train", "validation", "test", "ood"]
    story = told(tmp_path / "out", dataset, "q003")
    assert len(story.voices) == 3


def test_a_changed_file_is_another_state(folder: Path) -> None:
    catalogue = FolderCatalogue(folder)
    before = catalogue.open(ANYBODY, "local/pure").commit
    write_purified(folder, 12)
    after = catalogue.open(ANYBODY, "local/pure")
    assert after.commit != before
    assert after.parts[0].num_rows == 12


def test_a_folder_without_tables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no tables"):
        FolderCatalogue(tmp_path)


def test_configs_that_make_no_sense_are_passed_over() -> None:
    paths = ["data/train.parquet", "README.md"]
    for configs in (
        None,
        "x",
        [1],
        [{"config_name": 3, "data_files": "*"}],
        [{"config_name": "a", "data_files": [{}]}],
    ):
        assert parts_of(paths, {"configs": configs}) == [("data", "train", ("data/train.parquet",))]
