"""The cell store: what every teacher answered, durable and content-addressed.

A cell is question × teacher × mode × sample. Its key is a hash of everything that can change the answer, so the same
question asked of the same model in the same words is paid once, whatever the teacher is called. A cell counts as done
only after its transaction is on disk. Raw replies are kept: a better parser reads them again without asking again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from kp_data.store.database import CELLS, KEYS_A_QUERY, LEDGER, Database


@dataclass(frozen=True, slots=True)
class StoredCell:
    """What the store holds of one cell: a reply, or the class of the failure that stands in its place.

    `request` is the JSON of what went into the key, with the messages replaced by their hash; it holds no secret.
    """

    key: str
    request: str
    attempts: int
    created_at: datetime
    reply: str | None = None
    reasoning: str | None = None
    error: str | None = None
    message: str | None = None
    model: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost_usd: float | None = None
    latency_s: float | None = None
    logprob: float | None = None


_COLUMNS: Final = tuple(field.name for field in fields(StoredCell))


@dataclass(frozen=True, slots=True)
class Ledger:
    """The money of a store, in US dollars.

    Attributes:
        spent_usd: what its calls have cost, over all runs, as far as prices are known. A call that may have been
            billed although no reply came counts with all that was reserved for it.
        reserved_usd: what calls in flight may cost at most.
    """

    spent_usd: float
    reserved_usd: float


def cell_key(request: dict[str, Any]) -> str:
    """The key of a cell: SHA-256 of the canonical JSON of everything that can change the answer.

    >>> cell_key({"a": 1, "b": 2}) == cell_key({"b": 2, "a": 1})
    True
    """
    canonical = json.dumps(request, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


class Store:
    """Cells by key, in SQLite (WAL) or PostgreSQL."""

    def __init__(self, url: str | sa.URL) -> None:
        """Open, and create what is missing.

        Args:
            url: SQLAlchemy URL, such as `sqlite:///panel/cells.sqlite` or `postgresql://user@host/name`.

        Raises:
            StoreError: it cannot be opened, is damaged, or was written by another version.
        """
        self.database = Database(url)

    @classmethod
    def of_folder(cls, folder: Path, url: str | None = None) -> Store:
        """The store of a panel folder: `cells.sqlite` in it, or the database of a URL."""
        if url is None:
            folder.mkdir(parents=True, exist_ok=True)
            # Built from parts: a question mark in a folder's name would start the query of a URL.
            return cls(sa.URL.create("sqlite", database=str(folder / "cells.sqlite")))
        return cls(url)

    def get(self, keys: Sequence[str]) -> dict[str, StoredCell]:
        """The cells that exist among these keys.

        Raises:
            StoreError: the store cannot be read.
        """

        def work(connection: sa.Connection) -> dict[str, StoredCell]:
            query = sa.select(*(CELLS.c[name] for name in _COLUMNS)).where(self.database.among(CELLS.c.key, keys))
            return {row.key: StoredCell(*row) for row in connection.execute(query)}

        return self.database.read(work)

    def states(self, keys: Sequence[str]) -> dict[str, str | None]:
        """The failure class of each cell that exists among these keys; None for a reply.

        Raises:
            StoreError: the store cannot be read.
        """
        return self.database.read(lambda connection: states_of(self.database, connection, keys))

    def mentioning(self, texts: Sequence[str], *, most: int) -> list[StoredCell]:
        """Cells in whose request one of these texts stands, newest first. Looks at every cell: for people, not runs.

        Args:
            texts: as the JSON has them.
            most: so many at most.

        Raises:
            StoreError: the store cannot be read.
        """
        holds = sa.or_(*(CELLS.c.request.contains(text, autoescape=True) for text in texts))
        columns = [CELLS.c[name] for name in _COLUMNS]
        query = sa.select(*columns).where(holds).order_by(CELLS.c.created_at.desc(), CELLS.c.key).limit(most)
        return self.database.read(lambda connection: [StoredCell(*row) for row in connection.execute(query)])

    def count(self) -> int:
        """How many cells there are, failures among them.

        Raises:
            StoreError: the store cannot be read.
        """
        query = sa.select(sa.func.count()).select_from(CELLS)
        return int(self.database.read(lambda connection: connection.execute(query).scalar_one()))

    def put(self, cells: Iterable[StoredCell]) -> None:
        """Write cells in one transaction, over what stood there; durable when it returns.

        Raises:
            StoreError: the disk is full or the store cannot be written.
        """
        held = list(cells)
        self.database.write(lambda connection: write_cells(self.database, connection, held))

    def ledger(self) -> Ledger:
        """What has been spent, and what is reserved.

        Raises:
            StoreError: the store cannot be read.
        """
        spent, reserved = self.database.read(
            lambda connection: connection.execute(sa.select(LEDGER.c.spent, LEDGER.c.reserved)).one()
        )
        return Ledger(spent / 1e9, reserved / 1e9)

    def close(self) -> None:
        """Close every connection."""
        self.database.close()


def states_of(database: Database, connection: sa.Connection, keys: Sequence[str]) -> dict[str, str | None]:
    """See `Store.states`, within a transaction."""
    rows = connection.execute(sa.select(CELLS.c.key, CELLS.c.error).where(database.among(CELLS.c.key, keys)))
    return dict(rows.all())


def write_cells(database: Database, connection: sa.Connection, cells: Iterable[StoredCell]) -> None:
    """See `Store.put`, within a transaction."""
    # Two teachers that are the same model share a cell: the later outcome stands.
    rows = list({cell.key: {name: getattr(cell, name) for name in _COLUMNS} for cell in cells}.values())
    if rows:
        connection.execute(_upsert(database.is_sqlite), rows)


@cache
def _upsert(is_sqlite: bool) -> sa.Executable:
    """Built once: it is executed hundreds of times a minute, and building it costs as much as ten cells."""
    insert = sqlite.insert(CELLS) if is_sqlite else postgresql.insert(CELLS)
    new = {name: insert.excluded[name] for name in _COLUMNS if name != "key"}
    return insert.on_conflict_do_update(index_elements=["key"], set_=new)


def in_blocks(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    """Keys, as many at a time as one statement may name."""
    for start in range(0, len(keys), KEYS_A_QUERY):
        yield keys[start : start + KEYS_A_QUERY]
