"""A report as one HTML file: no script, no request, no outside asset; everything from data is escaped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
from markupsafe import Markup

import kp_data
from kp_data.errors import DataError
from kp_data.summary import Conflict
from kp_data.tables import replacing

if TYPE_CHECKING:
    from kp_data.report.examples import ComparedConflict


@dataclass(frozen=True, slots=True)
class Fact:
    """A number that the page opens with."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of ready texts; columns named in `numeric` are set to the right."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Section:
    """A part of a page: a heading, a sentence, then whatever it has.

    Attributes:
        fold: whether the table opens on request, because the chart already says what it says.
    """

    heading: str
    lead: str = ""
    chart: Markup | None = None
    table: Table | None = None
    conflicts: Sequence[Conflict | ComparedConflict] = ()
    note: str = ""
    fold: bool = False


@dataclass(frozen=True)
class ReportPage:
    """A page, not yet written.

    Attributes:
        title: what it is about.
        subtitle: one sentence below it.
        facts: the numbers to open with.
        sections: in order.
    """

    title: str
    subtitle: str = ""
    facts: Sequence[Fact] = ()
    sections: Sequence[Section] = field(default_factory=tuple)


def render_html(page: ReportPage) -> str:
    """The page as one HTML document."""
    style = report_style()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    template = _environment().get_template("page.html.j2")
    return template.render(page=page, style=Markup(style), style_hash=digest, version=kp_data.__version__)  # noqa: S704


def write_html(page: ReportPage, path: Path) -> None:
    """Write the page, atomically.

    Raises:
        DataError: the file cannot be written, or has another suffix than .html: it may be data.
    """
    if Path(path).suffix.lower() != ".html":
        raise DataError("a report is a file that ends in .html; name one", place=path)
    with replacing(Path(path)) as temporary:
        temporary.write_text(render_html(page), encoding="utf-8")


def report_style() -> str:
    """The stylesheet that reports and the explorer share."""
    return (report_templates() / "style.css").read_text(encoding="utf-8")


def report_templates() -> Path:
    """The folder of the templates of reports; the explorer uses their parts."""
    return Path(__file__).parent


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(report_templates()),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
