"""Embeds what readers search for, in a process of its own: it begins with the first search and ends when none comes.

The encoder takes half a gigabyte and a few seconds to load. A server that shows tables should carry neither, so texts
go to a child by its standard input, a line of JSON each, and unit vectors come back as lines of numbers.

Axes: D embedding size.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from typing import Any, Final

import numpy as np

from kp_data.errors import DataError
from kp_data.hub.explorer.dataset import NotReady

Array = np.ndarray[Any, Any]

IDLE_S: Final = 300.0
"""Without a search for so long, the child ends."""

WAIT_S: Final = 3.0
"""A reader waits so long; then the page says that it asks again by itself."""

MAX_CHARS: Final = 2_000
WAITING: Final = 32
"""Texts that may wait for the encoder; more are turned away."""

KEPT: Final = 256


class QueryEncoder:
    """Texts to vectors; threads may share it.

    Args:
        idle_s: seconds without work after which the child ends.
        wait_s: seconds that a caller waits.
    """

    def __init__(self, *, idle_s: float = IDLE_S, wait_s: float = WAIT_S) -> None:
        self._idle_s, self._wait_s = idle_s, wait_s
        self._lock = threading.Lock()
        self._asked: OrderedDict[str, Future[Array]] = OrderedDict()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="queries")
        self._child: subprocess.Popen[str] | None = None

    def __call__(self, text: str) -> Array:
        """(D,) float32 unit vector of a text, its beginning where it is very long.

        Raises:
            NotReady: it takes longer than a reader should wait; asking again costs nothing.
            DataError: the encoder cannot be run.
        """
        try:
            return self._future(text[:MAX_CHARS]).result(self._wait_s)
        except NotYet:
            raise NotReady("the encoder is being loaded; ask again in a moment") from None

    def close(self) -> None:
        """End the child; nobody is answered any more."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        if (child := self._child) is not None:
            child.kill()
            child.wait()
            _close(child)

    def _future(self, text: str) -> Future[Array]:
        with self._lock:
            future = self._asked.get(text)
            if future is not None and not (future.done() and future.exception() is not None):
                self._asked.move_to_end(text)
                return future
            if sum(not each.done() for each in self._asked.values()) >= WAITING:
                raise NotReady("too many searches at once; ask again in a moment")
            self._asked[text] = self._thread.submit(self._embedded, text)
            while len(self._asked) > KEPT:
                self._asked.popitem(last=False)
            return self._asked[text]

    def _embedded(self, text: str) -> Array:
        # A child that has just ended for want of work is started once more.
        for _ in range(2):
            if (answer := self._answer(text)) is not None:
                return np.array(json.loads(answer), np.float32)
        raise DataError("texts cannot be embedded here; the log of the server says why")

    def _answer(self, text: str) -> str | None:
        child = self._running()
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(json.dumps(text) + "\n")
            child.stdin.flush()
            return child.stdout.readline() or None
        except OSError:
            return None

    def _running(self) -> subprocess.Popen[str]:
        if self._child is None or self._child.poll() is not None:
            if self._child is not None:
                _close(self._child)
            command = [sys.executable, "-m", "kp_data.hub.explorer.queries", str(self._idle_s)]
            # One short text is no work for several threads: on a busy machine they wait a second for one another,
            # where one thread takes 60 ms.
            alone, pipe = {**os.environ, "OMP_NUM_THREADS": "1"}, subprocess.PIPE
            self._child = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=alone)  # noqa: S603
        return self._child


def _close(child: subprocess.Popen[str]) -> None:
    for stream in (child.stdin, child.stdout):
        try:
            if stream is not None:
                stream.close()
        except OSError:
            continue


def main() -> None:
    """Answer lines of standard input until it ends, or nothing comes for a while."""
    from kp_data.purify.embedding import Embedder

    idle_s = float(sys.argv[1])
    # What libraries print must not stand between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    embedder, lines = Embedder(cache=None), os.fdopen(0, "rb", buffering=0)
    # No text waits in a buffer of ours: one is read whole before the next is sent.
    while select.select([lines], [], [], idle_s)[0] and (line := lines.readline()):
        vector_D = embedder([json.loads(line)])[0]
        answers.write(json.dumps(vector_D.tolist()) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
