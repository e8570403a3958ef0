"""Units of measure and words around numbers, as far as open-ended answers need them: spellings, and no conversion."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_SPELLINGS: Final = {
    "%": ("percent", "per cent", "pct", "percentage"),
    "$": ("dollar", "USD", "usd", "us dollar"),
    "€": ("euro", "EUR", "eur"),
    "£": ("GBP", "gbp", "pound sterling"),
    "°": ("degree", "deg"),
    "°C": ("degree celsius", "celsius", "degree c", "° C"),
    "°F": ("degree fahrenheit", "fahrenheit", "degree f", "° F"),
    "K": ("kelvin",),
    "km": ("kilometre", "kilometer"),
    "m": ("metre", "meter"),
    "cm": ("centimetre", "centimeter"),
    "mm": ("millimetre", "millimeter"),
    "in": ("inch", "inche"),
    "ft": ("foot", "feet"),
    "mi": ("mile",),
    "kg": ("kgs", "kilogram", "kilogramme", "kilo"),
    "g": ("gram", "gramme"),
    "mg": ("milligram",),
    "lb": ("lbs", "pound"),
    "L": ("l", "litre", "liter"),
    "mL": ("ml", "millilitre", "milliliter"),
    "h": ("hour", "hr", "hrs"),
    "min": ("minute", "mins"),
    "s": ("second", "sec", "secs"),
    "ms": ("millisecond",),
    "J": ("joule",),
    "kJ": ("kilojoule",),
    "W": ("watt",),
    "kW": ("kilowatt",),
    "mW": ("milliwatt",),
    "MW": ("megawatt",),
    "mJ": ("millijoule",),
    "MJ": ("megajoule",),
    "N": ("newton",),
    "V": ("volt",),
    "A": ("ampere", "amp"),
    "Hz": ("hertz",),
    "mHz": ("millihertz",),
    "MHz": ("megahertz",),
    "mPa": ("millipascal",),
    "MPa": ("megapascal",),
    "Pa": ("pascal",),
    "mol": ("mole",),
    "m/s": ("metre per second", "meter per second"),
    "km/h": ("kilometre per hour", "kilometer per hour", "kph", "kmh"),
    "mph": ("mile per hour",),
}
_CANONICAL: Final[Mapping[str, str]] = {
    **{unit: unit for unit in _SPELLINGS},
    **{spelling: unit for unit, spellings in _SPELLINGS.items() for spelling in spellings},
}
_SCALES: Final = {
    "dozen": 12,
    "hundred": 100,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
_ZERO_TO_TWENTY: Final = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
_SPELLED: Final = _ZERO_TO_TWENTY.split()
_NOT_UNITS: Final = (
    "and or to of than less more minus plus times over under squared cubed factorial pi sqrt root mod choose at least "
    "most not no never half halves third quarter fourth fifth sixth seventh eighth ninth tenth hundredth thousandth "
    "bc bce ad ce am pm if when where remainder below above negative positive is are was the modulo base log ln "
    "sin cos tan exp infinity dozen hundred thousand million billion trillion"
)
"""Words after a number that change what it says."""
_NO_UNITS: Final = frozenset(_NOT_UNITS.split())
_COMPOUND: Final = re.compile(r"[A-Za-zµμΩ°]{1,5}(?:\^-?\d)?(?:[/*][A-Za-zµμΩ°]{1,5}(?:\^-?\d)?)+|[A-Za-z]{1,3}\^-?\d")


def canonical_unit(text: str) -> str | None:
    """The unit that the rest of an answer after its number is: "" for nothing, None where it is no unit.

    A lone letter is a unit only where it is one that people use and a space stands before it: `2m` may be algebra.

    >>> [canonical_unit(text) for text in (" kilometres", "%", " red apples", " m/s²", "m", " or more", "")]
    ['km', '%', 'red apple', 'm/s^2', None, None, '']
    """
    unit = text.strip().replace("²", "^2").replace("³", "^3")
    unit = re.sub(r"\^\{(-?\d)\}", r"^\1", unit)
    if not unit:
        return ""
    if (known := _known(unit)) is not None:
        return None if len(unit) == 1 and unit.isalpha() and not text[0].isspace() else known
    tight = re.sub(r"\s*([/*])\s*", r"\1", unit)
    if _COMPOUND.fullmatch(tight):
        return tight
    words = unit.casefold().split(" ")
    if not text[0].isspace() or len(words) > 3 or not all(re.fullmatch(r"[a-z]{3,20}", word) for word in words):
        return None
    if any(word in _NO_UNITS or _singular(word) in _NO_UNITS for word in words):
        return None
    return " ".join(map(_singular, words))


def scale_of(text: str) -> tuple[int, str]:
    """The factor that a word such as "million" right after a number stands for, and what comes after it.

    >>> scale_of(" million people"), scale_of(" people")
    ((1000000, ' people'), (1, ' people'))
    """
    match = re.match(r"\s+([A-Za-z]+)(?=\s|$)", text)
    if match is None or match[1].casefold() not in _SCALES:
        return 1, text
    return _SCALES[match[1].casefold()], text[match.end() :]


def spelled_number(text: str) -> str:
    """The text with a first word from zero to twenty as digits.

    >>> spelled_number("Eight legs"), spelled_number("eighty")
    ('8 legs', 'eighty')
    """
    first, space, rest = text.partition(" ")
    return f"{_SPELLED.index(first.casefold())}{space}{rest}" if first.casefold() in _SPELLED else text


def _known(unit: str) -> str | None:
    """A unit by symbol, where case matters (mW, MW), or by word, where it does not."""
    if unit in _CANONICAL:
        return _CANONICAL[unit]
    words = " ".join(map(_singular, unit.casefold().split(" ")))
    return _CANONICAL.get(words) if len(words) > 3 else None


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
