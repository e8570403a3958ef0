"""The hub's metadata: its tables, and transactions on SQLite (WAL) or PostgreSQL.

Bytes lie in the object store, everything else here. What a commit changes is one transaction, so a repository is
never half-updated; the objects it speaks of were stored before. Times are seconds since 1970.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from kp_data.errors import HubError

HUB_VERSION: Final = 1

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

T = TypeVar("T")


class Database:
    """Transactions on the hub's metadata."""

    def __init__(self, url: str | sa.URL) -> None:
        """Open, and create what is missing.

        Raises:
            HubError: it cannot be opened, or was written by another version.
        """
        place = "the hub's metadata"
        try:
            address = _with_driver(sa.engine.make_url(url))
            place = address.render_as_string(hide_password=True)
            options = {"connect_args": {"timeout": 30.0, "check_same_thread": False}}
            is_sqlite = address.get_backend_name() == "sqlite"
            self.engine = sa.create_engine(address, **(options if is_sqlite else {"pool_pre_ping": True}))
            if is_sqlite:
                sa.event.listen(self.engine, "connect", _tune_sqlite)
                sa.event.listen(self.engine, "begin", _begin_sqlite)
            version = self.write(_set_up)
        except (SQLAlchemyError, ImportError, ValueError) as error:
            reason = next(iter(str(getattr(error, "orig", None) or error).splitlines()), "")[:200]
            raise HubError(f"the metadata cannot be opened ({reason})", place=place) from error
        if version != str(HUB_VERSION):
            raise HubError(f"written by hub version {version}; this is version {HUB_VERSION}", place=place)

    def read(self, work: Callable[[sa.Connection], T]) -> T:
        """What `work` finds, all of it as of one moment."""
        with self.engine.connect().execution_options(kp_reads=True) as connection:
            return work(connection)

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        """One transaction, durable when it returns; undone as a whole when `work` raises."""
        with self.engine.begin() as connection:
            return work(connection)

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


def insert(connection: sa.Connection, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
    """An INSERT of the dialect at hand, both of which know ON CONFLICT."""
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)


def put(connection: sa.Connection, table: sa.Table, row: dict[str, Any], *, update: tuple[str, ...] = ()) -> None:
    """Insert a row; where its key is taken, set only the columns `update`."""
    statement = insert(connection, table)
    keys = [column.name for column in table.primary_key]
    if update:
        new = {name: statement.excluded[name] for name in update}
        connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=new), row)
    else:
        connection.execute(statement.on_conflict_do_nothing(index_elements=keys), row)


def _with_driver(url: sa.URL) -> sa.URL:
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise ValueError(f"{url.get_backend_name()} is not supported; use sqlite:///FILE or postgresql://HOST/NAME")
    if url.get_backend_name() == "postgresql" and importlib.util.find_spec("psycopg") is None:
        raise ImportError('PostgreSQL needs a driver: pip install "knowledge-purification[postgres]"')
    return url


def _set_up(connection: sa.Connection) -> str:
    if connection.dialect.name == "postgresql":
        # Two processes may start at the same moment.
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(0x6B7068)))
    METADATA.create_all(connection)
    put(connection, ABOUT, {"name": "version", "value": str(HUB_VERSION)})
    return str(connection.execute(sa.select(ABOUT.c.value).where(ABOUT.c.name == "version")).scalar_one())


def _tune_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    # FULL: an acknowledged commit survives a power cut.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    # A transaction that reads first and writes later cannot wait for another writer: SQLite fails it at once.
    reads = connection.get_execution_options().get("kp_reads", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
