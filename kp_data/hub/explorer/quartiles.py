"""Quartiles as a chart that needs no colour: a line from the lower to the upper one, a mark at the median."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from markupsafe import Markup

from kp_data.report.svg import clipped, figure, text

_ROW: Final = 40
_AXIS: Final = 20
_WIDTH: Final = 94.0


def quartile_chart(quartiles: Mapping[str, tuple[float, float, float]], *, title: str, unit: str) -> Markup:
    """One line a name, on a scale that begins at 0; its numbers stand under it.

    Args:
        quartiles: name to lower quartile, median and upper quartile, 0 or more.
        title: heading for those who cannot see it.
        unit: of the numbers.
    """
    longest = max((high for _, _, high in quartiles.values()), default=0.0) or 1.0

    def place(value: float) -> float:
        return _WIDTH * value / longest

    height = len(quartiles) * _ROW
    grid = Markup("").join(
        _rule(place(share * longest), height, f"{share * longest:,.0f}") for share in (0.0, 0.5, 1.0)
    )
    body = [Markup('<svg x="32%" width="68%" height="{}" overflow="visible">{}</svg>').format(height + _AXIS, grid)]
    for number, (name, (low, middle, high)) in enumerate(quartiles.items()):
        line = Markup(
            '<line x1="{:.2f}%" x2="{:.2f}%" y1="13" y2="13" class="interval"/>'
            '<svg x="{:.2f}%" y="13" overflow="visible"><circle r="5" class="mark"/></svg>'
        ).format(place(low), place(high), place(middle))
        words = text(0, 33, f"{middle:,.0f} ({low:,.0f}–{high:,.0f})")
        body.append(clipped(number * _ROW - 7, _ROW, name))
        body.append(
            Markup('<svg x="32%" y="{}" width="68%" height="{}" overflow="visible">{}{}</svg>').format(
                number * _ROW, _ROW, line, words
            )
        )
    said = "; ".join(
        f"{name} {middle:,.0f}, from {low:,.0f} to {high:,.0f}" for name, (low, middle, high) in quartiles.items()
    )
    return figure(body, height + _AXIS, title, f"Median and quartiles in {unit}: {said}.")


def _rule(percent: float, height: int, words: str) -> Markup:
    return Markup(
        '<line x1="{0:.2f}%" x2="{0:.2f}%" y1="0" y2="{1}" class="grid"/>'
        '<text x="{0:.2f}%" y="{2}" class="axis {4}">{3}</text>'
    ).format(percent, height, height + 14, words, "middle" if percent else "")
