"""What a server says about its rate limits: the headers of OpenAI's and Anthropic's dialects, and Retry-After.

Headers are written by somebody else: what is not of the expected form is unknown, nothing is negative or endless, and
times that name a moment become durations here, by the server's own clock where it tells it.
Sources: RFC 9110 (Retry-After, Date), RFC 3339 (times), the API references of OpenAI and Anthropic on rate limits.
"""

from __future__ import annotations

import contextlib
import email.utils
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

LONGEST_RESET_S: Final = 86_400.0
"""No quota is longer than a day; what claims to be is cut to one."""
LONGEST_RETRY_S: Final = 3_600.0
"""How long a refused call waits at most, whatever the server asks."""
_MOST: Final = 10**12
_DURATION: Final = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")
_UNITS_S: Final = (86_400.0, 3_600.0, 60.0, 1.0, 0.001)
_CARRIED: Final = "llm_provider-"
"""What litellm puts before the name of a header that a provider sent."""


@dataclass(frozen=True, slots=True)
class Quota:
    """One limit, and where the account stands with it; None where the server did not say.

    Attributes:
        limit: so many a minute, of requests or of tokens.
        remaining: how many are left.
        reset_s: seconds until all are there again.
    """

    limit: int | None = None
    remaining: int | None = None
    reset_s: float | None = None


@dataclass(frozen=True, slots=True)
class RateLimits:
    """What one response said about the limits of its account; None where it said nothing.

    Attributes:
        requests: requests a minute.
        tokens: tokens a minute, read and written together.
        input_tokens: tokens a minute that are read.
        output_tokens: tokens a minute that are written.
        scope: the model that was asked: providers have limits for each.
    """

    requests: Quota | None = None
    tokens: Quota | None = None
    input_tokens: Quota | None = None
    output_tokens: Quota | None = None
    scope: str = ""


def read_limits(headers: Mapping[str, str], *, scope: str = "") -> RateLimits | None:
    """The rate limits in the headers of a response, None without any.

    Args:
        headers: of the response, as the server or litellm passes them on.
        scope: the model that was asked.

    >>> read_limits({"x-ratelimit-limit-requests": "60", "x-ratelimit-reset-requests": "1m2.5s"}).requests
    Quota(limit=60, remaining=None, reset_s=62.5)
    """
    # One look at each header: most servers say nothing, and this runs for every call.
    told = {key: str(value) for name, value in headers.items() if "ratelimit" in (key := _plain(name)) or key == "date"}
    if len(told) <= ("date" in told):
        return None
    found = {name: _openai(told, name) or _anthropic(told, name) for name in ("requests", "tokens")}
    found |= {f"{side}_tokens": _anthropic(told, f"{side}-tokens") for side in ("input", "output")}
    return RateLimits(**found, scope=scope) if any(found.values()) else None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait before a refused call is made again, at most `LONGEST_RETRY_S`; None where nothing is asked.

    `retry-after-ms` is finer and comes first; Retry-After is a number of seconds or a date.

    >>> retry_after({"Retry-After": "1.5"}), retry_after({"retry-after-ms": "250", "Retry-After": "1"})
    (1.5, 0.25)
    """
    told = {_plain(name): str(value) for name, value in headers.items()}
    if (milliseconds := _number(told.get("retry-after-ms"))) is not None:
        return min(milliseconds / 1000, LONGEST_RETRY_S)
    value = told.get("retry-after")
    if value is None:
        return None
    if (seconds := _number(value)) is None:
        try:
            seconds = _until(email.utils.parsedate_to_datetime(value), told)
        except (TypeError, ValueError, OverflowError):
            return None
    return min(seconds, LONGEST_RETRY_S)


def seconds_of(text: str) -> float | None:
    """A duration such as `1m2.5s`, `6ms` or a plain number of seconds, in seconds; None for anything else.

    >>> [seconds_of(text) for text in ("6ms", "1h2m3s", "0.5", "soon", "")]
    [0.006, 3723.0, 0.5, None, None]
    """
    if (number := _number(text)) is not None:
        return number
    match = _DURATION.fullmatch(text.strip().lower()) if len(text) <= 64 else None
    if match is None or not any(match.groups()):
        return None
    return math.fsum(float(value) * unit for value, unit in zip(match.groups(), _UNITS_S, strict=True) if value)


def _openai(told: Mapping[str, str], name: str) -> Quota | None:
    return _quota(told, *(f"x-ratelimit-{part}-{name}" for part in ("limit", "remaining", "reset")))


def _anthropic(told: Mapping[str, str], name: str) -> Quota | None:
    return _quota(told, *(f"anthropic-ratelimit-{name}-{part}" for part in ("limit", "remaining", "reset")))


def _quota(told: Mapping[str, str], limit: str, remaining: str, reset: str) -> Quota | None:
    # A limit of nothing at all is what gateways send that know none.
    quota = Quota(_count(told, limit) or None, _count(told, remaining), _reset_s(told, reset))
    return None if quota == Quota() else quota


def _count(told: Mapping[str, str], name: str) -> int | None:
    value = _number(told.get(name))
    return None if value is None or value > _MOST else int(value)


def _reset_s(told: Mapping[str, str], name: str) -> float | None:
    value = told.get(name)
    if value is None:
        return None
    seconds = seconds_of(value)
    if seconds is None:
        try:
            seconds = _until(datetime.fromisoformat(value.strip()), told)
        except (ValueError, OverflowError):
            return None
    return min(seconds, LONGEST_RESET_S)


def _until(moment: datetime, told: Mapping[str, str]) -> float:
    """Seconds until a moment, by the server's clock where it tells it: ours may be wrong, or jump."""
    now = time.time()
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        now = _aware(email.utils.parsedate_to_datetime(told.get("date", ""))).timestamp()
    return max(0.0, _aware(moment).timestamp() - now)


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _plain(name: str) -> str:
    return name.lower().removeprefix(_CARRIED)


def _number(text: str | None) -> float | None:
    """A finite number from zero on; None for anything else."""
    try:
        value = float(text) if text is not None and len(text) <= 64 else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
