"""Where teachers stand, in words and numbers: pure functions from tallies and a time to what a person reads.

Times are seconds on the monotonic clock, rates are outcomes a second, costs are US dollars.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from kp_data.generate.tally import Tally
from kp_data.generate.words import calls, cells, clean, duration, failures, money, percent, rate_text, several

RATE_SPAN_S: Final = 30.0
_RATE_LEAST: Final = 5
_RATE_STEP_S: Final = 0.25
_RATE_FROM_S: Final = 1.0
_QUIET_S: Final = 15.0
"""Without an outcome for so long, calls in flight are said to be waited for."""
_NEWS_AGAIN_S: Final = 60.0
_LONGEST_WORDS: Final = 200

Kind = Literal["asking", "slowed", "waiting", "paused", "retrying", "idle", "away", "ending", "stopped", "done"]
_NEWS: Final[frozenset[Kind]] = frozenset({"waiting", "paused", "stopped", "done"})
_NOTABLE: Final[frozenset[Kind]] = frozenset({"slowed", "waiting", "paused", "retrying", "away", "stopped"})


@dataclass(frozen=True, slots=True)
class State:
    """What a teacher is doing: a class to colour and to compare by, and words to read."""

    kind: Kind
    words: str


@dataclass(frozen=True, slots=True)
class Standing:
    """One teacher at one moment.

    Attributes:
        teacher: name, safe to print.
        done, total: cells.
        failed: class of failure to number of cells.
        in_flight: calls of this teacher.
        limit: calls in flight that its account allows now, for all its teachers; None: not known yet.
        rate: outcomes a second, None while unknown.
        cost: in words.
        eta_s: seconds until nothing is left, None while unknown.
        state: what it is doing.
    """

    teacher: str
    done: int
    total: int
    failed: Counter[str]
    in_flight: int
    limit: int | None
    rate: float | None
    cost: str
    eta_s: float | None
    state: State


@dataclass(frozen=True, slots=True)
class Totals:
    """All teachers together; attributes as in `Standing`.

    Attributes:
        elapsed_s: seconds since the run began.
        budget_left_usd: None without a budget.
    """

    done: int
    total: int
    failed: Counter[str]
    in_flight: int
    rate: float | None
    cost: str
    eta_s: float | None
    elapsed_s: float
    budget_left_usd: float | None = None


class RateWindow:
    """How fast a growing count grows, over the last `span_s` seconds or its last five steps, whichever is longer.

    A fast count is so judged by what it did lately, a slow one by more than one lucky moment, and one that stands still
    falls towards zero. Source: own.

    >>> window = RateWindow()
    >>> window.add(0.0, 0), window.add(10.0, 40), window.per_s(20.0)
    (None, None, 2.0)
    """

    def __init__(self, span_s: float = RATE_SPAN_S) -> None:
        self._span_s = span_s
        self._samples: deque[tuple[float, int]] = deque()

    def add(self, now: float, count: int) -> None:
        """The count at a time; times never go back."""
        samples = self._samples
        if samples and count == samples[-1][1]:
            return
        if len(samples) > 1 and now - samples[-2][0] < _RATE_STEP_S:
            samples.pop()
        samples.append((now, count))
        while len(samples) > 1 and self._is_base(samples[1], now):
            samples.popleft()

    def per_s(self, now: float) -> float | None:
        """Steps a second, None before the first step and in the first second."""
        if not self._samples:
            return None
        base = self._samples[0]
        for sample in self._samples:
            if not self._is_base(sample, now):
                break
            base = sample
        steps, time_s = self._samples[-1][1] - base[1], now - base[0]
        return None if steps <= 0 or time_s < _RATE_FROM_S else steps / time_s

    def quiet_s(self, now: float) -> float:
        """Seconds since the last step, or since the first look."""
        return now - self._samples[-1][0] if self._samples else 0.0

    def _is_base(self, sample: tuple[float, int], now: float) -> bool:
        return now - sample[0] >= self._span_s and self._samples[-1][1] - sample[1] >= _RATE_LEAST


class News:
    """What has changed and is worth a line of its own, each once; where it comes and goes, once a minute."""

    def __init__(self) -> None:
        self._said_at: dict[tuple[str, Kind], float] = {}
        self._held: dict[str, Kind] = {}

    def lines(self, standings: Sequence[Standing], now: float) -> list[str]:
        """The changes since the last look; teachers with the same news share a line."""
        news: dict[str, list[str]] = {}
        for standing in standings:
            if (words := self._change(standing, now)) is not None:
                news.setdefault(words, []).append(standing.teacher)
        return [f"{several(names)}: {words}" for words, names in news.items()]

    def _change(self, standing: Standing, now: float) -> str | None:
        name, kind = standing.teacher, standing.state.kind
        before, self._held[name] = self._held.get(name), kind
        if kind == before or kind not in _NEWS:
            return None
        # Known before this run: no news.
        if before is None and kind == "done":
            return None
        if now - self._said_at.get((name, kind), -math.inf) < _NEWS_AGAIN_S:
            return None
        self._said_at[name, kind] = now
        return standing.state.words


@dataclass
class Watch:
    """The rates of a run's teachers, and so where each of them stands at any time.

    Attributes:
        tallies: one a teacher.
        began: when the run began.
    """

    tallies: Sequence[Tally]
    began: float
    _windows: list[RateWindow] = field(init=False)
    _all: RateWindow = field(default_factory=RateWindow, init=False)

    def __post_init__(self) -> None:
        self._windows = [RateWindow() for _ in self.tallies]

    def look(self, now: float, *, ending: bool = False) -> list[Standing]:
        """Where every teacher stands now, in the tallies' order.

        Args:
            now: not before the last look.
            ending: whether the run has been asked to stop.
        """
        for tally, window in zip(self.tallies, self._windows, strict=True):
            window.add(now, _outcomes(tally))
        self._all.add(now, sum(map(_outcomes, self.tallies)))
        return [
            standing_of(tally, window, now, ending=ending)
            for tally, window in zip(self.tallies, self._windows, strict=True)
        ]

    def totals(self, standings: Sequence[Standing], now: float, *, budget_left_usd: float | None = None) -> Totals:
        """All teachers together; `standings` are of a look at the same time."""
        return Totals(
            done=sum(standing.done for standing in standings),
            total=sum(standing.total for standing in standings),
            failed=sum((standing.failed for standing in standings), Counter[str]()),
            in_flight=sum(standing.in_flight for standing in standings),
            rate=self._all.per_s(now),
            cost=total_cost_words(self.tallies),
            eta_s=latest_eta_s(standings),
            elapsed_s=now - self.began,
            budget_left_usd=budget_left_usd,
        )


def standing_of(tally: Tally, window: RateWindow, now: float, *, ending: bool = False) -> Standing:
    """Where one teacher stands.

    Args:
        tally: of the teacher.
        window: of its outcomes, up to now.
        now: the time.
        ending: whether the run has been asked to stop.
    """
    rate, account = window.per_s(now), tally.account
    asks_on = tally.stopped is None and not ending
    return Standing(
        teacher=clean(tally.teacher),
        done=tally.done,
        total=tally.total,
        failed=Counter({clean(name): count for name, count in tally.failed.items()}),
        in_flight=tally.in_flight,
        limit=None if account is None else math.floor(account.limit),
        rate=rate,
        cost=cost_words(tally),
        eta_s=eta_s(tally.left, rate) if asks_on else None,
        state=state_of(tally, now, ending=ending, quiet_s=window.quiet_s(now)),
    )


def eta_s(left: int, rate: float | None) -> float | None:
    """Seconds until nothing is left at this rate; None while that cannot be known.

    >>> eta_s(30, 2.0), eta_s(0, None), eta_s(30, None), eta_s(30, 0.0)
    (15.0, 0.0, None, None)
    """
    if left <= 0:
        return 0.0
    return left / rate if rate else None


def latest_eta_s(standings: Sequence[Standing]) -> float | None:
    """When the last teacher that is still asked will be done; None while one of them cannot tell."""
    times = [standing.eta_s for standing in standings if standing.state.kind != "stopped"]
    known = [time for time in times if time is not None]
    return max(known) if known and len(known) == len(times) else None


def state_of(tally: Tally, now: float, *, ending: bool = False, quiet_s: float = 0.0) -> State:
    """What a teacher is doing, so that one that waits never looks stuck.

    Args:
        tally: of the teacher.
        now: the time.
        ending: whether the run has been asked to stop.
        quiet_s: seconds since its last outcome.
    """
    if tally.stopped is not None:
        return State("stopped", f"stopped: {clean(tally.stopped)[:_LONGEST_WORDS]}")
    if tally.left <= 0:
        return State("done", "done")
    if ending:
        return State("ending", f"finishing {calls(tally.in_flight)}" if tally.in_flight else "left for the next run")
    return _paused(tally) or _in_flight(tally, quiet_s) or _without_calls(tally, now)


def _paused(tally: Tally) -> State | None:
    """The state of a teacher whose account rests, None where it does not, or so briefly that nobody would notice."""
    account = tally.account
    if account is None or (pause_s := account.paused_s) <= 0:
        return None
    retries = f", {tally.retrying:,} to retry" if tally.retrying else ""
    if account.reason == "errors":
        return State("paused", f"paused {duration(pause_s)} (server errors){retries}")
    if account.reason == "overloaded":
        return State("waiting", f"waiting {duration(pause_s)} (server asked){retries}")
    # Calls that are spaced to keep a rate are at work, not waiting.
    if account.reason == "rate" and not tally.in_flight and pause_s >= 1:
        return State("idle", f"waiting {duration(pause_s)} (rate limit)")
    return None


def _in_flight(tally: Tally, quiet_s: float) -> State | None:
    if not tally.in_flight:
        return None
    if tally.unfunded >= tally.in_flight:
        return State("idle", f"{calls(tally.unfunded)} waiting for money (budget)")
    slow = {"overloaded": "slowed: server busy", "errors": "slowed: server errors"}
    reason = tally.account.reason if tally.account is not None else ""
    words = slow.get(reason, "asking")
    if quiet_s >= _QUIET_S:
        words += f", no answer for {duration(quiet_s)}"
    if tally.retrying:
        words += f", {tally.retrying:,} to retry"
    return State("slowed" if reason in slow else "asking", words)


def _without_calls(tally: Tally, now: float) -> State:
    if tally.retrying and tally.retry_at is not None and tally.retry_at > now:
        why = f" ({clean(tally.retry_why)})" if tally.retry_why else ""
        return State("retrying", f"{tally.retrying:,} to retry, next in {duration(tally.retry_at - now)}{why}")
    if tally.at_provider:
        return State("away", f"batch at provider: {cells(tally.at_provider)}")
    account = tally.account
    if account is None:
        return State("idle", "starting")
    if account.in_flight >= math.floor(account.limit):
        return State("idle", "waiting for a free place")
    if tally.retrying:
        return State("retrying", f"{tally.retrying:,} to retry")
    if tally.elsewhere:
        return State("away", f"{cells(tally.elsewhere)} with another run")
    return State("idle", "looking up cells")


def projected_usd(tally: Tally) -> float | None:
    """What a teacher will have cost when nothing is left, from the mean of its answers; None without one of known
    price."""
    priced = tally.answered - tally.cost_unknown
    return tally.cost_usd * (1 + tally.left / priced) if priced > 0 else None


def cost_words(tally: Tally) -> str:
    """What this run's calls of one teacher have cost, and will have; a price that is not known is said aloud."""
    if not tally.answered:
        return "–"
    projected = projected_usd(tally)
    if projected is None:
        return "price unknown"
    goes_on = tally.left > 0 and tally.stopped is None
    return _cost(tally.cost_usd, projected if goes_on else None, unknown=tally.cost_unknown > 0)


def total_cost_words(tallies: Sequence[Tally]) -> str:
    """The same of all teachers; projected only once every teacher that is still asked has shown what it costs."""
    answered = [tally for tally in tallies if tally.answered]
    if not answered:
        return "–"
    if all(projected_usd(tally) is None for tally in answered):
        return "price unknown"
    ahead = [tally for tally in tallies if tally.left > 0 and tally.stopped is None]
    spent, unknown = sum(tally.cost_usd for tally in tallies), any(tally.cost_unknown for tally in tallies)
    if not ahead or any(not tally.answered for tally in ahead):
        return _cost(spent, None, unknown=unknown)
    more = sum((projected_usd(tally) or tally.cost_usd) - tally.cost_usd for tally in ahead)
    return _cost(spent, spent + more if more else None, unknown=unknown)


def cost_text(tally: Tally) -> str:
    """The cost of this run's calls, to the cent's hundredth, for the summary at its end."""
    if tally.cost_unknown and tally.cost_unknown == tally.answered:
        return "price unknown"
    return f"${tally.cost_usd:.4f}{' + unknown' if tally.cost_unknown else ''}"


def log_line(standings: Sequence[Standing], totals: Totals) -> str:
    """The whole run in one line without control characters, for files and pipes; teachers in trouble by name."""
    parts = [f"{totals.done:,}/{totals.total:,} cells ({percent(totals.done, totals.total)})", rate_text(totals.rate)]
    if totals.failed:
        parts.append(f"{totals.failed.total():,} failed ({failures(totals.failed)})")
    parts.append(totals.cost.replace("–", "no cost yet"))
    if totals.budget_left_usd is not None:
        parts.append(f"budget left {money(totals.budget_left_usd)}")
    parts.append("eta unknown" if totals.eta_s is None else f"eta {duration(totals.eta_s)}")
    trouble: dict[str, list[str]] = {}
    for standing in standings:
        if standing.state.kind in _NOTABLE:
            trouble.setdefault(standing.state.words, []).append(standing.teacher)
    return "; ".join([", ".join(parts), *(f"{several(names)}: {words}" for words, names in trouble.items())])


def log_interval_s(elapsed_s: float) -> float:
    """Seconds until the next line: often while a run is new, rarely when it takes long.

    >>> [log_interval_s(elapsed_s) for elapsed_s in (0, 59, 60, 300)]
    [5.0, 5.0, 10.0, 30.0]
    """
    return 5.0 if elapsed_s < 60 else 10.0 if elapsed_s < 300 else 30.0


def _cost(spent: float, projected: float | None, *, unknown: bool) -> str:
    ahead = f" of ~{money(projected)}" if projected else ""
    return f"{money(spent)}{ahead}{' + unknown' if unknown else ''}"


def _outcomes(tally: Tally) -> int:
    """What this run has brought; what was known before says nothing about its speed."""
    return tally.answered + tally.failed.total()
