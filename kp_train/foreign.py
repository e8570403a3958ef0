"""Values of documents that anybody may have written: each of the shape that is wanted, or empty."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kp_data.errors import DataError
from kp_data.tables import read_json


def mapping_of(value: Any) -> Mapping[str, Any]:
    """A mapping; else an empty one."""
    return value if isinstance(value, Mapping) else {}


def list_of(value: Any) -> Sequence[Any]:
    """A list, or one text as a list of it; else an empty one."""
    return value if isinstance(value, list | tuple) else [value] if isinstance(value, str) else []


def text_of(value: Any) -> str | None:
    """A text that is not empty."""
    return whole_characters(value) if isinstance(value, str) and value else None


def number_of(value: Any) -> float | None:
    """A finite number.

    >>> number_of(2), number_of(True), number_of("2"), number_of(float("nan"))
    (2.0, None, None, None)
    """
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number beyond what a float holds
        return None


def whole_of(value: Any) -> int | None:
    """A whole number."""
    number = number_of(value)
    return int(number) if number is not None and number == int(number) else None


def whole_characters(text: str) -> str:
    """The text without half characters, which JSON and YAML can name and no file can hold."""
    return text.encode("utf-8", "replace").decode()


def json_object(path: Path) -> Mapping[str, Any]:
    """A JSON file that holds an object; empty where it is missing or holds something else."""
    try:
        return mapping_of(read_json(path))
    except (DataError, RecursionError):
        return {}


def front_matter(path: Path) -> Mapping[str, Any]:
    """The front matter of a README.md; empty where there is no such file, or none that can be read."""
    from kp_data.hub.front_matter import split_card

    try:
        return split_card(path.read_text(encoding="utf-8", errors="replace"))[0] if path.is_file() else {}
    except (DataError, OSError, ValueError, RecursionError):
        return {}
