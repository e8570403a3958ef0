"""What a person sees while teachers are asked: a live table on a terminal, a line every few seconds elsewhere.

What is shown is made by pure functions of `standing`; here it is laid out to the terminal's size and kept up to date.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kp_data.console import is_quiet, say
from kp_data.generate.standing import News, Standing, Totals, Watch, cost_text, log_interval_s, log_line
from kp_data.generate.stopping import Stop, listening, owns_terminal
from kp_data.generate.tally import Tally
from kp_data.generate.words import calls, duration, failures, money, percent, rate_text

if TYPE_CHECKING:
    from rich.console import JustifyMethod, RenderableType
    from rich.live import Live
    from rich.text import Text

__all__ = ["cost_text", "live_view", "table_of"]

_TICK_S: Final = 0.25
_LONGEST_TICK_S: Final = 1.0
_SHARE_OF_TIME: Final = 0.03
_COLORS: Final = {
    "slowed": "yellow",
    "waiting": "yellow",
    "paused": "yellow",
    "retrying": "yellow",
    "stopped": "red",
    "done": "green",
}
_GAP: Final = 2
_WIDEST_BAR: Final = 24


@asynccontextmanager
async def live_view(
    tallies: Sequence[Tally], *, stop: Stop | None = None, budget_left_usd: Callable[[], float | None] | None = None
) -> AsyncIterator[None]:
    """Show tallies while the block runs.

    Args:
        tallies: one a teacher; whoever asks keeps them up to date.
        stop: pressed by Ctrl-C, SIGTERM and `q` while the block runs; without one none of them is listened to.
        budget_left_usd: asked for at every look; None without a budget.
    """
    view = _View(tallies, stop, budget_left_usd)
    heard = nullcontext() if stop is None else listening(stop, keys=not is_quiet(), before_suspend=view.close)
    with heard:
        task = asyncio.create_task(view.run())
        try:
            yield
        finally:
            task.cancel()
            (ended,) = await asyncio.gather(task, return_exceptions=True)
            view.close()
    # A screen that has gone is no reason to say so on it; anything else should not be hidden.
    if isinstance(ended, Exception) and not isinstance(ended, OSError):
        say(f"the live view broke off ({type(ended).__name__}: {ended}); the run was not touched by it")


class _View:
    """What is on the screen now, or when the last line was written."""

    def __init__(
        self, tallies: Sequence[Tally], stop: Stop | None, budget_left_usd: Callable[[], float | None] | None
    ) -> None:
        self._began = time.monotonic()
        self._watch = Watch(tallies, self._began)
        self._stop = stop
        self._budget_left_usd = budget_left_usd or (lambda: None)
        self._news = News()
        self._line_at = self._began + log_interval_s(0)
        self._live: Live | None = None
        self._said_ending = False

    async def run(self) -> None:
        """Keep the view up to date until cancelled."""
        while not is_quiet():
            began_s = time.thread_time()
            self.show(time.monotonic())
            # Looking must not take time from asking, however many teachers there are.
            pause_s = (time.thread_time() - began_s) / _SHARE_OF_TIME
            await asyncio.sleep(min(_LONGEST_TICK_S, max(_TICK_S, pause_s)))

    def show(self, now: float) -> None:
        """Bring the screen up to date, or write a line where one is due."""
        ending = self._stop is not None and self._stop.asked.is_set()
        standings = self._watch.look(now, ending=ending)
        totals = self._watch.totals(standings, now, budget_left_usd=self._budget_left_usd())
        if _can_draw():
            self._draw(standings, totals)
        else:
            self.close()
            self._write(standings, totals, now)

    def close(self) -> None:
        """Leave the screen in order: one line of what has been done stays."""
        if (live := self._live) is None:
            return
        self._live = None
        now = time.monotonic()
        standings = self._watch.look(now)
        totals = self._watch.totals(standings, now, budget_left_usd=self._budget_left_usd())
        # The terminal may have gone; the run need not notice.
        with suppress(OSError):
            try:
                live.update(_lines(_totals_parts(totals), live.console.width))
            finally:
                live.stop()

    def _draw(self, standings: Sequence[Standing], totals: Totals) -> None:
        if self._live is None:
            from rich.console import Console
            from rich.live import Live

            # Drawn from the event loop and not from a thread: tallies change between two looks, never within one.
            console = Console(stderr=True)
            self._live = Live(console=console, auto_refresh=False, redirect_stdout=False, vertical_overflow="crop")
            self._live.start()
        size = self._live.console.size
        hint = hint_of(self._stop, totals.in_flight)
        self._live.update(table_of(standings, totals, width=size.width, height=size.height, hint=hint), refresh=True)

    def _write(self, standings: Sequence[Standing], totals: Totals, now: float) -> None:
        for line in self._news.lines(standings, now):
            say(line)
        if self._stop is not None and self._stop.asked.is_set() and not self._said_ending:
            self._said_ending = True
            say(hint_of(self._stop, totals.in_flight))
        if now >= self._line_at:
            self._line_at = now + log_interval_s(totals.elapsed_s)
            say(log_line(standings, totals))


def hint_of(stop: Stop | None, in_flight: int) -> str:
    """What pressing a key does now."""
    if stop is None:
        return "Ctrl-C stops; run again to go on"
    if stop.now.is_set():
        return f"dropping {calls(in_flight)} in flight"
    if stop.asked.is_set():
        return f"finishing {calls(in_flight)} in flight; press again to drop them"
    return "q or Ctrl-C stops; run again to go on"


def table_of(
    standings: Sequence[Standing], totals: Totals, *, width: int, height: int, hint: str = ""
) -> RenderableType:
    """Teachers as a table with the run as a whole below it, never larger than the terminal.

    Columns that do not fit are left out, the least needed first; of more teachers than there are lines, those that are
    done, and then those that do well, are counted in one.

    Args:
        standings: one a teacher.
        totals: of the same look.
        width, height: of the terminal, in characters.
        hint: what can be done now.
    """
    from rich.console import Group
    from rich.text import Text

    below = [_lines(_totals_parts(totals), width)]
    if hint:
        below.append(Text(hint, style="dim", no_wrap=True, overflow="ellipsis"))
    room = height - 2 - sum(str(line).count("\n") + 1 for line in below)
    shown, rest = _most_telling(standings, room)
    if rest:
        below.insert(0, Text(rest, style="dim", no_wrap=True, overflow="ellipsis"))
    return Group(_table(shown, width), *below)


def _most_telling(standings: Sequence[Standing], room: int) -> tuple[list[Standing], str]:
    """The teachers that get a line, in their order, and the others in words."""
    if len(standings) <= room:
        return list(standings), ""
    order = ("stopped", "paused", "waiting", "retrying", "slowed", "away", "idle", "ending", "asking", "done")
    ranked = sorted(range(len(standings)), key=lambda index: order.index(standings[index].state.kind))
    kept = set(ranked[: max(1, room - 1)])
    others = Counter(standing.state.kind for index, standing in enumerate(standings) if index not in kept)
    words = ", ".join(f"{count} {kind}" for kind, count in others.most_common())
    return [standings[index] for index in sorted(kept)], f"and {others.total()} more: {words}"


@dataclass(frozen=True, slots=True)
class _Column:
    """A column: its cells as text, how wide it is at least, and in which order it is taken while there is room."""

    heading: str
    cells: tuple[str, ...]
    least: int
    rank: int
    right: bool = True

    @property
    def width(self) -> int:
        from rich.cells import cell_len

        return max(self.least, *(cell_len(text) for text in (self.heading, *self.cells)))


def _columns(standings: Sequence[Standing], width: int) -> dict[str, _Column]:
    """All columns, in the order in which they stand."""

    def cells(text: Callable[[Standing], str]) -> tuple[str, ...]:
        return tuple(text(standing) for standing in standings)

    longest = max(10, width // (5 if width < 100 else 6))
    columns = {
        "teacher": _Column("teacher", cells(lambda one: shorten(one.teacher, longest)), 7, 0, right=False),
        "bar": _Column("", (), 10, 9),
        "done": _Column("done", cells(lambda one: f"{one.done:,}/{one.total:,}"), 9, 0),
        "percent": _Column("", cells(lambda one: percent(one.done, one.total)), 5, 7),
        "failed": _Column("failed", cells(lambda one: f"{one.failed.total():,}" if one.failed else ""), 6, 2),
        "classes": _Column("failed", cells(lambda one: shorten(failures(one.failed), 32)), 10, 8, right=False),
        "flight": _Column("calls", cells(_flight), 7, 6),
        "rate": _Column("rate", cells(_rate), 7, 4),
        "cost": _Column("cost", cells(lambda one: one.cost), 16, 5),
        "eta": _Column("eta", cells(_eta), 7, 3),
        "state": _Column("state", (), 24 if width < 80 else 30 if width < 160 else 44, 0, right=False),
    }
    if not any(standing.failed for standing in standings):
        del columns["failed"], columns["classes"]
    return columns


def _fitting(columns: dict[str, _Column], width: int, gap: int) -> list[str]:
    """The names of the columns that fit side by side, in their order; failures once, by class where there is room."""
    taken = {name for name, column in columns.items() if column.rank == 0}
    used = sum(columns[name].width + gap for name in taken)
    for name, column in sorted(columns.items(), key=lambda item: item[1].rank):
        instead = columns["failed"].width + gap if name == "classes" and "failed" in taken else 0
        more = column.width + gap - instead
        if name not in taken and used + more <= width + gap:
            taken.add(name)
            used += more
            if instead:
                taken.remove("failed")
    return [name for name in columns if name in taken]


def _table(standings: Sequence[Standing], width: int) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    gap = 1 if width < 80 else _GAP
    columns = _columns(standings, width)
    names = _fitting(columns, width, gap)
    spare = width - sum(columns[name].width + gap for name in names) + gap
    bar_width = columns["bar"].width + min(max(0, spare), _WIDEST_BAR - columns["bar"].width)
    if "bar" in names:
        spare -= bar_width - columns["bar"].width
    table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False, header_style="dim", show_edge=False)
    for name in names:
        column = columns[name]
        wide = bar_width if name == "bar" else column.width + (max(0, spare) if name == "state" else 0)
        side: JustifyMethod = "right" if column.right else "left"
        table.add_column(column.heading, width=wide, no_wrap=True, overflow="ellipsis", justify=side)
    for index, standing in enumerate(standings):
        special: dict[str, RenderableType] = {
            "bar": ProgressBar(max(1, standing.total), standing.done if standing.total else 1, width=bar_width),
            "state": Text(standing.state.words, style=_COLORS.get(standing.state.kind, "")),
        }
        # Text and not str: what a teacher is called must not be read as markup.
        row = [special.get(name) or Text(columns[name].cells[index], style=_style(name)) for name in names]
        table.add_row(*row)
    return table


def _style(name: str) -> str:
    return "red" if name in ("failed", "classes") else "bold" if name == "teacher" else ""


def _flight(standing: Standing) -> str:
    if standing.state.kind in ("done", "stopped") and not standing.in_flight:
        return ""
    return f"{standing.in_flight:,}" if standing.limit is None else f"{standing.in_flight:,}/{standing.limit:,}"


def _rate(standing: Standing) -> str:
    return "" if standing.state.kind in ("done", "stopped") else rate_text(standing.rate)


def _eta(standing: Standing) -> str:
    if standing.state.kind in ("done", "stopped"):
        return ""
    return "–" if standing.eta_s is None else duration(standing.eta_s)


def _totals_parts(totals: Totals) -> list[str]:
    parts = [f"{totals.done:,}/{totals.total:,} cells", f"{duration(totals.elapsed_s)} elapsed"]
    if totals.failed:
        parts.append(f"{totals.failed.total():,} failed ({failures(totals.failed)})")
    if totals.done < totals.total:
        parts.append(f"eta {'unknown' if totals.eta_s is None else duration(totals.eta_s)}")
    parts += [rate_text(totals.rate)] if totals.rate is not None else []
    parts += [totals.cost] if totals.cost != "–" else []
    if totals.budget_left_usd is not None:
        parts.append(f"budget left {money(totals.budget_left_usd)}")
    return parts


def _lines(parts: Sequence[str], width: int) -> Text:
    """Parts side by side, as many in a line as fit."""
    from rich.text import Text

    lines: list[str] = []
    for part in parts:
        joined = f"{lines[-1]} · {part}" if lines else part
        if lines and len(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(part)
    return Text("\n".join(lines), no_wrap=True, overflow="ellipsis")


def shorten(text: str, width: int) -> str:
    """Text in so many cells, with its beginning and its end: model names differ in both.

    >>> shorten("meta-llama-3.1-70b-instruct", 16)
    'meta-lla…nstruct'
    """
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) <= width:
        return text
    tail = (width - 1) // 2
    end = text[-tail:]
    while cell_len(end) > tail:
        end = end[1:]
    return set_cell_size(text, width - 1 - tail).rstrip() + "…" + end


def _can_draw() -> bool:
    """Whether stderr is a terminal that can be drawn on, and that shows this process now."""
    try:
        return (
            sys.stderr.isatty()
            and os.environ.get("TERM", "") not in ("", "dumb", "unknown")
            and owns_terminal(sys.stderr.fileno())
        )
    except (OSError, ValueError):
        return False
