from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_rows import small_questions

from kp_train import encoding
from kp_train.batches import Example
from kp_train.encoding import Assignment, cache_folder, encode_rows
from kp_train.students import make_student
from kp_train.students.seq2seq import Seq2SeqStudent
from kp_train.views import LABEL, Row, label_view

TASKS = [LABEL]
TEXTS = [question.question for question in small_questions()]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KP_CACHE", str(tmp_path))
    return tmp_path / "encoded"


def _student() -> Seq2SeqStudent:
    student = make_student("tiny-t5", texts=TEXTS, seed=0)
    assert isinstance(student, Seq2SeqStudent)
    return student


def _assigned(count: int = 6) -> list[Assignment]:
    rows = [Row(question) for question in small_questions(count, 0, 0)]
    return [(row, label_view(row)) for row in rows]


def _forbid_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Seq2SeqStudent, "encode", lambda *_, **__: pytest.fail("encoded again"))


def test_the_same_rows_are_not_tokenised_a_second_time(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    student = _student()
    student.max_input = 12  # so that something is cut, and counted
    first = encode_rows(student, _assigned(), TASKS, orders=3, seed=0)
    assert student.truncated > 0
    _forbid_encoding(monkeypatch)
    other = _student()
    other.max_input = 12
    assert encode_rows(other, _assigned(), TASKS, orders=3, seed=0) == first
    assert other.truncated == student.truncated
    assert [path.suffix for path in cache.iterdir()] == [".npz"]


def test_whatever_decides_about_the_tokens_makes_another_file(cache: Path) -> None:
    student = _student()
    encode_rows(student, _assigned(), TASKS, orders=1, seed=0)
    encode_rows(student, _assigned(5), TASKS, orders=1, seed=0)
    encode_rows(student, _assigned(), TASKS, orders=2, seed=0)
    encode_rows(student, _assigned(), TASKS, orders=1, seed=1)
    heavier = [(row, [replace(target, weight=2.0) for target in targets]) for row, targets in _assigned()]
    encode_rows(student, heavier, TASKS, orders=1, seed=0)
    student.max_target = 7
    encode_rows(student, _assigned(), TASKS, orders=1, seed=0)
    other = make_student("tiny-t5", texts=["another vocabulary"], seed=0)
    encode_rows(other, _assigned(), TASKS, orders=1, seed=0)
    assert len(list(cache.iterdir())) == 7


@pytest.mark.parametrize("spoil", [b"", b"no archive", None])
def test_a_file_that_cannot_be_read_is_encoded_anew_and_replaced(spoil: bytes | None, cache: Path) -> None:
    whole = encode_rows(_student(), _assigned(), TASKS, orders=1, seed=0)
    (file,) = cache.iterdir()
    good = file.read_bytes()
    file.write_bytes(good[: len(good) // 2] if spoil is None else spoil)
    assert encode_rows(_student(), _assigned(), TASKS, orders=1, seed=0) == whole
    assert file.read_bytes() == good


def test_arrays_that_do_not_fit_together_are_not_believed(cache: Path) -> None:
    whole = encode_rows(_student(), _assigned(), TASKS, orders=1, seed=0)
    (file,) = cache.iterdir()
    with np.load(file) as stored:
        arrays = {name: stored[name] for name in stored.files}
    np.savez(file, **{**arrays, "label_lengths": arrays["label_lengths"] + 1})
    assert encode_rows(_student(), _assigned(), TASKS, orders=1, seed=0) == whole


def test_a_pickle_in_the_cache_is_not_opened(cache: Path) -> None:
    whole = encode_rows(_student(), _assigned(), TASKS, orders=1, seed=0)
    (file,) = cache.iterdir()
    np.savez(file, wordings=np.array([{"a": 1}], dtype=object))
    assert encode_rows(_student(), _assigned(), TASKS, orders=1, seed=0) == whole


def test_a_folder_that_cannot_be_written_fails_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("KP_CACHE", str(tmp_path / "file"))
    assert len(encode_rows(_student(), _assigned(), TASKS, orders=1, seed=0)) == 6


def test_the_cache_can_be_switched_off(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setenv("KP_CACHE", "off")
    encode_rows(_student(), _assigned(), TASKS, orders=1, seed=0)
    assert cache_folder() is None
    assert not cache.exists()


def test_only_so_many_files_are_kept(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr(encoding, "KEPT_FILES", 2)
    for seed in range(4):
        encode_rows(_student(), _assigned(2), TASKS, orders=1, seed=seed)
    assert len(list(cache.iterdir())) == 2


TOKENS = st.lists(st.integers(0, 50_000), max_size=6).map(tuple)
EXAMPLES = st.builds(
    Example,
    st.lists(TOKENS, min_size=1, max_size=4).map(tuple),
    TOKENS,
    st.integers(0, 9),
    st.floats(0, 10),
    TOKENS,
)
ROWS = st.lists(st.lists(st.lists(EXAMPLES, max_size=3).map(tuple), max_size=3), max_size=4)


@given(ROWS)
def test_any_encoded_rows_come_back_as_they_were(rows: list[list[tuple[Example, ...]]]) -> None:
    assert encoding._unflatten(encoding._flatten(rows)) == rows
