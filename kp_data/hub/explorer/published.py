"""Repositories of a hub as its pages read them: who may see what is decided by the hub itself, at every request."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final, Literal, TypeVar

import sqlalchemy as sa

from kp_data.hub.explorer.dataset import (
    CARD,
    LISTED,
    MAX_DOCUMENT_BYTES,
    AccessDenied,
    Download,
    Listed,
    Listing,
    NotFound,
    Reader,
    Version,
)
from kp_data.hub.server.auth import Caller, identify, identify_session
from kp_data.hub.server.card_data import read_card
from kp_data.hub.server.commits import read_commit
from kp_data.hub.server.contents import Content, find_content
from kp_data.hub.server.hub import Hub
from kp_data.hub.server.names import RepoName, check_repo
from kp_data.hub.server.refusals import Refusal, entry_not_found
from kp_data.hub.server.repositories import MAIN, Repo, find_repo, list_refs, list_repos, repo_by_id, resolve
from kp_data.hub.server.trees import File, Trees
from kp_data.hub.versions import Version as Number

T = TypeVar("T")

_CARDS: Final = 4096
"""Cards of which the metadata is remembered."""


class Published:
    """The repositories of one type.

    Args:
        hub: whose they are.
        kind: their type.
    """

    def __init__(self, hub: Hub, kind: Literal["dataset", "model"]) -> None:
        self.hub, self._kind = hub, kind
        self._card = lru_cache(maxsize=_CARDS)(self._read_card)

    def find(self, reader: Reader, *, search: str = "", offset: int = 0, length: int = LISTED) -> Listing:
        """Those this reader may see, last changed first, whose name or card holds the words."""

        def seen(connection: sa.Connection) -> list[Repo]:
            return list(list_repos(connection, _caller(connection, reader), self._kind, author=None, search=None))

        repos, words = self.asked(seen), search.lower().split()
        if not words:
            # Of the others no card is read.
            return Listing(tuple(self._listed(repos[offset : offset + length])), len(repos))
        found = [each for each in self._listed(repos) if all(word in _searched(each) for word in words)]
        return Listing(tuple(found[offset : offset + length]), len(found))

    def resolved(self, reader: Reader, name: str, revision: str | None) -> tuple[Repo, str]:
        """A repository and the commit of a revision, by default of its main branch.

        Raises:
            NotFound: there is none, or this reader may not know of it.
            AccessDenied: this reader knows of it and may not read it.
        """
        return self.asked(lambda connection: self._resolved(connection, reader, name, revision))

    def versions(self, reader: Reader, name: str) -> Sequence[Version]:
        """Version tags, newest first, then branches and other tags; raises as `resolved` does."""

        def found(connection: sa.Connection) -> list[Version]:
            repo = find_repo(connection, _caller(connection, reader), self._name(name), "read")
            versions = []
            for ref in list_refs(connection, repo):
                commit = read_commit(connection, repo, ref.commit)
                versions.append(Version(ref.name, ref.commit, commit.at, ref.message or commit.title))
            return versions

        return sorted(self.asked(found), key=_age)

    def download(self, reader: Reader, name: str, revision: str, path: str) -> Download:
        """One file, as the store holds it; raises as `resolved` does, and NotFound where there is no such file."""

        def found(connection: sa.Connection) -> tuple[Repo, File, Content]:
            repo, commit = self._resolved(connection, reader, name, revision)
            entry = Trees(connection, repo.id).find(read_commit(connection, repo, commit).tree, path)
            if not isinstance(entry, File):
                raise entry_not_found(path[:200], commit)
            return repo, entry, find_content(connection, self.hub, entry.sha256)

        repo, entry, content = self.asked(found)
        at_home = content.location if entry.large else None
        return Download(content.size, entry.etag, content.blocks, is_private(repo), at_home)

    def files(self, repo_id: str, commit: str) -> dict[str, File]:
        """Every file of a commit; the reader's right to them is not asked about here."""

        def found(connection: sa.Connection) -> dict[str, File]:
            tree = read_commit(connection, repo_by_id(connection, repo_id), commit).tree
            return dict(Trees(connection, repo_id).files(tree))

        return self.asked(found)

    def document(self, file: File) -> bytes:
        """A small file, or the beginning of one that is not."""
        content = self.hub.database.read(lambda connection: find_content(connection, self.hub, file.sha256))
        return b"".join(content.blocks(0, min(content.size, MAX_DOCUMENT_BYTES)))

    def asked(self, work: Callable[[sa.Connection], T]) -> T:
        """What the metadata say; a refusal of the hub's becomes an error of a page's."""
        try:
            return self.hub.database.read(work)
        except Refusal as refusal:
            kind = AccessDenied if refusal.code == "GatedRepo" else NotFound
            raise kind(refusal.message) from refusal

    def _resolved(self, connection: sa.Connection, reader: Reader, name: str, revision: str | None) -> tuple[Repo, str]:
        repo = find_repo(connection, _caller(connection, reader), self._name(name), "read")
        return repo, resolve(connection, repo, revision or MAIN)

    def _name(self, name: str) -> RepoName:
        namespace, _, last = name.partition("/")
        return check_repo(self._kind, namespace, last)

    def _listed(self, repos: Sequence[Repo]) -> Iterator[Listed]:
        newest = self.hub.database.read(lambda connection: [_newest(connection, repo) for repo in repos])
        for repo, (commit, version) in zip(repos, newest, strict=True):
            # Whose contents must be asked for shows no card in a list.
            metadata = self._card(repo.id, commit) if commit and not repo.gated else {}
            yield Listed(str(repo.name), repo.private, repo.modified_at, repo.downloads, version, metadata)

    def _read_card(self, repo_id: str, commit: str) -> Mapping[str, object]:
        files = self.files(repo_id, commit)
        try:
            return read_card(self.document(files[CARD]).decode("utf-8", "replace")) if CARD in files else {}
        except ValueError:
            return {}


def is_private(repo: Repo) -> bool:
    """Whether not everybody may read it."""
    return repo.private or bool(repo.gated)


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
