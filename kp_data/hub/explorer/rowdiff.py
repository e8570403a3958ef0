"""What changed between two versions, row by row: added, removed and changed, by key, with the words that differ.

DuckDB joins the two tables by key and a hash of each row's columns, so that only the rows shown are ever read whole.
"""

# ruff: noqa: S608 -- SQL is put together from our own words and quoted names of existing columns.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from kp_data.errors import DataError
from kp_data.hub.explorer.dataset import Dataset, Part, joined
from kp_data.hub.explorer.filters import quoted
from kp_data.hub.explorer.rows import ROW, Rows
from kp_data.schema import MEASURED_COLUMNS

Kind = Literal["added", "removed", "changed"]
KINDS: Final[tuple[Kind, ...]] = ("changed", "added", "removed")

PAGE: Final = 25
MAX_COUNTED_ROWS: Final = 200_000
"""Rows up to which the columns that differ are counted one by one: each costs a hash a row."""

_TELLING: Final = (
    "rationale",
    "answer",
    "teacher",
    "question",
    "choices",
    "purified_answer_index",
    "conflict",
    "score",
)
_KEYS: Final[Sequence[tuple[str, ...]]] = (("id",), ("question_id", "teacher", "mode", "sample"))


@dataclass(frozen=True)
class Change:
    """A row that differs.

    Attributes:
        key: its `id`, or what names it in a panel.
        before: its columns in the old version; None: it was added.
        after: in the new version; None: it was removed.
        columns: those that differ, of a changed row.
    """

    kind: Kind
    key: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Difference:
    """Some of the rows that differ between two versions of a config.

    Attributes:
        config: such as `purified`.
        counts: how many rows of each kind there are in all.
        changes: those of the page that was asked for.
        changed_in: column to how many rows differ in it, the most telling first; empty where there are very many rows.
        columns_added: columns that only the new version has; likewise `columns_removed`.
    """

    config: str
    counts: Mapping[Kind, int]
    changes: tuple[Change, ...]
    changed_in: Mapping[str, int]
    columns_added: tuple[str, ...]
    columns_removed: tuple[str, ...]

    def total(self, kind: Kind | None) -> int:
        """How many rows of a kind there are; None: of any."""
        return self.counts[kind] if kind else sum(self.counts.values())


class NotComparable(DataError):
    """Versions of this config cannot be compared row by row."""


def differences(
    rows: Rows,
    old: Dataset,
    new: Dataset,
    config: str,
    *,
    kind: Kind | None = None,
    column: str | None = None,
    offset: int = 0,
    length: int = PAGE,
) -> Difference:
    """The rows of a config that differ, by key; columns that time two runs are not compared.

    Args:
        rows: reads both.
        old: the version before.
        new: the version after.
        config: in both, or in one of them.
        kind: only rows of this kind.
        column: of the changed rows, only those that differ in it.
        offset: rows of the page's beginning.
        length: rows of the page.

    Raises:
        NotComparable: the config has no key by which rows could be compared, or is in neither.
        TooSlow: as `Rows.page`.
    """
    before, after = (joined(dataset.of_config(config)) for dataset in (old, new))
    key = _key(before or after, config)
    columns = _compared(before, after)
    only = column if column in columns else None
    differing = _differing(before, after, key, [only] if only else columns)
    both = tuple(part.identity if part else "" for part in (before, after))
    counts = rows.remembered.get(
        ("differences", *both, only),
        lambda: dict(rows.sql(f"SELECT kind, count(*) FROM {differing} GROUP BY 1")),
    )
    changed_in = rows.remembered.get(("changed in", *both), lambda: _changed_in(rows, before, after, key))
    wanted = f"WHERE kind = '{kind}'" if kind in KINDS else ""
    page = rows.sql(
        f"SELECT kind, key, old_row, new_row FROM {differing} {wanted} ORDER BY key, kind "
        f"LIMIT {int(length)} OFFSET {int(offset)}"
    )
    left = _read(rows, before, [row for _, _, row, _ in page if row is not None])
    right = _read(rows, after, [row for _, _, _, row in page if row is not None])
    had, has = (set(part.kinds) if part else set[str]() for part in (before, after))
    return Difference(
        config,
        {name: int(counts.get(name, 0)) for name in KINDS},
        tuple(_change(name, key, left.get(old_row), right.get(new_row)) for name, key, old_row, new_row in page),
        changed_in,
        tuple(sorted(has - had)) if before else (),
        tuple(sorted(had - has)) if after else (),
    )


def _key(part: Part | None, config: str) -> tuple[str, ...]:
    if part is None:
        raise NotComparable("neither version has tables whose rows could be compared")
    for key in _KEYS:
        if set(key) <= set(part.kinds):
            return key
    raise NotComparable(f"the rows of config {config!r} have no id, so versions cannot be compared row by row")


def _compared(before: Part | None, after: Part | None) -> list[str]:
    """The columns of either side that tell rows apart."""
    there = [part for part in (before, after) if part is not None]
    return sorted({name for part in there for name in part.kinds} - set(MEASURED_COLUMNS) - {ROW})


def _changed_in(rows: Rows, before: Part | None, after: Part | None, key: tuple[str, ...]) -> dict[str, int]:
    if before is None or after is None or max(before.num_rows, after.num_rows) > MAX_COUNTED_ROWS:
        return {}
    columns = [name for name in _compared(before, after) if name not in key]
    if not columns:
        return {}
    left, right = (_hashed(part, key, *([name] for name in columns)) for part in (before, after))
    numbers = ", ".join(
        f"count(CASE WHEN l.digest{at} IS DISTINCT FROM r.digest{at} THEN 1 END)" for at in range(len(columns))
    )
    (found,) = rows.sql(f"SELECT {numbers} FROM {left} l JOIN {right} r ON l.key = r.key")
    counted = {name: int(number) for name, number in zip(columns, found, strict=True) if number}
    return dict(sorted(counted.items(), key=lambda each: _TELLING.index(each[0]) if each[0] in _TELLING else 99))


def _differing(before: Part | None, after: Part | None, key: tuple[str, ...], columns: Sequence[str]) -> str:
    """(kind, key, old_row, new_row) of every row that differs in some columns, to stand after FROM."""
    left, right = (_hashed(part, key, columns) for part in (before, after))
    return (
        "(SELECT CASE WHEN l.key IS NULL THEN 'added' WHEN r.key IS NULL THEN 'removed' ELSE 'changed' END AS kind, "
        f"coalesce(l.key, r.key) AS key, l.row AS old_row, r.row AS new_row FROM {left} l FULL JOIN {right} r "
        "ON l.key = r.key WHERE l.digest0 IS DISTINCT FROM r.digest0)"
    )


def _hashed(part: Part | None, key: tuple[str, ...], *groups: Sequence[str]) -> str:
    """(key, digest0, …, row) of every row of a part, a digest for each group of columns; of none without a part."""
    if part is None:
        none = ", ".join(f"NULL::UBIGINT AS digest{at}" for at in range(len(groups)))
        return f"(SELECT NULL::VARCHAR AS key, {none}, NULL::BIGINT AS row WHERE FALSE)"
    named = ", ".join(f"{quoted(name)}::VARCHAR" for name in key)
    # A column that one side lacks counts as missing there, so that a new empty column changes no row.
    digests = ", ".join(
        f"hash({', '.join(f'{quoted(name)}::VARCHAR' if name in part.kinds else 'NULL::VARCHAR' for name in columns)})"
        f" AS digest{at}"
        for at, columns in enumerate(groups)
    )
    return f"(SELECT concat_ws(' · ', {named}) AS key, {digests}, {ROW} AS row FROM {Rows.table(part)})"


def _read(rows: Rows, part: Part | None, numbers: Sequence[int]) -> Mapping[int, Mapping[str, Any]]:
    return dict(rows.at(part, numbers).rows) if part is not None else {}


def _change(kind: Kind, key: str, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> Change:
    names = list(dict.fromkeys([*(before or {}), *(after or {})]))
    differing = (
        tuple(name for name in names if before.get(name) != after.get(name) and name not in MEASURED_COLUMNS)
        if before is not None and after is not None
        else ()
    )
    return Change(kind, key, before, after, differing)
