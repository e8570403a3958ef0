"""A panel, purified or release folder as the explorer's only dataset: no hub, no token."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from kp_data.errors import DataError
from kp_data.hub.explorer.dataset import (
    DOCUMENTS,
    LISTED,
    MAX_DOCUMENT_BYTES,
    Dataset,
    Download,
    Listed,
    Listing,
    NotFound,
    Part,
    Reader,
    Version,
)
from kp_data.hub.explorer.layout import parts_of
from kp_data.hub.server.card_data import read_card
from kp_data.hub.server.objects import read_range

REVISION: Final = "main"
EVERY_SPLIT: Final = "all"
"""The split of a part whose rows say themselves which split they belong to."""

_TABLES: Final = {"purified.parquet": "purified", "questions.parquet": "questions", "responses.parquet": "panel"}
_GLOB: Final = frozenset("*?[]{}")


class FolderCatalogue:
    """One folder, read anew whenever its files change."""

    def __init__(self, folder: Path) -> None:
        """Look what the folder holds.

        Raises:
            DataError: it holds no tables.
        """
        self.folder = Path(folder).resolve()
        if not self.folder.is_dir():
            raise DataError("no such folder; give a panel folder or a purified folder", place=folder)
        # The name becomes one segment of an address.
        self.name = f"local/{self.folder.name or 'data'}"
        self._open()

    def find(self, reader: Reader, *, search: str = "", offset: int = 0, length: int = LISTED) -> Listing:
        """The one dataset."""
        dataset = self._open()
        modified = max(file.stat().st_mtime for part in dataset.parts for file in part.files)
        listed = Listed(self.name, modified_at=modified, metadata=dataset.metadata)
        found = (listed,) if search.lower() in self.name.lower() else ()
        return Listing(found[offset : offset + length], len(found))

    def open(self, reader: Reader, name: str, revision: str | None = None) -> Dataset:
        """The folder as it is now.

        Raises:
            NotFound: another name or revision.
            DataError: its tables cannot be read.
        """
        dataset = self._open()
        if name != self.name or revision not in (None, REVISION, dataset.commit):
            raise NotFound("there is no such dataset here", place=name)
        return dataset

    def versions(self, reader: Reader, name: str) -> Sequence[Version]:
        """The folder as it is now."""
        return [Version(REVISION, self.open(reader, name).commit)]

    def download(self, reader: Reader, name: str, revision: str, path: str) -> Download:
        """A table or a document; nothing else of the folder is given away."""
        dataset = self.open(reader, name, revision)
        if path not in dataset.paths:
            raise NotFound("the dataset has no such file", place=path[:200])
        file = self.folder / path
        stat = file.stat()
        return Download(
            stat.st_size,
            f"{stat.st_mtime_ns:x}-{stat.st_size:x}",
            lambda start, length: read_range(file.open("rb"), start, length),
        )

    def _open(self) -> Dataset:
        files = sorted(file for file in self.folder.rglob("*.parquet") if _is_table(file.relative_to(self.folder)))
        if not files:
            raise DataError("no panel, purified or release folder: it holds no tables", place=self.folder)
        if bad := next((file for file in files if _GLOB & set(str(file))), None):
            raise DataError("characters such as * and [ in a path cannot be browsed; rename the folder", place=bad)
        paths = [str(file.relative_to(self.folder)) for file in files]
        documents = {name: _read(self.folder / name) for name in DOCUMENTS if (self.folder / name).is_file()}
        parts = tuple(self._parts(paths, documents))
        return Dataset(self.name, REVISION, _state(files), parts, documents, (*documents, *paths))

    def _parts(self, paths: Sequence[str], documents: dict[str, bytes]) -> list[Part]:
        whole = [path for path in paths if path in _TABLES]
        if whole:
            order = list(_TABLES)
            return [
                Part(_TABLES[path], EVERY_SPLIT, (self.folder / path,), (path,))
                for path in sorted(whole, key=order.index)
            ]
        try:
            metadata = read_card(documents.get("README.md", b"").decode("utf-8", "replace"))
        except ValueError:
            metadata = {}
        return [
            Part(config, split, tuple(self.folder / path for path in found), found)
            for config, split, found in parts_of(paths, metadata)
        ]


def _is_table(path: Path) -> bool:
    """Those of a folder of ours: tables at its top, or shards one folder below; not a store, a cache or a router."""
    return str(path) in _TABLES or (len(path.parts) == 2 and path.parts[0] in ("purified", "panel"))


def _read(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(MAX_DOCUMENT_BYTES)


def _state(files: Sequence[Path]) -> str:
    """Forty digits that change when a file does."""
    digest = hashlib.sha256()
    for file in files:
        stat = file.stat()
        digest.update(f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:40]
