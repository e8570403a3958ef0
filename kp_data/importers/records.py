"""What every importer gives: a question with what teachers said to it, or the reason why a row was left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from kp_data.schema import Mode, Question, Response


@dataclass(frozen=True, slots=True)
class Imported:
    """One row of a source.

    Attributes:
        question: as the source asks it; the same question may come again with other responses.
        responses: what teachers said to it.
        place: file and line or item, for messages.
        own_split: whether the source itself says to which split the question belongs.
        without: why parts of the row are not among its responses; of no account where these are left out, too.
    """

    question: Question
    responses: tuple[Response, ...]
    place: str
    own_split: bool = False
    without: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A row, or a part of one, that cannot be imported.

    Attributes:
        place: file and line or item.
        reason: why, in words that are the same for all rows with this fault.
    """

    place: str
    reason: str


Row = Imported | LeftOut


@dataclass(frozen=True)
class ImportOptions:
    """What the command line says beside format and sources.

    Attributes:
        teachers: for a format with one teacher a source, its name under the key ""; for `jsonl`, teacher to the field
            that holds what it wrote.
        fields: our name to the path of a field, for `jsonl` and `tables`.
        mode: how the teachers were asked, where the source does not say; None: as is usual for the format.
    """

    teachers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    fields: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    mode: Mode | None = None

    @property
    def single_teacher(self) -> str | None:
        """The one name that was given for all."""
        return self.teachers.get("")


class Reader(Protocol):
    """A format: sources and options to rows, one after another."""

    def __call__(self, sources: Sequence[Path], options: ImportOptions) -> Iterator[Row]: ...


class UnusableRow(Exception):
    """A row that cannot be imported; the text is the reason. Caught where its place is known."""


def text_of(row: Mapping[str, Any], name: str, *, needed: bool = True) -> str:
    """A field's text, in characters that a table can hold.

    Raises:
        UnusableRow: it is missing or no text, and it is needed.
    """
    value = row.get(name)
    if value is None and not needed:
        return ""
    if not isinstance(value, str):
        raise UnusableRow(f"field '{name}' is missing" if value is None else f"field '{name}' is no text")
    return clean(value)


def clean(text: str) -> str:
    r"""A text as a table can hold it: halves of characters, which JSON can spell, become question marks.

    >>> clean("a\ud800b"), clean("\ud83d\ude00") == "\U0001f600"
    ('a\ufffdb', True)
    """
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def letter_index(letter: str, count: int) -> int | None:
    """The choice that a letter names; None where there is no such choice.

    >>> letter_index("c", 4), letter_index("E", 4), letter_index("", 4)
    (2, None, None)
    """
    if len(letter) != 1 or not letter.isascii() or not letter.isalpha():
        return None
    index = ord(letter.upper()) - ord("A")
    return index if index < count else None


def choice_index(answer: str, choices: Sequence[str]) -> int | None:
    """The choice that a gold answer names: by its text, where exactly one is so, else by its letter.

    >>> choice_index("cold", ["hot", "cold"]), choice_index("A", ["hot", "cold"]), choice_index("mild", ["hot", "cold"])
    (1, 0, None)
    """
    same = [index for index, choice in enumerate(choices) if choice.strip() == answer.strip()]
    if len(same) == 1:
        return same[0]
    return None if same else letter_index(answer.strip(" ()."), len(choices))
