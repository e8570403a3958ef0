"""Versions of a published dataset: their numbers, what changed between two, and when nothing did."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import pyarrow as pa

from kp_data.errors import HubError
from kp_data.schema import MEASURED_COLUMNS

Bump = Literal["patch", "minor", "major"]

_NUMBER = re.compile(r"v?(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")


@dataclass(frozen=True, order=True, slots=True)
class Version:
    """A version X.Y.Z of a dataset; as a tag it is written vX.Y.Z.

    >>> str(Version.parse("v1.2.3").bumped("minor")), Version(1, 10, 0) > Version(1, 9, 9)
    ('1.3.0', True)
    """

    major: int
    minor: int
    patch: int

    @classmethod
    def parse(cls, text: str) -> Version:
        """The version that `X.Y.Z` or `vX.Y.Z` names.

        Raises:
            HubError: it is neither.
        """
        if (version := cls.of_tag(text.strip())) is None:
            raise HubError(f"version {text!r} is not of the form X.Y.Z, such as 1.0.0")
        return version

    @classmethod
    def of_tag(cls, text: str) -> Version | None:
        """As `parse`, but None for a tag that is no version."""
        match = _NUMBER.fullmatch(text)
        return cls(*(int(number) for number in match.groups())) if match else None

    def bumped(self, part: Bump) -> Version:
        """The next version.

        Raises:
            HubError: `part` is none of patch, minor, major.
        """
        if part not in get_args(Bump):
            raise HubError(f"cannot bump {part!r}; give one of {', '.join(get_args(Bump))}")
        if part == "major":
            return Version(self.major + 1, 0, 0)
        return (
            Version(self.major, self.minor + 1, 0)
            if part == "minor"
            else Version(self.major, self.minor, self.patch + 1)
        )

    @property
    def tag(self) -> str:
        """Its tag in a repository."""
        return f"v{self}"

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


FIRST = Version(1, 0, 0)
"""What a dataset starts with."""


def next_version(last: Version | None, *, wanted: str | None, bump: Bump) -> Version:
    """The version to publish after `last`.

    Raises:
        HubError: `wanted` is no version, or not above the last one.
    """
    if wanted is None:
        return last.bumped(bump) if last else FIRST
    version = Version.parse(wanted)
    if last is not None and version == last:
        raise HubError(
            f"version {version} exists already; versions never change, so publish {last.bumped(bump)} instead"
        )
    if last is not None and version < last:
        raise HubError(f"version {version} is below the last one, {last}; publish {last.bumped(bump)} or above")
    return version


@dataclass(frozen=True, slots=True)
class RowDiff:
    """What changed between two tables, by row id, each in the order of its table.

    Attributes:
        added: ids only the new table has.
        removed: ids only the old table has.
        changed: ids both have, with another value in some column.
        changed_columns: the columns that differ in some changed row.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    changed_columns: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    @property
    def counts(self) -> dict[str, int]:
        """How many rows were added, removed and changed."""
        return {"added": len(self.added), "removed": len(self.removed), "changed": len(self.changed)}

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {name: list(getattr(self, name)) for name in ("added", "removed", "changed", "changed_columns")}


def diff_rows(old: pa.Table | None, new: pa.Table) -> RowDiff:
    """Rows added, removed and changed from one table to the next, matched by column `id`.

    A column that one side lacks counts as null there, so that a new empty column changes no row.

    Args:
        old: table with a column `id`; None: there was none.
        new: table with a column `id`.
    """
    if old is None:
        return RowDiff(added=tuple(new["id"].to_pylist()))
    columns = list(dict.fromkeys([*new.column_names, *old.column_names]))
    before = dict(zip(old["id"].to_pylist(), _rows(old, columns), strict=True))
    after = dict(zip(new["id"].to_pylist(), _rows(new, columns), strict=True))
    changed = [row_id for row_id, row in after.items() if row_id in before and before[row_id] != row]
    moved = {column for row_id in changed for column in _differing(before[row_id], after[row_id], columns)}
    return RowDiff(
        added=tuple(row_id for row_id in after if row_id not in before),
        removed=tuple(row_id for row_id in before if row_id not in after),
        changed=tuple(changed),
        changed_columns=tuple(column for column in columns if column in moved),
    )


def content_hash(table: pa.Table | None, *, without: Sequence[str] = MEASURED_COLUMNS) -> str | None:
    """sha256 of what a table says: columns, rows and their order, whatever file or writer it came from.

    Args:
        table: any table; None gives None.
        without: columns that may differ between two runs that were answered the same.
    """
    if table is None:
        return None
    columns = [name for name in table.column_names if name not in without]
    digest = hashlib.sha256(json.dumps(columns).encode())
    for row in _rows(table, columns):
        digest.update(f"{row}\n".encode())
    return digest.hexdigest()


def documents_hash(files: Mapping[str, bytes]) -> str | None:
    """sha256 of some files by path and content; None: no files."""
    if not files:
        return None
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path}\0{hashlib.sha256(files[path]).hexdigest()}\n".encode())
    return digest.hexdigest()


def _rows(table: pa.Table, columns: Sequence[str]) -> Iterator[str]:
    # JSON text and not values: nan equals nan there, and lists compare by what they hold.
    absent = [None] * table.num_rows
    lists = [table[name].to_pylist() if name in table.column_names else absent for name in columns]
    return (json.dumps(row, ensure_ascii=False, default=str) for row in zip(*lists, strict=True))


def _differing(before: str, after: str, columns: Sequence[str]) -> Iterator[str]:
    pairs = zip(columns, json.loads(before), json.loads(after), strict=True)
    return (name for name, left, right in pairs if json.dumps(left) != json.dumps(right))
