from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from small_rows import purified_table, small_questions, small_responses, write_panel, write_purified

from kp_data.errors import DataError
from kp_data.purify import labels
from kp_data.schema import PURIFIED
from kp_data.tables import table_of_questions, table_of_responses, write_parquet
from kp_train.dataset import HELD_OUT_SHARE, gold_dataset, read_dataset


def test_a_panel_folder_gives_every_teachers_rationale_and_conclusion(tmp_path: Path) -> None:
    dataset = read_dataset(write_panel(tmp_path))
    assert dataset.teachers == ("ada", "bruno")
    assert dataset.rows[1].rationales["bruno"] == "As bruno sees it, thing 1 looks red."
    assert (dataset.conclusions["ada"]["q1"], dataset.conclusions["bruno"]["q1"]) == (1, 0)
    assert set(dataset.hashes) == {"questions.parquet", "responses.parquet"}


def test_questions_alone_are_a_dataset_of_gold_answers(tmp_path: Path) -> None:
    write_parquet(table_of_questions(small_questions()), tmp_path / "questions.parquet")
    dataset = read_dataset(tmp_path)
    assert dataset.teachers == ()
    assert dataset.rows == gold_dataset(small_questions(), "").rows


def test_a_purified_folder_gives_the_kept_rationale_and_the_teachers_own(tmp_path: Path) -> None:
    row = read_dataset(write_purified(tmp_path)).rows[1]
    assert row.purified == row.rationales["ada"] == "As ada sees it, thing 1 looks green."
    assert row.purified_answer == "green"


def test_a_purified_folder_without_responses_has_no_teachers(tmp_path: Path) -> None:
    assert read_dataset(write_purified(tmp_path, responses=False)).teachers == ()


def test_a_pushed_folder_is_read_from_its_parquet_parts(tmp_path: Path) -> None:
    table = purified_table()
    splits = table["split"].to_pylist()
    for split in ("train", "validation", "test"):
        part = table.filter(pa.array([value == split for value in splits]))
        write_parquet(part, tmp_path / "purified" / f"{split}-00000-of-00001.parquet")
    responses = table_of_responses(small_responses(small_questions()))
    responses = responses.append_column("split", pa.array(["train"] * responses.num_rows))
    write_parquet(responses, tmp_path / "panel" / "train-00000-of-00001.parquet")
    (tmp_path / "README.md").write_text("card", encoding="utf-8")
    dataset = read_dataset(tmp_path)
    assert {row.question.id for row in dataset.rows} == {question.id for question in small_questions()}
    assert dataset.teachers == ("ada", "bruno")


def test_rows_that_keep_every_rationale_become_one_row_a_question(tmp_path: Path) -> None:
    questions = small_questions(3, 1, 1)
    doubled = [replace(question, id=f"{question.id}#ada") for question in questions]
    write_parquet(purified_table(doubled, method="all"), tmp_path / "purified.parquet")
    dataset = read_dataset(tmp_path)
    assert [row.question for row in dataset.rows] == questions
    assert set(dataset.rows[0].rationales) == {"ada"}
    assert dataset.teachers == ("ada",)


def test_a_question_without_any_rationale_does_not_keep_the_others_from_being_grouped(tmp_path: Path) -> None:
    questions = small_questions(3, 1, 1)
    kept = [
        replace(question, id=f"{question.id}#{teacher}") for question in questions[1:] for teacher in ("ada", "bruno")
    ]
    rows = purified_table([questions[0], *kept], method="all").to_pylist()
    rows[0] |= {"rationale": None, "teacher": None, "purified_answer_index": None}
    for row in rows[1:]:
        row["teacher"] = row["id"].partition("#")[2]
    write_parquet(pa.Table.from_pylist(rows, schema=PURIFIED), tmp_path / "purified.parquet")
    dataset = read_dataset(tmp_path)
    assert [row.question for row in dataset.rows] == questions
    assert [len(row.rationales) for row in dataset.rows] == [0, 2, 2, 2, 2]
    assert dataset.teachers == ("ada", "bruno")


def test_rows_whose_ids_do_not_end_with_their_teacher_are_left_as_they_are(tmp_path: Path) -> None:
    write_parquet(purified_table(method="all"), tmp_path / "purified.parquet")
    dataset = read_dataset(tmp_path)
    assert [row.question for row in dataset.rows] == small_questions()
    assert dataset.rows[0].purified is not None


def test_only_the_named_teachers_are_read_in_the_order_named(tmp_path: Path) -> None:
    dataset = read_dataset(write_panel(tmp_path), teachers=("bruno",))
    assert dataset.teachers == ("bruno",)
    assert set(dataset.rows[0].rationales) == {"bruno"}


@pytest.mark.parametrize("responses", [True, False])
def test_an_unknown_teacher_is_one_error_that_names_those_there_are(tmp_path: Path, responses: bool) -> None:
    folder = write_purified(tmp_path, responses=responses)
    with pytest.raises(DataError, match="'nobody'"):
        read_dataset(folder, teachers=("nobody",))


def test_a_folder_of_something_else_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither questions\.parquet nor purified\.parquet"):
        read_dataset(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        read_dataset(tmp_path / "absent")


def test_a_purified_answer_beyond_the_choices_names_the_row(tmp_path: Path) -> None:
    table = purified_table(small_questions(2, 0, 0))
    column = table.column_names.index("purified_answer_index")
    table = table.set_column(column, "purified_answer_index", pa.array([0, 7], pa.int32()))
    write_parquet(table, tmp_path / "purified.parquet")
    with pytest.raises(DataError, match="row 2: 7, but there are 3 choices"):
        read_dataset(tmp_path)


def test_a_missing_split_names_the_splits_there_are(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'dev'.*test, train, validation"):
        read_dataset(write_panel(tmp_path)).split("dev")


def test_held_out_rows_are_as_many_as_in_purification_and_none_is_in_both_parts() -> None:
    kept, held = gold_dataset(small_questions(20, 0, 0), "here").hold_out()
    assert (len(kept.rows), len(held.rows)) == (17, 3)
    assert HELD_OUT_SHARE == labels.HELD_OUT_SHARE
    assert {row.question.id for row in kept.rows}.isdisjoint(row.question.id for row in held.rows)
