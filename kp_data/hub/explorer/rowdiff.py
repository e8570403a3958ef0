"""What changed between two versions, row by row: added, removed and changed, by key, with the words that differ.

DuckDB joins the two tables by key and a hash of each row's columns, so that only the rows shown are ever read whole.
"""

# ruff: noqa: S608 -- SQL is put together from our own words and quoted names of existing columns.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from kp_data.errors import DataError
from kp_data.hub.explorer.dataset import Dataset, Part
from kp_data.hub.explorer.filters import quoted
from kp_data.hub.explorer.rows import ROW, Rows
from kp_data.schema import MEASURED_COLUMNS

Kind = Literal["added", "removed", "changed"]
KINDS: Final[tuple[Kind, ...]] = ("changed", "added", "removed")

PAGE: Final = 25

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
        columns_added: columns that only the new version has; likewise `columns_removed`.
    """

    config: str
    counts: Mapping[Kind, int]
    changes: tuple[Change, ...]
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
        offset: rows of the page's beginning.
        length: rows of the page.

    Raises:
        NotComparable: the config has no key by which rows could be compared, or is in neither.
        TooSlow: as `Rows.page`.
    """
    before, after = (_whole(dataset, config) for dataset in (old, new))
    key = _key(before or after, config)
    joined = _joined(before, after, key)
    counts = rows.remembered.get(
        ("differences", *(part.identity if part else "" for part in (before, after))),
        lambda: dict(rows.sql(f"SELECT kind, count(*) FROM {joined} GROUP BY 1")),
    )
    wanted = f"WHERE kind = '{kind}'" if kind in KINDS else ""
    page = rows.sql(
        f"SELECT kind, key, old_row, new_row FROM {joined} {wanted} ORDER BY key, kind "
        f"LIMIT {int(length)} OFFSET {int(offset)}"
    )
    left = _read(rows, before, [row for _, _, row, _ in page if row is not None])
    right = _read(rows, after, [row for _, _, _, row in page if row is not None])
    columns = [set(part.kinds) if part else set[str]() for part in (before, after)]
    return Difference(
        config,
        {name: int(counts.get(name, 0)) for name in KINDS},
        tuple(_change(name, key, left.get(old_row), right.get(new_row)) for name, key, old_row, new_row in page),
        tuple(sorted(columns[1] - columns[0])) if before else (),
        tuple(sorted(columns[0] - columns[1])) if after else (),
    )


def _whole(dataset: Dataset, config: str) -> Part | None:
    """All splits of a config as one part; None: there is none."""
    parts = dataset.of_config(config)
    return Part(config, "*", tuple(file for part in parts for file in part.files)) if parts else None


def _key(part: Part | None, config: str) -> tuple[str, ...]:
    if part is None:
        raise NotComparable("neither version has tables whose rows could be compared")
    for key in _KEYS:
        if set(key) <= set(part.kinds):
            return key
    raise NotComparable(f"the rows of config {config!r} have no id, so versions cannot be compared row by row")


def _joined(before: Part | None, after: Part | None, key: tuple[str, ...]) -> str:
    """(kind, key, old_row, new_row) of every row that differs, to stand after FROM."""
    shared = [part for part in (before, after) if part is not None]
    columns = sorted({name for part in shared for name in part.kinds} - set(MEASURED_COLUMNS) - {ROW})
    left, right = (_hashed(part, key, columns) for part in (before, after))
    return (
        "(SELECT CASE WHEN l.key IS NULL THEN 'added' WHEN r.key IS NULL THEN 'removed' ELSE 'changed' END AS kind, "
        f"coalesce(l.key, r.key) AS key, l.row AS old_row, r.row AS new_row FROM {left} l FULL JOIN {right} r "
        "ON l.key = r.key WHERE l.digest IS DISTINCT FROM r.digest)"
    )


def _hashed(part: Part | None, key: tuple[str, ...], columns: Sequence[str]) -> str:
    """(key, digest, row) of every row of a part; of none without a part."""
    if part is None:
        return "(SELECT NULL::VARCHAR AS key, NULL::UBIGINT AS digest, NULL::BIGINT AS row WHERE FALSE)"
    named = ", ".join(f"{quoted(name)}::VARCHAR" for name in key)
    # A column that one side lacks counts as missing there, so that a new empty column changes no row.
    hashed = ", ".join(f"{quoted(name)}::VARCHAR" if name in part.kinds else "NULL::VARCHAR" for name in columns)
    return f"(SELECT concat_ws(' · ', {named}) AS key, hash({hashed}) AS digest, {ROW} AS row FROM {Rows.table(part)})"


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
