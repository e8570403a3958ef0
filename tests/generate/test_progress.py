"""The live view: what fits on a terminal of any size, and what is written where there is none."""

import asyncio
import io
import os
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from kp_data.console import set_quiet
from kp_data.generate import progress
from kp_data.generate.progress import hint_of, live_view, shorten, table_of
from kp_data.generate.standing import Watch
from kp_data.generate.stopping import Stop
from kp_data.generate.tally import Reason, Tally

if sys.platform == "win32":
    pytest.skip("no terminals of this kind", allow_module_level=True)

import pty


@dataclass
class Desk:
    """An account as the view sees it."""

    limit: float = 64
    in_flight: int = 0
    paused_s: float = 0.0
    reason: Reason = ""


def busy(name: str, **fields: Any) -> Tally:
    return Tally(name, **{"total": 5000, "in_flight": 37, "account": Desk(), **fields})


def picture(tallies: list[Tally], width: int, height: int = 40, *, budget_usd: float | None = None) -> list[str]:
    """What a terminal of this size shows, ten seconds after nothing had been answered."""
    answered = [tally.answered for tally in tallies]
    watch = Watch(tallies, 0.0)
    for tally in tallies:
        tally.answered = 0
    watch.look(0.0)
    for tally, number in zip(tallies, answered, strict=True):
        tally.answered = number
    standings = watch.look(10.0)
    totals = watch.totals(standings, 10.0, budget_left_usd=budget_usd)
    console = Console(width=width, file=io.StringIO(), record=True, color_system=None)
    console.print(table_of(standings, totals, width=width, height=height, hint=hint_of(Stop(), 3)))
    return console.export_text().splitlines()


def crowd(number: int) -> list[Tally]:
    states: list[dict[str, Any]] = [
        {"answered": 4000, "cost_usd": 0.2},
        {"answered": 5000, "in_flight": 0},
        {"answered": 10, "failed": Counter(timeout=1200, bad_response=40), "retrying": 12},
        {"in_flight": 0, "account": Desk(paused_s=12, reason="overloaded")},
        {"in_flight": 0, "stopped": "auth: the key was refused (401), " + "long " * 50},
        {"answered": 3, "cost_unknown": 3, "account": Desk(limit=8.9, reason="overloaded")},
    ]
    return [busy(f"provider/a-rather-long-model-name-{n}", **states[n % len(states)]) for n in range(number)]


def test_a_wide_terminal_shows_everything_about_a_teacher() -> None:
    ada = busy("ada", answered=1000, cost_usd=0.10, failed=Counter(timeout=3, refused=1))
    heading, line, *below = picture([ada], 200, budget_usd=3.2)
    assert heading.split() == ["teacher", "done", "failed", "calls", "rate", "cost", "eta", "state"]
    for text in ("ada", "1,004/5,000", "20 %", "3 timeout, 1 refused", "37/64", "100/s", "$0.10 of ~$0.50", "asking"):
        assert text in line
    # 3996 cells are left, of a hundred a second.
    assert "40 s" in line
    assert below[0].split(" · ") == [
        "1,004/5,000 cells",
        "10 s elapsed",
        "4 failed (3 timeout, 1 refused)",
        "eta 40 s",
        "100/s",
        "$0.10 of ~$0.50",
        "budget left $3.20",
    ]
    assert below[1] == "q or Ctrl-C stops; run again to go on"


def test_a_narrow_terminal_keeps_name_progress_failures_and_state() -> None:
    lines = picture(crowd(6), 60)
    assert lines[0].split() == ["teacher", "done", "failed", "state"]
    assert "waiting 12 s (server asked)" in lines[4]
    assert "stopped: auth: the key" in lines[5]


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("number", [1, 6, 20])
def test_nothing_is_wider_or_higher_than_the_terminal(width: int, number: int) -> None:
    lines = picture(crowd(number), width, 24, budget_usd=1234.5)
    assert len(lines) <= 23
    assert all(cell_len(line) <= width for line in lines)


def test_of_too_many_teachers_those_in_trouble_are_shown_and_the_others_counted() -> None:
    tallies = [busy(f"t{n}", answered=5000 if n < 15 else 10) for n in range(20)]
    tallies[17].stopped = "auth"
    lines = picture(tallies, 80, 12)
    assert any("stopped: auth" in line for line in lines)
    # Two lines of the run as a whole and the heading leave room for seven teachers and the rest in one.
    assert "and 13 more: 13 done" in lines


@settings(max_examples=40, deadline=None)
@given(
    st.text(min_size=1, max_size=60),
    st.text(max_size=200),
    st.integers(0, 10**6),
    st.floats(0, 1e6),
    st.integers(40, 220),
)
def test_whatever_servers_and_people_write_the_table_fits(
    name: str, message: str, answered: int, cost_usd: float, width: int
) -> None:
    tallies = [busy(name, total=10**6, answered=answered, cost_usd=cost_usd), busy(name, stopped=message)]
    lines = picture(tallies, width)
    assert all(cell_len(line) <= width and line.isprintable() for line in lines)


def test_markup_and_control_characters_in_names_are_shown_not_obeyed() -> None:
    lines = picture([busy("[red]x[/red]\x1b[2J"), busy("b", stopped="[bold]no\x07")], 120)
    assert "[red]x[/red]" in lines[1]
    assert "stopped: [bold]no" in lines[2]


@given(st.text(min_size=1), st.integers(3, 30))
def test_a_shortened_name_fits(name: str, width: int) -> None:
    assert cell_len(shorten(name, width)) <= width


class FakeTime:
    """A clock that somebody else winds."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_without_a_terminal_lines_are_written_and_become_rarer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = FakeTime()
    monkeypatch.setattr(progress, "time", clock)
    ada = busy("ada")
    view = progress._View([ada], None, None)
    told_at = []
    for step in range(4 * 420):
        clock.now = step / 4
        ada.answered = step
        view.show(clock.now)
        if capsys.readouterr().err:
            told_at.append(clock.now)
    assert told_at[:3] == [5, 10, 15]
    assert [later - earlier for earlier, later in pairwise(told_at)] == [5] * 11 + [10] * 24 + [30] * 3


def test_a_change_that_matters_is_written_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    ada, stop = busy("ada"), Stop()
    view = progress._View([ada], stop, None)
    view.show(0.0)
    assert capsys.readouterr().err == ""
    ada.stopped = "auth: key \x1b[31mrefused\n"
    view.show(0.25)
    assert capsys.readouterr().err == "ada: stopped: auth: key refused\n"
    stop.press()
    view.show(0.5)
    view.show(0.75)
    assert capsys.readouterr().err == "finishing 37 calls in flight; press again to drop them\n"


def test_a_view_without_a_terminal_writes_no_control_characters_and_none_at_all_when_quiet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def run() -> None:
        async with live_view([ada]):
            await asyncio.sleep(0.01)
            ada.stopped = "\x1b[1mno"
            await asyncio.sleep(0.05)

    monkeypatch.setattr(progress, "_TICK_S", 0.01)
    ada = busy("ada")
    asyncio.run(run())
    told = capsys.readouterr().err
    assert told == "ada: stopped: no\n"
    ada.stopped = None
    set_quiet(True)
    try:
        asyncio.run(run())
    finally:
        set_quiet(False)
    assert capsys.readouterr().err == ""


def test_a_view_that_breaks_says_so_and_does_not_touch_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(self: object, now: float) -> None:
        raise RuntimeError("no such column")

    monkeypatch.setattr(progress._View, "show", broken)

    async def run() -> str:
        async with live_view([busy("ada")]):
            await asyncio.sleep(0)
            return "finished"

    assert asyncio.run(run()) == "finished"
    assert "no such column" in capsys.readouterr().err


def test_a_stderr_that_has_gone_does_not_touch_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def run() -> str:
        ada = busy("ada")
        async with live_view([ada], stop=Stop()):
            await asyncio.sleep(0.02)
            ada.stopped = "news that cannot be written"
            await asyncio.sleep(0.05)
            return "finished"

    monkeypatch.setattr(progress, "_TICK_S", 0.01)
    # Nothing can be written to a file that was opened for reading.
    (tmp_path / "err").touch()
    with (tmp_path / "err").open() as reader:
        monkeypatch.setattr("sys.stderr", reader)
        assert asyncio.run(run()) == "finished"


def test_a_terminal_that_goes_while_it_is_drawn_on_does_not_touch_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> str:
        async with live_view([busy("ada")]):
            await asyncio.sleep(0.05)
            # The person closes the window: from now on every write fails.
            os.close(person)
        return "finished"

    monkeypatch.setattr(progress, "_TICK_S", 0.01)
    monkeypatch.setenv("TERM", "xterm")
    person, program = pty.openpty()
    stderr = os.fdopen(program, "w")
    monkeypatch.setattr("sys.stderr", stderr)
    assert asyncio.run(run()) == "finished"
    monkeypatch.undo()
    with suppress(OSError):
        stderr.close()
