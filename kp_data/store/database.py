"""The database under a store: its tables, and transactions that outlive a lost connection.

SQLite (WAL) for one machine, PostgreSQL by URL for several. Every change is one transaction; one whose outcome is
unknown, because the connection broke, is done again: each is written so that doing it twice changes nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from kp_data.engine import insert_into, open_engine, place_of, reading, reason_of
from kp_data.errors import StoreError

STORE_VERSION: Final = 1

METADATA: Final = sa.MetaData()
ABOUT: Final = sa.Table(
    "about", METADATA, sa.Column("name", sa.String(64), primary_key=True), sa.Column("value", sa.Text, nullable=False)
)
CELLS: Final = sa.Table(
    "cells",
    METADATA,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("reply", sa.Text),
    sa.Column("reasoning", sa.Text),
    sa.Column("error", sa.String(32)),
    sa.Column("message", sa.Text),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("model", sa.Text),
    sa.Column("finish_reason", sa.String(64)),
    sa.Column("prompt_tokens", sa.BigInteger),
    sa.Column("completion_tokens", sa.BigInteger),
    sa.Column("cost_usd", sa.Float),
    sa.Column("latency_s", sa.Float),
    sa.Column("logprob", sa.Float),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
)
OWNERS: Final = sa.Table(
    "owners",
    METADATA,
    sa.Column("owner", sa.String(64), primary_key=True),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("process", sa.Text, nullable=False),
    sa.Column("expires_at", sa.Float, nullable=False),
)
"""Processes at work, and until when each is believed to live without a further sign (seconds since 1970)."""
LEASES: Final = sa.Table(
    "leases",
    METADATA,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("owner", sa.String(64), nullable=False, index=True),
    sa.Column("reserved", sa.BigInteger, nullable=False, default=0),
)
"""Cells that are being asked, by whom, and the money set aside for the call in flight (billionths of a dollar)."""
LEDGER: Final = sa.Table(
    "ledger",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("spent", sa.BigInteger, nullable=False),
    sa.Column("reserved", sa.BigInteger, nullable=False),
)
"""One row: what this store's cells have cost, and what calls in flight may cost (billionths of a dollar)."""

KEYS_A_QUERY: Final = 500
"""SQLite allows 32,766 bound values a statement; this stays far below on every engine."""
_FOUND_AGAIN_WITHIN_S: Final = 60.0
_SETUP_LOCK: Final = 0x6B70

T = TypeVar("T")


class Database:
    """Transactions on one database."""

    def __init__(self, url: str | sa.URL) -> None:
        """Open, and create what is missing.

        Raises:
            StoreError: it cannot be opened, is damaged, or was written by another version.
        """
        self.place = place_of(url, "the cell store")
        try:
            self.engine = open_engine(url)
            version = self._writing(_set_up)
        except (SQLAlchemyError, ImportError, ValueError) as error:
            raise StoreError(f"cannot be opened ({reason_of(error)})", place=self.place) from error
        if version != str(STORE_VERSION):
            raise StoreError(
                f"written by store version {version}, this program knows {STORE_VERSION}; use the matching release",
                place=self.place,
            )

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a file on this machine."""
        return self.engine.dialect.name == "sqlite"

    def read(self, work: Callable[[sa.Connection], T]) -> T:
        """What `work` finds, all of it as of one moment.

        Raises:
            StoreError: the store cannot be read.
        """
        try:
            return self._with_patience(lambda: self._reading(work))
        except SQLAlchemyError as error:
            raise StoreError(f"cannot be read ({reason_of(error)})", place=self.place) from error

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        """One transaction, durable when it returns.

        Args:
            work: may be called again when the connection broke, also when the first call did reach the disk.

        Raises:
            StoreError: the disk is full or the store cannot be written.
        """
        try:
            return self._with_patience(lambda: self._writing(work))
        except SQLAlchemyError as error:
            raise StoreError(
                f"cannot be written ({reason_of(error)}); free space or mend the database, then run again",
                place=self.place,
            ) from error

    def insert(self, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
        """An INSERT of the dialect at hand, both of which know ON CONFLICT."""
        return insert_into(table, self.engine.dialect.name)

    def among(self, column: sa.ColumnElement[str], keys: Sequence[str]) -> sa.ColumnElement[bool]:
        """Whether a column holds one of these keys: one statement and one bound value, however many keys there are."""
        if self.is_sqlite:
            each = sa.func.json_each(json.dumps(list(keys))).table_valued("value")
            return column.in_(sa.select(each.c.value))
        return column == sa.any_(sa.literal(list(keys), postgresql.ARRAY(sa.Text)))

    def now(self, connection: sa.Connection) -> float:
        """Seconds since 1970 by the clock that all processes on this database share."""
        if self.is_sqlite:
            return time.time()
        return float(connection.execute(sa.select(sa.extract("epoch", sa.func.clock_timestamp()))).scalar_one())

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    def _reading(self, work: Callable[[sa.Connection], T]) -> T:
        with reading(self.engine) as connection:
            return work(connection)

    def _writing(self, work: Callable[[sa.Connection], T]) -> T:
        with self.engine.begin() as connection:
            return work(connection)

    def _with_patience(self, attempt: Callable[[], T]) -> T:
        """A database server that restarts is waited for; a file that cannot be written is not."""
        deadline, pause_s = time.monotonic() + _FOUND_AGAIN_WITHIN_S, 0.1
        while True:
            try:
                return attempt()
            except DBAPIError as error:
                if self.is_sqlite or not _is_lost(error) or time.monotonic() + pause_s > deadline:
                    raise
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 2.0)


def _set_up(connection: sa.Connection) -> str:
    """Create what is missing and tell the version; two processes may do it at the same moment."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_SETUP_LOCK)))
    METADATA.create_all(connection)
    version = connection.execute(sa.select(ABOUT.c.value).where(ABOUT.c.name == "version")).scalar()
    if version is None:
        connection.execute(sa.insert(ABOUT), {"name": "version", "value": str(STORE_VERSION)})
    if connection.execute(sa.select(LEDGER.c.id)).scalar() is None:
        connection.execute(sa.insert(LEDGER), {"id": 1, "spent": _spent_so_far(connection), "reserved": 0})
    return version or str(STORE_VERSION)


def _spent_so_far(connection: sa.Connection) -> int:
    """What a store that kept no ledger yet has cost."""
    total = connection.execute(sa.select(sa.func.sum(CELLS.c.cost_usd))).scalar()
    return round((total or 0.0) * 1e9)


def _is_lost(error: DBAPIError) -> bool:
    """Whether the server went away, is starting or stopping: it may come back."""
    return error.connection_invalidated or isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError)
