"""Numbers and other people's text as a person reads them on a terminal."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

# Sequences that drive a terminal go as a whole: without the escape character their rest would be noise.
_ESCAPES: Final = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[@-Z\\-_]?")


def clean(text: str) -> str:
    r"""Text that somebody else wrote, on one line and without what could drive a terminal.

    >>> clean("\x1b[31mred\x1b[0m\n and \u202edone\x07")
    'red and done'
    """
    spaced = " ".join(_ESCAPES.sub("", text).split())
    return "".join(character for character in spaced if character.isprintable())


def duration(time_s: float) -> str:
    """A time in the unit that a person would use, rounded up so that what is still to come is never 0.

    >>> duration(0.2), duration(75), duration(600), duration(3 * 3600 + 62), duration(100 * 3600)
    ('1 s', '75 s', '10 min', '3.1 h', '4.2 d')
    """
    for length_s, unit, most in ((1, "s", 120), (60, "min", 120)):
        if (number := math.ceil(time_s / length_s)) < most:
            return f"{number} {unit}"
    length_s, unit = (3600, "h") if time_s < 48 * 3600 else (24 * 3600, "d")
    return f"{math.ceil(10 * time_s / length_s) / 10:.1f} {unit}"


def money(usd: float) -> str:
    """Dollars with as many digits as matter.

    >>> money(0), money(0.0001234), money(0.5), money(12.345), money(1234.5)
    ('$0', '$0.00012', '$0.50', '$12.35', '$1,234')
    """
    if usd == 0:
        return "$0"
    if abs(usd) >= 1000:
        return f"${usd:,.0f}"
    if abs(usd) >= 0.1:
        return f"${usd:.2f}"
    return f"${usd:.{min(8, 1 - math.floor(math.log10(abs(usd))))}f}"


def rate_text(rate: float | None) -> str:
    """Outcomes a second, or a minute where a second is too short.

    >>> rate_text(None), rate_text(1234.4), rate_text(6.44), rate_text(0.05)
    ('–', '1,234/s', '6.4/s', '3.0/min')
    """
    if rate is None:
        return "–"
    if rate < 0.5:
        return f"{60 * rate:.1f}/min"
    return f"{rate:.1f}/s" if rate < 10 else f"{rate:,.0f}/s"


def percent(done: int, total: int) -> str:
    """How much is done; 100 % only when all is.

    >>> percent(999, 1000), percent(0, 0)
    ('99 %', '100 %')
    """
    return f"{100 * done // total if total else 100} %"


def failures(failed: Counter[str]) -> str:
    """Failures by class, the most frequent first.

    >>> failures(Counter(timeout=1, refused=3))
    '3 refused, 1 timeout'
    """
    return ", ".join(f"{count:,} {name}" for name, count in failed.most_common())


def calls(number: int) -> str:
    """A number of calls in words."""
    return f"{number:,} {'call' if number == 1 else 'calls'}"


def cells(number: int) -> str:
    """A number of cells in words."""
    return f"{number:,} {'cell' if number == 1 else 'cells'}"


def several(names: Sequence[str]) -> str:
    """Names in a row, no more than a line can take.

    >>> several(["ada", "bruno"]), several(["ada", "bruno", "chen", "dara"])
    ('ada, bruno', 'ada, bruno and 2 more')
    """
    return ", ".join(names) if len(names) <= 3 else f"{names[0]}, {names[1]} and {len(names) - 2} more"
