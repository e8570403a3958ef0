"""Tables for a terminal: the numbers of the HTML report, in columns that fit."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from kp_data.report.examples import ComparedVoice
from kp_data.report.html import ReportPage, Section, Table
from kp_data.summary import Voice


@dataclass(frozen=True, slots=True)
class Column:
    """A column: where its value stands in a row, its heading, and how a value is written.

    Attributes:
        key: in the row; a row without it shows a dash.
        heading: above the column.
        style: `text`, `percent` (of a share), `points` (a difference of shares, signed), `number`, `count` (short),
            `seconds`, `money` (US dollars) or `range`; all but text stand right.
    """

    key: str
    heading: str
    style: str = "text"


def render_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], *, title: str | None = None) -> str:
    """Rows as a table without colour, as wide as it needs to be: what a file or a pipe gets.

    >>> columns = [Column("name", "teacher"), Column("right", "right", "percent")]
    >>> print(render_table([{"name": "ada", "right": 0.5}], columns))
     teacher    right
    ──────────────────
     ada       50.0 %
    """
    buffer = io.StringIO()
    _print(_rich_table(rows, columns, title), buffer, width=_needed_width(rows, columns), color=False)
    return "\n".join(line.rstrip() for line in buffer.getvalue().rstrip().splitlines())


def print_table(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[Column],
    *,
    title: str | None = None,
    stream: TextIO | None = None,
) -> None:
    """Print rows as a table, folded to the terminal's width; plain where the stream is no terminal."""
    stream = stream or sys.stdout
    if not stream.isatty():
        stream.write(render_table(rows, columns, title=title) + "\n")
        return
    _print(_rich_table(rows, columns, title), stream, width=None, color="NO_COLOR" not in os.environ)


def print_page(page: ReportPage, stream: TextIO | None = None) -> None:
    """Print what a page says, without its pictures."""
    stream = stream or sys.stdout
    lines = [page.title, page.subtitle, ""]
    lines += [f"  {fact.label}: {fact.value}{f' ({fact.note})' if fact.note else ''}" for fact in page.facts]
    stream.write("\n".join(_printable(line) for line in lines) + "\n")
    for section in page.sections:
        _print_section(section, stream)


def as_html_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> Table:
    """The same rows and columns for a report page."""
    return Table(
        columns=tuple(column.heading for column in columns),
        rows=tuple(tuple(format_value(row.get(column.key), column.style) for column in columns) for row in rows),
        numeric=frozenset(column.heading for column in columns if column.style != "text"),
    )


def format_value(value: Any, style: str = "text") -> str:
    """A value as a person reads it; a dash for None.

    >>> format_value(0.7312, "percent"), format_value(1234567, "number"), format_value(0.003, "money")
    ('73.1 %', '1,234,567', '$0.0030')
    >>> format_value(-0.0214, "points"), format_value(0.0312, "seconds"), format_value(22_713_216, "count")
    ('−2.1', '31 ms', '22.7 M')
    """
    if value is None or value != value:
        return "–"
    if style == "percent":
        return f"{_plain_zero(100 * value):.1f} %".replace("-", "−")
    if style == "points":
        points = _plain_zero(100 * value)
        return f"{points:+.1f}".replace("-", "−") if points else "0.0"
    if style == "count":
        return f"{value / 1e6:,.1f} M" if value >= 1e6 else f"{value:,.0f}"
    if style == "seconds":
        return _seconds(float(value))
    if style == "money":
        return f"${value:,.2f}" if value == 0 or value >= 1 else f"${value:.4f}"
    if style == "number":
        return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}".removesuffix(".00")
    return str(value)


def interval_text(interval: tuple[float, float] | None, style: str = "percent") -> str | None:
    """An interval as a person reads it, of shares or (`points`) of differences; None for none.

    >>> interval_text((0.401, 0.6)), interval_text((-0.012, 0.05), "points")
    ('40.1–60.0 %', '−1.2 to +5.0')
    """
    if interval is None:
        return None
    if style == "points":
        return " to ".join(format_value(bound, "points") for bound in interval)
    return f"{100 * interval[0]:.1f}–{100 * interval[1]:.1f} %"


def _plain_zero(value: float) -> float:
    """The value, but 0 where one decimal would show a zero with a sign."""
    return value if abs(value) >= 0.05 else 0.0


def _seconds(value: float) -> str:
    if value < 0.001:
        return f"{1e6 * value:.0f} µs"
    if value < 1:
        return f"{1e3 * value:.1f} ms" if value < 0.01 else f"{1e3 * value:.0f} ms"
    return f"{value:.1f} s" if value < 10 else f"{value:,.0f} s"


def _print_section(section: Section, stream: TextIO) -> None:
    stream.write("\n")
    if section.table is not None:
        headings = section.table.columns
        rows = [dict(zip(headings, row, strict=True)) for row in section.table.rows]
        columns = [Column(name, name, "range" if name in section.table.numeric else "text") for name in headings]
        print_table(rows, columns, title=section.heading, stream=stream)
    elif section.note or section.conflicts:
        stream.write(f"{section.heading}\n")
    for conflict in section.conflicts:
        lines = [f"  {conflict.question}", *(f"    {_heard(voice)}" for voice in conflict.voices)]
        stream.write("\n".join(_printable(line) for line in lines) + "\n")
    if section.note:
        stream.write(f"  {_printable(section.note)}\n")


def _heard(voice: Voice | ComparedVoice) -> str:
    verdict = "" if voice.correct is None else ", right" if voice.correct else ", wrong"
    keepers = voice.kept_by if isinstance(voice, ComparedVoice) else ()
    kept = f" (kept{' by ' + ', '.join(keepers) if keepers else ''})" if voice.chosen else ""
    return f"{voice.teacher}{kept}: {voice.conclusion or 'no answer read'}{verdict}"


def _rich_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], title: str | None) -> Any:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    table = RichTable(box=box.SIMPLE_HEAD, title=title, title_justify="left", show_edge=False, pad_edge=True)
    for column in columns:
        right = column.style != "text"
        table.add_column(column.heading, justify="right" if right else "left", no_wrap=right, overflow="fold")
    for row in rows:
        # Text and not str: what a teacher is called must not be read as markup.
        table.add_row(*(Text(_printable(format_value(row.get(column.key), column.style))) for column in columns))
    return table


def _printable(text: str) -> str:
    """Without control characters, which could drive the terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def _needed_width(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> int:
    from rich.cells import cell_len

    widths = [
        max([cell_len(column.heading), *(cell_len(format_value(row.get(column.key), column.style)) for row in rows)])
        + 3
        for column in columns
    ]
    return sum(widths) + 2


def _print(table: Any, stream: TextIO, *, width: int | None, color: bool) -> None:
    from rich.console import Console

    console = Console(file=stream, width=width, no_color=not color, highlight=False, emoji=False, markup=False)
    console.print(table)
