"""Indexes of what is looked at: built one after another by a process of low priority, kept beside the tables.

An index appears whole or not at all: it is built under another name and renamed. What a dead process left behind is
swept away at the next start.
"""

from __future__ import annotations

import hashlib
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from kp_data.errors import DataError
from kp_data.hub.explorer.dataset import Part
from kp_data.hub.explorer.fulltext import FullText, build_fulltext
from kp_data.hub.explorer.semantic import Semantic, build_semantic, can_embed

Kind = Literal["fulltext", "semantic"]

KEPT: Final = 200
"""Indexes that are kept on disk; those not used for longest go first."""

_SHARE: Final = re.compile(r"[01]\.\d{3}\n")
_HASH: Final = re.compile(r"[0-9a-f]{64}\.parquet")
_OPEN_AT_ONCE: Final = 16
_LOG: Final = logging.getLogger(__name__)


class NotReady(DataError):
    """What was asked for is still being built."""

    not_ready = True


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
    """

    def __init__(self, folder: Path, *, semantic: bool = True) -> None:
        self._folder, self._semantic = Path(folder), semantic
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in self._folder.glob(".*.building"):
            shutil.rmtree(left, ignore_errors=True)
        self._lock = threading.Lock()
        self._states: dict[Path, State] = {}
        self._opened: dict[Path, FullText | Semantic] = {}
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

    def _embedded(self, text: str, size: int) -> Any:
        from kp_data.purify.embedding import Embedder

        with self._lock:
            if not hasattr(self, "_embedder"):
                self._embedder = Embedder(cache=None)
            vector_D = self._embedder([text])[0]
        if vector_D.shape != (size,):
            raise DataError("the embeddings of this part are of another model, so no text can be compared with them")
        return np.asarray(vector_D, np.float32)

    def _index(self, kind: Kind, part: Part) -> FullText | Semantic:
        state, place = self.state(kind, part), self._place(kind, part)
        if state.name == "ready":
            return self._open(kind, place)
        if state.name in ("off", "failed"):
            raise DataError(state.reason)
        if state.name == "missing":
            with self._lock:
                begin = place not in self._states
                self._states.setdefault(place, State("waiting"))
            if begin:
                self._jobs.put((kind, part, place))
        raise NotReady(f"the index is being built ({state.progress:.0%}); ask again in a moment")

    def _open(self, kind: Kind, place: Path) -> FullText | Semantic:
        with self._lock:
            if place not in self._opened:
                while len(self._opened) >= _OPEN_AT_ONCE:
                    self._opened.pop(next(iter(self._opened)))
                self._opened[place] = FullText(place) if kind == "fulltext" else Semantic(place)
                os.utime(place)
            return self._opened[place]

    def _place(self, kind: Kind, part: Part) -> Path:
        return self._folder / f"{_identity(part)}.{kind}"

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None and not self._closed:
            kind, part, place = job
            temporary = place.with_name(f".{place.name}.{secrets.token_hex(4)}.building")
            try:
                self._build(kind, part, place, temporary)
            except OSError as error:
                self._note(place, State("failed", reason=f"the index cannot be built ({error.strerror})"))
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
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(json.dumps(job))
                process.stdin.close()
                for share in filter(_SHARE.fullmatch, process.stdout):
                    self._note(place, State("building", float(share)))
            self._process = None
            complaints.seek(0)
            said = complaints.read().strip().splitlines()
        if process.returncode == 0:
            temporary.replace(place)
            self._sweep()
            with self._lock:
                self._states.pop(place, None)
        else:
            _LOG.warning("index: %s", said[-1] if said else f"exit {process.returncode}")
            self._note(place, State("failed", reason="the index of this part could not be built; the log says why"))

    def _note(self, place: Path, state: State) -> None:
        with self._lock:
            self._states[place] = state

    def _sweep(self) -> None:
        places = sorted((path for path in self._folder.iterdir() if path.suffix), key=lambda path: path.stat().st_mtime)
        for place in [path for path in places if not path.name.startswith(".")][:-KEPT]:
            with self._lock:
                self._opened.pop(place, None)
            shutil.rmtree(place, ignore_errors=True)


def _identity(part: Part) -> str:
    """What changes when the rows of a part do: hashes where files are named by theirs, else size and time."""
    digest = hashlib.sha256()
    for file in part.files:
        stat = file.stat()
        state = "" if _HASH.fullmatch(file.name) else f"{file}\0{stat.st_mtime_ns}"
        digest.update(f"{file.name}\0{stat.st_size}\0{state}\n".encode())
    return digest.hexdigest()[:32]


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

    build = build_fulltext if job["kind"] == "fulltext" else build_semantic
    build(part, Path(job["folder"]), progress)


if __name__ == "__main__":
    main()
