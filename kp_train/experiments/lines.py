"""A chart of lines by the rules of `kp_data.report.charts`: no script, no colour needed, every text escaped.

Each line has a dash pattern and a number at its end, which the legend below repeats with all its values.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from kp_data.report.svg import centered, figure, text

_PLOT, _AXIS, _LINE, _EDGE, _STEP = 280, 40, 20, 8.0, 1.4
_TAG: Final = 13.0
"""Pixels between two numbers, one above the other."""
_DASHES: Final = ("none", "8 3", "2 3", "8 3 2 3", "12 4", "4 4")


@dataclass(frozen=True, slots=True)
class Spot:
    """One point of a line: a share in [0, 1] at a place, with its 95 % interval."""

    x: int
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Line:
    """A line; `level`: the same at every place, drawn without intervals."""

    name: str
    spots: tuple[Spot, ...]
    level: bool = False


def line_chart(lines: Sequence[Line], *, x_label: str, title: str) -> Markup:
    """Shares at few whole places, joined; marks of one place stand a little beside one another.

    Args:
        lines: at least one, each with a spot.
        x_label: what the horizontal axis counts.
        title: heading for those who cannot see it.
    """
    places = sorted({spot.x for line in lines for spot in line.spots})
    bottom, top = _range(lines)

    def height(share: float) -> float:
        return 16 + (_PLOT - 16) * (top - share) / (top - bottom)

    def left(x: int, number: int) -> float:
        middle = 50.0 if len(places) == 1 else _EDGE + (100 - 2 * _EDGE) * places.index(x) / (len(places) - 1)
        return middle + _STEP * (number - (len(lines) - 1) / 2)

    body = [_grid(share, height(share)) for share in _ticks(bottom, top)]
    body += [centered(left(x, 0) + _STEP * (len(lines) - 1) / 2, _PLOT + 18, str(x), "axis") for x in places]
    body.append(centered(50, _PLOT + 36, x_label, "axis"))
    for number, line in enumerate(lines):
        at = [(left(spot.x, number), spot) for spot in line.spots]
        for (before, one), (after, other) in itertools.pairwise(at):
            body.append(_stroke(before, height(one.value), after, height(other.value), number))
        for place, spot in at:
            if not line.level:
                body.append(_upright(place, height(spot.low), height(spot.high)))
                body.append(_mark(place, height(spot.value), number))
    ends = [height(line.spots[-1].value) for line in lines]
    body += [_tag(y, number) for number, y in enumerate(_apart(ends))]
    plot = Markup('<svg x="9%" width="88%" height="{}" overflow="visible">{}</svg>').format(
        _PLOT + _AXIS, Markup("").join(body)
    )
    head = _PLOT + _AXIS + 26
    legend = [_legend(line, number, head + _LINE * number) for number, line in enumerate(lines)]
    said = "; ".join(f"{line.name}: {_values(line)}" for line in lines)
    return figure([plot, *legend], head + _LINE * len(lines), title, f"{said}.")


def _range(lines: Sequence[Line]) -> tuple[float, float]:
    values = [bound for line in lines for spot in line.spots for bound in (spot.low, spot.value, spot.high)]
    # Rounding before floor and ceil: 0.7 times 20 is a little more than 14.
    bottom, top = math.floor(round(20 * min(values), 6)) / 20, math.ceil(round(20 * max(values), 6)) / 20
    return (bottom, top) if top > bottom else (max(0.0, bottom - 0.05), min(1.0, top + 0.05))


def _ticks(bottom: float, top: float) -> list[float]:
    num = round(20 * (top - bottom))
    step = 1 if num <= 8 else 2
    return [bottom + 0.05 * number for number in range(0, num + 1, step)]


def _grid(share: float, y: float) -> Markup:
    line = Markup('<line x1="0%" x2="100%" y1="{0:.1f}" y2="{0:.1f}" class="grid"/>').format(y)
    return line + Markup('<text x="-6" y="{:.1f}" class="axis end">{:.0f}</text>').format(y + 4, 100 * share)


def _stroke(x1: float, y1: float, x2: float, y2: float, number: int) -> Markup:
    return Markup(
        '<line x1="{:.2f}%" y1="{:.1f}" x2="{:.2f}%" y2="{:.1f}" class="interval" stroke-dasharray="{}"/>'
    ).format(x1, y1, x2, y2, _DASHES[number % len(_DASHES)])


def _upright(x: float, low: float, high: float) -> Markup:
    return Markup('<line x1="{0:.2f}%" x2="{0:.2f}%" y1="{1:.1f}" y2="{2:.1f}" class="grid"/>').format(x, low, high)


def _mark(x: float, y: float, number: int) -> Markup:
    hollow = " hollow" if number % 2 else ""
    return Markup('<circle cx="{:.2f}%" cy="{:.1f}" r="4" class="mark{}"/>').format(x, y, hollow)


def _apart(heights: Sequence[float]) -> list[float]:
    """Heights of the numbers beside the lines' ends: moved down as far as it takes to read each.

    >>> _apart([50.0, 20.0, 52.0])
    [50.0, 20.0, 63.0]
    """
    moved, last = list(heights), -_TAG
    for number in sorted(range(len(heights)), key=lambda one: (heights[one], one)):
        last = moved[number] = max(heights[number], last + _TAG)
    return moved


def _tag(y: float, number: int) -> Markup:
    return Markup('<svg x="98%" overflow="visible">{}</svg>').format(text(8, y + 4, str(number + 1), "number"))


def _legend(line: Line, number: int, y: float) -> Markup:
    sample = Markup('<line x1="0" x2="30" y1="{0}" y2="{0}" class="interval" stroke-dasharray="{1}"/>').format(
        y - 4, _DASHES[number % len(_DASHES)]
    )
    return sample + text(38, y, f"{number + 1}  {line.name} {_values(line)}")


def _values(line: Line) -> str:
    if line.level:
        return f"{100 * line.spots[0].value:.1f} %"
    return ", ".join(f"{spot.x}: {100 * spot.value:.1f} %" for spot in line.spots)
