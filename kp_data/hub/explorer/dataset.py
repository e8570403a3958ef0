"""One version of a dataset as the explorer reads it: Parquet files by config and split, and the small documents.

A *part* is one split of one config; its rows are numbered from 0 over its files in order, as the dataset viewer does.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from kp_data.errors import DataError

Kind = Literal["text", "number", "bool", "list", "time", "other"]

CARD: Final = "README.md"
DOCUMENTS: Final[tuple[str, ...]] = (CARD, "report.json", "run.json", "manifest.json", "CHANGELOG.md")
"""The files beside the tables that the pages read; nothing else is opened."""
MAX_DOCUMENT_BYTES: Final = 4 * 2**20

LISTED: Final = 50
"""Datasets or models a page."""

_HASHED: Final = re.compile(r"[0-9a-f]{64}\.parquet")


@dataclass(frozen=True)
class Part:
    """One split of one config.

    Attributes:
        config: such as `purified` or `panel`.
        split: such as `train`.
        files: Parquet files, in the order of their rows.
        paths: what these files are called within the dataset.
    """

    config: str
    split: str
    files: tuple[Path, ...]
    paths: tuple[str, ...] = ()

    @cached_property
    def identity(self) -> str:
        """What changes when the rows do: hashes where files are named by theirs, else size and time."""
        digest = hashlib.sha256()
        for file in self.files:
            stat = file.stat()
            state = "" if _HASHED.fullmatch(file.name) else f"{file}\0{stat.st_mtime_ns}"
            digest.update(f"{file.name}\0{stat.st_size}\0{state}\n".encode())
        return digest.hexdigest()[:32]

    @cached_property
    def rows_of_files(self) -> tuple[int, ...]:
        """Number of rows of each file.

        Raises:
            DataError: a file is no Parquet.
        """
        return tuple(_metadata(file).num_rows for file in self.files)

    @cached_property
    def columns_of_files(self) -> tuple[frozenset[str], ...]:
        """Names of the columns of each file: those of one split may differ."""
        return tuple(frozenset(_metadata(file).schema.to_arrow_schema().names) for file in self.files)

    @property
    def num_rows(self) -> int:
        """Rows in all."""
        return sum(self.rows_of_files)

    @cached_property
    def num_bytes(self) -> int:
        """Size of the files."""
        return sum(file.stat().st_size for file in self.files)

    @cached_property
    def num_bytes_plain(self) -> int:
        """Size of their columns before compression."""
        found = (_metadata(file) for file in self.files)
        return sum(each.row_group(group).total_byte_size for each in found for group in range(each.num_row_groups))

    def is_whole(self, column: str) -> bool:
        """Whether the files themselves say that a column misses nothing, within its lists neither."""
        noted = (chunk.statistics for chunk in self._chunks(column))
        return all(each is not None and each.has_null_count and each.null_count == 0 for each in noted)

    def bytes_of_column(self, column: str) -> int:
        """Size of a column before compression."""
        return sum(chunk.total_uncompressed_size for chunk in self._chunks(column))

    def _chunks(self, column: str) -> Iterator[pq.ColumnChunkMetaData]:
        """What the files themselves say of a column."""
        for file in self.files:
            footer = _metadata(file)
            places = [at for at in range(footer.num_columns) if footer.schema.column(at).path.split(".")[0] == column]
            for group in range(footer.num_row_groups):
                yield from (footer.row_group(group).column(at) for at in places)

    @cached_property
    def schema(self) -> pa.Schema:
        """Columns and types, those of the first file.

        Raises:
            DataError: the file is no Parquet.
        """
        return _metadata(self.files[0]).schema.to_arrow_schema()

    @cached_property
    def kinds(self) -> Mapping[str, Kind]:
        """Column to what can be asked of it."""
        return {column.name: kind_of(column.type) for column in self.schema}


def joined(parts: Sequence[Part]) -> Part | None:
    """All splits of a config as one part, their rows numbered on; None: there is none."""
    if len(parts) == 1:
        return parts[0]
    return Part(parts[0].config, "*", tuple(file for part in parts for file in part.files)) if parts else None


@dataclass(frozen=True)
class Version:
    """A version of a dataset that can be opened.

    Attributes:
        name: a tag or a branch.
        commit: what it stands for.
        created_at: seconds since 1970; None where nobody noted it.
        message: said with it.
    """

    name: str
    commit: str
    created_at: float | None = None
    message: str = ""


@dataclass(frozen=True)
class Dataset:
    """One version of a dataset, its files at hand.

    Attributes:
        name: `namespace/name`, or a folder's name.
        revision: as it was asked for.
        commit: the immutable id of these files.
        parts: in the order of the card.
        documents: path to bytes, of DOCUMENTS.
        paths: every file of this version.
        private: whether not everybody may see it.
    """

    name: str
    revision: str
    commit: str
    parts: tuple[Part, ...]
    documents: Mapping[str, bytes] = field(default_factory=dict)
    paths: tuple[str, ...] = ()
    private: bool = False

    @property
    def address(self) -> tuple[str, ...]:
        """Segments of the address of its page."""
        return ("datasets", *self.name.split("/"))

    def part(self, config: str | None, split: str | None) -> Part | None:
        """The part of that name; the first of what is not named."""
        fitting = (part for part in self.parts if config in (None, part.config) and split in (None, part.split))
        return next(fitting, None)

    @cached_property
    def configs(self) -> tuple[str, ...]:
        """Names, each once, in order."""
        return tuple(dict.fromkeys(part.config for part in self.parts))

    def of_config(self, config: str) -> tuple[Part, ...]:
        """Its parts."""
        return tuple(part for part in self.parts if part.config == config)

    @cached_property
    def metadata(self) -> Mapping[str, Any]:
        """The YAML block of the card; empty where there is none that can be read."""
        return card_data(self.document(CARD))

    def document(self, path: str) -> str:
        """A document as text; empty where there is none."""
        return self.documents.get(path, b"").decode("utf-8", "replace")

    def json(self, path: str) -> Mapping[str, Any]:
        """A document that is one JSON object; empty where there is none, or none that can be read."""
        return json_object(self.document(path))


@dataclass(frozen=True)
class Listed:
    """A dataset or a model in a list.

    Attributes:
        name: `namespace/name`, or a folder's name.
        private: whether not everybody may see it.
        modified_at: seconds since 1970.
        downloads: counted by the hub; None: nobody counts.
        version: the newest version; None: none has been tagged.
        metadata: the YAML block of its card.
    """

    name: str
    private: bool = False
    modified_at: float | None = None
    downloads: int | None = None
    version: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Listing:
    """Some of the repositories of a list.

    Attributes:
        listed: those of one page.
        num: how many there are in all.
    """

    listed: tuple[Listed, ...]
    num: int


@dataclass(frozen=True, slots=True)
class Download:
    """A file of a dataset, about to be sent.

    Attributes:
        size: in bytes.
        etag: changes with its bytes.
        blocks: gives so many bytes from so far on: (start, length).
        private: whether not everybody may read it.
        location: of the object in the hub's store that holds just these bytes; None: there is none.
    """

    size: int
    etag: str
    blocks: Callable[[int, int], Iterator[bytes]]
    private: bool = False
    location: str | None = None


@dataclass(frozen=True, slots=True)
class Reader:
    """Who is looking; neither: nobody in particular.

    Attributes:
        token: a hub's token that came with the request, not checked yet.
        session: the id of a token, proven by a cookie that the hub signed.
    """

    token: str | None = field(default=None, repr=False)
    session: str | None = None


ANYBODY: Final = Reader()


class Catalogue(Protocol):
    """Where datasets come from: a hub, or one folder. Every call is made off the event loop.

    Whoever implements this decides what a reader may open.
    """

    def find(self, reader: Reader, *, search: str = "", offset: int = 0, length: int = LISTED) -> Listing:
        """The datasets this reader may see, last changed first, those whose name or card holds the words.

        Args:
            reader: who asks.
            search: words, all of which must occur; empty: every dataset.
            offset: datasets to leave out.
            length: datasets wanted.
        """

    def open(self, reader: Reader, name: str, revision: str | None = None) -> Dataset:
        """A version of a dataset; None: the newest state.

        Raises:
            NotFound: there is none, or this reader may not know of it.
            AccessDenied: this reader knows of it and may not read it.
            DataError: its tables cannot be read.
        """

    def versions(self, reader: Reader, name: str) -> Sequence[Version]:
        """Its versions, newest first; raises as `open` does."""

    def download(self, reader: Reader, name: str, revision: str, path: str) -> Download:
        """One of its files, whatever kind it is; raises as `open` does, and NotFound where there is no such file."""


class NotFound(DataError):
    """There is no such dataset, version, part or row, as far as this reader may know."""


class AccessDenied(DataError):
    """The reader knows of it and may not read it."""


class NotReady(DataError):
    """What was asked for is being built or loaded; asking again in a moment helps."""


def kind_of(kind: pa.DataType) -> Kind:
    """What can be asked of a column of this type."""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind):
        return "text"
    if pa.types.is_boolean(kind):
        return "bool"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "number"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return "list"
    return "time" if pa.types.is_temporal(kind) else "other"


def json_object(text: str) -> Mapping[str, Any]:
    """A document that is one JSON object; empty where it is anything else."""
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


@lru_cache(maxsize=64)
def card_data(text: str) -> Mapping[str, Any]:
    """The YAML block of a card; empty where there is none that can be read."""
    # Not above: whoever builds an index imports this module, and has no use for a server.
    from kp_data.hub.server.card_data import read_card

    try:
        return read_card(text)
    except ValueError:
        return {}


def _metadata(file: Path) -> pq.FileMetaData:
    try:
        stat = file.stat()
        return _metadata_as_of(file, stat.st_size, stat.st_mtime_ns)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError("this file cannot be read as Parquet; publish the dataset again", place=file.name) from error


@lru_cache(maxsize=512)
def _metadata_as_of(file: Path, size: int, changed: int) -> pq.FileMetaData:
    """The footer of a file in the state that the other arguments name."""
    return pq.read_metadata(file)
