"""The bytes of files: taking them in for a repository, and reading them back, whole or rebuilt from xorbs.

A repository may speak of an object only when somebody who can write to it has sent the bytes to it, or could read them
elsewhere. Knowing a hash opens nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from kp_data.engine import is_reading
from kp_data.hub.server.auth import Caller, require
from kp_data.hub.server.database import OBJECTS, REPO_OBJECTS, REPO_XORBS, REPOS, USERS, XET_FILES, XORBS, put
from kp_data.hub.server.hub import Hub
from kp_data.hub.server.objects import BLOCK_BYTES, digests, read_range
from kp_data.hub.server.refusals import Refusal, bad_request
from kp_data.hub.server.repositories import repo_by_id
from kp_data.hub.server.xet_format import Chunk, Term, to_hex, unpack_chunk, unpack_chunks, unpack_terms

_FEW_XORBS: Final = 8
_NAMESPACE: Final = sa.select(REPOS.c.namespace).where(REPOS.c.id == sa.bindparam("repo"))


@dataclass(frozen=True, slots=True)
class Stored:
    """An object that the store holds and the metadata does not know yet."""

    sha256: str
    git: str
    size: int
    location: str


@dataclass(frozen=True)
class Content:
    """A file's bytes, to be read.

    Attributes:
        sha256: of the whole.
        size: in bytes.
        xet: its hash in Xet's sense; None: not stored as chunks.
    """

    hub: Hub
    sha256: str
    size: int
    location: str | None
    xet: str | None

    def blocks(self, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """`length` bytes from `start` on, a block of about a megabyte at a time."""
        length = self.size - start if length is None else length
        if self.location is not None:
            return read_range(self.hub.objects.open(self.location), start, length)
        return _gathered(rebuild(self.hub, self._terms(), start, length))

    def _terms(self) -> list[Term]:
        query = sa.select(XET_FILES.c.terms).where(XET_FILES.c.hash == self.xet)
        return unpack_terms(self.hub.database.read(lambda connection: connection.execute(query).scalar_one()))


def take_in(hub: Hub, file: Path, *, sha256: str | None = None) -> Stored:
    """Store a file from the spool; durable when it returns.

    Args:
        hub: where to.
        file: in the spool; gone afterwards.
        sha256: what its sender says it is; None: nothing was said.

    Raises:
        Refusal: 400; it is something else.
    """
    with file.open("rb") as opened:
        found, git, size = digests(opened)
    if sha256 not in (None, found):
        raise bad_request(f"these bytes have another hash than {sha256}; send them again")
    return Stored(found, git, size, hub.objects.put(found, file))


def register(connection: sa.Connection, hub: Hub, repo: str, stored: Stored) -> str | None:
    """Let a repository speak of a stored object.

    Returns: a location to delete once the transaction is done, for the object was there before; None: there is none.

    Raises:
        Refusal: 413; its namespace has no room.
    """
    require_room(connection, hub, repo, stored.sha256, stored.size)
    now = time.time()
    row = {"sha256": stored.sha256, "size": stored.size, "location": stored.location, "seen_at": now}
    # Seen now, so that a garbage collection under way keeps it.
    put(connection, OBJECTS, row, update=("seen_at",))
    kept = connection.execute(sa.select(OBJECTS.c.location).where(OBJECTS.c.sha256 == stored.sha256)).scalar()
    if kept is None:
        mine = sa.update(OBJECTS).where(OBJECTS.c.sha256 == stored.sha256)
        connection.execute(mine.values(location=stored.location))
    refer(connection, repo, stored.sha256, stored.size)
    return None if kept in (None, stored.location) else stored.location


def refer(connection: sa.Connection, repo: str, sha256: str, size: int) -> None:
    """Note that a repository may speak of an object, and does so now."""
    row = {"repo": repo, "sha256": sha256, "size": size, "used_at": time.time()}
    put(connection, REPO_OBJECTS, row, update=("used_at",))


def held_size(connection: sa.Connection, repo: str, sha256: str) -> int | None:
    """The size of an object that a repository may speak of; None: it may not."""
    mine = (REPO_OBJECTS.c.repo == repo, REPO_OBJECTS.c.sha256 == sha256)
    return connection.execute(sa.select(REPO_OBJECTS.c.size).where(*mine)).scalar()


def size_elsewhere(connection: sa.Connection, caller: Caller, sha256: str) -> int | None:
    """The size of an object of any repository whose contents the caller may read; None: there is none."""
    query = sa.select(REPO_OBJECTS.c.repo, REPO_OBJECTS.c.size).where(REPO_OBJECTS.c.sha256 == sha256)
    for repo, size in connection.execute(query).all():
        try:
            require(connection, caller, repo_by_id(connection, repo), "read")
        except Refusal:
            continue
        return int(size)
    return None


def find_content(connection: sa.Connection, hub: Hub, sha256: str) -> Content:
    """An object to be read; whether the caller may is decided before."""
    row = connection.execute(sa.select(OBJECTS).where(OBJECTS.c.sha256 == sha256)).one()
    return Content(hub, sha256, row.size, row.location, row.xet)


def require_room(connection: sa.Connection, hub: Hub, repo: str, sha256: str | None, size: int) -> None:
    """Let an object in if its namespace's quota allows it.

    Args:
        connection: within a transaction.
        hub: whose quota.
        repo: the repository's id.
        sha256: what the repository holds already costs nothing again; None: it is new.
        size: in bytes.

    Raises:
        Refusal: 413.
    """
    quota = hub.settings.limits.quota_bytes
    if quota is None or (sha256 is not None and held_size(connection, repo, sha256) is not None):
        return
    require_quota(connection, quota, str(connection.execute(_NAMESPACE, {"repo": repo}).scalar_one()), size)


def require_quota(connection: sa.Connection, quota: int, namespace: str, size: int) -> None:
    """Let so many bytes into a namespace.

    Raises:
        Refusal: 413.
    """
    # Locked where two could count at the same moment, each without what the other brings.
    if not is_reading(connection):
        connection.execute(sa.select(USERS.c.name).where(USERS.c.name == namespace).with_for_update())
    used = used_bytes(connection, namespace)
    if used + size > quota:
        raise Refusal(
            413, f"the quota of this namespace is full: {used} of {quota} bytes are used, {size} were to come"
        )


def used_bytes(connection: sa.Connection, namespace: str) -> int:
    """What the repositories of a namespace hold: their files, or the chunks they were sent if those are more.

    An object counts once a repository; chunks count, too, or whoever never says of which file they are had no limit.
    """
    sums = (
        sa.select(sa.func.coalesce(sa.func.sum(table.c.size), 0)).join(REPOS) for table in (REPO_OBJECTS, REPO_XORBS)
    )
    return max(int(connection.execute(query.where(REPOS.c.namespace == namespace)).scalar_one()) for query in sums)


def rebuild(hub: Hub, terms: list[Term], start: int, length: int) -> Iterator[bytes]:
    """Bytes of a file from its chunks; no more than one chunk is unpacked at a time."""

    @lru_cache(maxsize=_FEW_XORBS)
    def xorb(digest: bytes) -> tuple[str, Sequence[Chunk]]:
        query = sa.select(XORBS.c.location, XORBS.c.chunks).where(XORBS.c.hash == to_hex(digest))
        location, chunks = hub.database.read(lambda connection: connection.execute(query).one())
        return location, unpack_chunks(chunks)

    for term in terms:
        if start >= term.size:
            start -= term.size
            continue
        location, chunks = xorb(term.xorb)
        first = term.start
        while start >= chunks[first].size:
            start -= chunks[first].size
            first += 1
        for plain in _unpacked(hub, location, chunks[: term.end], first):
            if length <= 0:
                return
            part = plain[start : start + length]
            start, length = 0, length - len(part)
            yield part


def _unpacked(hub: Hub, location: str, chunks: Sequence[Chunk], first: int) -> Iterator[bytes]:
    """The chunks of a xorb from the one numbered `first` on."""
    at = chunks[first - 1].end if first else 0
    with hub.objects.open(location) as file:
        file.seek(at)
        for chunk in chunks[first:]:
            yield unpack_chunk(file.read(chunk.end - at))
            at = chunk.end


def _gathered(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in larger blocks: a block costs a turn of the event loop."""
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= BLOCK_BYTES:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)
