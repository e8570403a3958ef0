"""Who is asking, and what they may do.

A token is 256 random bits; only its SHA-256 is kept, which is enough for a secret that nobody can guess. Users and
organisations own namespaces; members of an organisation read or write all that is in it.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import dataclass, replace
from typing import Final, Literal

import sqlalchemy as sa

from kp_data.errors import HubError
from kp_data.hub.server.database import MEMBERS, REQUESTS, TOKENS, USERS, put
from kp_data.hub.server.names import check_namespace
from kp_data.hub.server.refusals import GATED_REPO, INVALID_TOKEN, Refusal, forbidden, repo_not_found

PREFIX: Final = "kp_"
Role = Literal["read", "write"]
Right = Literal["look", "read", "write"]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking.

    Attributes:
        user: None: anonymous.
        role: of the token.
        orgs: organisation to the role in it.
    """

    user: str | None = None
    role: Role = "read"
    orgs: tuple[tuple[str, str], ...] = ()

    @property
    def anonymous(self) -> bool:
        """Whether no token was sent."""
        return self.user is None

    def belongs_to(self, namespace: str) -> bool:
        """Whether they see what is private there."""
        return self.user == namespace or any(org == namespace for org, _ in self.orgs)

    def may_write_to(self, namespace: str) -> bool:
        """Whether user, organisation and token all allow it."""
        return self.role == "write" and (self.user == namespace or (namespace, "write") in self.orgs)


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """A token as the hub knows it: never the token itself.

    Attributes:
        id: by which to revoke it.
        user: whose.
        role: read or write.
        created_at: seconds since 1970; likewise `expires_at`, None: never.
    """

    id: str
    user: str
    role: str
    created_at: float
    expires_at: float | None


@dataclass(frozen=True, slots=True)
class RepoAccess:
    """What decides who may read a repository."""

    id: str
    namespace: str
    private: bool
    gated: str


def create_token(
    connection: sa.Connection, user: str, *, role: Role = "read", expires_at: float | None = None
) -> tuple[str, TokenInfo]:
    """A new token, and what is kept of it; the user is made when new. The token itself cannot be had again.

    Raises:
        HubError: the name cannot be one, or is an organisation's.
    """
    add_user(connection, user)
    token = PREFIX + secrets.token_urlsafe(32)
    info = TokenInfo(secrets.token_hex(6), user, role, time.time(), expires_at)
    row = {"id": info.id, "hash": _hash(token), "user": user, "role": role}
    connection.execute(sa.insert(TOKENS), row | {"created_at": info.created_at, "expires_at": expires_at})
    return token, info


def list_tokens(connection: sa.Connection) -> list[TokenInfo]:
    """All tokens, oldest first."""
    query = sa.select(TOKENS.c.id, TOKENS.c.user, TOKENS.c.role, TOKENS.c.created_at, TOKENS.c.expires_at)
    return [TokenInfo(*row) for row in connection.execute(query.order_by(TOKENS.c.created_at))]


def revoke_token(connection: sa.Connection, token_id: str) -> None:
    """Make a token worthless from now on.

    Raises:
        HubError: there is none of that id.
    """
    if not connection.execute(sa.delete(TOKENS).where(TOKENS.c.id == token_id)).rowcount:
        raise HubError(f"no token has the id {token_id!r}; `kp-data hub token list` shows them")


def add_user(connection: sa.Connection, name: str, *, kind: Literal["user", "org"] = "user") -> None:
    """A user or an organisation; there already is fine.

    Raises:
        HubError: the name cannot be one, or belongs to the other kind.
    """
    try:
        check_namespace(name)
    except Refusal as refusal:
        raise HubError(refusal.message) from refusal
    # Names differ in more than case, or one could pose as another.
    taken = connection.execute(
        sa.select(USERS.c.name, USERS.c.type).where(sa.func.lower(USERS.c.name) == name.lower())
    ).first()
    if taken is not None and (taken.name, taken.type) != (name, kind):
        raise HubError(f"{name!r} cannot be made: there is a {taken.type} called {taken.name!r}")
    put(connection, USERS, {"name": name, "type": kind, "created_at": time.time()})


def add_member(connection: sa.Connection, org: str, user: str, *, role: Role = "write") -> None:
    """Let a user read, or read and write, all that an organisation owns.

    Raises:
        HubError: the names cannot be, or one is of the other kind.
    """
    add_user(connection, org, kind="org")
    add_user(connection, user)
    put(connection, MEMBERS, {"org": org, "user": user, "role": role}, update=("role",))


def identify(connection: sa.Connection, authorization: str | None) -> Caller:
    """Who sent an Authorization header.

    Raises:
        Refusal: 401; the token is unknown, revoked or expired.
    """
    if not authorization:
        return Caller()
    scheme, _, token = authorization.partition(" ")
    caller = _holder(connection, TOKENS.c.hash == _hash(token.strip())) if scheme.lower() == "bearer" else None
    if caller is None:
        raise Refusal(401, INVALID_TOKEN)
    return caller


def identify_session(connection: sa.Connection, token_id: str) -> Caller:
    """Who signed in with the token of this id, to read; nobody, once it is revoked or has expired."""
    caller = _holder(connection, TOKENS.c.id == token_id)
    return Caller() if caller is None else replace(caller, role="read")


def session_of(connection: sa.Connection, token: str) -> str | None:
    """The id of a token that is good; None: it is not."""
    good = sa.or_(TOKENS.c.expires_at.is_(None), TOKENS.c.expires_at >= time.time())
    found: str | None = connection.execute(sa.select(TOKENS.c.id).where(TOKENS.c.hash == _hash(token), good)).scalar()
    return found


def _holder(connection: sa.Connection, match: sa.ColumnElement[bool]) -> Caller | None:
    row = connection.execute(sa.select(TOKENS).where(match)).first()
    if row is None or (row.expires_at is not None and row.expires_at < time.time()):
        return None
    return Caller(row.user, row.role, orgs_of(connection, row.user))


def orgs_of(connection: sa.Connection, user: str) -> tuple[tuple[str, str], ...]:
    """(organisation, role in it) of a user."""
    found = connection.execute(sa.select(MEMBERS.c.org, MEMBERS.c.role).where(MEMBERS.c.user == user))
    return tuple((org, role) for org, role in found)


def require(connection: sa.Connection, caller: Caller, repo: RepoAccess, right: Right) -> None:
    """Let a caller pass who may do that to a repository.

    Args:
        connection: within a transaction.
        caller: who asks.
        repo: what is asked for.
        right: look (metadata and file names), read (contents) or write.

    Raises:
        Refusal: as huggingface.co does, what one may not see looks as if it were not there.
    """
    insider = caller.belongs_to(repo.namespace)
    if repo.private and not insider:
        raise repo_not_found(anonymous=caller.anonymous)
    if right == "write" and not caller.may_write_to(repo.namespace):
        if caller.anonymous:
            raise Refusal(401, "a token is needed to write")
        reason = "this token may only read" if caller.role == "read" else f"{caller.user} may not write there"
        raise forbidden(f"Forbidden: {reason} ({repo.namespace})")
    if right != "look" and repo.gated and not insider and not _is_granted(connection, caller, repo.id):
        status = 401 if caller.anonymous else 403
        raise Refusal(status, "Access to this repository must be asked for, and has not been granted", GATED_REPO)


def request_access(connection: sa.Connection, caller: Caller, repo: RepoAccess) -> str:
    """Ask for a gated repository; what became of it: accepted or pending.

    Raises:
        Refusal: 400, 401.
    """
    if caller.user is None:
        raise Refusal(401, "a token is needed to ask for access")
    if not repo.gated:
        raise Refusal(400, "this repository is open to all who can see it")
    status = "accepted" if repo.gated == "auto" else "pending"
    put(connection, REQUESTS, {"repo": repo.id, "user": caller.user, "status": status, "at": time.time()})
    mine = sa.select(REQUESTS.c.status).where(REQUESTS.c.repo == repo.id, REQUESTS.c.user == caller.user)
    return str(connection.execute(mine).scalar_one())


def decide_access(connection: sa.Connection, repo: RepoAccess, user: str, status: str) -> None:
    """Accept or reject a request, or grant access that nobody asked for.

    Raises:
        Refusal: 400; no such status.
    """
    if status not in ("accepted", "rejected", "pending"):
        raise Refusal(400, f"{status!r} is no decision; use accepted, rejected or pending")
    row = {"repo": repo.id, "user": user, "status": status, "at": time.time()}
    put(connection, REQUESTS, row, update=("status",))


def list_requests(connection: sa.Connection, repo: RepoAccess, status: str) -> list[tuple[str, float]]:
    """(user, when) of the requests in a state."""
    query = sa.select(REQUESTS.c.user, REQUESTS.c.at).where(REQUESTS.c.repo == repo.id, REQUESTS.c.status == status)
    return [(row.user, row.at) for row in connection.execute(query.order_by(REQUESTS.c.at))]


def _is_granted(connection: sa.Connection, caller: Caller, repo: str) -> bool:
    mine = (REQUESTS.c.repo == repo, REQUESTS.c.user == (caller.user or ""), REQUESTS.c.status == "accepted")
    return connection.execute(sa.select(REQUESTS.c.user).where(*mine)).first() is not None


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
