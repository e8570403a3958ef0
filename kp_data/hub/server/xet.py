"""Xet storage: xorbs and shards taken in, files laid out for download, and chunks that are known already.

A shard may speak of those xorbs only that its sender has put into the same repository. Each repository has a storage
address of its own, because clients remember by address what is stored: what they learnt of one repository they never
claim of another.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from kp_data.hub.server.contents import rebuild, refer, require_room
from kp_data.hub.server.database import DEDUP, OBJECTS, REPO_OBJECTS, REPO_XORBS, XET_FILES, XORBS, put
from kp_data.hub.server.hub import Hub
from kp_data.hub.server.names import check_digest
from kp_data.hub.server.refusals import Refusal, bad_request
from kp_data.hub.server.repositories import Repo
from kp_data.hub.server.xet_format import (
    MAX_CHUNKS,
    BadFormat,
    Chunk,
    ShardFile,
    Term,
    build_shard,
    file_hash,
    from_hex,
    is_dedup_key,
    merkle_root,
    pack_chunks,
    pack_terms,
    range_hash,
    read_shard,
    read_xorb,
    to_hex,
    unpack_chunks,
    unpack_terms,
)

DEDUP_LASTS_S: Final = 7 * 24 * 3600.0
_MAX_DEDUP_XORBS: Final = 64
_MAX_DEDUP_CHUNKS: Final = 64 * 1024
_FILES_A_TRANSACTION: Final = 500
_MIN_CHUNK_BYTES: Final = 1024
_FREE_CHUNKS: Final = 2**16
"""A file may have so many chunks of any size; the protocol cuts none below 8 KiB but the last."""


@dataclass(frozen=True, slots=True)
class _Xorb:
    location: str
    size: int
    chunks: Sequence[Chunk]


@dataclass(frozen=True, slots=True)
class _Checked:
    """A file of a shard that is what the shard says, and the hash of its first chunk."""

    file: ShardFile
    sha256: str
    size: int
    begin: str | None


def take_xorb(hub: Hub, repo: Repo, digest: str, file: Path) -> bool:
    """Check a serialised xorb and store it for a repository.

    Args:
        hub: where to.
        repo: whose shards may speak of it then.
        digest: what its sender says it is.
        file: in the spool; gone afterwards.

    Returns: whether it was new to the repository. Whether others hold it, too, is nobody's business.

    Raises:
        Refusal: 400; damaged, or something else. 413; no room.
    """
    size = file.stat().st_size
    try:
        with file.open("rb") as opened:
            chunks = []
            for chunk, _ in read_xorb(opened, size):
                chunks.append(chunk)
                if len(chunks) > MAX_CHUNKS:
                    raise BadFormat("more chunks than a xorb may hold")
    except BadFormat as error:
        raise bad_request(f"not a xorb: {error}") from error
    if not chunks or to_hex(merkle_root([(chunk.hash, chunk.size) for chunk in chunks])) != digest:
        raise bad_request("the xorb's chunks have another hash than its address says")
    # Before it is stored, to spare the work; and again when it counts.
    hub.database.read(lambda connection: _require_room(connection, hub, repo, digest, size))
    location = hub.objects.put(digest, file)
    xorb, is_needed = _Xorb(location, size, chunks), False
    try:
        is_new, is_needed = hub.database.write(lambda connection: _keep_xorb(connection, hub, repo, digest, xorb))
        return is_new
    finally:
        if not is_needed:
            hub.objects.delete(location)


def take_shard(hub: Hub, repo: Repo, data: bytes) -> None:
    """Check the files that a shard describes against the xorbs' own bytes, and let the repository speak of them.

    Raises:
        Refusal: 400; damaged, it speaks of xorbs that this repository does not hold, or a hash is wrong. 413.
    """
    checked: dict[bytes, _Checked] = {}
    left = hub.settings.limits.object_bytes
    try:
        for file in read_shard(data):
            if file.hash not in checked:
                checked[file.hash] = _check_file(hub, repo, file, left)
                left -= checked[file.hash].size
            if len(checked) == _FILES_A_TRANSACTION:
                _keep_files(hub, repo, checked)
    except BadFormat as error:
        raise bad_request(f"not a shard: {error}") from error
    _keep_files(hub, repo, checked)


def layout(connection: sa.Connection, repo: Repo, digest: str, *, start: int, end: int | None) -> dict[str, Any]:
    """How a file, or the bytes from `start` up to but without `end`, is put together from xorbs.

    Returns: the answer of `GET /v1/reconstructions`, where each fetch holds `packed` (first and last byte in the
        serialised xorb) in place of an address, which the caller signs.

    Raises:
        Refusal: 404 when the repository does not hold the file; 416.
    """
    mine = sa.select(XET_FILES.c.size, XET_FILES.c.terms).join(OBJECTS, OBJECTS.c.xet == XET_FILES.c.hash)
    mine = mine.join(REPO_OBJECTS, REPO_OBJECTS.c.sha256 == OBJECTS.c.sha256)
    row = connection.execute(mine.where(XET_FILES.c.hash == digest, REPO_OBJECTS.c.repo == repo.id)).first()
    if row is None:
        raise Refusal(404, "no such file in this repository")
    end = row.size if end is None else min(end, row.size)
    if start >= end and row.size:
        raise Refusal(416, "no byte of the file lies in this range")
    terms, skipped = _cut(unpack_terms(row.terms), start, end)
    xorbs = _xorbs(connection, {term.xorb for term in terms})
    terms, skipped = _cut_chunks(terms, xorbs, skipped, end - start)
    fetch: dict[str, list[dict[str, Any]]] = {}
    for xorb, first, after in _disjoint(terms):
        chunks = xorbs[xorb].chunks
        packed = (chunks[first - 1].end if first else 0, chunks[after - 1].end - 1)
        fetch.setdefault(to_hex(xorb), []).append({"range": {"start": first, "end": after}, "packed": packed})
    rows = [
        {"hash": to_hex(t.xorb), "unpacked_length": t.size, "range": {"start": t.start, "end": t.end}} for t in terms
    ]
    return {"offset_into_first_range": skipped, "terms": rows, "fetch_info": fetch}


def known_chunks(
    connection: sa.Connection, repo: Repo, chunk: str, told: Collection[str] = ()
) -> tuple[bytes, list[str]] | None:
    """A shard of xorbs that a client on another machine had better know before it sends anything to a repository.

    Those that hold the chunk it asks for come first, then what was sent or spoken of last, whether it holds the chunk
    or not: clients ask for few chunks, and one edit at the beginning of a file would hide all that follows.

    Args:
        connection: within a transaction.
        repo: whose xorbs; of others nothing is told.
        chunk: that the client asks for.
        told: hashes of xorbs that it has been told of.

    Returns: the shard, and the hashes of the xorbs in it; None: there is nothing more to tell.
    """
    holds = sa.exists().where(DEDUP.c.repo == repo.id, DEDUP.c.chunk == chunk, DEDUP.c.xorb == REPO_XORBS.c.hash)
    latest = sa.select(REPO_XORBS.c.hash).where(REPO_XORBS.c.repo == repo.id)
    latest = latest.order_by(sa.case((holds, 0), else_=1), REPO_XORBS.c.used_at.desc()).limit(_MAX_DEDUP_XORBS)
    xorbs: list[tuple[bytes, int, Sequence[Chunk]]] = []
    room = _MAX_DEDUP_CHUNKS
    for digest in [digest for digest in connection.execute(latest).scalars() if digest not in told]:
        row = connection.execute(sa.select(XORBS.c.size, XORBS.c.chunks).where(XORBS.c.hash == digest)).one()
        chunks = unpack_chunks(row.chunks)
        if (room := room - len(chunks)) < 0:
            break
        xorbs.append((from_hex(digest), row.size, chunks))
    if not xorbs:
        return None
    return build_shard(xorbs, lasts_s=DEDUP_LASTS_S), [to_hex(digest) for digest, _, _ in xorbs]


def use_xorbs(connection: sa.Connection, repo: Repo, digests: Iterable[str]) -> bool:
    """Note that xorbs of a repository are in use from now on; whether all of them are still there."""
    now, there = time.time(), True
    for digest in digests:
        used = sa.update(REPO_XORBS).where(REPO_XORBS.c.repo == repo.id, REPO_XORBS.c.hash == digest)
        there &= connection.execute(used.values(used_at=now)).rowcount == 1
    return there


def find_xorb(connection: sa.Connection, digest: str) -> str:
    """Where a xorb lies; only for addresses that the hub has signed.

    Raises:
        Refusal: 404.
    """
    found = connection.execute(sa.select(XORBS.c.location).where(XORBS.c.hash == check_digest(digest))).scalar()
    if found is None:
        raise Refusal(404, "no such xorb")
    return str(found)


def _keep_xorb(connection: sa.Connection, hub: Hub, repo: Repo, digest: str, xorb: _Xorb) -> tuple[bool, bool]:
    """Whether it is new to the repository, and whether this copy is the one that stays."""
    is_new = _require_room(connection, hub, repo, digest, xorb.size)
    now = time.time()
    row = {"hash": digest, "size": xorb.size, "chunks": pack_chunks(xorb.chunks), "location": xorb.location}
    put(connection, XORBS, row | {"seen_at": now}, update=("seen_at",))
    kept = connection.execute(sa.select(XORBS.c.location).where(XORBS.c.hash == digest)).scalar_one()
    mine = {"repo": repo.id, "hash": digest, "size": xorb.size, "used_at": now}
    put(connection, REPO_XORBS, mine, update=("used_at",))
    for chunk in xorb.chunks:
        if is_dedup_key(chunk.hash):
            put(connection, DEDUP, {"repo": repo.id, "chunk": to_hex(chunk.hash), "xorb": digest})
    return is_new, bool(kept == xorb.location)


def _require_room(connection: sa.Connection, hub: Hub, repo: Repo, digest: str, size: int) -> bool:
    """Let a xorb in if there is room for it; whether it is new to the repository."""
    mine = (REPO_XORBS.c.repo == repo.id, REPO_XORBS.c.hash == digest)
    if connection.execute(sa.select(REPO_XORBS.c.hash).where(*mine)).first() is not None:
        return False
    require_room(connection, hub, repo.id, None, size)
    return True


def _check_file(hub: Hub, repo: Repo, file: ShardFile, room: int) -> _Checked:
    """A file of a shard, compared with what the xorbs really hold; at most `room` bytes long."""
    size = sum(term.size for term in file.terms)
    if size > room:
        raise Refusal(413, f"a shard may describe {hub.settings.limits.object_bytes} bytes")
    digests = {term.xorb for term in file.terms}

    def look(connection: sa.Connection) -> tuple[Mapping[bytes, _Xorb], str | None]:
        _require_held(connection, repo, digests)
        return _xorbs(connection, digests), _sha256_of(connection, to_hex(file.hash))

    xorbs, known = hub.database.read(look)
    if file_hash(_leaves(file, xorbs)) != file.hash:
        raise bad_request("a file of the shard has another hash than the shard says")
    sha256 = known or _sha256(hub, file.terms, size)
    if file.sha256 not in (None, sha256):
        raise bad_request("a file of the shard has another SHA-256 than the shard says")
    begin = to_hex(xorbs[file.terms[0].xorb].chunks[file.terms[0].start].hash) if file.terms else None
    return _Checked(file, sha256, size, begin)


def _leaves(file: ShardFile, xorbs: Mapping[bytes, _Xorb]) -> Iterator[tuple[bytes, int]]:
    """The file's chunks; every term lies in its xorb, is as large as it says, and its sender knows its chunks."""
    if len(file.range_hashes) != len(file.terms):
        raise bad_request("a file of the shard does not prove that its sender knows its chunks")
    num_chunks = size = 0
    for term, proof in zip(file.terms, file.range_hashes, strict=True):
        chunks = xorbs[term.xorb].chunks
        part = chunks[term.start : term.end]
        if not 0 <= term.start < term.end <= len(chunks) or sum(chunk.size for chunk in part) != term.size:
            raise bad_request("a term of the shard does not fit its xorb")
        if range_hash(chunk.hash for chunk in part) != proof:
            raise bad_request("a term of the shard has another hash than the shard says")
        num_chunks, size = num_chunks + len(part), size + term.size
        # Chunks of a byte each, named over and over, would be work for days.
        if num_chunks > _FREE_CHUNKS + size // _MIN_CHUNK_BYTES:
            raise bad_request("the file's chunks are smaller than the protocol cuts them")
        yield from ((chunk.hash, chunk.size) for chunk in part)


def _require_held(connection: sa.Connection, repo: Repo, digests: set[bytes]) -> None:
    mine = sa.select(REPO_XORBS.c.hash).where(REPO_XORBS.c.repo == repo.id)
    for digest in digests:
        if connection.execute(mine.where(REPO_XORBS.c.hash == to_hex(digest))).first() is None:
            raise bad_request("a file of the shard lies in a xorb that has not been uploaded to this repository")


def _xorbs(connection: sa.Connection, digests: set[bytes]) -> dict[bytes, _Xorb]:
    found = {}
    for digest in digests:
        row = connection.execute(sa.select(XORBS).where(XORBS.c.hash == to_hex(digest))).one()
        found[digest] = _Xorb(row.location, row.size, unpack_chunks(row.chunks))
    return found


def _keep_files(hub: Hub, repo: Repo, checked: dict[bytes, _Checked]) -> None:
    """Let the repository speak of checked files, and forget that they wait for it."""

    def work(connection: sa.Connection) -> None:
        digests = {term.xorb for found in checked.values() for term in found.file.terms}
        # Again: a garbage collection may have come between. From now on they are in use.
        _require_held(connection, repo, digests)
        use_xorbs(connection, repo, map(to_hex, digests))
        for found in checked.values():
            _keep_file(connection, hub, repo, found)

    if checked:
        hub.database.write(work)
    checked.clear()


def _sha256(hub: Hub, terms: Sequence[Term], size: int) -> str:
    found = hashlib.sha256()
    for block in rebuild(hub, list(terms), 0, size):
        found.update(block)
    return found.hexdigest()


def _sha256_of(connection: sa.Connection, digest: str) -> str | None:
    """A file whose hash in Xet's sense is known need not be rebuilt: that hash covers every byte."""
    return connection.execute(sa.select(OBJECTS.c.sha256).where(OBJECTS.c.xet == digest)).scalar()


def _keep_file(connection: sa.Connection, hub: Hub, repo: Repo, found: _Checked) -> None:
    file, sha256, size = found.file, found.sha256, found.size
    require_room(connection, hub, repo.id, sha256, size)
    digest = to_hex(file.hash)
    put(connection, XET_FILES, {"hash": digest, "size": size, "terms": pack_terms(file.terms)})
    row = {"sha256": sha256, "size": size, "xet": digest, "seen_at": time.time()}
    put(connection, OBJECTS, row, update=("seen_at",))
    unset = sa.and_(OBJECTS.c.sha256 == sha256, OBJECTS.c.xet.is_(None))
    connection.execute(sa.update(OBJECTS).where(unset).values(xet=digest))
    refer(connection, repo.id, sha256, size)
    if found.begin is not None:
        put(connection, DEDUP, {"repo": repo.id, "chunk": found.begin, "xorb": to_hex(file.terms[0].xorb)})


def _disjoint(terms: Sequence[Term]) -> Iterator[tuple[bytes, int, int]]:
    """(xorb, first chunk, chunk after the last) of what is to be fetched; ranges that overlap become one."""
    spans = sorted({(term.xorb, term.start, term.end) for term in terms})
    for xorb, group in itertools.groupby(spans, key=lambda span: span[0]):
        merged: list[tuple[int, int]] = []
        for _, start, end in group:
            if merged and start < merged[-1][1]:
                merged[-1] = (merged[-1][0], max(merged[-1][1], end))
            else:
                merged.append((start, end))
        yield from ((xorb, start, end) for start, end in merged)


def _cut(terms: list[Term], start: int, end: int) -> tuple[list[Term], int]:
    """The terms that hold these bytes, and how many bytes to skip in the first."""
    kept: list[Term] = []
    at = skipped = 0
    for term in terms:
        if at + term.size > start and at < end:
            if not kept:
                skipped = start - at
            kept.append(term)
        at += term.size
    return kept, skipped


def _cut_chunks(terms: list[Term], xorbs: Mapping[bytes, _Xorb], skipped: int, length: int) -> tuple[list[Term], int]:
    """The same without the chunks at both ends that hold none of the bytes."""
    if not terms:
        return terms, skipped
    first = terms[0]
    chunks = xorbs[first.xorb].chunks
    begin, size = first.start, first.size
    while skipped >= chunks[begin].size:
        skipped, size, begin = skipped - chunks[begin].size, size - chunks[begin].size, begin + 1
    terms = [Term(first.xorb, begin, first.end, size), *terms[1:]]
    spare = sum(term.size for term in terms) - skipped - length
    last = terms[-1]
    chunks = xorbs[last.xorb].chunks
    end, size = last.end, last.size
    while end - 1 > last.start and spare >= chunks[end - 1].size:
        spare, size, end = spare - chunks[end - 1].size, size - chunks[end - 1].size, end - 1
    return [*terms[:-1], Term(last.xorb, last.start, end, size)], skipped
