"""CHANGELOG.md of a published dataset: an entry a version, written from the rows themselves, newest first.

What people wrote into the file stays where it is: an entry is only ever put in front of the newest one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from kp_data.hub.markdown import escape, excerpt
from kp_data.hub.versions import RowDiff, Version

CHANGELOG: Final = "CHANGELOG.md"

_HEADING: Final = "# Changelog\n\nEvery version, newest first; rows are compared by `id`.\n"
_ENTRY: Final = re.compile(r"^## v?(\d+\.\d+\.\d+)[^\n]*\n", re.MULTILINE)
_LISTED: Final = 10


@dataclass(frozen=True)
class Facts:
    """What a release says of itself beside its rows, as its manifest keeps it.

    Attributes:
        method: how it was purified; None where that is not known.
        teachers: names, in their order; None where they are not known.
        metrics: name to number.
    """

    method: str | None = None
    teachers: tuple[str, ...] | None = None
    metrics: Mapping[str, float | None] = field(default_factory=dict)

    @classmethod
    def of(cls, value: Any) -> Facts:
        """Of a manifest's entry; whatever has another shape counts as not known."""
        value = value if isinstance(value, dict) else {}
        method, teachers, metrics = value.get("method"), value.get("teachers"), value.get("metrics")
        return cls(
            method if isinstance(method, str) else None,
            tuple(map(str, teachers)) if isinstance(teachers, list) else None,
            {str(key): number for key, number in metrics.items() if number is None or isinstance(number, int | float)}
            if isinstance(metrics, dict)
            else {},
        )

    def as_dict(self) -> dict[str, Any]:
        """As the manifest keeps it."""
        teachers = None if self.teachers is None else list(self.teachers)
        return {"method": self.method, "teachers": teachers, "metrics": dict(self.metrics)}


@dataclass(frozen=True)
class Changes:
    """What a version changed against its parent.

    Attributes:
        parent: the version before; None for the first.
        rows: purified rows, by id.
        old: facts of the parent.
        new: facts of this version.
        parts: what says something else now, of `purified`, `panel`, `router`.
        message: what its author said of it.
    """

    parent: Version | None
    rows: RowDiff
    old: Facts = field(default_factory=Facts)
    new: Facts = field(default_factory=Facts)
    parts: tuple[str, ...] = ()
    message: str | None = None


def write_entry(version: Version, changes: Changes) -> str:
    """The entry of a version, as Markdown; everything that data or people said is escaped."""
    lines = list(_lines(changes)) or ["Only the card changed."]
    after = f", after {changes.parent}" if changes.parent else ""
    message = f"{escape(excerpt(changes.message, 1000))}\n\n" if changes.message else ""
    table = _metrics_table(version, changes)
    return (
        f"## {version}{after}\n\n{message}" + "".join(f"* {line}\n" for line in lines) + (f"\n{table}" if table else "")
    )


def add_entry(existing: str | None, version: Version, entry: str) -> str:
    """The changelog with an entry in front of the others; one of the same version is replaced.

    Args:
        existing: CHANGELOG.md as it stands; None where there is none.
        version: of the entry.
        entry: of `write_entry`.
    """
    text = _HEADING if existing is None or not existing.strip() else existing
    for match in _ENTRY.finditer(text):
        if match.group(1) == str(version):
            return (
                text[: match.start()]
                + entry
                + ("\n" if _end(text, match) < len(text) else "")
                + text[_end(text, match) :]
            )
    first = _ENTRY.search(text)
    if first is None:
        return f"{text.rstrip()}\n\n{entry}"
    return f"{text[: first.start()]}{entry}\n{text[first.start() :]}"


def read_entries(text: str) -> dict[str, str]:
    """Version to its entry without the heading, newest first; nothing for a file that has none.

    >>> read_entries("# Changelog\\n\\n## 1.0.1, after 1.0.0\\n\\n* a\\n\\n## 1.0.0\\n\\n* b\\n")
    {'1.0.1': '* a', '1.0.0': '* b'}
    """
    return {match.group(1): text[match.end() : _end(text, match)].strip() for match in _ENTRY.finditer(text)}


def _end(text: str, match: re.Match[str]) -> int:
    following = _ENTRY.search(text, match.end())
    return following.start() if following else len(text)


def _lines(changes: Changes) -> Iterator[str]:
    rows = changes.rows
    if changes.parent is None:
        yield f"First version: {len(rows.added):,} row{'s'[: len(rows.added) != 1]}."
        return
    for verb, ids in (("added", rows.added), ("removed", rows.removed), ("changed", rows.changed)):
        if ids:
            columns = f" in {_counted(rows.changed_columns)}" if verb == "changed" else ""
            yield f"{len(ids):,} row{'s'[: len(ids) != 1]} {verb}{columns}: {_some(ids)}"
    for verb, names in (
        ("new", rows.new_columns),
        ("gone", rows.lost_columns),
        ("of another type", rows.retyped_columns),
    ):
        if names:
            yield f"Columns {verb}: {_some(names)}"
    yield from _facts_lines(changes.old, changes.new)
    yield from (f"Other content in `{part}/`." for part in changes.parts if part in ("panel", "router"))


def _facts_lines(old: Facts, new: Facts) -> Iterator[str]:
    if old.teachers is not None and new.teachers is not None:
        for verb, here, there in (("added", new.teachers, old.teachers), ("removed", old.teachers, new.teachers)):
            if names := [name for name in here if name not in there]:
                yield f"Teachers {verb}: {_some(names)}"
    if old.method is not None and new.method is not None and old.method != new.method:
        yield f"Method: {escape(new.method)}, was {escape(old.method)}"


def _metrics_table(version: Version, changes: Changes) -> str:
    moved = [name for name, number in changes.new.metrics.items() if changes.old.metrics.get(name, number) != number]
    if not moved:
        return ""
    rows = [
        f"| {escape(name)} | {_number(changes.old.metrics[name])} | {_number(changes.new.metrics[name])} |"
        for name in moved
    ]
    return "\n".join([f"| metric | {changes.parent} | {version} |", "| --- | ---: | ---: |", *rows]) + "\n"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{escape(name)} ({number:,})" for name, number in counts.items())


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(escape(excerpt(name, 100)) for name in names[:_LISTED])
    return f"{shown} and {len(names) - _LISTED:,} more" if len(names) > _LISTED else shown


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"
