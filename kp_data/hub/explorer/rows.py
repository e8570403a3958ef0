"""Rows straight from the committed Parquet, by DuckDB: read-only, without network, with bounds on memory and time.

The database is locked before the first query: it can open the given files and folders and nothing else, load no
extension, and change no setting. Every query is written here; readers' filters arrive parsed (see `filters`).
"""

# ruff: noqa: S608 -- SQL is put together from our own words, quoted names of existing columns, and parameters.

from __future__ import annotations

import base64
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import duckdb

from kp_data.errors import DataError
from kp_data.hub.explorer.dataset import Part
from kp_data.hub.explorer.filters import ALL, Condition, FilterError, Order, quoted

ROW: Final = "__row_idx__"
"""Our name for a row's number; a column of the same name in the data is hidden."""

MAX_LENGTH: Final = 100
"""Rows a page, at most: the dataset viewer's own limit."""

_MEMORY: Final = "256MB"
_LIMIT_S: Final = 10.0


class TooSlow(DataError):
    """A query took longer, or more memory, than a reader may use."""


@dataclass(frozen=True)
class Page:
    """Some rows of a part.

    Attributes:
        rows: (number of the row, column to value), values as JSON knows them.
        num_rows: how many there are in all under the same condition.
    """

    rows: tuple[tuple[int, Mapping[str, Any]], ...]
    num_rows: int


class Rows:
    """Reads rows of parts whose files lie in the given places.

    Threads may share it: each query has a cursor of its own.
    """

    def __init__(
        self,
        *,
        files: Sequence[Path] = (),
        folders: Sequence[Path] = (),
        memory: str = _MEMORY,
        limit_s: float = _LIMIT_S,
    ) -> None:
        self._limit_s = limit_s
        self._database = duckdb.connect(
            config={
                "memory_limit": memory,
                "threads": 2,
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "enable_object_cache": True,
            }
        )
        self._database.execute(f"SET allowed_paths = {_texts([str(file) for file in files])}")
        self._database.execute(f"SET allowed_directories = {_texts([f'{folder}/' for folder in folders])}")
        # Spilling would write where nobody looks; a query that needs it is refused instead.
        self._database.execute("SET temp_directory = ''")
        self._database.execute("SET enable_external_access = false")
        self._database.execute("SET lock_configuration = true")

    def close(self) -> None:
        """Let go of all files."""
        self._database.close()

    def page(
        self,
        part: Part,
        *,
        condition: Condition = ALL,
        order: Order | None = None,
        columns: Sequence[str] | None = None,
        offset: int = 0,
        length: int = MAX_LENGTH,
    ) -> Page:
        """Rows under a condition, in an order, from `offset` on; at most MAX_LENGTH.

        Args:
            part: whose rows.
            condition: from `filters`.
            order: None: that of the rows.
            columns: which to read; None: all.
            offset: rows to skip, 0 or more.
            length: rows to read.

        Raises:
            TooSlow: it takes too long or too much memory.
            FilterError: the condition compares what cannot be compared.
            DataError: the files cannot be read.
        """
        length = max(0, min(length, MAX_LENGTH))
        if condition == ALL and order is None:
            wanted = range(offset, min(offset + length, part.num_rows))
            return Page(self._numbered(part, wanted, columns), part.num_rows)
        by = f"{order.sql}, {ROW}" if order else ROW
        found = self._query(
            f"SELECT {ROW} FROM {_table(part)} WHERE {condition.sql} ORDER BY {by} LIMIT ? OFFSET ?",
            (*condition.values, length, offset),
        )
        return Page(self._numbered(part, [row for (row,) in found], columns), self.count(part, condition))

    def at(self, part: Part, numbers: Sequence[int], columns: Sequence[str] | None = None) -> Page:
        """The rows of these numbers, in this order; those that do not exist are left out. Raises as `page` does."""
        return Page(self._numbered(part, numbers[:MAX_LENGTH], columns), part.num_rows)

    def among(self, part: Part, numbers: Sequence[int], condition: Condition, order: Order | None) -> list[int]:
        """Those of some rows that meet a condition, in an order; None: the one they came in. Raises as `page` does."""
        if not numbers:
            return []
        listed = ", ".join(str(int(number)) for number in numbers)
        by = f"ORDER BY {order.sql}, {ROW}" if order else ""
        found = self._query(
            f"SELECT {ROW} FROM {_table(part)} WHERE {condition.sql} AND {ROW} IN ({listed}) {by}", condition.values
        )
        kept = [int(row) for (row,) in found]
        if order:
            return kept
        there = set(kept)
        return [number for number in numbers if number in there]

    def count(self, part: Part, condition: Condition = ALL) -> int:
        """How many rows meet a condition. Raises as `page` does."""
        if condition == ALL:
            return part.num_rows
        ((number,),) = self._query(f"SELECT count(*) FROM {_table(part)} WHERE {condition.sql}", condition.values)
        return int(number)

    def values(self, part: Part, column: str, *, limit: int = 50) -> list[tuple[Any, int]]:
        """The most frequent values of a column, and how often each stands there. Raises as `page` does."""
        name = quoted(column)
        found = self._query(
            f"SELECT {name}, count(*) AS n FROM {_table(part)} GROUP BY 1 ORDER BY n DESC, 1 LIMIT ?", (limit,)
        )
        return [(_plain(value), int(number)) for value, number in found]

    def select(self, part: Part, what: str, *, condition: Condition = ALL, tail: str = "") -> list[tuple[Any, ...]]:
        """Rows of an expression over a part; `what` and `tail` are SQL made by us, never a reader's text.

        Raises as `page` does.
        """
        sql = f"SELECT {what} FROM {_table(part)} WHERE {condition.sql} {tail}"
        return [tuple(_plain(value) for value in row) for row in self._query(sql, condition.values)]

    def sql(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of a query made by us, never of a reader's text, over what `table` gives. Raises as `page` does."""
        return [tuple(_plain(value) for value in row) for row in self._query(sql)]

    @staticmethod
    def table(part: Part) -> str:
        """All rows of a part with their numbers, to stand after FROM in `sql`."""
        return _table(part)

    def _numbered(
        self, part: Part, numbers: Sequence[int], columns: Sequence[str] | None
    ) -> tuple[tuple[int, Mapping[str, Any]], ...]:
        """Rows by number, each file asked once and only for the stretch that holds them."""
        names = [name for name in (columns or list(part.kinds)) if name in part.kinds and name != ROW]
        read: dict[int, Mapping[str, Any]] = {}
        for file, start, inside in _by_file(part, numbers):
            wanted = ", ".join(quoted(name) for name in names)
            found = self._query(
                f"SELECT file_row_number{', ' * bool(names)}{wanted} FROM {_file(file)} WHERE file_row_number "
                f"BETWEEN {min(inside)} AND {max(inside)} AND file_row_number IN ({', '.join(map(str, inside))})",
            )
            for number, *values in found:
                read[start + number] = {name: _plain(value) for name, value in zip(names, values, strict=True)}
        return tuple((number, read[number]) for number in numbers if number in read)

    def _query(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._database.cursor() as cursor, _stopped_after(cursor, self._limit_s):
            try:
                # By way of Arrow: DuckDB's own conversion of times with a zone wants a further package.
                found = cursor.sql(sql, params=list(values)).to_arrow_table()
                return list(zip(*(column.to_pylist() for column in found.columns), strict=True))
            except duckdb.InterruptException as error:
                raise TooSlow(f"this took longer than {self._limit_s:g} s; narrow the filter") from error
            except duckdb.OutOfMemoryException as error:
                raise TooSlow("this needs more memory than a reader may use; narrow the filter") from error
            except (duckdb.ConversionException, duckdb.BinderException, duckdb.OutOfRangeException) as error:
                raise FilterError("the filter compares a column with a value of another kind") from error
            except duckdb.Error as error:
                raise DataError("the dataset's files cannot be read; publish them again") from error


def _by_file(part: Part, numbers: Sequence[int]) -> Iterator[tuple[Path, int, list[int]]]:
    """(file, number of its first row, numbers within it) of each file that holds some of the rows."""
    start = 0
    for file, num_rows in zip(part.files, part.rows_of_files, strict=True):
        inside = [number - start for number in numbers if start <= number < start + num_rows]
        if inside:
            yield file, start, inside
        start += num_rows


def _table(part: Part) -> str:
    """All rows of a part with their numbers, to stand after FROM."""
    starts, start = [], 0
    for num_rows in part.rows_of_files:
        starts.append(start)
        start += num_rows
    selects = (
        f"SELECT *, file_row_number + {start} AS {ROW} FROM {_file(file)}"
        for file, start in zip(part.files, starts, strict=True)
    )
    return f"({' UNION ALL BY NAME '.join(selects)})"


def _file(file: Path) -> str:
    return f"read_parquet({_text(str(file))}, file_row_number = true)"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _texts(values: Sequence[str]) -> str:
    return f"[{', '.join(map(_text, values))}]"


@contextmanager
def _stopped_after(cursor: duckdb.DuckDBPyConnection, seconds: float) -> Iterator[None]:
    timer = threading.Timer(seconds, cursor.interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _plain(value: Any) -> Any:
    """A value as JSON knows it: no nan, no dates, no bytes."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal | timedelta):
        return str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(bytes(value)).decode()
    return value
