"""JSON files of any size, an element at a time: arrays, lines, and either of them inside a zip archive.

Memory is bounded by the largest element, not by the file. A line that is no JSON is one bad row; an array that is
broken somewhere cannot be read on from there, so that is a malformed file.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any, Final

from kp_data.errors import DataError

SUFFIXES: Final = (".json", ".jsonl", ".ndjson")
ARCHIVE: Final = ".zip"
CHUNK: Final = 1 << 20
LARGEST_ELEMENT: Final = 1 << 26
"""Characters; a longer element is no row of a dataset."""
_SPACE: Final = " \t\r\n"


@dataclass(frozen=True)
class Document:
    """A file of rows, in a folder or in an archive.

    Attributes:
        place: what messages call it.
        name: its own file name.
        folder: name of the folder, or of the archive, that it lies in.
        open: opens it as text.
    """

    place: str
    name: str
    folder: str
    open: Callable[[], IO[str]]


@dataclass(frozen=True, slots=True)
class Element:
    """One element of a file.

    Attributes:
        place: file and line or item.
        value: as JSON has it; None where the line is no JSON.
        problem: why it cannot be read; None: it can.
    """

    place: str
    value: Any
    problem: str | None = None


def documents_of(source: Path, *, like: Callable[[str], bool] = lambda name: True) -> Iterator[Document]:
    """The JSON files that a source is or holds, archives opened, in the order of their names.

    Args:
        source: a file, an archive, or a folder, which is searched with all that is below it.
        like: which file names are wanted.

    Raises:
        DataError: there is no such source, or nothing in it to read.
    """
    if not source.exists():
        raise DataError("no such file or folder", place=source)
    paths = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
    found = 0
    for path in paths:
        for document in _documents_in(path):
            # A file that is named itself is meant, whatever it is called.
            if path is source or like(document.name):
                found += 1
                yield document
    if not found:
        raise DataError(f"no files to read here; wanted are {', '.join(SUFFIXES)} and {ARCHIVE}", place=source)


def elements_of(document: Document) -> Iterator[Element]:
    """The elements of a JSON array, or of JSON lines.

    Raises:
        DataError: the file is no text, or neither array nor lines, or an array that is broken.
    """
    with _readable(document), document.open() as stream:
        first = _first_character(stream)
        if first == "[":
            yield from _array(stream, document)
        elif first == "{":
            yield from _lines(stream, document)
        elif first:
            raise DataError("neither a JSON array nor JSON lines", place=document.place)


def _documents_in(path: Path) -> Iterator[Document]:
    if path.suffix.lower() in SUFFIXES:
        yield Document(str(path), path.name, path.parent.name, lambda: path.open(encoding="utf-8-sig", errors="strict"))
    elif path.suffix.lower() == ARCHIVE:
        try:
            with zipfile.ZipFile(path) as archive:
                names = sorted(info.filename for info in archive.infolist() if not info.is_dir())
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(f"cannot be read as a zip archive ({error})", place=path) from error
        for name in names:
            if name.lower().endswith(SUFFIXES) and not name.startswith("__MACOSX/"):
                # Whoever made the archive chose the name, and it is shown on terminals.
                shown = "".join(character if character.isprintable() else "�" for character in name)
                yield Document(f"{path}:{shown}", name.rpartition("/")[2], path.stem, _opener(path, name))


def _opener(path: Path, name: str) -> Callable[[], IO[str]]:
    def opened() -> IO[str]:
        archive = zipfile.ZipFile(path)
        stream = TextIOWrapper(archive.open(name), encoding="utf-8-sig")
        # The archive is closed with the last file that is read from it.
        archive.close()
        return stream

    return opened


@contextmanager
def _readable(document: Document) -> Iterator[None]:
    """Turn what reading a file can raise into one message."""
    try:
        yield
    except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise DataError(f"cannot be read ({error})", place=document.place) from error
    except UnicodeDecodeError as error:
        raise DataError(f"is not UTF-8 text ({error.reason})", place=document.place) from error
    except EOFError as error:
        raise DataError("the archive breaks off", place=document.place) from error


def _first_character(stream: IO[str]) -> str:
    """What the text begins with, beyond white space, without reading more than that; "" for an empty file."""
    while character := stream.read(1):
        if character not in _SPACE:
            return character
    return ""


def _lines(stream: IO[str], document: Document) -> Iterator[Element]:
    number, line = 1, "{" + stream.readline(LARGEST_ELEMENT)
    while line:
        if len(line) >= LARGEST_ELEMENT:
            raise DataError(f"line {number} is longer than any row of a dataset", place=document.place)
        if line.strip():
            yield _of_line(line, f"{document.place}, line {number}")
        number, line = number + 1, stream.readline(LARGEST_ELEMENT)


def _of_line(line: str, place: str) -> Element:
    try:
        return Element(place, json.loads(line))
    except (ValueError, RecursionError) as error:
        return Element(place, None, "is no JSON" if isinstance(error, ValueError) else "is nested too deep")


def _array(stream: IO[str], document: Document) -> Iterator[Element]:
    """The elements of an array whose opening bracket has been read."""
    text, number = _Text(stream), 1
    while text.next_character() != "]":
        try:
            value = text.next_value()
        except (ValueError, RecursionError) as error:
            raise DataError(f"item {number} of the JSON array is broken ({error})", place=document.place) from error
        yield Element(f"{document.place}, item {number}", value)
        separator = text.next_character()
        if separator not in (",", "]"):
            raise DataError(f"the JSON array breaks off after item {number}", place=document.place)
        text.position += separator == ","
        number += 1
    text.position += 1
    if text.next_character():
        # As where results of two runs are in one file: what follows would be lost.
        raise DataError("more follows the end of the JSON array; give a file for each", place=document.place)


class _Text:
    """A stream of which no more is in memory than the value that is being read and a part of what follows."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream, self._text, self.position = stream, "", 0
        self._read = json.JSONDecoder().raw_decode

    def next_character(self) -> str:
        """The next one that is no white space, which stays next; "" at the end."""
        while True:
            while self.position < len(self._text):
                if (character := self._text[self.position]) not in _SPACE:
                    return character
                self.position += 1
            if not self._more(CHUNK):
                return ""

    def next_value(self) -> Any:
        """The JSON value that begins here, which is passed over.

        Raises:
            ValueError: there is none, or it breaks off, or is too long.
            RecursionError: it is nested too deep.
        """
        wanted = CHUNK
        while True:
            try:
                value, end = self._read(self._text, self.position)
                if not self._may_go_on(value, end):
                    self.position = end
                    return value
                problem = ValueError("breaks off")
            except ValueError as error:
                problem = error
            # Twice as much each time: a long value is not parsed from its beginning for every part of it.
            if len(self._text) - self.position >= LARGEST_ELEMENT or not self._more(wanted):
                raise problem
            wanted *= 2

    def _may_go_on(self, value: Any, end: int) -> bool:
        """Whether a number may have more digits than have been read."""
        following = self._text[end : end + 1]
        return isinstance(value, int | float) and (not following or following in ".eE")

    def _more(self, count: int) -> bool:
        more = self._stream.read(count)
        self._text, self.position = self._text[self.position :] + more, 0
        return bool(more)
