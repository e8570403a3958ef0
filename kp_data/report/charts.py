"""Charts as inline SVG that need no script, no colour and no zoom: every mark carries its number.

Horizontal places are percentages and vertical ones pixels, so that one drawing fits a telephone and a wide screen with
letters of the same size. Colours come from the page's stylesheet by class. Every text is escaped.

Axes: T teachers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from markupsafe import Markup

from kp_data.report.svg import centered, clipped, figure, text

Array = np.ndarray[Any, Any]

MARKS: Final = (
    Markup('<circle r="5" class="mark"/>'),
    Markup('<path d="M0 -6.5 6.5 0 0 6.5 -6.5 0Z" class="mark hollow"/>'),
    Markup('<path d="M-5 -5H5V5H-5Z" class="mark"/>'),
    Markup('<path d="M0 -6 6 5H-6Z" class="mark hollow"/>'),
)
"""Shape and filling tell the series apart, colour does not."""

_LINE, _HEAD, _AXIS = 22, 26, 24
_CELL = 38
_BAR = 30


@dataclass(frozen=True, slots=True)
class Estimate:
    """One mark: a share in [0, 1] with its 95 % interval, None where there is none.

    Attributes:
        row: what is measured; marks of one row stand together.
        series: where, such as a split.
    """

    row: str
    series: str
    value: float
    low: float | None = None
    high: float | None = None


def interval_chart(estimates: Sequence[Estimate], *, title: str, description: str) -> Markup:
    """Dots with intervals on a scale from 0 to 100 %, one group of lines a row, one mark shape a series."""
    rows = list(dict.fromkeys(estimate.row for estimate in estimates))
    series = list(dict.fromkeys(estimate.series for estimate in estimates))
    body, top = [], 4
    for row in rows:
        lines = [estimate for estimate in estimates if estimate.row == row]
        body.append(text(0, top + 17, row, "label"))
        for offset, estimate in enumerate(lines):
            body.append(_interval_line(estimate, top + _HEAD + offset * _LINE, series.index(estimate.series)))
        top += _HEAD + len(lines) * _LINE + 10
    grid = Markup("").join(_grid_line(tick, top) for tick in (0, 25, 50, 75, 100))
    plot = Markup('<svg x="42%" width="55%" height="{}" overflow="visible">{}</svg>').format(top + _AXIS, grid)
    return figure([plot, *body], top + _AXIS, title, description)


def heatmap(names: Sequence[str], share_TT: Array, *, title: str, description: str) -> Markup:
    """A square of shares in [0, 1], darker for more, each with its number; nan is a dash.

    Args:
        names: T names; columns carry their numbers.
        share_TT: (T, T) float.
        title: heading for those who cannot see it.
        description: what it says, in a sentence.
    """
    num = len(names)
    cells = [
        _cell(share_TT[row, column], row, column, num)
        for row, column in itertools.product(range(num), range(num))
        if row != column
    ]
    heads = [centered(100 * (column + 0.5) / num, 16, str(column + 1), "axis") for column in range(num)]
    labels = [clipped(24 + row * _CELL, _CELL, f"{row + 1}  {name}") for row, name in enumerate(names)]
    height = 24 + num * _CELL
    plot = Markup('<svg x="32%" width="68%" height="{}">{}</svg>').format(height, Markup("").join([*heads, *cells]))
    return figure([*labels, plot], height, title, description)


def share_bars(shares: Mapping[str, float], *, title: str, description: str) -> Markup:
    """One bar a name, its share in [0, 1] written at its end."""
    body = []
    for number, (name, share) in enumerate(shares.items()):
        top = number * _BAR
        body.append(clipped(top, _BAR, name))
        # A fifth of the width stays free for the number.
        bar = Markup('<rect y="{}" width="{:.2f}%" height="16" class="bar"/>').format(top + 7, 80 * share)
        end = Markup('<svg x="{:.2f}%" overflow="visible">{}</svg>').format(
            80 * share, text(6, top + 20, _percent(share))
        )
        body.append(Markup('<svg x="32%" width="68%" overflow="visible">{}{}</svg>').format(bar, end))
    return figure(body, max(1, len(shares)) * _BAR, title, description)


def described(estimates: Sequence[Estimate]) -> str:
    """The numbers of a chart in a sentence."""
    parts = [f"{estimate.row} {estimate.series}".strip() + f" {100 * estimate.value:.1f} %" for estimate in estimates]
    return "; ".join(parts) + "."


def _interval_line(estimate: Estimate, top: int, series: int) -> Markup:
    bounds = ""
    line = Markup("")
    if estimate.low is not None and estimate.high is not None:
        bounds = f" ({100 * estimate.low:.1f}–{100 * estimate.high:.1f})"
        line = Markup('<line x1="{:.2f}%" x2="{:.2f}%" y1="11" y2="11" class="interval"/>').format(
            100 * estimate.low, 100 * estimate.high
        )
    shape = MARKS[series % len(MARKS)]
    mark = Markup('<svg x="{:.2f}%" y="11" overflow="visible">{}</svg>').format(100 * estimate.value, shape)
    words = text(0, top + 15, f"{estimate.series} {100 * estimate.value:.1f}{bounds}".strip())
    return Markup('{}<svg x="42%" y="{}" width="55%" height="22" overflow="visible">{}{}</svg>').format(
        words, top, line, mark
    )


def _grid_line(tick: int, bottom: int) -> Markup:
    line = Markup('<line x1="{0}%" x2="{0}%" y1="0" y2="{1}" class="grid"/>').format(tick, bottom)
    return line + centered(tick, bottom + 16, f"{tick} %" if tick == 100 else str(tick), "axis")


def _cell(share: float, row: int, column: int, num: int) -> Markup:
    left, top, width = 100 * column / num, 24 + row * _CELL, 100 / num
    known = not math.isnan(share)
    # At most a little over half opaque: the number must be readable on it, on light and dark paper.
    rect = Markup('<rect x="{:.3f}%" y="{}" width="{:.3f}%" height="{}" class="cell" fill-opacity="{:.3f}"/>').format(
        left, top, width, _CELL, 0.55 * share if known else 0.0
    )
    return rect + centered(left + width / 2, top + 24, f"{100 * share:.0f}" if known else "–")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
