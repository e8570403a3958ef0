"""A sweep in the terminal: a live table while it runs, or a line now and then; tables at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kp_data.console import is_quiet, say
from kp_data.report import Column, print_table
from kp_train.experiments.results import points

if TYPE_CHECKING:
    from kp_train.experiments.estimate import Estimate
    from kp_train.experiments.results import Results
    from kp_train.experiments.run import Standing

SECONDS_BETWEEN_LINES: Final = 10.0
KINDS: Final = {
    "teach": "teachers trained",
    "ask": "panels asked for",
    "join": "panels joined",
    "purify": "purified",
    "cell": "students",
}

_ACCURACY: Final = (
    Column("where", "where"),
    Column("method", "method"),
    Column("teachers", "teachers", "number"),
    Column("student", "student"),
    Column("accuracy", "accuracy", "percent"),
    Column("interval", "95 % interval", "range"),
    Column("flops", "FLOPs", "range"),
    Column("calls", "teacher calls", "number"),
)
_CLAIMS: Final = (Column("claim", "claim"), Column("points", "points", "range"), Column("verdict", "verdict"))


@contextmanager
def watching() -> Iterator[Callable[[Standing], None]]:
    """What to call with the standing of a sweep."""
    if is_quiet():
        yield lambda _: None
    elif sys.stderr.isatty():
        with _live() as watch:
            yield watch
    else:
        yield _lines()


def print_results(results: Results, root: Path) -> None:
    """Accuracy, claims, and where the rest is."""
    rows = [
        {
            "where": "in domain" if row.domain == "in" else "out of domain",
            "method": row.method,
            "teachers": row.teachers,
            "student": row.student,
            "accuracy": row.accuracy,
            "interval": f"{100 * row.low:.1f}–{100 * row.high:.1f} %",
            "flops": "–" if row.flops is None else f"{row.flops:.1e}",
            "calls": row.calls,
        }
        for row in results.rows
    ]
    print_table(rows, _ACCURACY, title=_title(results))
    lines: list[dict[str, Any]] = []
    for claim in results.claims:
        lines.append(
            {"claim": f"({claim.key}) {claim.text}", "points": points(claim.overall), "verdict": claim.verdict}
        )
        lines += [
            {"claim": f"      {part.name}", "points": points(part.difference), "verdict": part.verdict}
            for part in claim.parts
        ]
    print_table(lines, _CLAIMS, title="the paper's claims")
    for (dataset, method), share in results.saved.items():
        if share:
            say(f"{dataset}, {method}: by itself saves {share:.0%} of the teacher calls")
    say(f"tables and figures: {root}/report.html, results.md, results.csv, results.json")


def _title(results: Results) -> str:
    done, planned = results.outcomes.num_students, len(results.plan.cells)
    return f"{results.plan.sweep.name}: {f'{done} of ' if done < planned else ''}{planned} students"


def print_estimate(estimate: Estimate) -> None:
    """What a sweep would take; nothing was run."""
    columns = (
        Column("what", "what"),
        Column("students", "students", "number"),
        Column("left", "left", "number"),
        Column("steps", "steps each", "number"),
        Column("tokens", "tokens each", "range"),
        Column("flops", "FLOPs, all that is left", "range"),
        Column("hours", "hours", "range"),
    )
    rows = [
        {
            "what": line.what,
            "students": line.students,
            "left": line.left,
            "steps": line.steps,
            "tokens": f"{line.tokens:.2g}",
            "flops": f"{line.left_flops:.2e}",
            "hours": "–" if line.hours is None else f"{line.hours:.2f}",
        }
        for line in estimate.lines
    ]
    print_table(rows, columns, title=f"{estimate.name}: what would be trained")
    for sentence in estimate.sentences():
        say(sentence)


@contextmanager
def _live() -> Iterator[Callable[[Standing], None]]:
    from rich.console import Console
    from rich.live import Live

    begun = time.monotonic()
    with Live(console=Console(stderr=True), refresh_per_second=4, transient=True) as live:
        yield lambda standing: live.update(_table(standing, time.monotonic() - begun))


def _table(standing: Standing, seconds: float) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, title=_head(standing, seconds), title_justify="left")
    for heading in ("", "done", "of"):
        table.add_column(heading, justify="left" if not heading else "right")
    for kind, total in standing.total.items():
        table.add_row(KINDS[kind], str(standing.done.get(kind, 0)), str(total))
    for task in standing.running:
        table.add_row(Text(f"now: {task.words}", style="dim"), "", "")
    for outcome in standing.failed.values():
        table.add_row(Text(f"failed: {outcome.task.words}: {outcome.error}"[:200], style="red"), "", "")
    return table


def _head(standing: Standing, seconds: float) -> str:
    return f"{standing.left} tasks left, {_clock(seconds)} so far"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}"


def _lines() -> Callable[[Standing], None]:
    begun = time.monotonic()
    last = begun - SECONDS_BETWEEN_LINES
    told: set[str] = set()

    def show(standing: Standing) -> None:
        nonlocal last
        now = time.monotonic()
        for name, outcome in standing.failed.items():
            if name not in told:
                told.add(name)
                say(f"{_clock(now - begun)} failed: {outcome.task.words}: {outcome.error}")
        if now - last < SECONDS_BETWEEN_LINES and standing.left:
            return
        last = now
        done = ", ".join(
            f"{KINDS[kind]} {standing.done.get(kind, 0)}/{total}" for kind, total in standing.total.items()
        )
        doing = "; ".join(task.words for task in standing.running)
        failed = f", {len(standing.failed)} failed" if standing.failed else ""
        say(f"{_clock(now - begun)} {done}{failed}{f'; now {doing}' if doing else ''}")

    return show
