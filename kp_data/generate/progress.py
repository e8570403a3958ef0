"""What a person sees while teachers are asked: one line a teacher on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from kp_data.console import is_quiet, say
from kp_data.generate.tally import Tally

_LIVE_INTERVAL_S: Final = 0.25
_LOG_INTERVAL_S: Final = 5.0


@asynccontextmanager
async def live_view(tallies: Sequence[Tally]) -> AsyncIterator[None]:
    """Show tallies while the block runs."""
    if is_quiet():
        yield
        return
    show = _live if sys.stderr.isatty() else _log
    task = asyncio.create_task(show(tallies))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _log(tallies: Sequence[Tally]) -> None:
    while True:
        await asyncio.sleep(_LOG_INTERVAL_S)
        done, total = sum(tally.done for tally in tallies), sum(tally.total for tally in tallies)
        slow = [f"{tally.teacher} retries {tally.retrying}" for tally in tallies if tally.retrying]
        say(f"{done}/{total} cells{'; ' + ', '.join(slow) if slow else ''}")


async def _live(tallies: Sequence[Tally]) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=4) as progress:
        tasks = [progress.add_task(tally.teacher, total=tally.total, note="") for tally in tallies]
        try:
            while True:
                await asyncio.sleep(_LIVE_INTERVAL_S)
                _refresh(progress, tasks, tallies)
        finally:
            _refresh(progress, tasks, tallies)


def _refresh(progress: object, tasks: Sequence[object], tallies: Sequence[Tally]) -> None:
    for task, tally in zip(tasks, tallies, strict=True):
        progress.update(task, completed=tally.done, note=note_of(tally))  # type: ignore[attr-defined]


def note_of(tally: Tally) -> str:
    """Tokens, cost and trouble of one teacher in a few words."""
    parts = [f"{(tally.prompt_tokens + tally.completion_tokens) / 1000:.1f}k tokens", cost_text(tally)]
    if tally.failed:
        parts.append(f"[red]{tally.failed.total()} failed[/red]")
    if tally.retrying:
        parts.append(f"[yellow]{tally.retrying} waiting to retry[/yellow]")
    if tally.stopped:
        parts.append("[red]stopped[/red]")
    return " · ".join(parts)


def cost_text(tally: Tally) -> str:
    """The cost of this run's calls; a price that is not known is said, never counted as zero."""
    if tally.cost_unknown and tally.cost_unknown == tally.answered:
        return "price unknown"
    return f"${tally.cost_usd:.4f}{' + unknown' if tally.cost_unknown else ''}"
