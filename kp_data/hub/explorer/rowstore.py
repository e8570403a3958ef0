"""Rows of a large part once more, a few to a block: what a search finds lies anywhere, and Parquet has large pages.

Thirty rows out of a million cost Parquet 120 ms of work, and this file 20. It is an Arrow file whose batches are
small and compressed; columns of many numbers a row, such as embeddings, and those of nested types are left out, since
nobody reads them in a list of hits.

Axes: B blocks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kp_data.hub.explorer.dataset import Part

LEAST_ROWS: Final = 50_000
"""Smaller parts are read from Parquet: there is little to skip."""

BLOCK_ROWS: Final = 64

MOST_BYTES: Final = 256
"""A row, of a column of lists of numbers; what has more is left out."""

_BLOCKS: Final = "blocks.arrow"
_STARTS: Final = "starts.npy"
_READ_AT_ONCE: Final = 64 * BLOCK_ROWS


def build_rowstore(part: Part, folder: Path, progress: Callable[[float], None] = lambda _: None) -> None:
    """Write the rows of a part into an empty folder, in their order."""
    schema = pa.schema([(column.name, _plain(column.type)) for column in part.schema if _is_kept(part, column)])
    options = pa.ipc.IpcWriteOptions(compression="zstd", unify_dictionaries=False)
    starts, row, num_rows = [], 0, max(1, part.num_rows)
    with pa.ipc.new_file(str(folder / _BLOCKS), schema, options=options) as writer:
        for block in _blocks(part, schema):
            starts.append(row)
            writer.write_batch(block)
            row += block.num_rows
            progress(row / num_rows)
    np.save(folder / _STARTS, np.array(starts, np.int64), allow_pickle=False)


class RowStore:
    """Reads rows by number from what was built; threads may share it."""

    def __init__(self, folder: Path) -> None:
        self._start_B = np.load(folder / _STARTS, allow_pickle=False)
        # Read and not mapped: mapped pages stay in the memory of the process.
        self._blocks = pa.ipc.open_file(pa.OSFile(str(folder / _BLOCKS)))
        self._lock = threading.Lock()

    @property
    def columns(self) -> Sequence[str]:
        """Those that it holds."""
        names: list[str] = self._blocks.schema.names
        return names

    def at(self, numbers: Sequence[int], columns: Sequence[str]) -> tuple[tuple[int, Mapping[str, Any]], ...]:
        """(number, column to value) of rows that exist, as Arrow has the values."""
        return tuple((number, self._row(number, columns)) for number in numbers)

    def _row(self, number: int, columns: Sequence[str]) -> Mapping[str, Any]:
        at = int(np.searchsorted(self._start_B, number, "right")) - 1
        with self._lock:
            block = self._blocks.get_batch(at)
        rows: list[dict[str, Any]] = block.select(list(columns)).slice(number - int(self._start_B[at]), 1).to_pylist()
        return rows[0]


def _blocks(part: Part, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for file in part.files:
        with pq.ParquetFile(file) as opened:
            there = [name for name in schema.names if name in opened.schema_arrow.names]
            for batch in opened.iter_batches(_READ_AT_ONCE, columns=there):
                # Files of one split may differ in their columns; what one lacks is missing there.
                columns = [
                    batch.column(column.name).cast(column.type)
                    if column.name in there
                    else pa.nulls(len(batch), column.type)
                    for column in schema
                ]
                whole = pa.RecordBatch.from_arrays(columns, schema=schema)
                yield from (whole.slice(start, BLOCK_ROWS) for start in range(0, len(batch), BLOCK_ROWS))


def _is_kept(part: Part, column: pa.Field) -> bool:
    kind = _plain(column.type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_simple(kind.value_type) and (_is_text(kind.value_type) or not _is_wide(part, column.name))
    return _is_simple(kind)


def _is_simple(kind: pa.DataType) -> bool:
    return bool(_is_text(kind) or pa.types.is_primitive(kind) or pa.types.is_null(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_wide(part: Part, column: str) -> bool:
    """Whether a column of numbers has many a row."""
    return part.bytes_of_column(column) > MOST_BYTES * part.num_rows


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type of the values: blocks are too small for dictionaries of their own to pay."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind
