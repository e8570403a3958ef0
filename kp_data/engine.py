"""Opening a database: SQLite (WAL) for one machine, PostgreSQL by URL for several.

One door for every table the product keeps (cells, the hub's metadata): the same driver, the same patience, the same
words when it cannot be opened.
"""

from __future__ import annotations

import importlib.util
import itertools
import sqlite3
import time
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

BUSY_TIMEOUT_S: Final = 30.0
"""How long a SQLite file that another process writes to is waited for."""
_CONNECT_TIMEOUT_S: Final = 10
_WAL_TRIES: Final = 200
_KEPT: Final = 5


def open_engine(url: str | sa.URL, *, foreign_keys: bool = False, connections: int = 15) -> sa.Engine:
    """An engine whose transactions either write or only read (`reading`).

    Args:
        url: sqlite:///FILE or postgresql://HOST/NAME, as people write it: the driver is ours.
        foreign_keys: let SQLite keep them, as PostgreSQL always does.
        connections: that may be open at once; five are kept when nobody needs them.

    Raises:
        ValueError: another kind of database.
        ImportError: PostgreSQL's driver is missing.
        sqlalchemy.exc.ArgumentError: no URL of a database.
    """
    address = _with_driver(sa.engine.make_url(url))
    if address.get_backend_name() == "postgresql":
        patience = {"connect_timeout": _CONNECT_TIMEOUT_S}
        return sa.create_engine(address, pool_pre_ping=True, connect_args=patience, max_overflow=connections - _KEPT)
    options = {"timeout": BUSY_TIMEOUT_S, "check_same_thread": False}
    # A database in memory has one connection, and a pool without sizes.
    many = {} if address.database in (None, "", ":memory:") else {"max_overflow": connections - _KEPT}
    engine = sa.create_engine(address, connect_args=options, **many)

    def tune(connection: Any, _record: Any) -> None:
        _tune_sqlite(connection, foreign_keys=foreign_keys)

    sa.event.listen(engine, "connect", tune)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def reading(engine: sa.Engine) -> sa.Connection:
    """A connection whose transaction only reads, and sees everything as of one moment."""
    connection = engine.connect().execution_options(kp_reads=True)
    if engine.dialect.name == "sqlite":
        return connection
    return connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def is_reading(connection: sa.Connection) -> bool:
    """Whether a connection came from `reading`."""
    return bool(connection.get_execution_options().get("kp_reads", False))


def place_of(url: str | sa.URL, otherwise: str) -> str:
    """A database's URL without its password, for messages; `otherwise` where it is none."""
    try:
        return sa.engine.make_url(url).render_as_string(hide_password=True)
    except (sa.exc.ArgumentError, ValueError):
        return otherwise


def reason_of(error: BaseException) -> str:
    """The first line of what the database itself said."""
    original = getattr(error, "orig", None) or error
    return next(iter(str(original).splitlines()), type(original).__name__)[:200]


def insert_into(table: sa.Table, dialect: str) -> postgresql.Insert | sqlite.Insert:
    """An INSERT of the dialect at hand, both of which know ON CONFLICT."""
    return sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)


def use_wal(connection: Any) -> None:
    """Put a new SQLite file into WAL mode, also when several processes open it at the same moment.

    The change wants the file for itself and is refused at once, whatever the timeout of the connection.

    Raises:
        sqlite3.OperationalError: it is still refused after seconds, or the file is none of SQLite's.
    """
    for attempt in itertools.count():
        try:
            connection.execute("PRAGMA journal_mode=WAL").close()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or attempt >= _WAL_TRIES:
                raise
        time.sleep(0.05)


def _with_driver(url: sa.URL) -> sa.URL:
    """The URL as people write it, with the driver we ship."""
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise ValueError(f"{url.get_backend_name()} is not supported; use sqlite:///FILE or postgresql://HOST/NAME")
    if url.get_backend_name() == "postgresql" and importlib.util.find_spec("psycopg") is None:
        raise ImportError('PostgreSQL needs a driver: pip install "knowledge-purification[postgres]"')
    return url


def _tune_sqlite(connection: Any, *, foreign_keys: bool) -> None:
    # The driver's own BEGIN comes too late and too weak: see _begin_sqlite.
    connection.isolation_level = None
    use_wal(connection)
    cursor = connection.cursor()
    # FULL: a committed row survives a power cut; group commits keep it cheap.
    cursor.execute("PRAGMA synchronous=FULL")
    if foreign_keys:
        cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    # A transaction that reads first and writes later cannot wait for another writer: SQLite fails it at once.
    connection.exec_driver_sql("BEGIN" if is_reading(connection) else "BEGIN IMMEDIATE")
