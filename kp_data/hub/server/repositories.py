"""Repositories and their references: making, finding, moving and deleting them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import sqlalchemy as sa

from kp_data.hub.server.auth import Caller, RepoAccess, Right, require
from kp_data.hub.server.database import COMMITS, REFS, REPOS, USERS
from kp_data.hub.server.names import RepoName, check_ref, check_repo, is_commit, is_short_commit
from kp_data.hub.server.refusals import Refusal, bad_request, forbidden, repo_not_found, revision_not_found

MAIN: Final = "main"
RefKind = Literal["branch", "tag"]
_ORDERS: Final = {
    **{"lastModified": "modified_at", "last_modified": "modified_at", "trendingScore": "modified_at"},
    **{"createdAt": "created_at", "created_at": "created_at", "downloads": "downloads", "likes": "modified_at"},
}
"""What clients sort by; nobody counts likes here."""
_PREFIX: Final[dict[RefKind, str]] = {"branch": "refs/heads/", "tag": "refs/tags/"}


@dataclass(frozen=True, slots=True)
class Repo(RepoAccess):
    """A repository.

    Attributes:
        name: its address.
        created_at: seconds since 1970; likewise `modified_at`.
        downloads: of files, counted as clients report them.
        epoch: see `database.REPOS`.
    """

    name: RepoName
    created_at: float
    modified_at: float
    downloads: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Ref:
    """A branch or a tag."""

    kind: RefKind
    name: str
    commit: str
    message: str = ""

    @property
    def full(self) -> str:
        """As git writes it."""
        return _PREFIX[self.kind] + self.name


def branch_ref(name: str, commit: str = "") -> Ref:
    """A branch, by its name or by what git calls it."""
    return Ref("branch", name.removeprefix(_PREFIX["branch"]), commit)


def find_repo(connection: sa.Connection, caller: Caller, name: RepoName, right: Right) -> Repo:
    """A repository that the caller may use in that way.

    Raises:
        Refusal: see `auth.require`.
    """
    match = (REPOS.c.type == name.type, REPOS.c.namespace == name.namespace, REPOS.c.name == name.name)
    row = connection.execute(sa.select(REPOS).where(*match)).first()
    if row is None:
        raise repo_not_found(anonymous=caller.anonymous)
    repo = _repo(row)
    require(connection, caller, repo, right)
    return repo


def repo_by_id(connection: sa.Connection, repo_id: str) -> Repo:
    """A repository by its id.

    Raises:
        Refusal: 404; it has been deleted.
    """
    row = connection.execute(sa.select(REPOS).where(REPOS.c.id == repo_id)).first()
    if row is None:
        raise repo_not_found(anonymous=False)
    return _repo(row)


def create_repo(connection: sa.Connection, caller: Caller, name: RepoName, *, private: bool) -> Repo:
    """A new repository, without any commit.

    Raises:
        Refusal: 401, 403; 409 if there is one.
    """
    _require_namespace(caller, name.namespace)
    _lock_namespace(connection, name.namespace)
    match = (REPOS.c.type == name.type, REPOS.c.namespace == name.namespace)
    taken = sa.func.lower(REPOS.c.name) == name.name.lower()
    found = connection.execute(sa.select(REPOS.c.name).where(*match, taken)).scalar()
    if found is not None:
        raise Refusal(409, f"You already created this {name.type} repo: {name.namespace}/{found}")
    now = time.time()
    repo = Repo(secrets.token_hex(12), name.namespace, private, "", name, now, now, 0, 0)
    row = {"id": repo.id, "type": name.type, "namespace": name.namespace, "name": name.name, "private": private}
    connection.execute(sa.insert(REPOS), row | {"created_at": now, "modified_at": now})
    return repo


def delete_repo(connection: sa.Connection, repo: Repo) -> None:
    """Forget a repository; garbage collection frees what only it held."""
    connection.execute(sa.delete(REPOS).where(REPOS.c.id == repo.id))


def move_repo(connection: sa.Connection, caller: Caller, repo: Repo, to: RepoName) -> None:
    """Give a repository another address.

    Raises:
        Refusal: 400, 401, 403, 409.
    """
    check_repo(to.type, to.namespace, to.name)
    _require_namespace(caller, to.namespace)
    _lock_namespace(connection, to.namespace)
    match = (REPOS.c.type == to.type, REPOS.c.namespace == to.namespace, REPOS.c.id != repo.id)
    if connection.execute(sa.select(REPOS.c.id).where(*match, sa.func.lower(REPOS.c.name) == to.name.lower())).first():
        raise Refusal(409, f"there is a {to.type} {to} already")
    new = {"namespace": to.namespace, "name": to.name}
    connection.execute(sa.update(REPOS).where(REPOS.c.id == repo.id).values(**new))


def change_settings(
    connection: sa.Connection, repo: Repo, *, private: bool | None = None, gated: str | None = None
) -> None:
    """Who may see it (`private`) and who may read it (`gated`: empty, auto or manual).

    Raises:
        Refusal: 400.
    """
    if gated not in (None, "", "auto", "manual"):
        raise bad_request(f"gated is auto, manual or false, not {gated!r}")
    new = {name: value for name, value in (("private", private), ("gated", gated)) if value is not None}
    if new:
        connection.execute(sa.update(REPOS).where(REPOS.c.id == repo.id).values(**new))


def list_repos(
    connection: sa.Connection,
    caller: Caller,
    repo_type: str,
    *,
    author: str | None,
    search: str | None,
    order: str = "lastModified",
) -> Iterator[Repo]:
    """The repositories that the caller may see, last changed, last made or most downloaded first.

    Raises:
        Refusal: 400; no such order.
    """
    if order not in _ORDERS:
        raise bad_request(f"{order[:50]!r} is no order; use one of {', '.join(_ORDERS)}")
    mine = [namespace for namespace in (caller.user, *(org for org, _ in caller.orgs)) if namespace]
    query = sa.select(REPOS).where(REPOS.c.type == repo_type).order_by(REPOS.c[_ORDERS[order]].desc(), REPOS.c.id)
    query = query.where(sa.or_(sa.not_(REPOS.c.private), REPOS.c.namespace.in_(mine)))
    if author:
        query = query.where(REPOS.c.namespace == author)
    if search:
        full = sa.func.lower(REPOS.c.namespace + "/" + REPOS.c.name)
        query = query.where(full.contains(search.lower(), autoescape=True))
    return map(_repo, connection.execute(query))


def resolve(connection: sa.Connection, repo: Repo, revision: str) -> str:
    """The commit that a branch, a tag, a full or a shortened commit id, or a `refs/…` name stands for.

    Raises:
        Refusal: 404.
    """
    name = MAIN if revision == "HEAD" else revision
    if is_commit(name):
        mine = sa.select(COMMITS.c.oid).where(COMMITS.c.repo == repo.id, COMMITS.c.oid == name)
        found = connection.execute(mine).scalars().all()
    else:
        refs = [ref for ref in list_refs(connection, repo) if name in (ref.name, ref.full)]
        # A branch hides a tag of the same name, as on huggingface.co.
        found = [ref.commit for ref in sorted(refs, key=lambda ref: ref.kind)][:1]
        if not found and is_short_commit(name):
            begins = sa.select(COMMITS.c.oid).where(COMMITS.c.repo == repo.id, COMMITS.c.oid.startswith(name))
            found = list(connection.execute(begins.limit(2)).scalars())
    if len(found) != 1:
        raise revision_not_found(revision)
    return str(found[0])


def list_refs(connection: sa.Connection, repo: Repo) -> list[Ref]:
    """Branches, then tags, by name."""
    query = sa.select(REFS).where(REFS.c.repo == repo.id).order_by(REFS.c.kind, REFS.c.name)
    return [Ref(row.kind, row.name, row.commit, row.message) for row in connection.execute(query)]


def create_ref(connection: sa.Connection, repo: Repo, ref: Ref) -> None:
    """A new branch or tag.

    Raises:
        Refusal: 400; 409 if there is one.
    """
    check_ref(ref.name)
    lock_repo(connection, repo)
    if any((found.kind, found.name) == (ref.kind, ref.name) for found in list_refs(connection, repo)):
        raise Refusal(409, f"{ref.kind.capitalize()} {ref.name} exists already")
    row = {"repo": repo.id, "kind": ref.kind, "name": ref.name, "commit": ref.commit, "message": ref.message}
    connection.execute(sa.insert(REFS), row)


def delete_ref(connection: sa.Connection, repo: Repo, kind: RefKind, name: str) -> Ref:
    """Remove a branch or tag; its commits stay reachable by id until garbage is collected.

    Raises:
        Refusal: 403 for the main branch, 404.
    """
    if (kind, name) == ("branch", MAIN):
        raise forbidden("the main branch cannot be deleted")
    match = (REFS.c.repo == repo.id, REFS.c.kind == kind, REFS.c.name == name)
    commit = connection.execute(sa.delete(REFS).where(*match).returning(REFS.c.commit)).scalar()
    if commit is None:
        raise revision_not_found(name)
    return Ref(kind, name, commit)


def lock_repo(connection: sa.Connection, repo: Repo) -> None:
    """Nobody else moves or makes a reference of the repository before this transaction ends.

    Raises:
        Refusal: 404; it has just been deleted.
    """
    if connection.execute(sa.select(REPOS.c.id).where(REPOS.c.id == repo.id).with_for_update()).first() is None:
        raise repo_not_found(anonymous=False)


def _lock_namespace(connection: sa.Connection, namespace: str) -> None:
    """Nobody else makes a repository there before this transaction ends: names must differ in more than case."""
    connection.execute(sa.select(USERS.c.name).where(USERS.c.name == namespace).with_for_update())


def _require_namespace(caller: Caller, namespace: str) -> None:
    if caller.anonymous:
        raise Refusal(401, "a token is needed to write")
    if not caller.may_write_to(namespace):
        reason = "this token may only read" if caller.role == "read" else f"{caller.user} may not write there"
        raise forbidden(f"Forbidden: you don't have the rights to create in the namespace {namespace!r} ({reason})")


def _repo(row: sa.Row[tuple[object, ...]]) -> Repo:
    name = RepoName(row.type, row.namespace, row.name)
    return Repo(
        row.id, row.namespace, row.private, row.gated, name, row.created_at, row.modified_at, row.downloads, row.epoch
    )
