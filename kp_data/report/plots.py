"""Charts of a comparison, drawn by the rules of `kp_data.report.charts`: no script, no colour needed, text escaped."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from kp_data.report.svg import centered, clipped, figure, text

_PLOT, _AXIS, _LINE, _ROW, _GAIN_ROW = 260, 40, 20, 34, 40
_EDGE: Final = 5.0
_APART: Final = 7.0
"""Percent of the width that two marks must be apart so as not to touch on a telephone."""
_TICKS: Final = 4


@dataclass(frozen=True, slots=True)
class Point:
    """One mark of a scatter: a share against what it takes.

    Attributes:
        name: in the legend.
        x: what it takes, 0 or more.
        value: share in [0, 1].
        low, high: its 95 % interval, None where there is none.
    """

    name: str
    x: float
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Level:
    """A line across a scatter, at a share in [0, 1]."""

    name: str
    value: float


@dataclass(frozen=True, slots=True)
class Gain:
    """A difference of two shares in [-1, 1], with its 95 % interval."""

    row: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Bucket:
    """Scores of like height: what they claimed, what came true, with its 95 % interval, and how many."""

    predicted: float
    observed: float
    low: float
    high: float
    num: int


def scatter(
    points: Sequence[Point], levels: Sequence[Level], *, x_label: str, x_words: Callable[[float], str], title: str
) -> Markup:
    """Shares against what they take, each mark with the number of its line in the legend below; best first.

    Marks stand to scale where they then keep apart; else in equal steps, in the order of what they take, for marks that
    cover one another show nothing.

    Args:
        points: at least one.
        levels: lines to compare with.
        x_label: what the horizontal axis counts.
        x_words: a place on it, in words.
        title: heading for those who cannot see it.
    """
    ordered = sorted(points, key=lambda point: (-point.value, point.name))
    bottom, top = _range([*ordered, *levels])
    places = _places(ordered)

    def height(share: float) -> float:
        return 16 + (_PLOT - 16) * (top - share) / (top - bottom)

    body = [_tick_row(share, height(share)) for share in _steps(bottom, top)]
    body += [centered(place, _PLOT + 18, x_words(x), "axis") for x, place in _x_ticks(ordered, places)]
    body += [centered(50, _PLOT + 36, x_label, "axis")]
    body += [_border(place) for place in _borders(ordered, places)]
    body += [_rule(height(level.value), number) for number, level in enumerate(levels)]
    for number, (point, place) in enumerate(zip(ordered, places, strict=True), start=1):
        low, high = (None if bound is None else height(bound) for bound in (point.low, point.high))
        body.append(_scatter_mark(number, place, height(point.value), low, high))
    plot = Markup('<svg x="9%" width="90%" height="{}" overflow="visible">{}</svg>').format(
        _PLOT + _AXIS, Markup("").join(body)
    )
    legend_top = _PLOT + _AXIS + 26
    legend = [text(0, legend_top + _LINE * row, f"{row + 1}  {_said(point)}") for row, point in enumerate(ordered)]
    legend += [
        _level_line(level, legend_top + _LINE * (len(ordered) + number), number) for number, level in enumerate(levels)
    ]
    lines = "; ".join([*(_said(point) for point in ordered), *(f"{one.name} {_percent(one.value)}" for one in levels)])
    return figure([plot, *legend], legend_top + _LINE * (len(legend) - 1) + 8, title, f"{lines}.")


def gain_chart(gains: Sequence[Gain], *, title: str) -> Markup:
    """Differences with intervals around a line of no difference, one row each, in points."""
    widest = max([abs(bound) for gain in gains for bound in (gain.value, gain.low, gain.high) if bound is not None])
    reach = next((step for step in (0.02, 0.05, 0.1, 0.2, 0.3, 0.5) if widest <= step), 1.0)

    def place(value: float) -> float:
        return 50 + 50 * value / reach

    bottom = _GAIN_ROW * len(gains) + 4
    grid = []
    for share in (-reach, -reach / 2, 0.0, reach / 2, reach):
        kind = "zero" if share == 0 else "grid"
        grid.append(
            Markup('<line x1="{0:.2f}%" x2="{0:.2f}%" y1="0" y2="{1}" class="{2}"/>').format(place(share), bottom, kind)
        )
        grid.append(centered(place(share), bottom + 16, _whole(share), "axis"))
    rows = [_gain_row(gain, number * _GAIN_ROW, place) for number, gain in enumerate(gains)]
    words = "; ".join(f"{gain.row} {_signed(gain.value)}{_bounds(gain)}" for gain in gains)
    plot = Markup('<svg x="46%" width="50%" height="{}" overflow="visible">{}</svg>').format(
        bottom + 24, Markup("").join(grid)
    )
    return figure([plot, *rows], bottom + 24, title, f"{words}, in points.")


def stacked_bars(shares: Mapping[str, Mapping[str, float]], *, title: str, description: str) -> Markup:
    """One bar a row, parted by shares that sum to 1; parts carry the number of their line in the legend above.

    Args:
        shares: row to part to share.
        title: heading for those who cannot see it.
        description: what it says, in a sentence.
    """
    parts = list(dict.fromkeys(name for row in shares.values() for name in row))
    body = [text(0, 14 + number * _LINE, f"{number + 1}  {name}", "number") for number, name in enumerate(parts)]
    top = len(parts) * _LINE + 12
    for number, (row, given) in enumerate(shares.items()):
        body.append(clipped(top + number * _ROW, _ROW, row))
        body.append(_stack([given.get(name, 0.0) for name in parts], top + number * _ROW + 4))
    return figure(body, top + len(shares) * _ROW, title, description)


def reliability_chart(buckets: Sequence[Bucket], *, title: str) -> Markup:
    """What came true against what was claimed; on the diagonal a score means what it says."""

    def height(share: float) -> float:
        return 16 + (_PLOT - 16) * (1 - share)

    body = [_tick_row(share, height(share)) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    body += [centered(100 * share, _PLOT + 18, f"{100 * share:.0f}", "axis") for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    body += [centered(50, _PLOT + 36, "claimed, %", "axis")]
    body += [Markup('<line x1="0%" y1="{}" x2="100%" y2="{}" class="level dashed"/>').format(height(0), height(1))]
    for bucket in buckets:
        body.append(_upright(100 * bucket.predicted, height(bucket.low), height(bucket.high)))
        body.append(_dot(100 * bucket.predicted, height(bucket.observed)))
    words = "; ".join(
        f"claimed {_percent(one.predicted)}, right {_percent(one.observed)} of {one.num}" for one in buckets
    )
    plot = Markup('<svg x="9%" width="86%" height="{}" overflow="visible">{}</svg>').format(
        _PLOT + _AXIS, Markup("").join(body)
    )
    return figure([plot], _PLOT + _AXIS, title, f"{words}.")


def _range(marks: Sequence[Point | Level]) -> tuple[float, float]:
    """The shares that a scatter spans: of all marks and intervals, out to the next ten."""
    values = [mark.value for mark in marks]
    values += [
        bound for mark in marks if isinstance(mark, Point) for bound in (mark.low, mark.high) if bound is not None
    ]
    # Rounding before floor and ceil: 0.7 times 10 is a little more than 7.
    bottom, top = math.floor(round(10 * min(values), 6)) / 10, math.ceil(round(10 * max(values), 6)) / 10
    return (bottom, top) if top > bottom else (max(0.0, bottom - 0.1), min(1.0, top + 0.1))


def _steps(bottom: float, top: float) -> list[float]:
    num = round(10 * (top - bottom))
    return [bottom + 0.1 * step for step in range(num + 1)]


def _places(points: Sequence[Point]) -> list[float]:
    """Percent of the width for each point: to scale, or in equal steps where marks would touch."""
    most = max(point.x for point in points) or 1.0
    scaled = [_EDGE + (100 - 2 * _EDGE) * point.x / most for point in points]
    gaps = [after - before for before, after in itertools.pairwise(sorted(scaled))]
    if all(gap >= _APART for gap in gaps):
        return scaled
    order = sorted(range(len(points)), key=lambda number: (points[number].x, number))
    return [_EDGE + (100 - 2 * _EDGE) * order.index(number) / (len(points) - 1) for number in range(len(points))]


def _x_ticks(points: Sequence[Point], places: Sequence[float]) -> list[tuple[float, float]]:
    """(x, place) of what is written below the axis: the middle of the marks of one x, and few of many."""
    groups: dict[float, list[float]] = {}
    for point, place in sorted(zip(points, places, strict=True), key=lambda both: both[0].x):
        groups.setdefault(point.x, []).append(place)
    ticks = [(x, sum(group) / len(group)) for x, group in groups.items()]
    return ticks if len(ticks) <= _TICKS else [ticks[0], ticks[len(ticks) // 2], ticks[-1]]


def _borders(points: Sequence[Point], places: Sequence[float]) -> list[float]:
    """Between marks of one x and those of the next, where several share one; nothing on a scale."""
    pairs = sorted((place, point.x) for point, place in zip(points, places, strict=True))
    if len({x for _, x in pairs}) == len(pairs):
        return []
    return [(left + right) / 2 for (left, x), (right, following) in itertools.pairwise(pairs) if x != following]


def _border(place: float) -> Markup:
    return Markup('<line x1="{0:.2f}%" x2="{0:.2f}%" y1="16" y2="{1}" class="grid dashed"/>').format(place, _PLOT + 22)


def _tick_row(share: float, y: float) -> Markup:
    line = Markup('<line x1="0%" x2="100%" y1="{0:.1f}" y2="{0:.1f}" class="grid"/>').format(y)
    return line + Markup('<text x="-6" y="{:.1f}" class="axis end">{:.0f}</text>').format(y + 4, 100 * share)


def _rule(y: float, number: int) -> Markup:
    kind = "level dashed" if number % 2 else "level"
    return Markup('<line x1="0%" x2="100%" y1="{0:.1f}" y2="{0:.1f}" class="{1}"/>').format(y, kind)


def _level_line(level: Level, y: float, number: int) -> Markup:
    kind = "level dashed" if number % 2 else "level"
    sample = Markup('<line x1="0" x2="26" y1="{0:.1f}" y2="{0:.1f}" class="{1}"/>').format(y - 4, kind)
    return sample + text(34, y, f"{level.name} {_percent(level.value)}")


def _scatter_mark(number: int, place: float, y: float, low: float | None, high: float | None) -> Markup:
    line = _upright(place, low, high) if low is not None and high is not None else Markup("")
    mark = Markup('<circle cx="{:.2f}%" cy="{:.1f}" r="9" class="mark"/>').format(place, y)
    return line + mark + centered(place, y + 4, str(number), "inside")


def _dot(place: float, y: float) -> Markup:
    return Markup('<circle cx="{:.2f}%" cy="{:.1f}" r="5" class="mark"/>').format(place, y)


def _upright(place: float, low: float, high: float) -> Markup:
    return Markup('<line x1="{0:.2f}%" x2="{0:.2f}%" y1="{1:.1f}" y2="{2:.1f}" class="interval"/>').format(
        place, low, high
    )


def _gain_row(gain: Gain, top: float, place: Callable[[float], float]) -> Markup:
    line = Markup("")
    if gain.low is not None and gain.high is not None:
        line = Markup('<line x1="{:.2f}%" x2="{:.2f}%" y1="17" y2="17" class="interval"/>').format(
            place(gain.low), place(gain.high)
        )
    # Filled where the interval leaves zero out: what is certain can be told without reading a number.
    certain = gain.low is not None and gain.high is not None and (gain.low > 0 or gain.high < 0)
    mark = Markup('<circle cx="{:.2f}%" cy="17" r="5" class="mark{}"/>').format(
        place(gain.value), "" if certain else " hollow"
    )
    words = text(0, top + 14, gain.row, "label") + text(0, top + 29, _signed(gain.value) + _bounds(gain), "number")
    return words + Markup('<svg x="46%" y="{}" width="50%" height="{}" overflow="visible">{}{}</svg>').format(
        top, _GAIN_ROW, line, mark
    )


def _stack(shares: Sequence[float], top: float) -> Markup:
    drawn, left = [], 0.0
    for number, share in enumerate(shares):
        opacity = 0.08 + 0.5 * number / max(1, len(shares) - 1)
        drawn.append(
            Markup('<rect x="{:.2f}%" width="{:.2f}%" height="24" class="cell" fill-opacity="{:.2f}"/>').format(
                100 * left, 100 * share, opacity
            )
        )
        if share >= 0.07:
            drawn.append(centered(100 * (left + share / 2), 16, str(number + 1)))
        left += share
    return Markup('<svg x="32%" y="{}" width="68%" height="24" overflow="visible">{}</svg>').format(
        top, Markup("").join(drawn)
    )


def _said(point: Point) -> str:
    bounds = "" if point.low is None or point.high is None else f" ({100 * point.low:.1f}–{100 * point.high:.1f})"
    return f"{point.name} {_percent(point.value)}{bounds}"


def _bounds(gain: Gain) -> str:
    return "" if gain.low is None or gain.high is None else f" ({_signed(gain.low)} to {_signed(gain.high)})"


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")


def _whole(share: float) -> str:
    """A place on an axis, in points without needless zeros."""
    return f"{100 * share:+g}".replace("-", "−") if share else "0"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
