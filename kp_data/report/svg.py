"""The few pieces every chart is drawn with: horizontal places in percent, vertical ones in pixels, all text escaped."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from markupsafe import Markup


def figure(body: Sequence[Markup], height: int, title: str, description: str) -> Markup:
    """A whole chart, named and described for those who cannot see it."""
    # From what it says and not from a counter: the same page is the same bytes.
    key = hashlib.sha256(f"{title}\n{description}".encode()).hexdigest()[:8]
    return Markup(
        '<svg class="chart" role="img" aria-labelledby="t{0} d{0}" width="100%" height="{1}">'
        '<title id="t{0}">{2}</title><desc id="d{0}">{3}</desc>{4}</svg>'
    ).format(key, height, title, description, Markup("").join(body))


def text(x: float, y: float, words: str, kind: str = "number") -> Markup:
    """Words at a place in pixels."""
    return Markup('<text x="{}" y="{:g}" class="{}">{}</text>').format(x, y, kind, words)


def clipped(top: float, height: int, words: str) -> Markup:
    """A label beside a drawing, cut off where the drawing begins; whole for those who point at it or have it read."""
    inner = text(0, height // 2 + 5, words, "label")
    frame = '<svg y="{}" width="31%" height="{}" overflow="hidden"><title>{}</title>{}</svg>'
    return Markup(frame).format(top, height, words, inner)  # noqa: S704  The frame is a constant.


def centered(percent: float, y: float, words: str, kind: str = "number") -> Markup:
    """Words around a place: percent of the width, pixels of the height."""
    return Markup('<text x="{:.2f}%" y="{:g}" class="{} middle">{}</text>').format(percent, y, kind, words)
