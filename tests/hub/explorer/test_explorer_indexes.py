"""Search by words and by meaning: built in the background, found again, thrown away when half done."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kp_data.errors import DataError
from kp_data.hub.explorer import indexing, semantic
from kp_data.hub.explorer.dataset import NotReady, Part
from kp_data.hub.explorer.fulltext import FullText, build_fulltext
from kp_data.hub.explorer.indexing import Indexes
from kp_data.hub.explorer.semantic import Semantic, build_semantic

TEXTS = (
    "the cat sleeps on the mat",
    "dogs bark at night",
    "a cat and a dog",
    "quantum chromodynamics",
    "Ölpreis AND Öl",
)


def write_part(folder: Path, texts: tuple[str, ...] = TEXTS, **columns: pa.Array) -> Part:
    folder.mkdir(parents=True, exist_ok=True)
    half = len(texts) // 2
    files = []
    for number, (low, high) in enumerate(((0, half), (half, len(texts)))):
        table = pa.table(
            {
                "id": [f"q{row}" for row in range(low, high)],
                "question": list(texts[low:high]),
                "choices": [[f"choice {row}"] for row in range(low, high)],
                **{name: array[low:high] for name, array in columns.items()},
            }
        )
        files.append(folder / f"{number}.parquet")
        pq.write_table(table, files[-1])
    return Part("purified", "train", tuple(files))


@pytest.fixture(scope="module")
def fulltext(tmp_path_factory: pytest.TempPathFactory) -> FullText:
    folder = tmp_path_factory.mktemp("fulltext")
    (folder / "index").mkdir()
    build_fulltext(write_part(folder / "tables"), folder / "index")
    return FullText(folder / "index")


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        ("cat", {0, 2}),
        ("cats", {0, 2}),
        ("cat dog", {2}),
        ('"cat sleeps"', {0}),
        ('"sleeps cat"', set()),
        ("choice 3", {3}),
        ("öl", {4}),
        ("AND", {2, 4}),
        ('dogs "', {1, 2}),
        ("nothing of it", set()),
        ("", set()),
        ("   ", set()),
    ],
)
def test_every_word_must_occur_in_whatever_form_and_column(fulltext: FullText, words: str, rows: set[int]) -> None:
    found, total = fulltext.search(words)
    assert set(found) == rows
    assert total == len(rows)


def test_hits_are_paged(fulltext: FullText) -> None:
    first, total = fulltext.search("choice", length=2)
    rest, _ = fulltext.search("choice", offset=2, length=10)
    assert total == 5
    assert sorted(first + rest) == [0, 1, 2, 3, 4]


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=40) | st.text(alphabet='"():[]{}+-^~*?\\/ANDORtocat ', max_size=40))
def test_no_query_whatever_fails(fulltext: FullText, words: str) -> None:
    rows, total = fulltext.search(words)
    assert len(rows) <= total <= 5


def unit_vectors(num: int, size: int, seed: int = 0) -> np.ndarray:
    vector_ND = np.random.default_rng(seed).normal(size=(num, size)).astype(np.float32)
    return vector_ND / np.linalg.norm(vector_ND, axis=1, keepdims=True)


def part_with_vectors(folder: Path, vector_ND: np.ndarray) -> Part:
    column = pa.FixedSizeListArray.from_arrays(pa.array(vector_ND.ravel()), vector_ND.shape[1])
    return write_part(folder, tuple(f"text {row}" for row in range(len(vector_ND))), embedding=column)


def test_stored_embeddings_are_compared_exactly_while_they_are_few(tmp_path: Path) -> None:
    vector_ND = unit_vectors(300, 16)
    (tmp_path / "index").mkdir()
    build_semantic(part_with_vectors(tmp_path / "tables", 3 * vector_ND), tmp_path / "index")
    found = Semantic(tmp_path / "index").nearest(vector_ND[7], 5)
    truth = np.argsort(-(vector_ND @ vector_ND[7]))[:5]
    assert [row for row, _ in found] == truth.tolist()
    assert found[0][1] == pytest.approx(1.0, abs=1e-3)


def test_many_embeddings_are_found_by_codes_with_their_recall_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(semantic, "EXACT_ROWS", 1_000)
    centres = unit_vectors(40, 32)
    vector_ND = np.repeat(centres, 100, axis=0) + 0.05 * unit_vectors(4_000, 32, seed=1)
    (tmp_path / "index").mkdir()
    build_semantic(part_with_vectors(tmp_path / "tables", vector_ND), tmp_path / "index")
    index = Semantic(tmp_path / "index")
    assert 0.9 < index.recall <= 1.0
    assert index.nearest(index.vector(1234), 1)[0][0] == 1234


def test_embeddings_with_gaps_are_refused(tmp_path: Path) -> None:
    column = pa.array([[1.0, 2.0], None, [1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32(), 2))
    part = write_part(tmp_path / "tables", TEXTS[:4], embedding=column)
    (tmp_path / "index").mkdir()
    with pytest.raises(DataError, match="missing values"):
        build_semantic(part, tmp_path / "index")


@pytest.fixture
def indexes(tmp_path: Path) -> Iterator[Indexes]:
    made = Indexes(tmp_path / "indexes")
    yield made
    made.close()


def wait_for_search(indexes: Indexes, part: Part, words: str) -> tuple[list[int], int]:
    for _ in range(600):
        try:
            return indexes.search(part, words)
        except NotReady:
            time.sleep(0.05)
    raise AssertionError(indexes.state("fulltext", part))


def test_asking_starts_the_building_and_the_answer_comes(indexes: Indexes, tmp_path: Path) -> None:
    part = write_part(tmp_path / "tables")
    assert indexes.state("fulltext", part).name == "missing"
    with pytest.raises(NotReady, match="being built"):
        indexes.search(part, "cat")
    rows, total = wait_for_search(indexes, part, "cat")
    assert (set(rows), total) == ({0, 2}, 2)
    assert indexes.state("fulltext", part).name == "ready"


def test_a_changed_table_is_indexed_anew(indexes: Indexes, tmp_path: Path) -> None:
    part = write_part(tmp_path / "tables")
    wait_for_search(indexes, part, "cat")
    changed = write_part(tmp_path / "tables", ("no animals", "here", "at all", "x", "y"))
    assert wait_for_search(indexes, changed, "cat") == ([], 0)


def test_a_table_that_cannot_be_read_is_a_failure_that_is_told(indexes: Indexes, tmp_path: Path) -> None:
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="could not be built"):
        wait_for_search(indexes, Part("c", "s", (broken,)), "cat")


def a_dead_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_what_a_dead_process_left_behind_is_swept_away(tmp_path: Path) -> None:
    for name in (".abc.fulltext.1234.building", f".abc.fulltext.{a_dead_process()}.1234abcd.building"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "meta.json").write_text("{}")
    Indexes(tmp_path).close()
    assert list(tmp_path.iterdir()) == []


def test_what_another_server_is_building_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / f".abc.fulltext.{os.getpid()}.1234abcd.building").mkdir()
    Indexes(tmp_path).close()
    assert len(list(tmp_path.iterdir())) == 1


def test_an_index_that_somebody_removed_is_built_again(indexes: Indexes, tmp_path: Path) -> None:
    part = write_part(tmp_path / "tables")
    wait_for_search(indexes, part, "cat")
    (place,) = (tmp_path / "indexes").iterdir()
    for file in place.iterdir():
        file.unlink()
    again = Indexes(tmp_path / "indexes")
    with pytest.raises(NotReady, match="built again"):
        again.search(part, "cat")
    assert set(wait_for_search(again, part, "cat")[0]) == {0, 2}
    again.close()


def test_indexes_make_room_for_the_newest(tmp_path: Path) -> None:
    small = Indexes(tmp_path / "indexes", max_bytes=1)
    first, second = (write_part(tmp_path / name) for name in ("one", "two"))
    wait_for_search(small, first, "cat")
    wait_for_search(small, second, "cat")
    assert [small.state("fulltext", part).name for part in (first, second)] == ["missing", "ready"]
    small.close()


def test_only_so_many_indexes_may_wait(indexes: Indexes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexing, "WAITING", 1)
    monkeypatch.setattr(indexes, "_jobs", queue.SimpleQueue())
    parts = [write_part(tmp_path / name) for name in ("one", "two")]
    with pytest.raises(NotReady, match="being built"):
        indexes.search(parts[0], "cat")
    with pytest.raises(NotReady, match="many indexes are waiting"):
        indexes.search(parts[1], "cat")
    assert indexes.state("fulltext", parts[1]).name == "missing"
    monkeypatch.undo()


def test_a_large_part_without_embeddings_is_not_searched_by_meaning(
    indexes: Indexes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(semantic, "MAX_EMBEDDED", 3)
    part = write_part(tmp_path / "tables")
    assert indexes.state("semantic", part).name == "off"
    with pytest.raises(DataError, match="too large to be embedded"):
        indexes.similar(part, "cat")
