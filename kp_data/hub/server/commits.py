"""Commits: what one is to change, making it in one transaction, and looking back.

The bytes are stored before; the transaction checks the parent, builds the trees and moves the branch. It happens as a
whole or not at all, whatever dies in between.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Final

import sqlalchemy as sa

from kp_data.hub.server.auth import Caller
from kp_data.hub.server.contents import Stored, held_size, refer, register, require_room, size_elsewhere
from kp_data.hub.server.database import COMMITS, REFS, REPOS, put
from kp_data.hub.server.hub import Hub
from kp_data.hub.server.names import check_digest, check_path, check_ref, check_text
from kp_data.hub.server.refusals import ENTRY_NOT_FOUND, Refusal, bad_request, revision_not_found
from kp_data.hub.server.repositories import MAIN, Repo, lock_repo
from kp_data.hub.server.trees import Entry, File, Folder, Trees, large_file

MAX_TITLE_CHARS: Final = 500
MAX_MESSAGE_CHARS: Final = 100_000


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit.

    Attributes:
        oid: 40 hexadecimal digits, never used again.
        parent: None: the first.
        tree: what it holds.
        title: one line; `message` the rest.
        author: user name.
        at: seconds since 1970.
    """

    oid: str
    parent: str | None
    tree: str
    title: str
    message: str
    author: str
    at: float


@dataclass
class Draft:
    """What a commit is to change, gathered line by line.

    Attributes:
        title: one line; `message` the rest.
        parent: the commit that the sender has seen; None: whichever.
        inline: path to a file that came with the commit and is stored already.
        large: path to (SHA-256, size) of a file sent before; size None: a copy of one that lies somewhere on this hub.
        deleted: path, and whether it is a folder.
    """

    title: str = ""
    message: str = ""
    parent: str | None = None
    inline: dict[str, Stored] = field(default_factory=dict)
    large: dict[str, tuple[str, int | None]] = field(default_factory=dict)
    deleted: dict[str, bool] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.inline) + len(self.large) + len(self.deleted)

    @property
    def paths(self) -> list[str]:
        """What it touches."""
        return [*self.inline, *self.large, *self.deleted]


@dataclass(frozen=True, slots=True)
class Made:
    """What came of a draft.

    Attributes:
        oid: the commit that the branch now stands at; `before`: that it stood at.
        leftovers: locations of objects that were there before and can be deleted.
    """

    oid: str
    before: str | None = None
    leftovers: tuple[str, ...] = ()


def make_commit(connection: sa.Connection, hub: Hub, caller: Caller, repo: Repo, branch: str, draft: Draft) -> Made:
    """Move a branch by one commit; one that changes nothing is not made.

    Raises:
        Refusal: 400; 404 where something to delete is not there; 412 when the branch has moved on.
    """
    head = _lock_branch(connection, repo, branch)
    if draft.parent is not None and draft.parent != (head or ""):
        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
    trees = Trees(connection, repo.id)
    base = read_commit(connection, repo, head).tree if head else trees.store({})
    _require_there(trees, base, draft, head or "")
    leftovers = [register(connection, hub, repo.id, stored) for stored in draft.inline.values()]
    inline = {path: File(stored.sha256, stored.size, stored.git, large=False) for path, stored in draft.inline.items()}
    large = {path: _large(connection, hub, caller, repo, oid, size=size) for path, (oid, size) in draft.large.items()}
    tree = trees.change(base, draft.deleted, inline | large)
    made = head if head and tree == base else _write(connection, caller, repo, branch, head, tree, draft)
    return Made(made, head, tuple(location for location in leftovers if location))


def first_commit(connection: sa.Connection, caller: Caller, repo: Repo, stored: Mapping[str, Stored], hub: Hub) -> Made:
    """The commit that a new repository begins with, on its main branch."""
    draft = Draft("initial commit", inline=dict(stored))
    return make_commit(connection, hub, caller, repo, MAIN, draft)


def squash(connection: sa.Connection, caller: Caller, repo: Repo, branch: str, message: str) -> Made:
    """Let a branch begin anew with what it holds; its earlier commits go unless a tag or branch reaches them."""
    head = _lock_branch(connection, repo, branch)
    if head is None:
        raise revision_not_found(branch)
    tree = read_commit(connection, repo, head).tree
    draft = Draft(_one_line(message) or "Super-squash branch")
    return Made(_write(connection, caller, repo, branch, None, tree, draft), head)


def read_commit(connection: sa.Connection, repo: Repo, oid: str) -> Commit:
    """A commit that is known to be there."""
    row = connection.execute(sa.select(COMMITS).where(COMMITS.c.repo == repo.id, COMMITS.c.oid == oid)).one()
    return _commit(row)


def history(connection: sa.Connection, repo: Repo, oid: str) -> Iterator[Commit]:
    """A commit and those before it, newest first."""
    found: str | None = oid
    while found is not None:
        commit = read_commit(connection, repo, found)
        yield commit
        found = commit.parent


def last_changes(
    connection: sa.Connection, repo: Repo, oid: str, paths: list[str], *, look_back: int = 500
) -> dict[str, Commit]:
    """For each path the commit that last changed it, as far back as is looked; older ones get the oldest looked at."""
    trees = Trees(connection, repo.id)
    found: dict[str, Commit] = {}
    newer: Commit | None = None
    entries: dict[str, Entry | None] = dict.fromkeys(paths)
    for number, commit in enumerate(history(connection, repo, oid)):
        now = {path: trees.find(commit.tree, path) for path in paths if path not in found}
        if newer is not None:
            found |= {path: newer for path, entry in now.items() if entry != entries[path]}
        entries, newer = {path: entry for path, entry in now.items() if path not in found}, commit
        if not entries or number == look_back:
            break
    return found | {path: newer for path in entries if newer is not None}


def compare(connection: sa.Connection, repo: Repo, before: str, after: str) -> dict[str, list[str]]:
    """Paths of files `added`, `removed` and `changed` between two commits."""
    trees = Trees(connection, repo.id)
    old = dict(trees.files(read_commit(connection, repo, before).tree))
    new = dict(trees.files(read_commit(connection, repo, after).tree))
    return {
        "added": sorted(new.keys() - old.keys()),
        "removed": sorted(old.keys() - new.keys()),
        "changed": sorted(path for path in old.keys() & new.keys() if old[path] != new[path]),
    }


def read_line(draft: Draft, line: bytes) -> tuple[str, str] | None:
    """Take one line of a commit's body into a draft.

    Returns: (path, base64 text) of a file that stands in the line itself; None: the line is dealt with.

    Raises:
        Refusal: 400.
    """
    try:
        entry = json.loads(line)
        key, value = entry["key"], entry["value"]
        if key == "header":
            _read_header(draft, value)
            return None
        path = value["path"]
        if not isinstance(path, str):
            raise bad_request("a path is a text")
        if key == "file":
            content = value["content"]
            if value.get("encoding", "base64") != "base64" or not isinstance(content, str):
                raise bad_request(f"{path[:100]!r}: only base64 is understood")
            return check_path(path), content
        _read_operation(draft, key, path, value)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise bad_request("a line of the commit is not what the protocol says") from error
    return None


def _read_header(draft: Draft, value: Mapping[str, object]) -> None:
    summary, description, parent = value.get("summary"), value.get("description"), value.get("parentCommit")
    # JSON can spell half characters, which no database takes.
    draft.title = _one_line(check_text(str(summary or "")))
    draft.message = check_text(str(description or "")[:MAX_MESSAGE_CHARS])
    draft.parent = str(parent) if parent else None


def _read_operation(draft: Draft, key: str, path: str, value: Mapping[str, object]) -> None:
    if key == "lfsFile":
        oid, size = check_digest(value["oid"]), value.get("size")
        if value.get("algo", "sha256") != "sha256" or not (size is None or (isinstance(size, int) and size >= 0)):
            raise bad_request(f"{path[:100]!r}: only sha256 is understood, and a size is a number of bytes")
        draft.large[check_path(path)] = (oid, size)
    elif key in ("deletedFile", "deletedFolder"):
        draft.deleted[check_path(path.rstrip("/"))] = key == "deletedFolder"
    else:
        raise bad_request(f"unknown operation {key[:50]!r}")


def _lock_branch(connection: sa.Connection, repo: Repo, branch: str) -> str | None:
    """Where a branch stands; nobody else moves it before this transaction ends. None: a repository without commits."""
    # The row of the repository, for a first commit has no row of a branch yet.
    lock_repo(connection, repo)
    name = branch.removeprefix("refs/heads/")
    match = (REFS.c.repo == repo.id, REFS.c.kind == "branch", REFS.c.name == name)
    found = connection.execute(sa.select(REFS.c.commit).where(*match)).scalar()
    if found is None and name != MAIN:
        raise revision_not_found(branch)
    return found


def _require_there(trees: Trees, base: str, draft: Draft, commit: str) -> None:
    for path, is_folder in draft.deleted.items():
        if not isinstance(trees.find(base, path), Folder if is_folder else File):
            where = {"X-Repo-Commit": commit} if commit else {}
            raise Refusal(404, f"A file with this name doesn't exist: {path}", ENTRY_NOT_FOUND, where)


def _large(connection: sa.Connection, hub: Hub, caller: Caller, repo: Repo, oid: str, *, size: int | None) -> File:
    """The entry of a large file, if the repository holds it, or the caller may copy it from where they may read it."""
    held = held_size(connection, repo.id, oid)
    if held is None and size is None and (held := size_elsewhere(connection, caller, oid)) is not None:
        require_room(connection, hub, repo.id, oid, held)
    if held is None:
        raise bad_request(f"object {oid} has not been uploaded to this repository")
    if size not in (None, held):
        raise bad_request(f"object {oid} has {held} bytes, not {size}")
    refer(connection, repo.id, oid, held)
    return large_file(oid, held)


def rewrite(connection: sa.Connection, repo: Repo, commit: Commit, parent: str | None, tree: str) -> str:
    """A commit like another one, with another parent or tree; its id."""
    return _insert(connection, repo, replace(commit, parent=parent, tree=tree))


def _write(
    connection: sa.Connection, caller: Caller, repo: Repo, branch: str, parent: str | None, tree: str, draft: Draft
) -> str:
    now = time.time()
    commit = Commit("", parent, tree, draft.title or "Update", draft.message, caller.user or "", now)
    oid = _insert(connection, repo, commit)
    name = branch.removeprefix("refs/heads/")
    ref = {"repo": repo.id, "kind": "branch", "name": check_ref(name), "commit": oid, "message": ""}
    put(connection, REFS, ref, update=("commit",))
    connection.execute(sa.update(REPOS).where(REPOS.c.id == repo.id).values(modified_at=now))
    return oid


def _insert(connection: sa.Connection, repo: Repo, commit: Commit) -> str:
    row = asdict(commit)
    # The random part keeps ids apart: clients remember a commit's files for ever.
    content = json.dumps([repo.id, *row.values(), secrets.token_hex(16)])
    row |= {"repo": repo.id, "oid": hashlib.sha256(content.encode()).hexdigest()[:40]}
    connection.execute(sa.insert(COMMITS), row)
    return str(row["oid"])


def _one_line(text: str) -> str:
    return " ".join(text.split())[:MAX_TITLE_CHARS]


def _commit(row: sa.Row[tuple[object, ...]]) -> Commit:
    return Commit(row.oid, row.parent, row.tree, row.title, row.message, row.author, row.at)
