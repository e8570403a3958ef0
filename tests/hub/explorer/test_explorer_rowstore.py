"""Rows prepared for lists of hits: the same rows as the tables have, whatever files they come from."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kp_data.hub.explorer import browse, indexing
from kp_data.hub.explorer.browse import Request
from kp_data.hub.explorer.dataset import NotReady, Part
from kp_data.hub.explorer.indexing import Indexes
from kp_data.hub.explorer.rows import Rows, plain
from kp_data.hub.explorer.rowstore import RowStore, build_rowstore


@pytest.fixture
def part(tmp_path: Path) -> Part:
    """Rows 0 to 99 and 100 to 249 in two files; the second lacks `note`; vectors, bytes and short lists are there."""
    folder = tmp_path / "tables"
    folder.mkdir()
    for low, high in ((0, 100), (100, 250)):
        table = pa.table(
            {
                "id": [f"q{row}" for row in range(low, high)],
                "score": [float("nan") if row == 7 else row / 2 for row in range(low, high)],
                "choices": [["a", None]] * (high - low),
                "at": pa.array([datetime(2026, 1, 1, tzinfo=UTC)] * (high - low), pa.timestamp("us", "UTC")),
                "raw": [b"x"] * (high - low),
                "embedding": pa.array([[1.0, 2.0]] * (high - low), pa.list_(pa.float32(), 2)),
                "loose": np.random.default_rng(low).normal(size=(high - low, 400)).tolist(),
                "scores": [[row / 4, None] for row in range(low, high)],
                "teacher": pa.array(["ada", "bo"] * ((high - low) // 2)).dictionary_encode(),
                "note": [f"of {row}" for row in range(low, high)],
            }
        )
        pq.write_table(table if low == 0 else table.drop_columns(["note"]), folder / f"{low:03d}.parquet")
    return Part("purified", "train", tuple(sorted(folder.iterdir())))


def test_its_rows_are_those_of_the_tables(part: Part, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    build_rowstore(part, tmp_path / "store")
    store, columns = RowStore(tmp_path / "store"), ["id", "score", "choices", "at", "scores", "teacher", "note"]
    assert list(store.columns) == columns
    numbers = [249, 0, 7, 99, 100, 163, 164]
    found = [
        (number, {name: plain(value) for name, value in row.items()}) for number, row in store.at(numbers, columns)
    ]
    assert found == list(Rows(folders=[tmp_path / "tables"]).at(part, numbers, columns).rows)


def test_a_large_part_is_prepared_by_its_first_search_and_read_from_there_after(
    part: Part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "LEAST_ROWS", 100)
    indexes, rows = Indexes(tmp_path / "indexes"), Rows(folders=[tmp_path / "tables"])
    asked = Request(search="q7", show=("id", "score"))
    try:
        while not list((tmp_path / "indexes").glob("*.rows")):
            try:
                before = browse.answer(rows, indexes, part, asked)
            except NotReady:
                time.sleep(0.05)
        assert indexes.rows(part, [7], ["id", "score"]) is not None
        assert indexes.rows(part, [7], ["id", "embedding"]) is None
        assert browse.answer(rows, indexes, part, asked).page == before.page
        assert before.page.rows == ((7, {"id": "q7", "score": None}),)
    finally:
        indexes.close()


def test_a_small_part_is_read_from_its_tables(part: Part, tmp_path: Path) -> None:
    indexes = Indexes(tmp_path / "indexes")
    assert indexes.rows(part, [7], ["id"]) is None
    assert indexes.state("rows", part).name == "missing"
    indexes.close()
