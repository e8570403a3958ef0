r"""Open-ended answers: when two texts say the same, and what a text is called when it is grouped with others.

Texts are never evaluated; they are read by patterns, as a number with a unit or else as words. What counts as the same
is kept narrow, for a false match makes a wrong teacher right:

* numbers are exact: `1,000` = `1000` = `1e3` = `10^3`, `0.5` = `1/2` = `\frac{1}{2}`; 0.33 is not 1/3;
* `3,5` and `1.000,5` are not read as numbers, because a comma means different things in different places;
* units must be the same unit (`5 km` is not `5000 m`: nothing is converted); an answer without a unit is the same as
  one with it, for questions often name the unit;
* a percentage is the same as its bare number (`50 %` and `50`), and as its value (`50 %` and `0.5`); the bare numbers
  0.5 and 50 stay different;
* everything else is compared as text, without regard to case, outer punctuation, white space and LaTeX dress.

`same_answer` therefore is no equivalence (50, 50 %, 0.5). `answer_key` is one, stricter; `answer_groups` divides the
answers to one question, gold first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Final

from kp_data.units import canonical_unit, scale_of, spelled_number

LONGEST_READ: Final = 500
"""Characters of an answer that may still be a number or LaTeX; a longer one is compared as words."""
LARGEST_EXPONENT: Final = 300
CACHED: Final = 1 << 14
"""Texts remembered: teachers give few answers to many questions, and the same ones."""

_WRAPPERS: Final = re.compile(
    r"\\(?:boxed|fbox|text|textbf|textit|textrm|mathrm|mathbf|mathit|operatorname)\s*"
    r"\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}"
)
_LATEX_NOISE: Final = (
    (re.compile(r"\\(?:left|right|displaystyle)(?![A-Za-z])"), ""),
    # "1{,}000" and "1\,000" are how LaTeX writes thousands.
    (re.compile(r"(?<=\d)(?:\{,\}|\\[,;! ]|[\u00a0\u2009\u202f])(?=\d{3}(?!\d))"), ","),
    (re.compile(r"\\(?:[,;:! ]|q?quad(?![A-Za-z]))|~|[\u00a0\u2009\u202f]"), " "),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\(?:cdot|times)(?![A-Za-z])|[×·]"), "*"),
    (re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\\degree(?![A-Za-z])"), "°"),
    (re.compile(r"\\([%$])"), r"\1"),
    (re.compile(r"\^\s*\{\s*(-?\w)\s*\}"), r"^\1"),
    (re.compile(r"[−‐‑]|(?<!\S)–(?=\d)"), "-"),
)
_DRESSED: Final = re.compile(r"[\\{}~^]")
_VULGAR: Final = {char: f" {n}/{d}" for char, n, d in (("½", 1, 2), ("⅓", 1, 3), ("⅔", 2, 3), ("¼", 1, 4), ("¾", 3, 4))}
_VARIABLE: Final = re.compile(r"^[A-Za-z](?:_\w|_\{\w+\})?\s*=\s*(?=[^=]+$)")
_HEDGE: Final = re.compile(r"^(?:approximately|about|roughly|exactly|equal to|≈|~)\s+", re.IGNORECASE)
_TIGHT: Final = re.compile(r"\s*([-+*/=^<>|,(){}\[\]])\s*")

_DECIMAL: Final = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
_EXPONENT: Final = r"(?:[eE]([-+]?\d{1,4})|\s*[*x]\s*10\s*\^\s*\{?\s*([-+]?\d{1,4})\s*\}?)"
_NUMBER: Final = re.compile(
    rf"([-+]?)\s*([$€£¥]?)\s*(?:"
    rf"(?:(\d+)\s*)?\\frac\s*\{{?\s*(\d+)\s*\}}?\s*\{{?\s*(\d+)\s*\}}?"  # \frac{{1}}{{2}}, also mixed
    rf"|(\d+)\s+(\d+)\s*/\s*(\d+)"  # mixed, 1 1/2
    rf"|({_DECIMAL})\s*/\s*({_DECIMAL})(?![\d/])"
    rf"|10\s*\^\s*\{{?\s*([-+]?\d{{1,4}})\s*\}}?"
    rf"|({_DECIMAL}){_EXPONENT}?"
    rf")"
)
_SHORT_FRAC: Final = re.compile(r"\\frac\s*(\d)\s*(\d)(?!\d)")


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number as an answer gives it.

    Attributes:
        value: exact; a percentage keeps its digits (50 for "50 %").
        unit: canonical spelling, "" for none.
    """

    value: Fraction
    unit: str = ""

    @property
    def key(self) -> str:
        """Text that reads as this quantity."""
        return f"{self.value} {self.unit}".rstrip()


def normalise_answer(text: str) -> str:
    """A text as compared with another: case, outer punctuation and runs of white space do not matter.

    >>> normalise_answer('  The "Sun". ')
    'the "sun'
    """
    return re.sub(r"\s+", " ", text).strip(" \t\n.,;:!?\"'()[]").casefold()


def answer_key(text: str) -> str:
    r"""What an open-ended answer is called: two answers with one key say the same, whatever the question.

    The key of a key is itself.
    Source: own. Libraries that compare mathematics (sympy's parsers, and what builds on them) evaluate what they read,
    need seconds for a hostile expression, and take 1e3 for 1: not for text that strangers wrote.

    >>> [answer_key(text) for text in ("1,000", "$10^3$", "\\frac{1}{2}", "0.50", "5 Kilograms", "x = 3")]
    ['1000', '1000', '1/2', '1/2', '5 kg', '3']
    >>> answer_key("The \\text{Sun}.")
    'the sun'
    """
    return normalise_answer(text) if len(text) > LONGEST_READ else _short_key(text)


@lru_cache(maxsize=CACHED)
def _short_key(text: str) -> str:
    # One pass may bare another layer ("x = \\boxed{5}"); each pass but the last takes something away.
    for _ in range(LONGEST_READ):
        following = _key_once(text)
        if following == text:
            break
        text = following
    return text


def same_answer(first: str, second: str) -> bool:
    """Whether two open-ended answers say the same; see the module for what counts.

    >>> same_answer("1,000 kg", "1e3"), same_answer("50 %", "0.5"), same_answer("50", "0.5"), same_answer("5 m", "5 km")
    (True, True, False, False)
    """
    return _same(answer_key(first), answer_key(second))


def answer_groups(texts: Sequence[str], gold: str | None = None) -> list[int]:
    """The group of each answer to one question: answers of one group say the same.

    What is the same as gold is of group 0. The others are grouped by their keys, and an answer without a unit joins
    those that give its number with the one unit that occurs. Neither the order of the answers nor who gave them
    matters, beyond how the groups are numbered.

    Args:
        texts: answers, as they stand.
        gold: the right answer, where it is known.

    Returns: a number for each text: 0 for gold's group where there is a gold, the rest in order of first appearance.

    >>> answer_groups(["8 legs", "six", "8", "6"], gold="8")
    [0, 1, 0, 1]
    >>> answer_groups(["5 kg", "5", "5 kg", "4"]), answer_groups(["5 kg", "5", "5 lb"])
    ([0, 0, 0, 1], [0, 1, 2])
    """
    keys = [answer_key(text) for text in texts]
    names = _group_names(set(keys), None if gold is None else answer_key(gold))
    numbers: dict[str | None, int] = {} if gold is None else {None: 0}
    return [numbers.setdefault(names[key], len(numbers)) for key in keys]


def _group_names(keys: set[str], gold: str | None) -> dict[str, str | None]:
    """Each key's group by name; None is gold's own."""
    others = {key for key in keys if gold is None or not _same(key, gold)}
    units: dict[Fraction, set[str]] = {}
    for key in others:
        if (read := _quantity(key)) is not None and read.unit:
            units.setdefault(read.value, set()).add(read.unit)
    names: dict[str, str | None] = dict.fromkeys(keys)
    for key in others:
        read = _quantity(key)
        known = units.get(read.value, set()) if read is not None and not read.unit else set()
        names[key] = f"{key} {min(known)}" if len(known) == 1 else key
    return names


def _same(first: str, second: str) -> bool:
    """As `same_answer`, for keys."""
    if first == second:
        return True
    one, other = _quantity(first), _quantity(second)
    if one is None or other is None or bool(one.unit) == bool(other.unit):
        return False
    bare, measured = (one, other) if other.unit else (other, one)
    return bare.value == measured.value or (measured.unit == "%" and bare.value == measured.value / 100)


def _key_once(text: str) -> str:
    tidy = _tidied(text)
    read = _quantity(tidy)
    return _text_key(tidy) if read is None else read.key


def _tidied(text: str) -> str:
    """Without LaTeX dress, hedges and `x =`."""
    text = text.strip()
    for fence in ("$$", "$"):
        if len(text) > 2 * len(fence) and text.startswith(fence) and text.endswith(fence):
            text = text[len(fence) : -len(fence)].strip()
    for opening, closing in (("\\(", "\\)"), ("\\[", "\\]")):
        text = text.removeprefix(opening).removesuffix(closing)
    # Most answers wear no LaTeX, and reading a panel of a million of them should not look for it.
    if not text.isascii() or _DRESSED.search(text):
        text = _undressed(text)
    text = re.sub(r"\s+", " ", text).strip()
    return _VARIABLE.sub("", _HEDGE.sub("", text))


def _undressed(text: str) -> str:
    text = _WRAPPERS.sub(r" \1 ", text)
    for pattern, plain in _LATEX_NOISE:
        text = pattern.sub(plain, text)
    text = _SHORT_FRAC.sub(r"\\frac{\1}{\2}", text)
    return "".join(_VULGAR.get(char, char) for char in text)


def _text_key(text: str) -> str:
    text = _TIGHT.sub(r"\1", text.strip(" \t\n.;:!?\"'"))
    # (1,2] is another interval than [1,2): brackets around a list are part of what it says.
    if "," in text and text[:1] in "([{" and text[-1:] in ")]}":
        return re.sub(r"\s+", " ", text).casefold()
    return normalise_answer(text)


@lru_cache(maxsize=CACHED)
def _quantity(text: str) -> Quantity | None:
    """The number, with its unit, that a whole text is; None where it is none."""
    text = text.strip(" \t\n;:!?\"'").removesuffix(".").removesuffix(",").strip()
    if "," not in text:
        text = text.strip("()[] ")
    text = spelled_number(text)
    match = _NUMBER.match(text)
    if match is None or not _is_plain(text):
        return None
    value = _value(match)
    if value is None:
        return None
    rest = text[match.end() :]
    factor, rest = scale_of(rest)
    currency = match[2]
    unit = canonical_unit(rest)
    if unit is None or (currency and unit):
        return None
    return Quantity(value * factor, unit or currency)


def _value(match: re.Match[str]) -> Fraction | None:
    """The exact number of a match; None where it divides by zero or is beyond LARGEST_EXPONENT."""
    whole, top, bottom, mixed, mixed_top, mixed_bottom, over, under, power, decimal, exponent, power_of_ten = (
        match.group(number) for number in range(3, 15)
    )
    exponent = exponent or power_of_ten or power or "0"
    if abs(int(exponent)) > LARGEST_EXPONENT:
        return None
    try:
        if top is not None:
            value = Fraction(int(whole or 0)) + Fraction(int(top), int(bottom))
        elif mixed is not None:
            value = Fraction(int(mixed)) + Fraction(int(mixed_top), int(mixed_bottom))
        elif over is not None:
            value = _fraction(over) / _fraction(under)
        else:
            value = (Fraction(1) if power is not None else _fraction(decimal)) * Fraction(10) ** int(exponent)
    except ZeroDivisionError:
        return None
    return -value if match[1] == "-" else value


def _fraction(decimal: str) -> Fraction:
    return Fraction(decimal.replace(",", ""))


def _is_plain(text: str) -> bool:
    """Whether a text beyond ASCII has only the signs that units and prices are written with."""
    return all(char.isascii() or char in "€£¥°µμΩ²³" for char in text)
