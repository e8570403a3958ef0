"""A repository as a plain folder: written out for anybody to read without a hub, and taken in again."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from kp_data.errors import DataError, HubError
from kp_data.hub.server.auth import Caller, add_user
from kp_data.hub.server.commits import Draft, make_commit, read_commit
from kp_data.hub.server.contents import Content, Stored, find_content, register, take_in
from kp_data.hub.server.database import USERS
from kp_data.hub.server.hub import Hub
from kp_data.hub.server.large_files import is_large
from kp_data.hub.server.names import RepoName, check_path, check_repo
from kp_data.hub.server.refusals import Refusal
from kp_data.hub.server.repositories import MAIN, Repo, branch_ref, create_repo, find_repo, resolve
from kp_data.hub.server.trees import Trees
from kp_data.hub.server.webhooks import note_change


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written.

    Attributes:
        repo: `namespace/name`.
        commit: that the folder shows.
        files: how many.
        bytes: of all files.
    """

    repo: str
    commit: str
    files: int
    bytes: int


def export_repo(hub: Hub, name: str, out: Path, *, revision: str = MAIN, repo_type: str = "dataset") -> Exported:
    """Write a repository as of a revision into a new folder.

    Args:
        hub: that holds it.
        name: `namespace/name`.
        out: must not be there, or be empty.
        revision: branch, tag or commit.
        repo_type: dataset, model or space.

    Raises:
        HubError: no such repository or revision.
        DataError: the folder cannot be written, or holds something.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError("holds something already; give a new folder", place=out)
    try:
        address = _address(name, repo_type)
        commit, contents = hub.database.read(lambda connection: _contents(connection, hub, address, revision))
    except Refusal as refusal:
        raise HubError(refusal.message, place=name) from refusal
    size = 0
    try:
        for path, content in contents.items():
            target = out / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                for block in content.blocks():
                    size += file.write(block)
    except OSError as error:
        raise DataError(f"cannot be written ({error.strerror})", place=error.filename or out) from error
    return Exported(name, commit, len(contents), size)


def import_folder(
    hub: Hub,
    folder: Path,
    name: str,
    *,
    message: str = "Import a folder",
    private: bool = False,
    repo_type: str = "dataset",
) -> str:
    """Make a repository's main branch hold exactly what a folder holds; the repository is made when missing.

    Hidden files at the top (`.git`, `.cache`) are left out, `.gitattributes` is not. Links are not followed.

    Returns: the commit.

    Raises:
        HubError: the name cannot be one, or a path cannot stand in a repository.
        DataError: the folder cannot be read, or holds nothing.
    """
    files = _files(folder)
    if not files:
        raise DataError("holds no files to import", place=folder)
    stored, large = dict[str, Stored](), set[str]()
    try:
        address = _address(name, repo_type)
        caller = Caller(address.namespace, "write")
        for path, file in files.items():
            stored[check_path(path)], is_big = _take(hub, path, file)
            large |= {path} if is_big else set()
        commit, leftovers = hub.database.write(
            lambda connection: _commit(connection, hub, caller, address, stored, large, message, private)
        )
    except BaseException as error:
        for item in stored.values():
            hub.objects.delete(item.location)
        if isinstance(error, Refusal):
            raise HubError(error.message, place=name) from error
        if isinstance(error, OSError):
            raise DataError(f"cannot be read ({error.strerror})", place=error.filename or folder) from error
        raise
    for location in leftovers:
        hub.objects.delete(location)
    return commit


def _address(name: str, repo_type: str) -> RepoName:
    namespace, _, rest = name.partition("/")
    return check_repo(repo_type, namespace, rest)


def _contents(connection: sa.Connection, hub: Hub, name: RepoName, revision: str) -> tuple[str, dict[str, Content]]:
    # Whoever runs this has the hub's folder, and so may read all that is in it.
    repo = find_repo(connection, Caller(name.namespace, "write"), name, "read")
    commit = resolve(connection, repo, revision)
    files = Trees(connection, repo.id).files(read_commit(connection, repo, commit).tree)
    return commit, {path: find_content(connection, hub, file.sha256) for path, file in files}


def _files(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError("no such folder", place=folder)
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*"))}
    kept = {name: path for name, path in found.items() if path.is_file() and not path.is_symlink()}
    return {name: path for name, path in kept.items() if not name.startswith(".") or name == ".gitattributes"}


def _take(hub: Hub, path: str, file: Path) -> tuple[Stored, bool]:
    with file.open("rb") as opened:
        is_big = is_large(path, file.stat().st_size, opened.read(512))
    with hub.spool.file() as copy:
        shutil.copyfile(file, copy)
        return take_in(hub, copy), is_big


def _commit(
    connection: sa.Connection,
    hub: Hub,
    caller: Caller,
    name: RepoName,
    stored: dict[str, Stored],
    large: set[str],
    message: str,
    private: bool,
) -> tuple[str, list[str]]:
    repo = _repo(connection, caller, name, private=private)
    leftovers = [register(connection, hub, repo.id, stored[path]) for path in large]
    draft = Draft(message, inline={path: item for path, item in stored.items() if path not in large})
    draft.large = {path: (stored[path].sha256, stored[path].size) for path in large}
    draft.deleted = {path: False for path in _paths(connection, repo) if path not in stored}
    made = make_commit(connection, hub, caller, repo, MAIN, draft)
    if made.oid != made.before:
        note_change(connection, repo, "update", moved={branch_ref(MAIN).full: (made.before, made.oid)})
    return made.oid, [*(location for location in leftovers if location), *made.leftovers]


def _repo(connection: sa.Connection, caller: Caller, name: RepoName, *, private: bool) -> Repo:
    try:
        return find_repo(connection, caller, name, "write")
    except Refusal:
        if connection.execute(sa.select(USERS.c.name).where(USERS.c.name == name.namespace)).first() is None:
            add_user(connection, name.namespace)
        return create_repo(connection, caller, name, private=private)


def _paths(connection: sa.Connection, repo: Repo) -> list[str]:
    try:
        head = resolve(connection, repo, MAIN)
    except Refusal:
        return []
    return [path for path, _ in Trees(connection, repo.id).files(read_commit(connection, repo, head).tree)]
