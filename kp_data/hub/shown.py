"""What the publishing commands show to a person. Everything that data or a hub said is made harmless for a terminal."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from kp_data.hub.fetching import PublishedVersion
from kp_data.hub.publish import PushResult
from kp_data.hub.versions import BUMPS, ChangedRow, RowDiff
from kp_data.hub.words import marked, printable, shortened, word_diff

_STYLES: Final = {"same": "", "removed": "red strike", "added": "green"}
_ESCAPED: Final = re.compile(r"\\([^A-Za-z0-9\s])")


def show_push(result: PushResult, *, forced: bool) -> Iterator[str]:
    """Lines about a push or a dry run; `forced`: its author chose the version, so nothing is suggested."""
    if result.unchanged:
        yield f"{result.repo} is unchanged since v{result.version}: nothing to publish"
        return
    would = "would be " if result.commit is None else ""
    yield (
        f"{result.repo} v{result.version}: {result.rows_added:,} rows {would}added, {result.rows_removed:,} removed, "
        f"{result.rows_changed:,} changed; {result.uploaded_bytes:,} bytes in "
        f"{sum(entry.change != 'removed' for entry in result.files)} files"
    )
    if result.commit is None:
        yield from (f"  {entry.change:8}{entry.bytes:>13,}  {printable(entry.path)}" for entry in result.files)
    for check in result.benchmarks_checked:
        if check["exact"] or check["near"]:
            yield f"published with test questions of {printable(check['benchmark'])} in train; the card says so"
    raised = _raised(result)
    if not forced and result.suggested_bump and raised and BUMPS.index(raised) < BUMPS.index(result.suggested_bump):
        yield f"by its rows this is a {result.suggested_bump} version, not a {raised} one; --bump auto goes by the rows"
    yield result.url


def show_versions(found: Iterable[PublishedVersion]) -> Iterator[str]:
    """A line a version, then what changed in it."""
    for version in found:
        yield f"{version.version:10} {printable(version.tag):11} {printable(version.commit)}"
        yield from (f"    {line}" for line in _plain(version.changes) if line)


def show_diff(diff: RowDiff, rows: Iterable[ChangedRow], *, limit: int, colour: bool) -> None:
    """Print a diff: how much, then row by row, differing words marked."""
    console = Console(no_color=not colour, highlight=False, soft_wrap=True)
    counts = ", ".join(f"{number:,} {verb}" for verb, number in diff.counts.items())
    columns = ", ".join(f"{printable(name)} ({number:,})" for name, number in diff.changed_columns.items())
    console.print(Text(f"{counts}{f' in {columns}' if columns else ''}"))
    for verb, names in (("new", diff.new_columns), ("gone", diff.lost_columns), ("retyped", diff.retyped_columns)):
        if names:
            console.print(Text(f"columns {verb}: {', '.join(map(printable, names))}"))
    for sign, ids, style in (("+", diff.added, "green"), ("-", diff.removed, "red")):
        for row_id in ids[:limit]:
            console.print(Text(f"{sign} {printable(row_id)}", style=style))
        _rest(console, sign, len(ids) - limit)
    for row, _ in zip(rows, range(limit), strict=False):
        console.print(Text(f"~ {printable(row.id)}", style="yellow"))
        for name, (before, after) in row.columns.items():
            console.print(
                Text(f"    {printable(name)}: ").append(_marked(before, after, colour and console.is_terminal))
            )
    _rest(console, "~", len(diff.changed) - limit)


def _rest(console: Console, sign: str, number: int) -> None:
    if number > 0:
        console.print(Text(f"{sign} and {number:,} more; --limit shows more"))


def _marked(before: Any, after: Any, colour: bool) -> Text:
    pieces = list(shortened(word_diff(_as_text(before), _as_text(after))))
    if not colour:
        return Text(marked(pieces))
    text = Text()
    for kind, piece in pieces:
        text.append(printable(piece), style=_STYLES[kind])
    return text


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _raised(result: PushResult) -> str | None:
    if result.parent is None:
        return None
    old, new = (version.split(".") for version in (result.parent, result.version))
    return next((part for part, a, b in zip(reversed(BUMPS), old, new, strict=True) if a != b), None)


def _plain(markdown: str) -> list[str]:
    """Markdown as `markdown.escape` writes it, as the text it stands for."""
    text = html.unescape(_ESCAPED.sub(r"\1", markdown.replace("<br>", " ")))
    return [printable(line) for line in text.splitlines()]
