"""Sources of questions."""

import json
from pathlib import Path

import pytest

from kp_data.errors import KpError
from kp_data.questions import load_questions, select_questions


def source(tmp_path: Path) -> str:
    path = tmp_path / "q.jsonl"
    rows = [{"id": str(n), "question": f"question {n}", "split": "test" if n % 2 else "train"} for n in range(6)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def test_a_split_and_a_limit_cut_the_source(tmp_path: Path) -> None:
    table = select_questions(load_questions(source(tmp_path)), split="test", limit=2, place="q")
    assert table["id"].to_pylist() == ["1", "3"]


def test_the_practice_world_is_a_source() -> None:
    table = load_questions("practice:40?seed=1")
    assert table.num_rows == 40
    assert set(table["split"].to_pylist()) == {"train", "validation", "test", "ood"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nowhere.parquet", "no such file"),
        ("no such thing", "no such file or folder, nor a hub name"),
        ("practice:many", "practice"),
        (".", "no questions.parquet in this folder"),
    ],
)
def test_a_source_that_is_not_there_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KpError, match=message):
        load_questions(text)


def test_an_empty_split_names_the_splits_there_are(tmp_path: Path) -> None:
    with pytest.raises(KpError, match="splits there: test, train"):
        select_questions(load_questions(source(tmp_path)), split="validation", limit=None, place="q")


def test_a_source_without_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "q.csv"
    path.write_text("id,question\n")
    with pytest.raises(KpError, match="holds no rows"):
        load_questions(str(path))


def test_the_practice_world_has_no_columns_to_rename() -> None:
    with pytest.raises(KpError, match="--map"):
        load_questions("practice:5", columns={"id": "qid"})
