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
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Final, TypeVar

import sqlalchemy as sa

from kp_data.errors import DataError
from kp_data.hub.explorer.dataset import (
    CARD,
    DOCUMENTS,
    LISTED,
    MAX_DOCUMENT_BYTES,
    AccessDenied,
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
from kp_data.hub.server.auth import Caller, identify, identify_session
from kp_data.hub.server.card_data import read_card
from kp_data.hub.server.commits import read_commit
from kp_data.hub.server.contents import Content, find_content
from kp_data.hub.server.hub import Hub
from kp_data.hub.server.names import RepoName, check_repo
from kp_data.hub.server.refusals import Refusal, entry_not_found
from kp_data.hub.server.repositories import MAIN, Repo, find_repo, list_refs, list_repos, repo_by_id, resolve
from kp_data.hub.server.trees import File, Trees
from kp_data.hub.server.xet_format import BadFormat
from kp_data.hub.versions import Version as Number
from kp_data.tables import replacing

T = TypeVar("T")

CACHE_BYTES: Final = 20 * 2**30
"""How much the tables that were looked at may take."""

_OPEN_AT_ONCE: Final = 64
_LOG = logging.getLogger(__name__)


class HubCatalogue:
    """The datasets of a hub, its tables at hand in a folder."""

    def __init__(self, hub: Hub, folder: Path, *, cache_bytes: int = CACHE_BYTES) -> None:
        self._hub, self.folder, self._cache_bytes = hub, Path(folder), cache_bytes
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._making_room = threading.Lock()
        self._locks = [threading.Lock() for _ in range(64)]
        self._opened = lru_cache(maxsize=_OPEN_AT_ONCE)(self._open)
        self._card = lru_cache(maxsize=4096)(self._read_card)

    def find(self, reader: Reader, *, search: str = "", offset: int = 0, length: int = LISTED) -> Listing:
        """The datasets this reader may see, last changed first, those whose name or card holds the words."""

        def seen(connection: sa.Connection) -> list[Repo]:
            return list(list_repos(connection, _caller(connection, reader), "dataset", author=None, search=None))

        repos, words = self._asked(seen), search.lower().split()
        if not words:
            # Of the others no card is read.
            return Listing(tuple(self._listed(repos[offset : offset + length])), len(repos))
        found = [each for each in self._listed(repos) if all(word in _searched(each) for word in words)]
        return Listing(tuple(found[offset : offset + length]), len(found))

    def open(self, reader: Reader, name: str, revision: str | None = None) -> Dataset:
        """A version of a dataset, its tables fetched; raises as `Catalogue.open` does."""
        repo, commit = self._asked(lambda connection: _resolved(connection, reader, name, revision))
        opened = self._opened(repo.id, commit)
        if not self._at_hand(opened):
            self._opened.cache_clear()
            opened = self._opened(repo.id, commit)
        private = repo.private or bool(repo.gated)
        return replace(opened, name=str(repo.name), revision=revision or MAIN, private=private)

    def versions(self, reader: Reader, name: str) -> Sequence[Version]:
        """Version tags, newest first, then branches and other tags; raises as `Catalogue.open` does."""

        def found(connection: sa.Connection) -> list[Version]:
            repo = find_repo(connection, _caller(connection, reader), _repo_name(name), "read")
            versions = []
            for ref in list_refs(connection, repo):
                commit = read_commit(connection, repo, ref.commit)
                versions.append(Version(ref.name, ref.commit, commit.at, ref.message or commit.title))
            return versions

        return sorted(self._asked(found), key=_age)

    def download(self, reader: Reader, name: str, revision: str, path: str) -> Download:
        """One of its files, as the store holds it; raises as `Catalogue.download` does."""

        def found(connection: sa.Connection) -> tuple[Repo, File, Content]:
            repo, commit = _resolved(connection, reader, name, revision)
            entry = Trees(connection, repo.id).find(read_commit(connection, repo, commit).tree, path)
            if not isinstance(entry, File):
                raise entry_not_found(path[:200], commit)
            return repo, entry, find_content(connection, self._hub, entry.sha256)

        repo, entry, content = self._asked(found)
        at_home = content.location if entry.large else None
        return Download(content.size, entry.etag, content.blocks, repo.private or bool(repo.gated), at_home)

    def _asked(self, work: Callable[[sa.Connection], T]) -> T:
        try:
            return self._hub.database.read(work)
        except Refusal as refusal:
            kind = AccessDenied if refusal.code == "GatedRepo" else NotFound
            raise kind(refusal.message) from refusal

    def _listed(self, repos: Sequence[Repo]) -> Iterator[Listed]:
        newest = self._hub.database.read(lambda connection: [_newest(connection, repo) for repo in repos])
        for repo, (commit, version) in zip(repos, newest, strict=True):
            # Whose contents must be asked for shows no card in a list.
            metadata = self._card(repo.id, commit) if commit and not repo.gated else {}
            yield Listed(str(repo.name), repo.private, repo.modified_at, repo.downloads, version, metadata)

    def _read_card(self, repo_id: str, commit: str) -> Mapping[str, object]:
        files = self._files(repo_id, commit)
        try:
            return read_card(self._document(files[CARD]).decode("utf-8", "replace")) if CARD in files else {}
        except ValueError:
            return {}

    def _open(self, repo_id: str, commit: str) -> Dataset:
        """The files of a commit; the reader's right to them is not asked about here."""
        files = self._files(repo_id, commit)
        documents = {path: self._document(files[path]) for path in DOCUMENTS if path in files}
        dataset = Dataset("", commit, commit, (), documents, tuple(files))
        named = parts_of(list(files), dataset.metadata)
        # What one dataset needs is kept together, even where it is more than the cache should hold.
        keep = {self._place(files[path]) for _, _, paths in named for path in paths}
        parts = tuple(
            Part(config, split, tuple(self._fetched(files[path], keep) for path in paths), paths)
            for config, split, paths in named
        )
        return replace(dataset, parts=parts)

    def _files(self, repo_id: str, commit: str) -> dict[str, File]:
        def found(connection: sa.Connection) -> dict[str, File]:
            tree = read_commit(connection, repo_by_id(connection, repo_id), commit).tree
            return dict(Trees(connection, repo_id).files(tree))

        return self._asked(found)

    def _document(self, file: File) -> bytes:
        content = self._hub.database.read(lambda connection: find_content(connection, self._hub, file.sha256))
        return b"".join(content.blocks(0, min(content.size, MAX_DOCUMENT_BYTES)))

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


def _resolved(connection: sa.Connection, reader: Reader, name: str, revision: str | None) -> tuple[Repo, str]:
    repo = find_repo(connection, _caller(connection, reader), _repo_name(name), "read")
    return repo, resolve(connection, repo, revision or MAIN)


def _repo_name(name: str) -> RepoName:
    namespace, _, last = name.partition("/")
    return check_repo("dataset", namespace, last)


def _newest(connection: sa.Connection, repo: Repo) -> tuple[str | None, str | None]:
    """The commit of the main branch, and the highest version that is tagged."""
    refs = list_refs(connection, repo)
    main = next((ref.commit for ref in refs if (ref.kind, ref.name) == ("branch", MAIN)), None)
    numbers = [number for ref in refs if ref.kind == "tag" and (number := Number.of_tag(ref.name))]
    return main, max(numbers).tag if numbers else None


def _age(version: Version) -> tuple[int, tuple[int, int, int], str]:
    number = Number.of_tag(version.name)
    if number is None:
        return 1, (0, 0, 0), version.name
    return 0, (-number.major, -number.minor, -number.patch), version.name


def _searched(listed: Listed) -> str:
    metadata = listed.metadata
    tags = metadata.get("tags")
    words = [listed.name, metadata.get("pretty_name"), *(tags if isinstance(tags, list) else [])]
    return " ".join(str(word) for word in words if word).lower()


def _caller(connection: sa.Connection, reader: Reader) -> Caller:
    if reader.session is not None:
        return identify_session(connection, reader.session)
    return identify(connection, f"Bearer {reader.token}" if reader.token else None)
