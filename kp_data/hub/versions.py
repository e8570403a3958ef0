"""Versions of a published dataset: their numbers, what changed between two, and when nothing did."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc

from kp_data.errors import HubError
from kp_data.schema import MEASURED_COLUMNS

Bump = Literal["patch", "minor", "major"]
BUMPS: Final[tuple[Bump, ...]] = get_args(Bump)

_BATCH: Final = 10_000
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
        if part not in BUMPS:
            raise HubError(f"cannot bump {part!r}; give one of {', '.join(BUMPS)}")
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
        changed_columns: column to the number of rows both have whose value in it differs, in the order of the columns.
        new_columns: columns only the new table has.
        lost_columns: columns only the old table has.
        retyped_columns: columns whose type differs.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    changed_columns: Mapping[str, int] = field(default_factory=dict)
    new_columns: tuple[str, ...] = ()
    lost_columns: tuple[str, ...] = ()
    retyped_columns: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        columns = self.new_columns or self.lost_columns or self.retyped_columns
        return bool(self.added or self.removed or self.changed or columns)

    @property
    def counts(self) -> dict[str, int]:
        """How many rows were added, removed and changed."""
        return {"added": len(self.added), "removed": len(self.removed), "changed": len(self.changed)}

    @property
    def bump(self) -> Bump:
        """The part of a version that such a change raises.

        `major` where somebody who relied on the old rows loses something: rows removed or moved to another split, or
        columns removed or of another type. `minor` where rows or columns were added or rows changed. `patch` where the
        rows are the same: the card, the responses, the router or the report.
        """
        if self.removed or "split" in self.changed_columns or self.lost_columns or self.retyped_columns:
            return "major"
        return "minor" if self.added or self.changed or self.new_columns else "patch"

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        lists = ("added", "removed", "changed", "new_columns", "lost_columns", "retyped_columns")
        return {name: list(getattr(self, name)) for name in lists} | {"changed_columns": dict(self.changed_columns)}


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
    before, after = _digests(old, columns), _digests(new, columns)
    changed = tuple(row_id for row_id, digest in after.items() if before.get(row_id, digest) != digest)
    counts = Counter(name for pair in _pairs(old, new, changed, columns) for name in _differing(*pair, columns))
    both = [name for name in new.column_names if name in old.column_names]
    return RowDiff(
        added=tuple(row_id for row_id in after if row_id not in before),
        removed=tuple(row_id for row_id in before if row_id not in after),
        changed=changed,
        changed_columns={column: counts[column] for column in columns if column in counts},
        new_columns=tuple(name for name in new.column_names if name not in old.column_names),
        lost_columns=tuple(name for name in old.column_names if name not in new.column_names),
        retyped_columns=tuple(name for name in both if new.schema.field(name).type != old.schema.field(name).type),
    )


@dataclass(frozen=True, slots=True)
class ChangedRow:
    """A row that two tables hold with different values: column to its value before and after."""

    id: str
    columns: Mapping[str, tuple[Any, Any]]


def changed_rows(old: pa.Table, new: pa.Table, diff: RowDiff) -> Iterator[ChangedRow]:
    """The rows of `diff.changed`, in that order, with what differs in each.

    Args:
        old: table with a column `id`.
        new: table with a column `id`.
        diff: of the two, as `diff_rows` gives it.
    """
    names = [name for name in diff.changed_columns if name != "id"]
    ids = diff.changed
    for start in range(0, len(ids), _BATCH):
        some = ids[start : start + _BATCH]
        before, after = (_rows_of(table, some).to_pylist() for table in (old, new))
        for row_id, left, right in zip(some, before, after, strict=True):
            pairs = {name: (left.get(name), right.get(name)) for name in names}
            # As text: nan equals nan there.
            yield ChangedRow(row_id, {name: pair for name, pair in pairs.items() if repr(pair[0]) != repr(pair[1])})


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
    # JSON text and not values: nan equals nan there, and lists compare by what they hold. A batch at a time: as Python
    # objects a table takes many times its size.
    for start in range(0, table.num_rows, _BATCH):
        part = table.slice(start, _BATCH)
        absent = [None] * part.num_rows
        lists = [part[name].to_pylist() if name in part.column_names else absent for name in columns]
        yield from (json.dumps(row, ensure_ascii=False, default=str) for row in zip(*lists, strict=True))


def _digests(table: pa.Table, columns: Sequence[str]) -> dict[str, bytes]:
    """Row id to a digest of the row."""
    digests = (
        hashlib.blake2b(row.encode(errors="surrogatepass"), digest_size=16).digest() for row in _rows(table, columns)
    )
    return dict(zip(table["id"].to_pylist(), digests, strict=True))


def _rows_of(table: pa.Table, ids: Sequence[str]) -> pa.Table:
    return table.take(pc.index_in(pa.array(ids, pa.string()), table["id"].combine_chunks()))


def _pairs(old: pa.Table, new: pa.Table, ids: Sequence[str], columns: Sequence[str]) -> Iterator[tuple[str, str]]:
    return zip(*(_rows(_rows_of(table, ids), columns) for table in (old, new)), strict=True)


def _differing(before: str, after: str, columns: Sequence[str]) -> Iterator[str]:
    pairs = zip(columns, json.loads(before), json.loads(after), strict=True)
    return (name for name, left, right in pairs if json.dumps(left) != json.dumps(right))
