"""Read and write the tables of `kp_data.schema`, and say precisely what is wrong with a broken one.

Readers accept Parquet, JSONL and CSV, missing optional columns and extra ones. Writers go through a temporary file and
a rename, so that a crash leaves either the old file or the new one.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, overload

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kp_data.errors import DataError
from kp_data.schema import ERROR_CLASSES, MODES, PURIFIED, QUESTIONS, RESPONSES, Question, Response

_ROWS_A_CHECK: Final = 20_000
_QUESTIONS_A_LOOK: Final = 1024

READABLE = (".parquet", ".jsonl", ".ndjson", ".csv")


def read_questions(path: Path, *, columns: Mapping[str, str] | None = None) -> pa.Table:
    """Questions of a file, checked, in the columns and types of `schema.QUESTIONS`, then any extra columns.

    Args:
        path: Parquet, JSONL or CSV file.
        columns: our column name to the file's own, where they differ.

    Raises:
        DataError: the file cannot be read, or a row breaks the contract; names file, column and row.
    """
    return check_questions(rename_columns(read_table(path), columns, path), path)


def read_responses(path: Path, *, columns: Mapping[str, str] | None = None) -> pa.Table:
    """Responses of a file, checked, in the columns and types of `schema.RESPONSES`, then any extra columns.

    Raises:
        DataError: the file cannot be read, or a row breaks the contract; names file, column and row.
    """
    return check_responses(rename_columns(read_table(path), columns, path), path)


def read_purified(path: Path) -> pa.Table:
    """Purified rows of a file, checked, in the columns and types of `schema.PURIFIED`, then any extra columns.

    Raises:
        DataError: the file cannot be read, or a row breaks the contract; names file, column and row.
    """
    return check_purified(read_table(path), path)


def check_questions(table: pa.Table, place: object) -> pa.Table:
    """Fill defaults, cast, and check ids, choices and gold answers.

    Raises:
        DataError: a column is missing or of another type, an id is empty or stands twice, or a gold answer does not
            agree with the choices; names column and row (rows count from 1).
    """
    _require(table, ("id", "question"), place)
    # Ids that are numbers in the source are ids all the same.
    table = _conform(table, QUESTIONS, place, {"split": "train"})
    _check_ids(table["id"], place)
    # A part at a time: as Python objects, a table takes many times its size.
    starts = range(0, table.num_rows, _ROWS_A_CHECK)
    parts = [_check_some_questions(table.slice(start, _ROWS_A_CHECK), start, place) for start in starts]
    return pa.concat_tables(parts) if parts else table


def _check_some_questions(table: pa.Table, start: int, place: object) -> pa.Table:
    for row, text in enumerate(table["question"].to_pylist(), start=start + 1):
        if not text.strip():
            raise DataError(f"column 'question', row {row}: empty, but every row needs one", place=place)
    ids = table["id"].to_pylist()
    choices = [tuple(row or ()) for row in table["choices"].to_pylist()]
    answers, indices = table["answer"].to_pylist(), table["answer_index"].to_pylist()
    for row, (options, answer, index) in enumerate(zip(choices, answers, indices, strict=True)):
        where = f"{place}, row {start + row + 1} ({ids[row]})"
        answers[row], indices[row] = _reconcile_gold(options, answer, index, where)
    table = _replace(table, "choices", pa.array([list(row) for row in choices], pa.list_(pa.string())))
    table = _replace(table, "answer", pa.array(answers, pa.string()))
    return _replace(table, "answer_index", pa.array(indices, pa.int32()))


def check_responses(table: pa.Table, place: object) -> pa.Table:
    """Fill defaults, cast, and check modes, error classes and that no cell stands twice.

    Raises:
        DataError: as `check_questions`, for the responses table.
    """
    _require(table, ("question_id", "teacher", "mode", "rationale"), place)
    table = _conform(table, RESPONSES, place, {"sample": 0})
    for column, allowed in (("mode", MODES), ("error", ERROR_CLASSES)):
        for row, value in enumerate(table[column].to_pylist()):
            if value is not None and value not in allowed:
                raise DataError(
                    f"column '{column}', row {row + 1}: {value!r} is none of {', '.join(allowed)}", place=place
                )
    keys = zip(*(table[name].to_pylist() for name in ("question_id", "teacher", "mode", "sample")), strict=True)
    seen: dict[tuple[object, ...], int] = {}
    for row, key in enumerate(keys, start=1):
        if (first := seen.setdefault(key, row)) != row:
            raise DataError(
                f"rows {first} and {row} hold the same cell (question {key[0]}, teacher {key[1]}, {key[2]}, sample "
                f"{key[3]}); keep one of them, or number them in a column 'sample'",
                place=place,
            )
    return table


def check_purified(table: pa.Table, place: object) -> pa.Table:
    """Cast, and check the question columns as `check_questions` does.

    Raises:
        DataError: as `check_questions`, for the purified table.
    """
    _require(table, ("rationale", "teacher", "method", "conflict"), place)
    return _conform(check_questions(table, place), PURIFIED, place)


def read_table(path: Path) -> pa.Table:
    """A Parquet, JSONL or CSV file as an Arrow table, types as the file has them.

    Raises:
        DataError: no such file, another format, or a line that cannot be parsed (named).
    """
    path = Path(path)
    if not path.is_file():
        raise DataError("no such file", place=path)
    if path.suffix == ".parquet":
        try:
            return pq.read_table(path, partitioning=None)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"not a readable Parquet file ({_first_line(error)})", place=path) from error
    if path.suffix in (".jsonl", ".ndjson"):
        return _table_of_rows(list(_jsonl_rows(path)), path)
    if path.suffix == ".csv":
        return _table_of_rows(list(_csv_rows(path)), path)
    raise DataError(f"cannot read '{path.suffix or 'no suffix'}'; give one of {', '.join(READABLE)}", place=path)


def questions_of(table: pa.Table) -> list[Question]:
    """The rows of a checked questions table."""
    names = QUESTIONS.names
    columns = [table[name].to_pylist() for name in names]
    return [
        Question(**{**dict(zip(names, row, strict=True)), "choices": tuple(row[2])})
        for row in zip(*columns, strict=True)
    ]


class Questions(Sequence[Question]):
    """The rows of a checked questions table, made when they are looked at: a table is many times smaller."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __iter__(self) -> Iterator[Question]:
        for start in range(0, len(self), _QUESTIONS_A_LOOK):
            yield from questions_of(self._table.slice(start, _QUESTIONS_A_LOOK))

    @overload
    def __getitem__(self, index: int) -> Question: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Question]: ...
    def __getitem__(self, index: int | slice) -> Question | Sequence[Question]:
        if isinstance(index, slice):
            return Questions(self._table.take(pa.array(range(*index.indices(len(self))), pa.int64())))
        return questions_of(self._table.slice(range(len(self))[index], 1))[0]


def table_of_questions(questions: Sequence[Question]) -> pa.Table:
    """Questions as a table with exactly the columns of `schema.QUESTIONS`."""
    return _table_of(questions, QUESTIONS)


def table_of_responses(responses: Sequence[Response]) -> pa.Table:
    """Responses as a table with exactly the columns of `schema.RESPONSES`."""
    return _table_of(responses, RESPONSES)


def rename_columns(table: pa.Table, columns: Mapping[str, str] | None, place: object) -> pa.Table:
    """A table with the source's own column names replaced by ours.

    Args:
        table: as it was read.
        columns: our column name to the source's own.
        place: of the table, for messages.

    Raises:
        DataError: the table has no such column.
    """
    for ours, theirs in (columns or {}).items():
        if theirs not in table.column_names:
            raise DataError(
                f"no column '{theirs}' to map to '{ours}'; it has {', '.join(table.column_names)}", place=place
            )
        if ours in table.column_names and ours != theirs:
            table = table.drop_columns([ours])
        table = table.rename_columns([ours if name == theirs else name for name in table.column_names])
    return table


def write_parquet(table: pa.Table, path: Path) -> None:
    """Write durably and atomically; the same table gives the same bytes.

    Raises:
        DataError: the disk is full or the folder cannot be written.
    """
    with replacing(path) as temporary:
        # Content-defined chunks let a hub store only what a new version changed.
        pq.write_table(table, temporary, compression="zstd", use_content_defined_chunking=True)


@contextmanager
def parquet_writer(path: Path, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    """Write a table piece by piece, durably and atomically: it is there whole when the block ends, or not at all.

    Yields: what takes the next rows, of this schema; each piece is a row group.
    Raises:
        DataError: the disk is full or the folder cannot be written.
    """
    with (
        replacing(path) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd", use_content_defined_chunking=True) as writer,
    ):
        yield lambda table: writer.write_table(table, row_group_size=max(1, table.num_rows))


def write_json(value: Any, path: Path) -> None:
    """Write one JSON document durably and atomically, keys in the order given, NaN refused."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """One JSON document.

    Raises:
        DataError: missing or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", place=path) from error
    except ValueError as error:
        raise DataError(f"not valid JSON ({error})", place=path) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it, synced to disk, when the block ends without an error.

    Raises:
        DataError: the folder cannot be written, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    except OSError as error:
        # pyarrow makes a sentence of it, with the name of the temporary file.
        reason = os.strerror(error.errno) if error.errno else error
        raise DataError(f"cannot be written ({reason}); free space or choose another folder", place=path) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _jsonl_rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig") as lines:
        try:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise DataError(
                        "not a JSON object; each line is one question or response", place=f"{path}, line {number}"
                    )
                yield row
        except UnicodeDecodeError as error:
            raise DataError(f"not UTF-8 ({error.reason}); save the file as UTF-8", place=path) from error
        except json.JSONDecodeError as error:
            place = f"{path}, line {number}"
            raise DataError(f"not valid JSON ({error.msg}, column {error.colno})", place=place) from error
        except RecursionError as error:
            raise DataError("nested too deeply", place=f"{path}, line {number}") from error


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            for number, row in enumerate(csv.DictReader(lines, strict=True), start=2):
                if None in row or None in row.values():
                    raise DataError("more or fewer fields than the header has", place=f"{path}, line {number}")
                yield {name: _csv_value(name, value, f"{path}, line {number}") for name, value in row.items()}
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 ({error.reason}); save the file as UTF-8", place=path) from error
    except csv.Error as error:
        raise DataError(f"not valid CSV ({error})", place=path) from error


def _csv_value(name: str, value: str, place: str) -> Any:
    """CSV has no types: an empty field is null, `choices` is a JSON list."""
    if value == "":
        return None
    if name != "choices":
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise DataError('column \'choices\' must be a JSON list, such as ["yes", "no"]', place=place) from error


def _table_of_rows(rows: list[dict[str, Any]], path: Path) -> pa.Table:
    names = dict.fromkeys(name for row in rows for name in row)
    arrays = {}
    for name in names:
        values = [row.get(name) for row in rows]
        try:
            arrays[name] = pa.array(values)
        except (pa.ArrowException, OverflowError, UnicodeError) as error:
            raise DataError(
                f"column '{name}' mixes types, or holds what no table can ({_first_line(error)})", place=path
            ) from error
    return pa.table(arrays)


def _table_of(rows: Sequence[object], schema: pa.Schema) -> pa.Table:
    # Column by column: a dictionary a row costs ten times as much.
    columns = [pa.array([getattr(row, field.name) for row in rows], field.type) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def _require(table: pa.Table, names: Sequence[str], place: object) -> None:
    if not table.column_names:
        raise DataError("holds no rows", place=place)
    if missing := [name for name in names if name not in table.column_names]:
        has = ", ".join(table.column_names) or "none"
        raise DataError(
            f"missing column '{missing[0]}' (columns here: {has}); --map {missing[0]}=FIELD renames one", place=place
        )


def _conform(
    table: pa.Table, schema: pa.Schema, place: object, defaults: Mapping[str, Any] = MappingProxyType({})
) -> pa.Table:
    """The schema's columns first and in its types, missing ones and nulls at their defaults, extra ones after them."""
    arrays, fields = [], []
    for field in schema:
        if field.name in table.column_names:
            column = _cast(table[field.name], field, place)
        else:
            column = pa.chunked_array([pa.nulls(table.num_rows, field.type)])
        if field.name in defaults:
            column = pc.fill_null(column, pa.scalar(defaults[field.name], field.type))
        _check_filled(column, field, place)
        arrays.append(column)
        fields.append(field)
    for name in table.column_names:
        if name not in schema.names:
            arrays.append(table[name])
            fields.append(table.schema.field(name))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _cast(column: pa.ChunkedArray, field: pa.Field, place: object) -> pa.ChunkedArray:
    try:
        column = column.cast(field.type)
    except pa.ArrowException as error:
        message = f"column '{field.name}' must be {field.type} ({_first_line(error)})"
        raise DataError(message, place=place) from error
    return column


def _check_filled(column: pa.ChunkedArray, field: pa.Field, place: object) -> None:
    if not field.nullable and column.null_count:
        row = column.is_null().to_pylist().index(True) + 1
        raise DataError(f"column '{field.name}', row {row}: empty, but every row needs one", place=place)


def _check_ids(ids: pa.ChunkedArray, place: object) -> None:
    if pc.count_distinct(ids).as_py() == len(ids) and not pc.any(pc.equal(pc.utf8_trim_whitespace(ids), "")).as_py():
        return
    seen: dict[str, int] = {}
    for row, value in enumerate(ids.to_pylist(), start=1):
        if not value.strip():
            raise DataError(f"column 'id', row {row}: empty, but every question needs one", place=place)
        if (first := seen.setdefault(value, row)) != row:
            raise DataError(f"id {value!r} stands in rows {first} and {row}; ids must be unique", place=place)


def _reconcile_gold(
    choices: tuple[str, ...], answer: str | None, index: int | None, place: str
) -> tuple[str | None, int | None]:
    """Gold answer text and index, each derived from the other where one is missing."""
    if any(choice is None or not choice.strip() for choice in choices):
        raise DataError("an empty choice; give every choice a text", place=place)
    if not choices:
        if index is not None:
            raise DataError(f"answer_index is {index}, but the question has no choices", place=place)
        return answer, None
    if index is not None:
        if not 0 <= index < len(choices):
            raise DataError(
                f"answer_index is {index}, but there are {len(choices)} choices (0 to {len(choices) - 1})", place=place
            )
        if answer is not None and answer != choices[index]:
            raise DataError(f"answer {answer!r} is not choices[{index}], which is {choices[index]!r}", place=place)
        return choices[index], index
    if answer is None:
        return None, None
    if answer not in choices:
        raise DataError(f"answer {answer!r} is none of the choices", place=place)
    return answer, choices.index(answer)


def _replace(table: pa.Table, name: str, column: pa.Array | pa.ChunkedArray) -> pa.Table:
    position = table.column_names.index(name)
    field = table.schema.field(name)
    return table.set_column(position, pa.field(name, column.type, nullable=field.nullable), column)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200]
