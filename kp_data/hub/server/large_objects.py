"""The large files of a repository as objects: what takes up room, and taking it away for good.

A commit never changes and never loses a file. To take an object away is therefore to write the history anew without
it: branches and tags then stand at new commits, and the old ones are gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa

from kp_data.hub.server.commits import Commit, history, rewrite
from kp_data.hub.server.contents import held_size, refer, require_room
from kp_data.hub.server.database import COMMITS, REFS, REPO_OBJECTS
from kp_data.hub.server.hub import Hub
from kp_data.hub.server.refusals import bad_request
from kp_data.hub.server.repositories import Repo, list_refs, lock_repo
from kp_data.hub.server.trees import File, Folder, Trees


@dataclass(frozen=True, slots=True)
class LargeObject:
    """An object that a repository holds.

    Attributes:
        sha256: of its bytes.
        size: in bytes.
        used_at: when it was last sent or spoken of, seconds since 1970.
        path: one at which a commit holds it; empty: none does.
        ref: the branch or tag whose history has that commit.
    """

    sha256: str
    size: int
    used_at: float
    path: str = ""
    ref: str | None = None


def large_objects(connection: sa.Connection, repo: Repo) -> list[LargeObject]:
    """What a repository holds beside the small files of its commits, largest first."""
    places: dict[str, tuple[str, str]] = {}
    small: set[str] = set()
    for path, file, ref in _all_files(connection, repo):
        if file.large:
            places.setdefault(file.sha256, (path, ref))
        else:
            small.add(file.sha256)
    query = sa.select(REPO_OBJECTS.c.sha256, REPO_OBJECTS.c.size, REPO_OBJECTS.c.used_at)
    rows = connection.execute(query.where(REPO_OBJECTS.c.repo == repo.id)).all()
    found = [LargeObject(*row, *places.get(row.sha256, ("", None))) for row in rows]
    return sorted(
        (item for item in found if item.ref is not None or item.sha256 not in small),
        key=lambda item: (-item.size, item.sha256),
    )


def delete_large_objects(
    connection: sa.Connection, repo: Repo, digests: set[str], *, rewrite_history: bool
) -> dict[str, tuple[str | None, str | None]]:
    """Take objects away from a repository for good; garbage collection frees their bytes.

    Returns: the references that had to move, as git writes them, to (commit before, commit now).

    Raises:
        Refusal: 400; a commit still holds one of them, and history is not to be written anew.
    """
    lock_repo(connection, repo)
    files = [file for _, file, _ in _all_files(connection, repo) if file.sha256 in digests]
    held, small = ({file.sha256 for file in files if file.large == is_large} for is_large in (True, False))
    if held and not rewrite_history:
        raise bad_request(f"commits of this repository hold {min(held)}; they can only go with rewriteHistory")
    moved = _rewrite(connection, repo, digests) if held else {}
    # What a small file holds, too, stays.
    mine = (REPO_OBJECTS.c.repo == repo.id, REPO_OBJECTS.c.sha256.in_(digests - small))
    connection.execute(sa.delete(REPO_OBJECTS).where(*mine))
    return moved


def lend(connection: sa.Connection, hub: Hub, source: Repo, target: Repo, digest: str) -> bool:
    """Let a repository hold what another one holds, without its bytes being sent; False: that one does not.

    Raises:
        Refusal: 413; no room.
    """
    if (size := held_size(connection, source.id, digest)) is None:
        return False
    require_room(connection, hub, target.id, digest, size)
    refer(connection, target.id, digest, size)
    return True


def _all_files(connection: sa.Connection, repo: Repo) -> Iterator[tuple[str, File, str]]:
    """(path, file, reference) of every file of every commit that a branch or tag reaches; each tree once."""
    trees, commits, seen = Trees(connection, repo.id), set[str](), set[str]()
    for ref in list_refs(connection, repo):
        for commit in history(connection, repo, ref.commit):
            if commit.oid in commits:
                break
            commits.add(commit.oid)
            yield from ((path, file, ref.full) for path, file in _files(trees, commit.tree, "", seen))


def _files(trees: Trees, oid: str, prefix: str, seen: set[str]) -> Iterator[tuple[str, File]]:
    if oid in seen:
        return
    seen.add(oid)
    for name, entry in trees.read(oid).items():
        if isinstance(entry, File):
            yield prefix + name, entry
        else:
            yield from _files(trees, entry.oid, f"{prefix}{name}/", seen)


def _rewrite(connection: sa.Connection, repo: Repo, digests: set[str]) -> dict[str, tuple[str | None, str | None]]:
    """Write every commit anew that holds one of these, or has such an ancestor, and move the references there."""
    trees, stripped, new = Trees(connection, repo.id), dict[str, str | None](), dict[str, str]()
    moved: dict[str, tuple[str | None, str | None]] = {}
    for ref in list_refs(connection, repo):
        older: list[Commit] = []
        for commit in history(connection, repo, ref.commit):
            if commit.oid in new:
                break
            older.append(commit)
        for commit in reversed(older):
            tree = _without(trees, commit.tree, digests, stripped) or trees.store({})
            parent = new[commit.parent] if commit.parent else None
            is_same = (tree, parent) == (commit.tree, commit.parent)
            new[commit.oid] = commit.oid if is_same else rewrite(connection, repo, commit, parent, tree)
        mine = (REFS.c.repo == repo.id, REFS.c.kind == ref.kind, REFS.c.name == ref.name)
        connection.execute(sa.update(REFS).where(*mine).values(commit=new[ref.commit]))
        if new[ref.commit] != ref.commit:
            moved[ref.full] = (ref.commit, new[ref.commit])
    for old, now in new.items():
        if old != now:
            connection.execute(sa.delete(COMMITS).where(COMMITS.c.repo == repo.id, COMMITS.c.oid == old))
    return moved


def _without(trees: Trees, oid: str, digests: set[str], known: dict[str, str | None]) -> str | None:
    """A tree without certain files; None: nothing is left."""
    if oid not in known:
        kept: dict[str, File | Folder] = {}
        for name, entry in trees.read(oid).items():
            if isinstance(entry, Folder):
                if (inner := _without(trees, entry.oid, digests, known)) is not None:
                    kept[name] = Folder(inner)
            elif not (entry.large and entry.sha256 in digests):
                kept[name] = entry
        known[oid] = trees.store(kept) if kept else None
    return known[oid]
