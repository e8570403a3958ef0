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
from kp_data.hub.explorer.remembered import Remembered

ROW: Final = "__row_idx__"
"""Our name for a row's number; a column of the same name in the data is hidden."""

MAX_LENGTH: Final = 100
"""Rows a page, at most: the dataset viewer's own limit."""

_MEMORY: Final = "256MB"
_LIMIT_S: Final = 10.0
_COUNTED_AT_ONCE: Final = 1_000
_PATIENCE: Final = 3.0
"""How many times as long queries of our own may take: what they find is asked for once and remembered."""


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
        self.remembered = Remembered()
        """What was found out of files, by their contents."""
        self._database = duckdb.connect(
            config={
                "memory_limit": memory,
                "threads": 2,
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
            }
        )
        # Reading ahead would hold whole columns of a row group, so that 30 rows beside embeddings took half a gigabyte.
        self._database.execute("LOAD parquet")
        self._database.execute("SET GLOBAL disable_parquet_prefetching = true")
        self._database.execute("SET GLOBAL parquet_metadata_cache = true")
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
        if order is None and offset + length <= _COUNTED_AT_ONCE:
            found, num_rows = self._first_and_all(part, condition, offset + length)
            return Page(self._numbered(part, found[offset:], columns), num_rows)
        found = self._rows_under(part, condition, order, offset, length)
        return Page(self._numbered(part, found, columns), self.count(part, condition))

    def where(
        self, part: Part, condition: Condition, *, columns: Sequence[str] | None = None, length: int = MAX_LENGTH
    ) -> tuple[tuple[int, Mapping[str, Any]], ...]:
        """The first rows under a condition, without counting them all. Raises as `page` does."""
        return self._numbered(part, self._rows_under(part, condition, None, 0, length), columns)

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

        def counted() -> int:
            ((number,),) = self._query(f"SELECT count(*) FROM {_table(part)} WHERE {condition.sql}", condition.values)
            return int(number)

        return self.remembered.get(("count", part.identity, condition), counted)

    def values(self, part: Part, column: str, *, most: int) -> tuple[tuple[Any, int], ...] | None:
        """The values of a column, None among them, and how often each stands there, the most frequent first.

        Returns: None where there are more than `most`.
        Raises: as `page`.
        """
        name = quoted(column)

        def found() -> tuple[tuple[Any, int], ...] | None:
            # A million texts are not counted to find out that they differ: distinct ones end the scan soon.
            some = self._query(f"SELECT DISTINCT {name} FROM {_table(part)} LIMIT ?", (most + 1,))
            if len(some) > most:
                return None
            counted = self._query(f"SELECT {name}, count(*) AS n FROM {_table(part)} GROUP BY 1 ORDER BY n DESC, 1")
            return tuple((plain(value), int(number)) for value, number in counted)

        return self.remembered.get(("values", part.identity, column, most), found)

    def select(self, part: Part, what: str, *, condition: Condition = ALL, tail: str = "") -> list[tuple[Any, ...]]:
        """Rows of an expression over a part; `what` and `tail` are SQL made by us, never a reader's text.

        Raises as `page` does.
        """
        sql = f"SELECT {what} FROM {_table(part)} WHERE {condition.sql} {tail}"
        return [tuple(plain(value) for value in row) for row in self._query(sql, condition.values, patience=_PATIENCE)]

    def sql(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of a query made by us, never of a reader's text, over what `table` gives. Raises as `page` does."""
        return [tuple(plain(value) for value in row) for row in self._query(sql, patience=_PATIENCE)]

    @staticmethod
    def table(part: Part) -> str:
        """All rows of a part with their numbers, to stand after FROM in `sql`."""
        return _table(part)

    def _first_and_all(self, part: Part, condition: Condition, length: int) -> tuple[list[int], int]:
        """The first rows under a condition and how many there are in all, by one scan where two would do."""
        sql = f"SELECT count(*), min({ROW}, {max(1, length)}) FROM {_table(part)} WHERE {condition.sql}"
        ((num_rows, first),) = self._query(sql, condition.values)
        self.remembered.get(("count", part.identity, condition), lambda: int(num_rows))
        return [int(row) for row in first or ()][:length], int(num_rows)

    def _rows_under(self, part: Part, condition: Condition, order: Order | None, offset: int, length: int) -> list[int]:
        by = f"{order.sql}, {ROW}" if order else ROW
        found = self._query(
            f"SELECT {ROW} FROM {_table(part)} WHERE {condition.sql} ORDER BY {by} LIMIT ? OFFSET ?",
            (*condition.values, length, offset),
        )
        return [int(row) for (row,) in found]

    def _numbered(
        self, part: Part, numbers: Sequence[int], columns: Sequence[str] | None
    ) -> tuple[tuple[int, Mapping[str, Any]], ...]:
        """Rows by number: each file asked only for the stretch that holds them, all files at once."""
        names = [name for name in (columns or list(part.kinds)) if name in part.kinds and name != ROW]
        there = dict(zip(part.files, part.columns_of_files, strict=True))
        selects = []
        for file, start, inside in _by_file(part, numbers):
            # What a file lacks is missing in its rows.
            wanted = (quoted(name) if name in there[file] else f"NULL AS {quoted(name)}" for name in names)
            selects.append(
                f"SELECT {', '.join([f'file_row_number + {start} AS {ROW}', *wanted])} FROM {_file(file)} "
                f"WHERE file_row_number BETWEEN {min(inside)} AND {max(inside)} "
                f"AND file_row_number IN ({', '.join(map(str, inside))})"
            )
        found = self._query(" UNION ALL BY NAME ".join(selects)) if selects else []
        read = {row: {name: plain(value) for name, value in zip(names, values, strict=True)} for row, *values in found}
        return tuple((number, read[number]) for number in numbers if number in read)

    def _query(self, sql: str, values: Sequence[Any] = (), *, patience: float = 1.0) -> list[tuple[Any, ...]]:
        limit_s = patience * self._limit_s
        with self._database.cursor() as cursor, _stopped_after(cursor, limit_s):
            try:
                # By way of Arrow: DuckDB's own conversion of times with a zone wants a further package.
                found = cursor.sql(sql, params=list(values)).to_arrow_table()
                return list(zip(*(column.to_pylist() for column in found.columns), strict=True))
            except duckdb.InterruptException as error:
                raise TooSlow(f"this took longer than {limit_s:g} s; narrow the filter") from error
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


def plain(value: Any) -> Any:
    """A value as JSON knows it: no nan, no dates, no bytes."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal | timedelta):
        return str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(bytes(value)).decode()
    return value
