"""The encoder's own process: begun when somebody searches, ended when nobody does, and never in anybody's way."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from kp_data.errors import DataError
from kp_data.hub.explorer import queries
from kp_data.hub.explorer.dataset import NotReady
from kp_data.hub.explorer.queries import QueryEncoder
from kp_data.hub.explorer.remembered import Remembered


@pytest.fixture
def encoder() -> Iterator[QueryEncoder]:
    made = QueryEncoder(wait_s=0.05)
    yield made
    made.close()


@pytest.mark.slow
def test_a_text_is_embedded_as_the_encoder_does_and_a_dead_child_is_replaced() -> None:
    from kp_data.purify.embedding import Embedder

    encoder = QueryEncoder(wait_s=120)
    try:
        text = 'ice, snow\n"and" größer'
        assert np.allclose(encoder(text), Embedder(cache=None)([text])[0], atol=2e-3)
        assert encoder._child is not None
        encoder._child.kill()
        encoder._child.wait()
        assert encoder("another text").shape == (384,)
    finally:
        encoder.close()


@pytest.mark.slow
def test_a_child_without_work_ends() -> None:
    encoder = QueryEncoder(wait_s=120, idle_s=0.1)
    try:
        encoder("one")
        assert encoder._child is not None
        assert encoder._child.wait(timeout=60) == 0
    finally:
        encoder.close()


def test_who_asks_while_it_loads_is_told_to_come_again(encoder: QueryEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(encoder, "_answer", lambda text: release.wait(30) and "[0.6, 0.8]")
    with pytest.raises(NotReady, match="being loaded"):
        encoder("one")
    release.set()
    found = None
    while found is None:
        try:
            found = encoder("one")
        except NotReady:
            time.sleep(0.01)
    assert found.tolist() == pytest.approx([0.6, 0.8])


def test_more_texts_than_it_can_do_are_turned_away(encoder: QueryEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "WAITING", 2)
    release = threading.Event()
    monkeypatch.setattr(encoder, "_answer", lambda text: release.wait(30) and "[1.0]")
    for text in ("one", "two", "two"):
        with pytest.raises(NotReady, match="being loaded"):
            encoder(text)
    with pytest.raises(NotReady, match="too many searches"):
        encoder("three")
    release.set()


def test_an_encoder_that_cannot_run_is_an_error_and_is_tried_again(
    encoder: QueryEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder, "_wait_s", 30)
    monkeypatch.setattr(encoder, "_answer", lambda text: None)
    with pytest.raises(DataError, match="cannot be embedded here"):
        encoder("one")
    monkeypatch.setattr(encoder, "_answer", lambda text: "[1.0]")
    assert encoder("one").tolist() == [1.0]


def test_what_many_ask_at_once_is_found_out_once() -> None:
    answers, found, start = Remembered(), [], threading.Barrier(4)

    def find() -> int:
        found.append(1)
        time.sleep(0.05)
        return 7

    def ask() -> None:
        start.wait()
        assert answers.get("key", find) == 7

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 1


def test_an_answer_that_failed_is_not_remembered_and_the_oldest_go_first() -> None:
    answers = Remembered(kept=2)
    with pytest.raises(ZeroDivisionError):
        answers.get("a", lambda: 1 // 0)
    assert answers.get("a", lambda: 1) == 1
    for name in "bc":
        answers.get(name, lambda: 2)
    assert answers.get("a", lambda: 3) == 3
