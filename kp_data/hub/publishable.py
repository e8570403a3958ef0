"""What of a document may leave this machine."""

from __future__ import annotations

import math
import re
from typing import Any, Final

_LOCAL_PATH: Final = re.compile(r"(/|~/|file:/|[A-Za-z]:\\)[^\n]*\Z")


def publishable(value: Any) -> Any:
    """A document with absolute paths reduced to their last part, and nan to null.

    Where files lay on the author's machine is nobody's business, and nan is not JSON.

    >>> publishable({"panel": "/home/me/panels/mine", "accuracy": float("nan")})
    {'panel': 'mine', 'accuracy': None}
    """
    if isinstance(value, dict):
        return {publishable(key): publishable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [publishable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str) and _LOCAL_PATH.match(value):
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1]
    return value
