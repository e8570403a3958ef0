"""Embeddings kept on disk between runs, in one SQLite file under the user's cache folder.

`KP_CACHE` names another folder, or switches the cache off (`KP_CACHE=off`). A cache never fails a run: where it cannot
be read or written, one line says so and the run goes on without it. Texts are not stored, only their hashes.
Axes: D embedding size.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from kp_data.console import say
from kp_data.store import use_wal

Array = np.ndarray[Any, Any]

OFF: Final = ("off", "0", "false", "no")
MAX_BYTES: Final = 1 << 30
"""Size at which the oldest fifth is forgotten: about 600,000 embeddings of MiniLM's size."""
LOOKUP: Final = 500
"""Keys a query: SQLite takes at most 999 in its older versions."""
BUSY_S: Final = 30.0

_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS embedding (number INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, vector BLOB NOT NULL)"
)


def cache_file() -> Path | None:
    """Where embeddings are kept; None where the cache is switched off."""
    given = os.environ.get("KP_CACHE", "").strip()
    if given.lower() in OFF:
        return None
    if given:
        return Path(given) / "embeddings.sqlite"
    home = os.environ.get("XDG_CACHE_HOME", "").strip()
    try:
        base = Path(home) if home else Path.home() / ".cache"
    except RuntimeError:  # no home folder is known, as in some containers
        return None
    return base / "knowledge-purification" / "embeddings.sqlite"


@dataclass
class EmbeddingCache:
    """Vectors by encoder and text. Several processes may use one file at once.

    Attributes:
        path: of the SQLite file; made when first written.
        model: everything that decides the bytes of an embedding, the text aside.
        max_bytes: size of the file at which the oldest vectors go.
    """

    path: Path
    model: str
    max_bytes: int = MAX_BYTES
    _connection: sqlite3.Connection | None = field(default=None, init=False, repr=False)
    _broken: bool = field(default=False, init=False, repr=False)

    def read(self, texts: Sequence[str], size: int) -> dict[str, Array]:
        """The texts that are known, each with its (D,) float32 vector.

        Args:
            texts: to look up.
            size: D; a stored vector of any other size is passed over.
        """
        found: dict[str, Array] = {}
        try:
            for start in range(0, len(texts), LOOKUP):
                found |= self._look_up(texts[start : start + LOOKUP], size)
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)
        return found

    def write(self, known: Iterable[tuple[str, Array]]) -> None:
        """Keep vectors; durable when this returns, and nothing half is ever seen by another process."""
        rows = [(self._key(text), np.ascontiguousarray(vector, dtype="<f4").tobytes()) for text, vector in known]
        try:
            if (connection := self._open()) is not None:
                with connection:
                    connection.executemany("INSERT OR IGNORE INTO embedding (key, vector) VALUES (?, ?)", rows)
                self._forget_oldest(connection)
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __del__(self) -> None:
        self.close()

    def _look_up(self, texts: Sequence[str], size: int) -> dict[str, Array]:
        if (connection := self._open()) is None:
            return {}
        by_key = {self._key(text): text for text in texts}
        marks = ",".join("?" * len(by_key))
        query = f"SELECT key, vector FROM embedding WHERE key IN ({marks})"  # noqa: S608  (question marks alone)
        rows = connection.execute(query, list(by_key)).fetchall()
        vectors = {by_key[key]: np.frombuffer(blob, dtype="<f4") for key, blob in rows if len(blob) == 4 * size}
        return {text: vector for text, vector in vectors.items() if np.isfinite(vector).all()}

    def _key(self, text: str) -> bytes:
        # Surrogates cannot be UTF-8, but a damaged file can hold them.
        return hashlib.sha256(f"{self.model}\0{text}".encode("utf-8", "surrogatepass")).digest()

    def _open(self) -> sqlite3.Connection | None:
        if self._connection is None and not self._broken:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self.path, timeout=BUSY_S, check_same_thread=False)
            # Readers do not wait for a writer; a power cut may cost the last vectors, never the file.
            use_wal(self._connection)
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.execute(_TABLE)
        return self._connection

    def _forget_oldest(self, connection: sqlite3.Connection) -> None:
        """Free a fifth of the rows where the file has grown too large; SQLite fills the space again."""
        (pages,), (free,), (page,) = (
            connection.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "freelist_count", "page_size")
        )
        if (pages - free) * page <= self.max_bytes:
            return
        with connection:
            connection.execute(
                "DELETE FROM embedding WHERE number IN "
                "(SELECT number FROM embedding ORDER BY number LIMIT 1 + (SELECT count(*) FROM embedding) / 5)"
            )

    def _give_up(self, error: Exception) -> None:
        self._broken = True
        self.close()
        say(
            f"note: embeddings are not kept between runs: {self.path} cannot be used ({error}); KP_CACHE names a folder"
        )
