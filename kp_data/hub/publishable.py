"""What of a document may leave this machine."""

from __future__ import annotations

import math
import re
from typing import Any, Final

_LOCAL_PATH: Final = re.compile(r"(/|~/|file:/|[A-Za-z]:\\)[^\n]*\Z")
_AT_ADDRESS: Final = re.compile(r"(?<=\S)@https?://\S*\Z")
"""How `NAME=MODEL@URL` ends."""

_OF_ADDRESS: Final = re.compile(r"\Ahttps?://[^\s|]*\|")
"""How the identity of an endpoint that was given by URL begins; its model follows."""

_ADDRESS_KEYS: Final = frozenset({"api_base"})


def publishable(value: Any) -> Any:
    """A document with absolute paths reduced to their last part, no addresses of model servers, and nan as null.

    Where files lay on the author's machine, and which of the author's servers answered, is nobody's business; nan is
    not JSON.

    >>> publishable({"panel": "/home/me/panels/mine", "by": "m=lab/x@http://10.0.0.7/v1", "share": float("nan")})
    {'panel': 'mine', 'by': 'm=lab/x', 'share': None}
    """
    if isinstance(value, dict):
        return {publishable(key): publishable(item) for key, item in value.items() if key not in _ADDRESS_KEYS}
    if isinstance(value, list):
        return [publishable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str):
        value = _OF_ADDRESS.sub("", _AT_ADDRESS.sub("", value))
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1] if _LOCAL_PATH.match(value) else value
    return value
