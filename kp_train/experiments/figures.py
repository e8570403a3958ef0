"""The figures of a sweep: one HTML page, and each figure as an SVG file of its own.

report.html              everything
figures/teachers-*.svg   accuracy against the number of teachers, a line a method
figures/cmv.svg          conflict mitigation values
figures/flops-*.svg      accuracy against what training computes
figures/cost-*.svg       accuracy against what the teachers were asked
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from markupsafe import Markup

from kp_data.report.html import Fact, ReportPage, Section, Table, report_style, write_html
from kp_data.report.plots import Gain, Point, gain_chart, scatter
from kp_data.tables import replacing
from kp_train.experiments.claims import Claim
from kp_train.experiments.config import STEP_BY_STEP, UNTAUGHT
from kp_train.experiments.lines import Line, Spot, line_chart
from kp_train.experiments.plan import IN_DOMAIN, OUT_OF_DOMAIN
from kp_train.experiments.results import NOTE, Results, Row, points

PAGE, FOLDER = "report.html", "figures"
WIDTH: Final = 760
_PADDING: Final = 16


def write_figures(results: Results, root: Path) -> None:
    """Write the page and the figures; nothing is drawn of what is not there."""
    figures = dict(_figures(results))
    for name, (_, _, chart) in figures.items():
        with replacing(root / FOLDER / f"{name}.svg") as temporary:
            temporary.write_text(standalone(chart), encoding="utf-8")
    write_html(_page(results, figures), root / PAGE)


def standalone(chart: Markup) -> str:
    """A chart as a file: with the stylesheet of the reports in it, and a width of its own."""
    inside = str(chart).replace("<svg ", f'<svg xmlns="http://www.w3.org/2000/svg" style="padding:{_PADDING}px" ', 1)
    inside = inside.replace('width="100%"', f'width="{WIDTH}"', 1)
    # The padding counts as a part of the box, so that a legend at the bottom would be cut off.
    inside = re.sub(r'height="(\d+)"', lambda found: f'height="{int(found[1]) + 2 * _PADDING}"', inside, count=1)
    head, _, tail = inside.partition(">")
    return f"{head}><style>{_chart_style()}</style>{tail}\n"


def _chart_style() -> str:
    """The reports' stylesheet; custom properties of its root hold for an SVG root as well."""
    return report_style().replace("]]>", "")


def _figures(results: Results) -> Iterator[tuple[str, tuple[str, str, Markup]]]:
    """Name to heading, lead and chart."""
    outcomes = results.outcomes
    for student in outcomes.names("student", IN_DOMAIN):
        lines = _lines(results, student)
        if any(len(line.spots) > 1 for line in lines):
            heading = f"Accuracy against the number of teachers: {student}"
            lead = "Methods start from one student a seed, that of the first teacher alone. Bars are 95 % intervals."
            yield f"teachers-{student}", (heading, lead, line_chart(lines, x_label="teachers", title=heading))
    if results.cmvs:
        gains = [
            Gain(f"{method}, {name}", one.value, one.low, one.high) for (method, name), one in results.cmvs.items()
        ]
        lead = "What purification gains over training on all rationales, mean over two and more teachers, in points."
        yield "cmv", ("Conflict mitigation value", lead, gain_chart(gains, title="Conflict mitigation value"))
    for domain, where in ((IN_DOMAIN, "in domain"), (OUT_OF_DOMAIN, "out of domain")):
        for student in outcomes.names("student", domain):
            rows = _at_most_teachers(results.rows, domain, student)
            yield from _scatters(rows, domain, where, student)
    gains = _ood_gains(results.claims)
    if gains:
        lead = "Students of routed rationales against those of all rationales, in points."
        yield "out-of-domain", ("Out of domain", lead, gain_chart(gains, title="Gain of routers out of domain"))


def _lines(results: Results, student: str) -> list[Line]:
    """A line a method; what no teacher takes part in is level."""
    outcomes, lines = results.outcomes, []
    counts = outcomes.counts(IN_DOMAIN)
    for method in outcomes.names("method", IN_DOMAIN):
        if method == STEP_BY_STEP:
            continue
        spots = []
        for count in counts:
            mean = outcomes.mean(IN_DOMAIN, method, count, student)
            if mean is not None:
                spots.append(Spot(count, mean.value, mean.low, mean.high))
        if spots:
            lines.append(Line(method, tuple(spots), level=method in UNTAUGHT))
    return lines


def _at_most_teachers(rows: Sequence[Row], domain: str, student: str) -> list[Row]:
    mine = [row for row in rows if row.domain == domain and row.student == student]
    most = max((row.teachers for row in mine), default=0)
    return [row for row in mine if row.teachers in (0, 1, most)]


def _scatters(
    rows: Sequence[Row], domain: str, where: str, student: str
) -> Iterator[tuple[str, tuple[str, str, Markup]]]:
    named = [(row.method if row.teachers else f"{row.method} (no teacher)", row) for row in rows]
    trained = [Point(name, row.flops, row.accuracy, row.low, row.high) for name, row in named if row.flops]
    if len(trained) > 1:
        heading = f"Accuracy against training FLOPs, {where}: {student}"
        chart = scatter(trained, [], x_label="FLOPs of training", x_words=lambda x: f"{x:.1e}", title=heading)
        yield f"flops-{domain}-{student}", (heading, "", chart)
    priced = all(row.cost_usd is not None for _, row in named) and any(row.cost_usd for _, row in named)
    points_of_cost = [
        Point(name, float(row.cost_usd or 0) if priced else row.calls, *_spread(row)) for name, row in named
    ]
    if len({point.x for point in points_of_cost}) > 1:
        what = "US dollars for teachers" if priced else "calls of teachers (their prices are unknown, or zero)"
        heading = f"Accuracy against cost, {where}: {student}"
        words = (lambda x: f"${x:,.3g}") if priced else (lambda x: f"{x:,.0f}")
        chart = scatter(points_of_cost, [], x_label=what, x_words=words, title=heading)
        yield (
            f"cost-{domain}-{student}",
            (heading, "For the lessons of one student; a router needs them all in domain.", chart),
        )


def _spread(row: Row) -> tuple[float, float, float]:
    return row.accuracy, row.low, row.high


def _ood_gains(claims: Sequence[Claim]) -> list[Gain]:
    (claim,) = [claim for claim in claims if claim.key == "c"]
    return [Gain(part.name, part.difference.value, part.difference.low, part.difference.high) for part in claim.parts]


def _page(results: Results, figures: dict[str, tuple[str, str, Markup]]) -> ReportPage:
    sweep = results.plan.sweep
    sections = [_claims_section(results.claims)]
    sections += [Section(heading, lead, chart=chart) for heading, lead, chart in figures.values()]
    sections.append(_table_section(results.rows))
    return ReportPage(
        title=f"Sweep {sweep.name}",
        subtitle=sweep.about.strip() or f"{sweep.budget.words} for every student.",
        facts=[
            Fact("students", f"{results.outcomes.num_students}", f"of {len(results.plan.cells)} planned"),
            Fact("each trained for", sweep.budget.words, "the same for all"),
            Fact("processor time", f"{results.seconds / 60:.1f} min", "of everything that is done"),
            *(Fact(f"claim ({claim.key})", claim.verdict, claim.measure) for claim in results.claims),
        ],
        sections=sections,
    )


def _claims_section(claims: Sequence[Claim]) -> Section:
    rows = []
    for claim in claims:
        rows.append((f"({claim.key}) {claim.text}", claim.measure, points(claim.overall), claim.verdict))
        rows += [("", part.name, points(part.difference), part.verdict) for part in claim.parts]
    table = Table(("claim", "measured as", "points", "verdict"), tuple(rows), frozenset({"points"}))
    return Section("The paper's claims, tested here", NOTE, table=table)


def _table_section(rows: Sequence[Row]) -> Section:
    columns = ("where", "method", "teachers", "student", "accuracy", "95 % interval", "seeds", "FLOPs", "calls")
    cells = tuple(
        (
            "in domain" if row.domain == IN_DOMAIN else "out of domain",
            row.method,
            str(row.teachers),
            row.student,
            f"{100 * row.accuracy:.1f} %",
            f"{100 * row.low:.1f}–{100 * row.high:.1f} %",
            str(row.seeds),
            "–" if row.flops is None else f"{row.flops:.2e}",
            f"{row.calls:,}",
        )
        for row in rows
    )
    numeric = frozenset(columns) - {"where", "method", "student"}
    return Section("All students", table=Table(columns, cells, numeric))
