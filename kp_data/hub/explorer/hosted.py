"""The datasets of a hub, for the explorer: who may see what is decided by the hub itself, at every request.

Tables lie in the hub's object store, often as chunks; a table that somebody looks at is written whole into a folder of
its own, named by its hash. What has not been looked at for longest makes room.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Sequence, Set
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Final

from kp_data.errors import DataError
from kp_data.hub.explorer.dataset import (
    DOCUMENTS,
    LISTED,
    Dataset,
    Download,
    Listing,
    Part,
    Reader,
    Version,
)
from kp_data.hub.explorer.layout import parts_of
from kp_data.hub.explorer.published import Published, is_private
from kp_data.hub.server.contents import find_content
from kp_data.hub.server.hub import Hub
from kp_data.hub.server.repositories import MAIN
from kp_data.hub.server.trees import File
from kp_data.hub.server.xet_format import BadFormat
from kp_data.tables import replacing

CACHE_BYTES: Final = 20 * 2**30
"""How much the tables that were looked at may take."""

_OPEN_AT_ONCE: Final = 64
_LOG = logging.getLogger(__name__)


class HubCatalogue:
    """The datasets of a hub, its tables at hand in a folder."""

    def __init__(self, hub: Hub, folder: Path, *, cache_bytes: int = CACHE_BYTES) -> None:
        self._hub, self._published = hub, Published(hub, "dataset")
        self.folder, self._cache_bytes = Path(folder), cache_bytes
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._making_room = threading.Lock()
        self._locks = [threading.Lock() for _ in range(64)]
        self._opened = lru_cache(maxsize=_OPEN_AT_ONCE)(self._open)

    def find(self, reader: Reader, *, search: str = "", offset: int = 0, length: int = LISTED) -> Listing:
        """The datasets this reader may see, last changed first, those whose name or card holds the words."""
        return self._published.find(reader, search=search, offset=offset, length=length)

    def open(self, reader: Reader, name: str, revision: str | None = None) -> Dataset:
        """A version of a dataset, its tables fetched; raises as `Catalogue.open` does."""
        repo, commit = self._published.resolved(reader, name, revision)
        opened = self._opened(repo.id, commit)
        if not self._at_hand(opened):
            self._opened.cache_clear()
            opened = self._opened(repo.id, commit)
        return replace(opened, name=str(repo.name), revision=revision or MAIN, private=is_private(repo))

    def versions(self, reader: Reader, name: str) -> Sequence[Version]:
        """Version tags, newest first, then branches and other tags; raises as `Catalogue.open` does."""
        return self._published.versions(reader, name)

    def download(self, reader: Reader, name: str, revision: str, path: str) -> Download:
        """One of its files, as the store holds it; raises as `Catalogue.download` does."""
        return self._published.download(reader, name, revision, path)

    def _open(self, repo_id: str, commit: str) -> Dataset:
        """The files of a commit; the reader's right to them is not asked about here."""
        files = self._published.files(repo_id, commit)
        documents = {path: self._published.document(files[path]) for path in DOCUMENTS if path in files}
        dataset = Dataset("", commit, commit, (), documents, tuple(files))
        named = parts_of(list(files), dataset.metadata)
        # What one dataset needs is kept together, even where it is more than the cache should hold.
        keep = {self._place(files[path]) for _, _, paths in named for path in paths}
        parts = tuple(
            Part(config, split, tuple(self._fetched(files[path], keep) for path in paths), paths)
            for config, split, paths in named
        )
        return replace(dataset, parts=parts)

    def _place(self, file: File) -> Path:
        return self.folder / f"{file.sha256}.parquet"

    def _fetched(self, file: File, keep: Set[Path]) -> Path:
        """The table as a file of its own; others than those to keep may go for it."""
        path = self._place(file)
        # A large table holds up those who want it, too, and nobody else.
        with self._locks[int(file.sha256[:4], 16) % len(self._locks)]:
            if not path.is_file():
                with self._making_room:
                    self._make_room(file.size, keep)
                self._fetch(file, path)
        return path

    def _fetch(self, file: File, path: Path) -> None:
        content = self._hub.database.read(lambda connection: find_content(connection, self._hub, file.sha256))
        digest = hashlib.sha256()
        with replacing(path) as temporary:
            with suppress(BadFormat), temporary.open("wb") as opened:
                for block in content.blocks():
                    digest.update(block)
                    opened.write(block)
            if digest.hexdigest() != file.sha256:
                raise DataError("the stored bytes of a table have changed; publish it again", place=file.sha256[:12])

    def _make_room(self, size: int, keep: Set[Path]) -> None:
        held = sorted(self.folder.glob("*.parquet"), key=lambda path: path.stat().st_atime_ns)
        used = sum(path.stat().st_size for path in held)
        for oldest in (path for path in held if path not in keep):
            if used + size <= self._cache_bytes:
                break
            used -= oldest.stat().st_size
            oldest.unlink(missing_ok=True)
            _LOG.info("made room: %s", oldest.name)

    def _at_hand(self, dataset: Dataset) -> bool:
        """Whether its tables are still there; notes that they were looked at, which file systems often do not."""
        for file in (file for part in dataset.parts for file in part.files):
            try:
                os.utime(file, ns=(time.time_ns(), file.stat().st_mtime_ns))
            except FileNotFoundError:
                return False
        return True
