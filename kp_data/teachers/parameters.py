"""Parameters that a server does not take: which one it refused, and what the user can do about it.

Servers say so in their own words, with status 400 or 422. A parameter is never left out in silence, because that would
change the data: the teacher is stopped at the first such answer instead of failing cell by cell.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

MAX_TOKENS: Final = "max_tokens"
MAX_COMPLETION_TOKENS: Final = "max_completion_tokens"
"""OpenAI's later name of `max_tokens`; its reasoning models know no other."""

_REFUSAL: Final = (
    r"(?:unsupported|(?:not|n't|no longer) support(?:ed)?|unknown|unrecognized|unexpected|unrecognised|"
    r"extra[ _](?:inputs?|fields?|forbidden)|not (?:permitted|allowed|compatible|accepted|available)|deprecated|"
    r"only the default|cannot be used)"
)
_NEAR: Final = r".{0,60}?"
_CEILING: Final = re.compile(
    r"(?:maximum context length is|supports at most|must be (?:less|at most)\D{0,30}?)\D{0,3}(\d+)"
)
_LOOKED_AT: Final = 400


def refused_parameter(message: str, sent: Mapping[str, Any]) -> str | None:
    """The parameter that a server's message refuses for every call alike, None where it refuses none.

    Args:
        message: what the server said; untrusted.
        sent: parameters of the call.

    >>> refused_parameter("Unsupported parameter: 'logprobs' is not supported with this model.", {"logprobs": True})
    'logprobs'
    >>> refused_parameter("maximum context length is 4096 tokens, you sent 5000", {"max_tokens": 1024}) is None
    True
    """
    text = message[:_LOOKED_AT].lower()
    for name in sent:
        word = rf"(?<![\w]){re.escape(name)}(?![\w])"
        if re.search(rf"{word}{_NEAR}{_REFUSAL}|{_REFUSAL}{_NEAR}{word}", text, re.DOTALL):
            return name
    return MAX_TOKENS if _is_beyond(text, sent.get(MAX_TOKENS)) else None


def remedy_for(parameter: str, teacher: str) -> str:
    """What a user can do about a parameter that a teacher's server refuses.

    >>> remedy_for("logprobs", "gpt")
    'leave logprobs out for teacher gpt in kp.yaml'
    """
    if parameter == "temperature":
        return f"write `temperature: null` for teacher {teacher} in kp.yaml, then none is sent"
    if parameter == MAX_TOKENS:
        return f"lower max_tokens of teacher {teacher} in kp.yaml"
    if parameter == "seed":
        return f"leave seed out for teacher {teacher} in kp.yaml, and ask one sample: more than one needs seeds"
    return f"leave {parameter} out for teacher {teacher} in kp.yaml"


def name_of_limit(api_base: str) -> str:
    """Under which name an endpoint is told how much may be written: at OpenAI every model knows the later one.

    >>> name_of_limit("https://api.openai.com/v1"), name_of_limit("http://localhost:8000/v1")
    ('max_completion_tokens', 'max_tokens')
    """
    return MAX_COMPLETION_TOKENS if urlsplit(api_base).hostname == "api.openai.com" else MAX_TOKENS


def _is_beyond(text: str, max_tokens: Any) -> bool:
    """Whether the server names a ceiling that `max_tokens` alone exceeds, however short the prompt."""
    found = _CEILING.search(text)
    return found is not None and isinstance(max_tokens, int) and max_tokens > int(found[1][:18])
