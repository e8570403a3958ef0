"""Rows that could be misread in silence: misspelt fields, numbered choices, the same words about another passage."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from kp_data.errors import ConfigError, DataError
from kp_data.importers import ImportOptions, ImportReport, import_panel
from kp_data.tables import read_questions, read_responses

ROW: dict[str, Any] = {"id": "a", "question": "Is ice cold?", "choices": ["yes", "no"], "answer": "yes"}
SAID = {"teacher": "ada", "response": "The answer is (A)."}


def imported(folder: Path, *rows: dict[str, Any], **options: Any) -> ImportReport:
    source = folder / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return import_panel("jsonl", [source], folder / "panel", options=ImportOptions(**options))


def tables(folder: Path, question: dict[str, Any], response: dict[str, Any]) -> Path:
    (folder / "source").mkdir()
    (folder / "source" / "questions.jsonl").write_text(json.dumps(question) + "\n", encoding="utf-8")
    (folder / "source" / "responses.jsonl").write_text(json.dumps(response) + "\n", encoding="utf-8")
    return folder / "source"


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"fields": {"response": "ouput"}}, "ouput'; correct --map response=ouput"),
        ({"teachers": {"ada": "ada_said", "bo": "bo_siad"}}, "bo_siad'; correct --teacher bo=bo_siad"),
    ],
)
def test_a_misspelt_field_is_an_error_and_not_a_panel_without_it(
    tmp_path: Path, options: dict[str, Any], names: str
) -> None:
    row = {**ROW, "teacher": "ada", "output": "The answer is (A).", "ada_said": "(A)", "bo_said": "(B)"}
    with pytest.raises(ConfigError, match=names):
        imported(tmp_path, row, **options)
    assert not (tmp_path / "panel").exists()


def test_a_field_that_only_some_rows_have_is_no_misspelling(tmp_path: Path) -> None:
    rows = [{**ROW, **SAID}, {**ROW, **SAID, "id": "b", "field": "physics"}]
    imported(tmp_path, *rows, fields={"subject": "field"})
    subjects = read_questions(tmp_path / "panel" / "questions.parquet")["subject"].to_pylist()
    assert subjects == [None, "physics"]


def test_choices_under_numbers_stand_in_the_order_of_the_numbers(tmp_path: Path) -> None:
    choices = {str(number): f"choice {number}" for number in reversed(range(12))}
    imported(tmp_path, {"id": "a", "question": "Which?", "choices": choices, "answer_index": 10, **SAID})
    (question,) = read_questions(tmp_path / "panel" / "questions.parquet").to_pylist()
    assert question["choices"] == [f"choice {number}" for number in range(12)]
    assert question["answer"] == "choice 10"


def test_the_same_words_about_two_passages_are_two_questions(tmp_path: Path) -> None:
    asked = {"question": "Is it so?", "choices": ["yes", "no"], **SAID}
    report = imported(
        tmp_path, {**asked, "context": "It is.", "answer": "yes"}, {**asked, "context": "It is not.", "answer": "no"}
    )
    assert (sum(report.questions.values()), report.num_left_out) == (2, 0)


@pytest.mark.parametrize("index", ["--1", "1-", "-", "\u0661", "1" * 19])
def test_an_index_that_only_looks_like_a_number_is_a_row_left_out(tmp_path: Path, index: str) -> None:
    bad = {"id": "b", "question": "And?", "choices": ["yes", "no"], "answer_index": index, **SAID}
    report = imported(tmp_path, {**ROW, **SAID}, bad)
    assert list(report.left_out) == ["field 'answer_index' is no whole number"]


def test_a_cost_of_nan_is_a_cost_that_is_not_known(tmp_path: Path) -> None:
    imported(tmp_path, {**ROW, **SAID, "cost_usd": float("nan"), "latency_s": float("inf")})
    (said,) = read_responses(tmp_path / "panel" / "responses.parquet").to_pylist()
    assert (said["cost_usd"], said["latency_s"]) == (None, None)


def test_what_is_mapped_in_tables_holds_for_the_responses_too(tmp_path: Path) -> None:
    source = tables(tmp_path, {**ROW, "fold": "test"}, {"question_id": "a", "who": "ada", "answer": "yes"})
    options = ImportOptions(fields={"teacher": "who", "split": "fold"})
    report = import_panel("tables", [source], tmp_path / "panel", options=options, split="train")
    # The source names the split, so that --split, which is for those without one, leaves it alone.
    assert (list(report.teachers), dict(report.questions)) == (["ada"], {"test": 1})


def test_a_table_whose_split_is_null_names_none(tmp_path: Path) -> None:
    source = tables(tmp_path, {**ROW, "split": None}, {"question_id": "a", "teacher": "ada", "answer": "yes"})
    report = import_panel("tables", [source], tmp_path / "panel", split="validation")
    assert dict(report.questions) == {"validation": 1}


def test_a_mapping_of_a_field_that_is_none_of_ours_is_refused_for_tables(tmp_path: Path) -> None:
    source = tables(tmp_path, ROW, {"question_id": "a", "teacher": "ada", "answer": "yes"})
    with pytest.raises(ConfigError, match="there is no field 'teahcer' of ours"):
        import_panel("tables", [source], tmp_path / "panel", options=ImportOptions(fields={"teahcer": "who"}))


def test_a_folder_without_a_name_of_its_own_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="give --out a name"):
        import_panel("jsonl", [tmp_path / "rows.jsonl"], Path())


def test_names_inside_an_archive_cannot_steer_a_terminal(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "rows.zip", "w") as archive:
        lines = [json.dumps({**ROW, **SAID}), "no row"]
        archive.writestr("a\x1b[31m\u202eb.jsonl", "\n".join(lines))
    report = import_panel("jsonl", [tmp_path / "rows.zip"], tmp_path / "panel")
    (left_out,) = report.left_out.values()
    assert left_out.places == [f"{tmp_path}/rows.zip:a\ufffd[31m\ufffdb.jsonl, line 2"]


def test_a_sample_below_zero_is_left_out(tmp_path: Path) -> None:
    report = imported(tmp_path, {**ROW, **SAID}, {**ROW, **SAID, "sample": -1})
    assert list(report.left_out) == ["the number of the sample is below 0"]


def test_a_benchmark_item_whose_letter_and_index_disagree_is_left_out(tmp_path: Path) -> None:
    item = {"question_id": 1, "question": "Is it?", "options": ["yes", "no"], "answer": "B", "answer_index": 1}
    items = [{**item, "response": "(B)"}, {**item, "question_id": 2, "answer": "A", "response": "(B)"}]
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "r.json").write_text(json.dumps(items), encoding="utf-8")
    report = import_panel("mmlu-pro", [tmp_path / "model"], tmp_path / "panel")
    assert (sum(report.questions.values()), list(report.left_out)) == (
        1,
        ["the gold answer and its index do not agree"],
    )
