"""Indexes of what is looked at: built one after another by a process of low priority, kept beside the tables.

An index appears whole or not at all: it is built under another name and renamed. What a dead process left behind is
swept away at the next start.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa

from kp_data.errors import DataError
from kp_data.hub.explorer.dataset import NotReady, Part
from kp_data.hub.explorer.fulltext import FullText, build_fulltext
from kp_data.hub.explorer.queries import Array, QueryEncoder
from kp_data.hub.explorer.rowstore import LEAST_ROWS, RowStore, build_rowstore
from kp_data.hub.explorer.semantic import Semantic, build_semantic, can_embed

Kind = Literal["fulltext", "semantic", "rows"]
Index = FullText | Semantic | RowStore

KEPT: Final = 200
"""Indexes that are kept on disk; those not opened for longest go first."""

MAX_BYTES: Final = 20 * 2**30
"""What they may take on disk."""

WAITING: Final = 20
"""Indexes that may wait to be built, so that whoever asks for those of very many versions holds up nobody for days."""

_SHARE: Final = re.compile(r"[01]\.\d{3}\n")
_BUILDER: Final = re.compile(r"\.(\d+)\.[0-9a-f]+\.building$")
_OPEN_AT_ONCE: Final = 16
_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class State:
    """How far an index is.

    Attributes:
        name: `missing`, `waiting`, `building`, `ready`, `failed`, or `off` where there is to be none.
        progress: share built, 0 to 1.
        reason: of a failure, or of being off.
    """

    name: Literal["missing", "waiting", "building", "ready", "failed", "off"]
    progress: float = 0.0
    reason: str = ""


class Indexes:
    """Finds rows by words and by meaning; starts building what is missing when it is asked for.

    Args:
        folder: where indexes are kept.
        semantic: whether to search by meaning at all.
        max_bytes: what all indexes may take on disk.
    """

    def __init__(self, folder: Path, *, semantic: bool = True, max_bytes: int = MAX_BYTES) -> None:
        self._folder, self._semantic, self._max_bytes = Path(folder), semantic, max_bytes
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in self._folder.glob(".*.building"):
            # Another server may be building in the same folder just now.
            if not _is_alive(left.name):
                shutil.rmtree(left, ignore_errors=True)
        self._encoder = QueryEncoder()
        self._lock = threading.Lock()
        self._states: dict[Path, State] = {}
        self._opened: dict[Path, Index] = {}
        self._jobs: queue.SimpleQueue[tuple[Kind, Part, Path] | None] = queue.SimpleQueue()
        self._process: subprocess.Popen[str] | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="indexes", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop building; what is half built is thrown away."""
        self._closed = True
        self._jobs.put(None)
        if (process := self._process) is not None:
            process.terminate()
        self._thread.join()
        self._encoder.close()

    def state(self, kind: Kind, part: Part) -> State:
        """How far an index is; asking starts nothing."""
        if kind == "semantic" and not self._semantic:
            return State("off", reason="search by meaning is switched off here")
        if kind == "semantic" and not can_embed(part):
            return State("off", reason="this part brings no embeddings and is too large to be embedded here")
        place = self._place(kind, part)
        if place.is_dir():
            return State("ready", 1.0)
        with self._lock:
            return self._states.get(place, State("missing"))

    def search(self, part: Part, words: str, *, offset: int = 0, length: int = 100) -> tuple[list[int], int]:
        """Row numbers that hold the words, best first, and how many there are in all.

        Raises:
            NotReady: the index is being built.
            DataError: it could not be built.
        """
        index = self._index("fulltext", part)
        assert isinstance(index, FullText)
        return index.search(words, offset=offset, length=length)

    def similar(self, part: Part, to: str | int, *, k: int = 50) -> list[tuple[int, float]]:
        """(row number, cosine) of rows that mean something similar, nearest first.

        Args:
            part: whose rows.
            to: a text, or the number of a row.
            k: how many.

        Raises:
            NotReady: the index is being built.
            DataError: it could not be built, there is to be none, or it is not made for texts.
        """
        index = self._index("semantic", part)
        assert isinstance(index, Semantic)
        vector_D = index.vector(to) if isinstance(to, int) else self._embedded(to, index.size)
        return index.nearest(vector_D, k)

    def rows(
        self, part: Part, numbers: Sequence[int], columns: Sequence[str]
    ) -> tuple[tuple[int, Mapping[str, Any]], ...] | None:
        """The rows that a search found; None: as yet, or for good, they must be read from the tables.

        Asking for those of a large part begins to prepare them for the next time.
        """
        if part.num_rows < LEAST_ROWS:
            return None
        try:
            store = self._index("rows", part)
        except DataError:
            return None
        assert isinstance(store, RowStore)
        return store.at(numbers, columns) if set(columns) <= set(store.columns) else None

    def _embedded(self, text: str, size: int) -> Array:
        vector_D = self._encoder(text)
        if vector_D.shape != (size,):
            raise DataError("the embeddings of this part are of another model, so no text can be compared with them")
        return vector_D

    def _index(self, kind: Kind, part: Part) -> Index:
        state, place = self.state(kind, part), self._place(kind, part)
        if state.name == "ready":
            return self._open(kind, place)
        if state.name in ("off", "failed"):
            raise DataError(state.reason)
        if state.name == "missing":
            self._begin(kind, part, place)
        raise NotReady(f"the index is being built ({state.progress:.0%}); ask again in a moment")

    def _begin(self, kind: Kind, part: Part, place: Path) -> None:
        with self._lock:
            if place in self._states:
                return
            if sum(state.name == "waiting" for state in self._states.values()) >= WAITING:
                raise NotReady("many indexes are waiting to be built; ask again later")
            self._states[place] = State("waiting")
        self._jobs.put((kind, part, place))

    def _open(self, kind: Kind, place: Path) -> Index:
        with self._lock:
            if place not in self._opened:
                while len(self._opened) >= _OPEN_AT_ONCE:
                    self._opened.pop(next(iter(self._opened)))
                try:
                    self._opened[place] = _OPENERS[kind](place)
                    os.utime(place)
                except (OSError, ValueError, RuntimeError, pa.ArrowInvalid) as error:
                    # Another server made room, or a disk lost bytes (faiss says RuntimeError): it is built anew.
                    shutil.rmtree(place, ignore_errors=True)
                    raise NotReady("the index has gone and is built again; ask again in a moment") from error
            return self._opened[place]

    def _place(self, kind: Kind, part: Part) -> Path:
        return self._folder / f"{part.identity}.{kind}"

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None and not self._closed:
            kind, part, place = job
            temporary = place.with_name(f".{place.name}.{os.getpid()}.{secrets.token_hex(4)}.building")
            try:
                self._build(kind, part, place, temporary)
            except (OSError, ValueError) as error:
                # The thread outlives it: further indexes wait behind this one.
                _LOG.warning("index: %s", error)
                self._note(place, State("failed", reason="the index of this part could not be built; the log says why"))
            finally:
                shutil.rmtree(temporary, ignore_errors=True)

    def _build(self, kind: Kind, part: Part, place: Path, temporary: Path) -> None:
        temporary.mkdir(mode=0o700)
        self._note(place, State("building"))
        job = {"kind": kind, "files": [str(file) for file in part.files], "folder": str(temporary)}
        # A process of its own: it takes no turn from readers, and its memory goes when it ends.
        command = [sys.executable, "-m", "kp_data.hub.explorer.indexing"]
        pipe = subprocess.PIPE
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as complaints:
            # The job comes by its input, not by its arguments, which everybody on the machine can read.
            with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=complaints, text=True) as process:  # noqa: S603
                self._process = process
                if self._closed:
                    process.terminate()
                assert process.stdin is not None
                assert process.stdout is not None
                with suppress(BrokenPipeError), process.stdin:
                    process.stdin.write(json.dumps(job))
                for share in filter(_SHARE.fullmatch, process.stdout):
                    self._note(place, State("building", float(share)))
            self._process = None
            complaints.seek(0)
            said = complaints.read().strip().splitlines()
        if process.returncode == 0:
            self._make_room(_num_bytes(temporary))
            temporary.replace(place)
            with self._lock:
                self._states.pop(place, None)
        else:
            _LOG.warning("index: %s", said[-1] if said else f"exit {process.returncode}")
            self._note(place, State("failed", reason="the index of this part could not be built; the log says why"))

    def _note(self, place: Path, state: State) -> None:
        with self._lock:
            self._states[place] = state

    def _make_room(self, needed: int) -> None:
        """Let go of the indexes that were opened least lately, until one of so many bytes may be kept, too."""
        places = sorted(
            (place for place in self._folder.iterdir() if not place.name.startswith(".")),
            key=lambda place: -place.stat().st_mtime,
        )
        used = needed
        for number, place in enumerate(places, start=1):
            used += _num_bytes(place)
            if number >= KEPT or used > self._max_bytes:
                with self._lock:
                    self._opened.pop(place, None)
                shutil.rmtree(place, ignore_errors=True)


def _num_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def _is_alive(name: str) -> bool:
    """Whether the process that builds in a folder of this name is still there."""
    found = _BUILDER.search(name)
    if found is None:
        return False
    try:
        os.kill(int(found[1]), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


_OPENERS: Final[Mapping[Kind, Callable[[Path], Index]]] = {
    "fulltext": FullText,
    "semantic": Semantic,
    "rows": RowStore,
}
_BUILDERS: Final[Mapping[str, Callable[[Part, Path, Callable[[float], None]], None]]] = {
    "fulltext": build_fulltext,
    "semantic": build_semantic,
    "rows": build_rowstore,
}


def main() -> None:
    """Build one index, as told on standard input; progress goes to standard output, a number a line."""
    os.nice(10)
    job = json.loads(sys.stdin.read())
    part = Part("", "", tuple(Path(file) for file in job["files"]))
    last = -1.0

    def progress(share: float) -> None:
        nonlocal last
        if share - last >= 0.01:
            last = share
            print(f"{share:.3f}", flush=True)

    _BUILDERS[job["kind"]](part, Path(job["folder"]), progress)


if __name__ == "__main__":
    main()
