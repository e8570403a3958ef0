"""Text that teachers wrote, made harmless for Markdown: it can neither format nor link nor be HTML nor end a block."""

from __future__ import annotations

import re
from typing import Any

# Control characters, and the ones that turn the reading direction around.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
_PUNCTUATION = re.compile(r"([\\`*_\[\]|#~${}!@^])")
_LINKS = re.compile(r"(?i):(?=//)|(?<=\bwww)\.|(?<=\bmailto):|(?<=\bjavascript):")


class Safe(str):
    """Markdown that is ours and stands as it is."""

    __slots__ = ()


def escape(value: Any) -> str:
    """A value as inline Markdown that renders as exactly its text.

    >>> print(escape("<b>5 * 3</b> | [x](http://y)"))
    &lt;b&gt;5 \\* 3&lt;/b&gt; \\| \\[x\\](http\\://y)
    """
    if isinstance(value, Safe):
        return value
    text = _UNPRINTABLE.sub("", str(value).replace("\r\n", "\n").replace("\r", "\n"))
    text = _PUNCTUATION.sub(r"\\\1", text)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = _LINKS.sub(lambda match: "\\" + match.group(), text)
    return text.strip("\n").replace("\n", "<br>")


def excerpt(text: str | None, limit: int = 600) -> str:
    """The beginning of a text, cut at a word, with an ellipsis where something is left out.

    >>> excerpt("one two three", 9)
    'one two …'
    """
    text = (text or "").strip()
    if len(text) <= limit:
        return text
    cut = text[:limit].rsplit(None, 1)[0] if " " in text[:limit] else text[:limit]
    return f"{cut} …"


def percent(share: float | None) -> str:
    """A share as a percentage with one decimal, "unknown" where it is None.

    >>> percent(0.7312), percent(None)
    ('73.1 %', 'unknown')
    """
    return "unknown" if share is None else f"{100 * share:.1f} %"


def money(usd: float | None) -> str:
    """US dollars, "unknown" where a price is.

    >>> money(0.01234), money(12.5), money(None), money(0.0)
    ('$0.0123', '$12.50', 'unknown', '$0.00')
    """
    if usd is None:
        return "unknown"
    return f"${usd:.2f}" if usd == 0 or usd >= 0.1 else f"${usd:.3g}"
