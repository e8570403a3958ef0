"""What pages and answers have in common: bounded work, and threads that the rest of a hub does not wait for."""

from __future__ import annotations

import threading
import time

import anyio

from kp_data.hub.explorer import pages
from kp_data.hub.explorer.explorer import THREADS, in_thread


def test_differing_words_are_marked() -> None:
    assert pages._Marker()("the salt melts", "the ice melts") == [
        ("same", "the "),
        ("removed", "salt"),
        ("added", "ice"),
        ("same", " melts"),
    ]
    assert pages._Marker()([1, 2], None) == [("removed", "[1, 2]")]


def test_texts_whose_comparison_would_take_long_are_shown_as_wholes() -> None:
    marker, long = pages._Marker(), "a " * 4_000
    assert marker(long, long + "b") == [("removed", long), ("added", long + "b")]
    for _ in range(pages.MARKED_CHARS // 100):
        marker("a" * 100, "b" * 100)
    assert marker("one two", "one three") == [("removed", "one two"), ("added", "one three")]


def test_no_more_requests_are_worked_on_at_once_than_there_are_threads() -> None:
    lock, now, most = threading.Lock(), 0, 0

    def work() -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.01)
        with lock:
            now -= 1

    async def ask_often() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(5 * THREADS):
                group.start_soon(in_thread, work)

    anyio.run(ask_often)
    assert 1 < most <= THREADS
