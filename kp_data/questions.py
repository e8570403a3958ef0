"""Where questions come from: files, panel folders, hub datasets, and the practice world."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from kp_data.errors import ConfigError, DataError
from kp_data.tables import READABLE, check_questions, read_questions, rename_columns, table_of_questions

_HUB_NAME = re.compile(r"^(?P<name>[\w.-]+/[\w.-]+)(?::(?P<config>[\w.-]+))?(?:@(?P<revision>[\w./-]+))?$")


def load_questions(source: str, *, columns: Mapping[str, str] | None = None) -> pa.Table:
    """The questions of a source, checked, in the order of the source.

    Args:
        source: a file (Parquet, JSONL, CSV), a panel folder, a hub dataset `name[:config][@revision]`, or
            `practice:N[?seed=1&subjects=…]`.
        columns: our column name to the source's own, where they differ.

    Raises:
        DataError: the source is missing, broken, or holds no question.
        ConfigError: the source cannot be understood.
    """
    table = _read(source, columns)
    if table.num_rows == 0:
        raise DataError("no questions", place=source)
    return table


def select_questions(table: pa.Table, *, split: str | None, limit: int | None, place: object) -> pa.Table:
    """The first so many questions of a split; None takes all.

    Raises:
        DataError: no question has such a split; names those there are.
    """
    if split is not None:
        splits = table["split"].to_pylist()
        table = table.filter(pa.array([value == split for value in splits], pa.bool_()))
        if table.num_rows == 0:
            there = ", ".join(sorted(set(splits))) or "none"
            raise DataError(f"no question in split {split!r}; splits there: {there}", place=place)
    return table.slice(0, limit) if limit is not None else table


def _read(source: str, columns: Mapping[str, str] | None) -> pa.Table:
    if source.startswith("practice:"):
        from kp_data.practice import make_questions, parse_practice_source

        if columns:
            raise ConfigError("--map has nothing to rename in the practice world; leave it out", place=source)
        wanted = parse_practice_source(source)
        return table_of_questions(make_questions(wanted.n, seed=wanted.seed, subjects=wanted.subjects))
    path = Path(source)
    if path.is_dir():
        if not (path / "questions.parquet").is_file():
            raise DataError("no questions.parquet in this folder; give a file, or a panel folder", place=path)
        return read_questions(path / "questions.parquet", columns=columns)
    if path.is_file() or path.suffix in READABLE:
        return read_questions(path, columns=columns)
    if match := _HUB_NAME.match(source):
        return _read_hub(match["name"], match["config"], match["revision"], columns)
    raise ConfigError(f"source {source!r}: no such file or folder, nor a hub name or practice:N")


def _read_hub(name: str, config: str | None, revision: str | None, columns: Mapping[str, str] | None) -> pa.Table:
    import datasets

    try:
        splits = datasets.load_dataset(name, config, revision=revision)
    # The library raises a dozen types for "not there", "not allowed" and "no network".
    except Exception as error:
        message = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        raise DataError(
            f"cannot be loaded from the hub ({message}); is it a local file that is missing?", place=name
        ) from error
    tables = []
    for split, dataset in splits.items():
        table = dataset.with_format("arrow")[:]
        if "split" not in table.column_names:
            table = table.append_column("split", pa.array([str(split)] * table.num_rows))
        tables.append(table)
    merged = pa.concat_tables(tables, promote_options="default")
    merged = rename_columns(merged, columns, name)
    return check_questions(merged, name)
