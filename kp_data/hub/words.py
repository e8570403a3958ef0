"""Two versions of a text with their differing words marked, for a terminal, a pipe or a program."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Final, Literal

Kind = Literal["same", "removed", "added"]
Piece = tuple[Kind, str]

_WORDS: Final = re.compile(r"\d+(?:[.,]\d+)*|\w+|\s+|[^\w\s]")
# What could move a terminal's cursor, colour its text or turn the reading direction around.
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
_MOST_WORDS: Final = 20_000


def word_diff(old: str, new: str) -> list[Piece]:
    """The pieces of two texts, in order: what both have, what only the old has, what only the new has.

    The pieces that are not `added` make up the old text, those that are not `removed` the new one. Texts of very many
    words are compared as wholes: the comparison is quadratic.

    >>> word_diff("the salt dissolves", "the salt quickly dissolves")
    [('same', 'the salt '), ('added', 'quickly '), ('same', 'dissolves')]
    """
    left, right = _WORDS.findall(old), _WORDS.findall(new)
    if len(left) + len(right) > _MOST_WORDS:
        return list(_merged([("removed", old), ("added", new)] if old != new else [("same", old)]))
    pieces: list[Piece] = []
    for tag, a, b, c, d in difflib.SequenceMatcher(a=left, b=right, autojunk=False).get_opcodes():
        if tag == "equal":
            pieces.append(("same", "".join(left[a:b])))
        else:
            pieces += [("removed", "".join(left[a:b])), ("added", "".join(right[c:d]))]
    return list(_merged(pieces))


def shortened(pieces: Iterable[Piece], *, context: int = 40) -> Iterator[Piece]:
    """The same with the middle of every long unchanged piece left out.

    Args:
        pieces: of `word_diff`.
        context: characters to keep on either side of a change.
    """
    for kind, text in pieces:
        if kind != "same" or len(text) <= 2 * context + 5:
            yield kind, text
        else:
            yield kind, f"{text[:context]} … {text[-context:]}"


def printable(text: str) -> str:
    """A text that does nothing to a terminal but stand there, on one line.

    >>> printable("a\\x1b[31mred\\nb")
    'a[31mred⏎b'
    """
    return _CONTROLS.sub("", text.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "⏎"))


def marked(pieces: Iterable[Piece]) -> str:
    """Pieces as plain text, marked as `git diff --word-diff` does.

    >>> marked(word_diff("a b c", "a x c"))
    'a [-b-]{+x+} c'
    """
    signs = {"same": ("", ""), "removed": ("[-", "-]"), "added": ("{+", "+}")}
    return "".join(f"{signs[kind][0]}{printable(text)}{signs[kind][1]}" for kind, text in pieces)


def _merged(pieces: Iterable[Piece]) -> Iterator[Piece]:
    return ((kind, text) for kind, text in pieces if text)
