r"""The sums in a text, checked: a rationale whose own arithmetic fails is seldom right.

Texts are read by patterns and never evaluated as code. Only what is plainly a calculation of numbers counts, such as
`25 \cdot 0.03 = 0.75`; letters, units or brackets between the numbers end it.
"""

from __future__ import annotations

import re
from typing import Final

TOLERANCE: Final = 0.02
"""Relative difference that passes for rounding."""

# A number begins where no other goes on, and every repetition is possessive: no text takes more than linear time.
_NUMBER: Final = r"(?:\d[\d,]*+(?:\.\d++)?+|\.\d++)"
NUMBER: Final = re.compile(rf"(?<![\d.,\w])[-−]?{_NUMBER}(?:[eE][-+]?\d{{1,3}}(?!\d))?")
_CALCULATION: Final = re.compile(
    rf"(?<![\d.,\w^*/+-])(-?{_NUMBER}(?:\s{{0,3}}[-*/+]\s{{0,3}}-?{_NUMBER}){{1,8}}+)\s{{0,3}}=\s{{0,3}}(-?{_NUMBER})(?![\d^*/])"
)
_PART: Final = re.compile(rf"([-*/+])?\s*(-?)({_NUMBER})")
_FRACTION: Final = re.compile(rf"\\[dt]?frac\s?\{{({_NUMBER})\}}\s?\{{({_NUMBER})\}}")
_SPELLINGS: Final = (
    (re.compile(r"\\(?:times|cdot)(?![A-Za-z])|[×·∙⋅]"), "*"),
    (re.compile(r"\\div(?![A-Za-z])|÷"), "/"),
    (re.compile(r"\\approx(?![A-Za-z])|≈"), "="),
    (re.compile(r"[−–]"), "-"),
    (re.compile(r"\$|\\[,;! ]"), ""),
)


def number_of(text: str) -> float:
    """The value of a text that `NUMBER` matches; nan where it is out of range.

    >>> number_of("1,250.5"), number_of("-3")
    (1250.5, -3.0)
    """
    try:
        value = float(text.replace(",", "").replace("−", "-"))
    except ValueError:
        return float("nan")
    return value if abs(value) < float("inf") else float("nan")


def numbers_in(text: str) -> list[float]:
    """Every number of a text, in order.

    >>> numbers_in("From 1,250 kg take -3.5, which leaves x2 alone.")
    [1250.0, -3.5]
    """
    return [number_of(match) for match in NUMBER.findall(text)]


def close(first: float, second: float) -> bool:
    """Whether two numbers are the same up to rounding.

    >>> close(0.333, 1 / 3), close(3.0, 4.0), close(0.0, 0.0)
    (True, False, True)
    """
    return abs(first - second) <= TOLERANCE * max(abs(first), abs(second))


def check_arithmetic(text: str) -> tuple[int, int]:
    r"""How many calculations of a text come out, and how many do not.

    >>> check_arithmetic(r"We get $2 \times 3 + 1 = 7$, then 7/2 = 4 and \frac{1}{4} = 0.25.")
    (2, 1)
    """
    for pattern, plain in _SPELLINGS:
        text = pattern.sub(plain, text)
    text = _FRACTION.sub(r"\1/\2", text)
    outcomes = [
        close(value, number_of(right))
        for left, right in _CALCULATION.findall(text)
        if (value := _value(left)) is not None
    ]
    return sum(outcomes), len(outcomes) - sum(outcomes)


def _value(calculation: str) -> float | None:
    """Products before sums, left to right; None for a division by zero."""
    terms: list[float] = []
    for operator, sign, digits in _PART.findall(calculation):
        number = -number_of(digits) if sign else number_of(digits)
        if operator == "*":
            terms[-1] *= number
        elif operator == "/":
            if not number:
                return None
            terms[-1] /= number
        else:
            terms.append(-number if operator == "-" else number)
    return sum(terms)
