"""The hub's metadata: its tables, and transactions on SQLite (WAL) or PostgreSQL.

Bytes lie in the object store, everything else here. What a commit changes is one transaction, so a repository is
never half-updated; the objects it speaks of were stored before. Times are seconds since 1970.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, NotSupportedError, ProgrammingError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from kp_data.engine import insert_into, open_engine, place_of, reading, reason_of
from kp_data.errors import HubError

HUB_VERSION: Final = 1
_SETUP_LOCK: Final = 0x6B7068
_WRITE_LOCK: Final = 0x6B7069
_DEADLOCKS: Final = 5
_CONNECTIONS: Final = 45
"""More than there are threads to wait for one."""
_OUR_MISTAKES: Final = (IntegrityError, DataError, ProgrammingError, NotSupportedError)
_WORTH_ANOTHER_TRY: Final = ("40P01", "40001")
"""PostgreSQL: a deadlock, and a transaction that cannot be put in order with others."""

METADATA: Final = sa.MetaData()
_ID, _DIGEST, _NAME = sa.String(32), sa.String(64), sa.String(256)


def _repo() -> sa.Column[str]:
    return sa.Column("repo", _ID, sa.ForeignKey("repos.id", ondelete="CASCADE"), primary_key=True)


ABOUT: Final = sa.Table(
    "about", METADATA, sa.Column("name", _NAME, primary_key=True), sa.Column("value", sa.Text, nullable=False)
)
USERS: Final = sa.Table(
    "users",
    METADATA,
    sa.Column("name", _NAME, primary_key=True),
    sa.Column("type", sa.String(8), nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
)
"""Users and organisations (`type`: user or org) share one space of names."""
MEMBERS: Final = sa.Table(
    "members",
    METADATA,
    sa.Column("org", _NAME, primary_key=True),
    sa.Column("user", _NAME, primary_key=True),
    sa.Column("role", sa.String(8), nullable=False),
)
TOKENS: Final = sa.Table(
    "tokens",
    METADATA,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("hash", _DIGEST, nullable=False, unique=True),
    sa.Column("user", _NAME, nullable=False),
    sa.Column("role", sa.String(8), nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("expires_at", sa.Float),
)
REPOS: Final = sa.Table(
    "repos",
    METADATA,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("type", sa.String(8), nullable=False),
    sa.Column("namespace", _NAME, nullable=False),
    sa.Column("name", _NAME, nullable=False),
    sa.Column("private", sa.Boolean, nullable=False),
    sa.Column("gated", sa.String(8), nullable=False, default=""),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("modified_at", sa.Float, nullable=False),
    sa.Column("downloads", sa.BigInteger, nullable=False, default=0),
    sa.Column("epoch", sa.Integer, nullable=False, default=0),
    sa.UniqueConstraint("type", "namespace", "name"),
)
"""`epoch` rises when xorbs are taken from a repository: clients then forget what they believe to be stored."""
REQUESTS: Final = sa.Table(
    "access_requests",
    METADATA,
    _repo(),
    sa.Column("user", _NAME, primary_key=True),
    sa.Column("status", sa.String(8), nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)
COMMITS: Final = sa.Table(
    "commits",
    METADATA,
    _repo(),
    sa.Column("oid", sa.String(40), primary_key=True),
    sa.Column("parent", sa.String(40)),
    sa.Column("tree", sa.String(40), nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("author", _NAME, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)
REFS: Final = sa.Table(
    "refs",
    METADATA,
    _repo(),
    sa.Column("kind", sa.String(8), primary_key=True),
    sa.Column("name", _NAME, primary_key=True),
    sa.Column("commit", sa.String(40), nullable=False),
    sa.Column("message", sa.Text, nullable=False, default=""),
)
TREES: Final = sa.Table(
    "trees",
    METADATA,
    _repo(),
    sa.Column("oid", sa.String(40), primary_key=True),
    sa.Column("entries", sa.Text, nullable=False),
)
OBJECTS: Final = sa.Table(
    "objects",
    METADATA,
    sa.Column("sha256", _DIGEST, primary_key=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("location", sa.Text),
    sa.Column("xet", _DIGEST, index=True),
    sa.Column("seen_at", sa.Float, nullable=False),
)
"""Files by content: stored whole at `location`, or rebuilt from xorbs as `xet` says, or both."""
REPO_OBJECTS: Final = sa.Table(
    "repo_objects",
    METADATA,
    _repo(),
    sa.Column("sha256", _DIGEST, primary_key=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("used_at", sa.Float, nullable=False),
)
"""Which files a repository may speak of: somebody who could write to it has sent their bytes to it."""
XET_FILES: Final = sa.Table(
    "xet_files",
    METADATA,
    sa.Column("hash", _DIGEST, primary_key=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("terms", sa.LargeBinary, nullable=False),
)
XORBS: Final = sa.Table(
    "xorbs",
    METADATA,
    sa.Column("hash", _DIGEST, primary_key=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("chunks", sa.LargeBinary, nullable=False),
    sa.Column("location", sa.Text, nullable=False),
    sa.Column("seen_at", sa.Float, nullable=False),
)
REPO_XORBS: Final = sa.Table(
    "repo_xorbs",
    METADATA,
    _repo(),
    sa.Column("hash", _DIGEST, primary_key=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("used_at", sa.Float, nullable=False),
)
"""Which xorbs the shards of a repository may speak of; as for files."""
DEDUP: Final = sa.Table(
    "dedup",
    METADATA,
    _repo(),
    sa.Column("chunk", _DIGEST, primary_key=True),
    sa.Column("xorb", _DIGEST, primary_key=True),
)
"""Chunks by which another machine finds out that a repository holds a xorb already."""
WEBHOOKS: Final = sa.Table(
    "webhooks",
    METADATA,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("user", _NAME, nullable=False, index=True),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("secret", sa.Text),
    sa.Column("endpoint", sa.Text, nullable=False),
    sa.Column("disabled", sa.Boolean, nullable=False),
)
WATCHED: Final = sa.Table(
    "watched",
    METADATA,
    sa.Column("webhook", _ID, sa.ForeignKey("webhooks.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("kind", sa.String(8), primary_key=True),
    sa.Column("name", _NAME, primary_key=True),
    sa.Index("watched_by_name", "name", "kind"),
)
DELIVERIES: Final = sa.Table(
    "deliveries",
    METADATA,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("webhook", _ID, sa.ForeignKey("webhooks.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("next_at", sa.Float, nullable=False, index=True),
)
"""What is still to be told, written in the transaction of the change that it tells of."""

T = TypeVar("T")


class MetadataError(HubError):
    """The database cannot be read or written: its disk is full or read-only, or it is damaged."""


class MetadataBusy(MetadataError):
    """The database is locked or cannot be reached: it may be later."""


class Database:
    """Transactions on the hub's metadata."""

    def __init__(self, url: str | sa.URL) -> None:
        """Open, and create what is missing.

        Raises:
            HubError: it cannot be opened, or was written by another version.
        """
        self.place = place_of(url, "the hub's metadata")
        try:
            self.engine = open_engine(url, foreign_keys=True, connections=_CONNECTIONS)
            version = self._write(_set_up, alone=False)
        except (SQLAlchemyError, ImportError, ValueError) as error:
            raise HubError(f"the hub's metadata cannot be opened ({reason_of(error)})", place=self.place) from error
        if version != str(HUB_VERSION):
            raise HubError(
                f"written by hub version {version}, this program knows {HUB_VERSION}; use the matching release",
                place=self.place,
            )

    def read(self, work: Callable[[sa.Connection], T]) -> T:
        """What `work` finds, all of it as of one moment.

        Raises:
            MetadataError: see there.
        """
        with self._told(), reading(self.engine) as connection:
            return work(connection)

    def write(self, work: Callable[[sa.Connection], T], *, alone: bool = False) -> T:
        """One transaction, durable when it returns; undone as a whole when `work` raises.

        Args:
            work: may be called again: PostgreSQL ends one of two transactions that wait for each other.
            alone: nobody else writes meanwhile. On SQLite it is always so.

        Raises:
            MetadataError: see there.
        """
        with self._told():
            for _ in range(_DEADLOCKS):
                try:
                    return self._write(work, alone=alone)
                except DBAPIError as error:
                    if getattr(error.orig, "sqlstate", None) not in _WORTH_ANOTHER_TRY:
                        raise
            return self._write(work, alone=alone)

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    def _write(self, work: Callable[[sa.Connection], T], *, alone: bool) -> T:
        with self.engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                lock = sa.func.pg_advisory_xact_lock if alone else sa.func.pg_advisory_xact_lock_shared
                connection.execute(sa.select(lock(_WRITE_LOCK)))
            return work(connection)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What the database cannot do just now, as an error of ours; what is a mistake of ours stays what it is."""
        try:
            yield
        except _OUR_MISTAKES:
            raise
        except (DBAPIError, PoolTimeout) as error:
            reason = reason_of(error)
            kind = MetadataError if self.engine.dialect.name == "sqlite" and "locked" not in reason else MetadataBusy
            raise kind(f"the hub's metadata cannot be used now ({reason})", place=self.place) from error


def put(connection: sa.Connection, table: sa.Table, row: dict[str, Any], *, update: tuple[str, ...] = ()) -> None:
    """Insert a row; where its key is taken, set only the columns `update`."""
    statement = insert_into(table, connection.dialect.name)
    keys = [column.name for column in table.primary_key]
    if update:
        new = {name: statement.excluded[name] for name in update}
        connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=new), row)
    else:
        connection.execute(statement.on_conflict_do_nothing(index_elements=keys), row)


def about(connection: sa.Connection, name: str) -> str | None:
    """What the hub has noted of itself."""
    return connection.execute(sa.select(ABOUT.c.value).where(ABOUT.c.name == name)).scalar()


def _set_up(connection: sa.Connection) -> str:
    """Create what is missing and tell the version; a database of another version is left as it is."""
    if connection.dialect.name == "postgresql":
        # Two processes may start at the same moment.
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_SETUP_LOCK)))
    version = about(connection, "version") if sa.inspect(connection).has_table(ABOUT.name) else None
    if version not in (None, str(HUB_VERSION)):
        return str(version)
    METADATA.create_all(connection)
    put(connection, ABOUT, {"name": "version", "value": str(HUB_VERSION)})
    put(connection, ABOUT, {"name": "id", "value": secrets.token_hex(16)})
    return str(HUB_VERSION)
