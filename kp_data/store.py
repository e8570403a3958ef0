"""The cell store: what every teacher answered, durable and content-addressed.

A cell is question × teacher × mode × sample. Its key is a hash of everything that can change the answer, so the same
question asked of the same model in the same words is paid once, whatever the teacher is called. A cell counts as done
only after its transaction is on disk. Raw replies are kept: a better parser reads them again without asking again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from kp_data.errors import StoreError

STORE_VERSION: Final = 1

_metadata = sa.MetaData()
_about = sa.Table(
    "about", _metadata, sa.Column("name", sa.String(64), primary_key=True), sa.Column("value", sa.Text, nullable=False)
)
_cells = sa.Table(
    "cells",
    _metadata,
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
_COLUMNS: Final = tuple(column.name for column in _cells.columns)
# SQLite allows 32,766 bound values a statement; this stays far below on every engine.
_KEYS_A_QUERY: Final = 500


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


def cell_key(request: dict[str, Any]) -> str:
    """The key of a cell: SHA-256 of the canonical JSON of everything that can change the answer.

    >>> cell_key({"a": 1, "b": 2}) == cell_key({"b": 2, "a": 1})
    True
    """
    canonical = json.dumps(request, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


class Store:
    """Cells by key, in SQLite (WAL) or any database SQLAlchemy knows."""

    def __init__(self, url: str | sa.URL) -> None:
        """Open, and create what is missing.

        Args:
            url: SQLAlchemy URL, such as `sqlite:///panel/cells.sqlite`.

        Raises:
            StoreError: it cannot be opened, is damaged, or was written by another version.
        """
        self._place = "the cell store"
        try:
            self._place = sa.engine.make_url(url).render_as_string(hide_password=True)
            self._engine = sa.create_engine(url)
            if self._engine.dialect.name == "sqlite":
                sa.event.listen(self._engine, "connect", _tune_sqlite)
            _metadata.create_all(self._engine)
            self._check_version()
        except (SQLAlchemyError, ImportError, ValueError) as error:
            raise StoreError(f"cannot be opened ({_reason(error)})", place=self._place) from error

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
        found: dict[str, StoredCell] = {}
        try:
            with self._engine.connect() as connection:
                for start in range(0, len(keys), _KEYS_A_QUERY):
                    query = sa.select(_cells).where(_cells.c.key.in_(keys[start : start + _KEYS_A_QUERY]))
                    for row in connection.execute(query).mappings():
                        found[row["key"]] = StoredCell(**row)
        except SQLAlchemyError as error:
            raise StoreError(f"cannot be read ({_reason(error)})", place=self._place) from error
        return found

    def states(self, keys: Sequence[str]) -> dict[str, str | None]:
        """The failure class of each cell that exists among these keys; None for a reply."""
        found: dict[str, str | None] = {}
        try:
            with self._engine.connect() as connection:
                for start in range(0, len(keys), _KEYS_A_QUERY):
                    some = keys[start : start + _KEYS_A_QUERY]
                    query = sa.select(_cells.c.key, _cells.c.error).where(_cells.c.key.in_(some))
                    found.update((row.key, row.error) for row in connection.execute(query))
        except SQLAlchemyError as error:
            raise StoreError(f"cannot be read ({_reason(error)})", place=self._place) from error
        return found

    def put(self, cells: Iterable[StoredCell]) -> None:
        """Write cells in one transaction, over what stood there; durable when it returns.

        Raises:
            StoreError: the disk is full or the store cannot be written.
        """
        # Two teachers that are the same model share a cell: the later outcome stands.
        rows = list({cell.key: {name: getattr(cell, name) for name in _COLUMNS} for cell in cells}.values())
        if not rows:
            return
        keys = [row["key"] for row in rows]
        try:
            with self._engine.begin() as connection:
                connection.execute(
                    sa.delete(_cells).where(_cells.c.key == sa.bindparam("gone")), [{"gone": key} for key in keys]
                )
                connection.execute(sa.insert(_cells), rows)
        except SQLAlchemyError as error:
            raise StoreError(
                f"cannot be written ({_reason(error)}); free space, then run again", place=self._place
            ) from error

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def _check_version(self) -> None:
        with self._engine.begin() as connection:
            version = connection.execute(sa.select(_about.c.value).where(_about.c.name == "version")).scalar()
            if version is None:
                connection.execute(sa.insert(_about), {"name": "version", "value": str(STORE_VERSION)})
            elif version != str(STORE_VERSION):
                raise StoreError(
                    f"written by store version {version}, this program knows {STORE_VERSION}; use the matching release",
                    place=self._place,
                )


def _tune_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    # FULL: a committed cell survives a power cut; group commits keep it cheap.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA busy_timeout=30000")
    cursor.close()


def _reason(error: BaseException) -> str:
    original = getattr(error, "orig", None) or error
    return str(original).splitlines()[0][:200]
