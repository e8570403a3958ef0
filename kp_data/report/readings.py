"""Numbers out of JSON files that anyone may have written: each is a number or null, or the file is refused by name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kp_data.errors import DataError
from kp_data.tables import read_json

Pair = tuple[float, float]


def number(value: Any, name: str, place: object) -> float | None:
    """A finite number, or None for null.

    Raises: DataError, when it is anything else.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"'{name}' is {str(value)[:40]!r}, which is no number; write the file again", place=place)
    return float(value)


def pair(value: Any, place: object = "report") -> Pair | None:
    """An interval, or None where there is none.

    Raises: DataError, when a bound is no number.
    """
    if not isinstance(value, list | tuple) or len(value) != 2 or None in value:
        return None
    low, high = (number(bound, "ci95", place) for bound in value)
    return None if low is None or high is None else (low, high)


def interval_of(entry: Mapping[str, Any], key: str, place: object = "report") -> Pair | None:
    """The 95 % interval of a number, under `{key}_ci95` or in `ci95`."""
    within = entry.get("ci95")
    return pair(entry.get(f"{key}_ci95", within.get(key) if isinstance(within, dict) else within), place)


def part(entry: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """An object within an object; {} where it is missing or no object."""
    value = entry.get(key)
    return value if isinstance(value, dict) else {}


def items(entry: Mapping[str, Any], key: str) -> list[Any]:
    """A list within an object; [] where it is missing or no list."""
    value = entry.get(key)
    return value if isinstance(value, list) else []


def check_numbers(scores: Mapping[str, Any], keys: Iterable[str], place: object) -> None:
    """What is shown as a number is one, or null, and so are the bounds of its interval.

    Raises: DataError, when one is not; names it.
    """
    for key in sorted(set(keys)):
        number(scores.get(key), key, place)
        interval_of(scores, key, place)


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises: DataError, when the file cannot be read or holds something else.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        raise DataError("not a JSON object; write it again with the command that made it", place=path)
    return found
