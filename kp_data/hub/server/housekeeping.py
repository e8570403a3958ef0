"""Garbage collection: commits that no branch or tag reaches, and the bytes that only they held.

Nothing that a branch or tag reaches is ever touched, nor what was sent or spoken of within the grace period: somebody
may be about to commit it. Rows go first, in transactions beside which nobody else writes; bytes go when no row names
them. A crash in between leaves bytes that the next collection finds.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass
from functools import partial
from typing import Any, Final

import sqlalchemy as sa

from kp_data.hub.server.commits import history
from kp_data.hub.server.database import (
    COMMITS,
    DEDUP,
    OBJECTS,
    REPO_OBJECTS,
    REPO_XORBS,
    REPOS,
    TREES,
    XET_FILES,
    XORBS,
)
from kp_data.hub.server.hub import Hub
from kp_data.hub.server.refusals import Refusal
from kp_data.hub.server.repositories import Repo, list_refs, repo_by_id
from kp_data.hub.server.trees import File, Folder, Trees
from kp_data.hub.server.xet_format import to_hex, unpack_terms

GRACE_S: Final = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Collected:
    """What a garbage collection freed, or would free.

    Attributes:
        commits: that no reference reaches; likewise `trees`.
        files: bytes of them were stored whole, as xorbs, or both.
        xorbs: runs of chunks.
        bytes: on the disk or in the object store.
        strays: objects without a row, left by a crash; in `bytes` too.
        uploads: begun and never finished.
    """

    commits: int
    trees: int
    files: int
    xorbs: int
    bytes: int
    strays: int
    uploads: int

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Live:
    commits: set[str]
    trees: set[str]
    files: set[str]


@dataclass(frozen=True, slots=True)
class _Freed:
    commits: int = 0
    trees: int = 0
    files: int = 0
    xorbs: int = 0

    def __add__(self, other: _Freed) -> _Freed:
        return _Freed(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))


def collect_garbage(hub: Hub, *, dry_run: bool = False, grace_s: float = GRACE_S) -> Collected:
    """Free what nothing reaches. The hub may go on serving.

    Args:
        hub: whose.
        dry_run: only say what would be freed.
        grace_s: leave alone what was sent or spoken of so recently.
    """
    before = time.time() - grace_s
    freed, locations = _plan(hub, before) if dry_run else _free(hub, before)
    gone = set(locations)
    strays = [location for location in _strays(hub, before) if location not in gone]
    size = sum(_size(hub, location) for location in [*locations, *strays])
    uploads = 0
    if not dry_run:
        for location in [*locations, *strays]:
            hub.objects.delete(location)
        uploads = hub.spool.sweep(before=before)
    return Collected(freed.commits, freed.trees, freed.files, freed.xorbs, size, len(strays), uploads)


def _free(hub: Hub, before: float) -> tuple[_Freed, list[str]]:
    """Delete rows, repository by repository, so that nobody waits for long; what they say of where bytes lie."""
    freed = _Freed()
    for repo in hub.database.read(_all_repos):
        freed += hub.database.write(partial(_free_in_repo, repo_id=repo, before=before), alone=True)
    more, locations = hub.database.write(lambda connection: _free_bytes(connection, before), alone=True)
    return freed + more, locations


def _plan(hub: Hub, before: float) -> tuple[_Freed, list[str]]:
    """The same, all of it undone."""
    found: list[tuple[_Freed, list[str]]] = []

    def work(connection: sa.Connection) -> None:
        freed = _Freed()
        for repo in _all_repos(connection):
            freed += _free_in_repo(connection, repo, before)
        more, locations = _free_bytes(connection, before)
        found.append((freed + more, locations))
        raise _Undone

    with suppress(_Undone):
        hub.database.write(work, alone=True)
    return found[-1]


class _Undone(Exception):
    """Ends the transaction of a dry run."""


def _all_repos(connection: sa.Connection) -> list[str]:
    return list(connection.execute(sa.select(REPOS.c.id).order_by(REPOS.c.id)).scalars())


def _free_in_repo(connection: sa.Connection, repo_id: str, before: float) -> _Freed:
    """What a repository has no use for; nobody else writes meanwhile."""
    try:
        repo = repo_by_id(connection, repo_id)
    except Refusal:
        return _Freed()
    live = _live(connection, repo)
    commits = _delete(
        connection, COMMITS, COMMITS.c.oid, _others(connection, COMMITS, COMMITS.c.oid, repo, live.commits), repo
    )
    trees = _delete(connection, TREES, TREES.c.oid, _others(connection, TREES, TREES.c.oid, repo, live.trees), repo)
    stale = _others(connection, REPO_OBJECTS, REPO_OBJECTS.c.sha256, repo, live.files)
    _delete(connection, REPO_OBJECTS, REPO_OBJECTS.c.sha256, stale, repo, REPO_OBJECTS.c.used_at < before)
    spoken_of = _xorbs_of(connection, repo)
    stale = _others(connection, REPO_XORBS, REPO_XORBS.c.hash, repo, spoken_of)
    if _delete(connection, REPO_XORBS, REPO_XORBS.c.hash, stale, repo, REPO_XORBS.c.used_at < before):
        held = sa.select(REPO_XORBS.c.hash).where(REPO_XORBS.c.repo == repo.id)
        connection.execute(sa.delete(DEDUP).where(DEDUP.c.repo == repo.id, DEDUP.c.xorb.not_in(held)))
        # Clients must not go on believing that these are stored: see `database.REPOS`.
        connection.execute(sa.update(REPOS).where(REPOS.c.id == repo.id).values(epoch=REPOS.c.epoch + 1))
    return _Freed(commits, trees)


def _free_bytes(connection: sa.Connection, before: float) -> tuple[_Freed, list[str]]:
    """What no repository has any use for, and where it lies."""
    files, locations = _free_objects(connection, before)
    xorbs = _free_xorbs(connection, before)
    return _Freed(files=files, xorbs=len(xorbs)), [*locations, *xorbs]


def _live(connection: sa.Connection, repo: Repo) -> _Live:
    live, trees = _Live(set(), set(), set()), Trees(connection, repo.id)
    for ref in list_refs(connection, repo):
        for commit in history(connection, repo, ref.commit):
            if commit.oid in live.commits:
                break
            live.commits.add(commit.oid)
            _mark(trees, commit.tree, live)
    return live


def _mark(trees: Trees, oid: str, live: _Live) -> None:
    if oid in live.trees:
        return
    live.trees.add(oid)
    for entry in trees.read(oid).values():
        if isinstance(entry, File):
            live.files.add(entry.sha256)
        elif isinstance(entry, Folder):
            _mark(trees, entry.oid, live)


def _xorbs_of(connection: sa.Connection, repo: Repo) -> set[str]:
    """The xorbs that the files of a repository consist of."""
    query = sa.select(XET_FILES.c.terms).join(OBJECTS, OBJECTS.c.xet == XET_FILES.c.hash)
    query = query.join(REPO_OBJECTS, REPO_OBJECTS.c.sha256 == OBJECTS.c.sha256).where(REPO_OBJECTS.c.repo == repo.id)
    return {to_hex(term.xorb) for (terms,) in connection.execute(query) for term in unpack_terms(terms)}


def _free_objects(connection: sa.Connection, before: float) -> tuple[int, list[str]]:
    """How many files, and where those lie that were stored whole."""
    spoken_of = sa.exists().where(REPO_OBJECTS.c.sha256 == OBJECTS.c.sha256)
    unused = (OBJECTS.c.seen_at < before, sa.not_(spoken_of))
    gone = connection.execute(sa.delete(OBJECTS).where(*unused).returning(OBJECTS.c.location)).scalars().all()
    has_object = sa.exists().where(OBJECTS.c.xet == XET_FILES.c.hash)
    connection.execute(sa.delete(XET_FILES).where(sa.not_(has_object)))
    return len(gone), [location for location in gone if location]


def _free_xorbs(connection: sa.Connection, before: float) -> list[str]:
    spoken_of = sa.exists().where(REPO_XORBS.c.hash == XORBS.c.hash)
    unused = (XORBS.c.seen_at < before, sa.not_(spoken_of))
    # A file may consist of xorbs that another repository sent.
    needed = {
        to_hex(term.xorb)
        for (terms,) in connection.execute(sa.select(XET_FILES.c.terms))
        for term in unpack_terms(terms)
    }
    stale = [
        digest
        for digest in connection.execute(sa.select(XORBS.c.hash).where(*unused)).scalars()
        if digest not in needed
    ]
    gone = list[str]()
    for some in _blocks(stale):
        statement = sa.delete(XORBS).where(*unused, XORBS.c.hash.in_(some)).returning(XORBS.c.location)
        gone += connection.execute(statement).scalars()
    return gone


def _others(
    connection: sa.Connection, table: sa.Table, column: sa.Column[str], repo: Repo, live: set[str]
) -> list[str]:
    found = connection.execute(sa.select(column).where(table.c.repo == repo.id)).scalars()
    return [key for key in found if key not in live]


def _delete(
    connection: sa.Connection,
    table: sa.Table,
    column: sa.Column[str],
    keys: list[str],
    repo: Repo,
    *unused: sa.ColumnElement[bool],
) -> int:
    return sum(
        connection.execute(sa.delete(table).where(table.c.repo == repo.id, column.in_(some), *unused)).rowcount
        for some in _blocks(keys)
    )


def _strays(hub: Hub, before: float) -> Iterable[str]:
    def known(connection: sa.Connection) -> set[str]:
        queries = (sa.select(OBJECTS.c.location), sa.select(XORBS.c.location))
        return {location for query in queries for location in connection.execute(query).scalars() if location}

    # Listed before the rows are read: what is stored in between has its row by then, or is too young to go.
    stored = [location for location, at in hub.objects.locations() if at < before]
    rows = hub.database.read(known)
    return [location for location in stored if location not in rows]


def _size(hub: Hub, location: str) -> int:
    try:
        with hub.objects.open(location) as file:
            return file.seek(0, 2)
    except OSError:
        return 0


def _blocks(keys: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(keys), 500):
        yield keys[start : start + 500]
