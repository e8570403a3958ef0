"""Reading and checking tables: what is accepted, and what is said of what is not."""

import json
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kp_data.errors import DataError
from kp_data.schema import QUESTIONS, Question
from kp_data.tables import (
    check_questions,
    check_responses,
    questions_of,
    read_questions,
    read_responses,
    replacing,
    table_of_questions,
    write_parquet,
)


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_missing_optional_columns_are_filled_and_extra_ones_kept(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "q.jsonl", {"id": "a", "question": "Is ice cold?", "choices": ["yes", "no"], "source": "x"})
    table = read_questions(path)
    assert table.column_names == [*QUESTIONS.names, "source"]
    assert table["split"].to_pylist() == ["train"]
    assert table["answer"].to_pylist() == [None]


def test_gold_text_and_index_are_derived_from_each_other(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "question": "?", "choices": ["x", "y"], "answer": "y"},
        {"id": "b", "question": "?", "choices": ["x", "y"], "answer_index": 0},
        {"id": "c", "question": "?", "answer": "42"},
    ]
    table = read_questions(jsonl(tmp_path / "q.jsonl", *rows))
    assert table["answer"].to_pylist() == ["y", "x", "42"]
    assert table["answer_index"].to_pylist() == [1, 0, None]


def test_numeric_ids_and_csv_are_read(tmp_path: Path) -> None:
    path = tmp_path / "q.csv"
    path.write_text('id,question,choices,answer\n7,Is ice cold?,"[""yes"", ""no""]",yes\n', encoding="utf-8")
    table = read_questions(path)
    assert table["id"].to_pylist() == ["7"]
    assert table["answer_index"].to_pylist() == [0]


@pytest.mark.parametrize("split", [None, "", 3])
def test_an_empty_split_is_train_and_a_number_is_a_name(tmp_path: Path, split: object) -> None:
    path = tmp_path / "q.csv"
    path.write_text(f"id,question,split\na,Is ice cold?,{'' if split is None else split}\n")
    assert read_questions(path)["split"].to_pylist() == [str(split) if split else "train"]


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_bytes(b'\xef\xbb\xbf{"id": "a", "question": "?"}\n')
    assert read_questions(tmp_path / "q.jsonl").num_rows == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "?"}, "missing column 'id'"),
        (
            {"id": "a", "question": "?", "choices": ["x"], "answer_index": 3},
            "answer_index is 3, but there are 1 choices",
        ),
        ({"id": "a", "question": "?", "choices": ["x"], "answer": "z"}, "none of the choices"),
        ({"id": "a", "question": "?", "choices": ["x", " "]}, "empty choice"),
        ({"id": " ", "question": "?"}, "column 'id', row 1: empty"),
        ({"id": "a", "question": None}, "column 'question', row 1"),
        ({"id": "a", "question": " "}, "column 'question', row 1"),
        ({"id": 2**70, "question": "?"}, "column 'id'"),
        ({"id": "a", "question": "?", "answer_index": "many"}, "column 'answer_index' must be int32"),
    ],
)
def test_a_broken_question_is_named_with_file_and_row(tmp_path: Path, row: dict[str, object], message: str) -> None:
    path = jsonl(tmp_path / "q.jsonl", row)
    with pytest.raises(DataError) as caught:
        read_questions(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_duplicate_ids_are_named_with_both_rows(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "q.jsonl", {"id": "a", "question": "1"}, {"id": "b", "question": "2"}, {"id": "a", "question": "3"}
    )
    with pytest.raises(DataError, match=r"id 'a' stands in rows 1 and 3"):
        read_questions(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.jsonl", b'{"id": "a", "question": "?"}\n{"id": ', "line 2: not valid JSON"),
        ("q.jsonl", b"[1]\n", "line 1: not a JSON object"),
        ("q.jsonl", b"\xff\xfe\n", "not UTF-8"),
        ("q.csv", b"id,question\na\n", "line 2: more or fewer fields"),
        ("q.parquet", b"PAR1 but not really", "not a readable Parquet file"),
        ("q.xlsx", b"", "cannot read '.xlsx'"),
    ],
)
def test_a_malformed_file_gets_one_clear_message(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_questions(path)


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_questions(tmp_path / "nowhere.parquet")


def test_columns_can_be_renamed_on_reading(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "q.jsonl", {"qid": "a", "stem": "Is ice cold?"})
    assert read_questions(path, columns={"id": "qid", "question": "stem"})["question"].to_pylist() == ["Is ice cold?"]
    with pytest.raises(DataError, match="no column 'nope'"):
        read_questions(path, columns={"id": "nope", "question": "stem"})


def response(**changed: object) -> dict[str, object]:
    return {"question_id": "a", "teacher": "t", "mode": "blind", "rationale": "so", **changed}


def test_a_cell_that_stands_twice_is_refused() -> None:
    table = pa.Table.from_pylist([response(), response(rationale="other")])
    with pytest.raises(DataError, match="rows 1 and 2 hold the same cell"):
        check_responses(table, "r")


@pytest.mark.parametrize("column", ["mode", "error"])
def test_unknown_modes_and_error_classes_are_refused(column: str) -> None:
    with pytest.raises(DataError, match=f"column '{column}', row 1"):
        check_responses(pa.Table.from_pylist([response(**{column: "odd"})]), "r")


def test_responses_get_sample_zero(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    pq.write_table(pa.Table.from_pylist([response()]), path)
    assert read_responses(path)["sample"].to_pylist() == [0]


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@given(
    st.lists(
        st.tuples(texts, st.lists(texts, min_size=2, max_size=5, unique=True)), min_size=1, unique_by=lambda row: row[0]
    )
)
def test_questions_survive_the_round_trip_through_a_table(rows: list[tuple[str, list[str]]]) -> None:
    questions = [Question(name, "?", tuple(options), options[0], 0) for name, options in rows]
    table = table_of_questions(questions)
    assert questions_of(check_questions(table, "t")) == questions


def test_the_same_table_gives_the_same_bytes_and_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    table = table_of_questions([Question("a", "?")])
    write_parquet(table, tmp_path / "1.parquet")
    write_parquet(table, tmp_path / "2.parquet")
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()
    with suppress(ZeroDivisionError), replacing(tmp_path / "1.parquet") as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.parquet", "2.parquet"]
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()


def test_a_folder_that_cannot_be_written_is_one_clear_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_parquet(table_of_questions([Question("a", "?")]), tmp_path / "file" / "q.parquet")
