"""Embeddings kept between runs: the same bytes, safe under two processes, bounded, and never in the way."""

import multiprocessing
import sqlite3

import numpy as np
import pytest

from kp_data.purify import Embedder
from kp_data.purify.embedding_cache import EmbeddingCache, cache_file

TEXTS = ["How hot is the sun?", "short", "two\nlines", "", "a damaged \udce9 character"]


def vectors(number, size=4):
    return [(f"text {row}", np.full(size, row, dtype=np.float32)) for row in range(number)]


def fill(path, worker):
    cache = EmbeddingCache(path, "model")
    for row in range(30):
        cache.write([(f"shared {row}", np.full(4, row, dtype=np.float32)), (f"{worker} {row}", np.zeros(4))])


def test_a_second_run_takes_the_same_bytes_from_disk_without_encoding(tmp_path):
    first, second = (Embedder(device="cpu", cache=tmp_path / "kept.sqlite") for _ in range(2))
    expected = first(TEXTS[:4])
    encoded = []
    second.progress = lambda done, total: encoded.append(total)
    assert np.array_equal(second(TEXTS[:4]), expected)
    assert not encoded
    assert np.array_equal(second([*TEXTS[:4], "new"])[:4], expected)
    assert encoded == [1]


def test_what_the_cache_holds_changes_no_bit(tmp_path):
    without = Embedder(device="cpu", cache=None)(TEXTS[:4])
    Embedder(device="cpu", cache=tmp_path / "kept.sqlite")(TEXTS[1:2])
    assert np.array_equal(Embedder(device="cpu", cache=tmp_path / "kept.sqlite")(TEXTS[:4]), without)


def test_vectors_of_another_model_or_precision_are_not_mixed_in(tmp_path):
    quick = Embedder(device="cpu", cache=tmp_path / "kept.sqlite", precision="bfloat16")(TEXTS[:1])
    exact = Embedder(device="cpu", cache=tmp_path / "kept.sqlite", precision="float32")(TEXTS[:1])
    assert not np.array_equal(quick, exact)
    EmbeddingCache(tmp_path / "kept.sqlite", "one").write(vectors(1))
    assert EmbeddingCache(tmp_path / "kept.sqlite", "another").read(["text 0"], 4) == {}


def test_any_text_can_be_a_key_and_many_are_found_at_once(tmp_path):
    cache = EmbeddingCache(tmp_path / "kept.sqlite", "model")
    cache.write([(text, np.ones(4, dtype=np.float32)) for text in TEXTS])
    assert set(cache.read(TEXTS, 4)) == set(TEXTS)
    cache.write(vectors(1200))
    assert len(cache.read([text for text, _ in vectors(1300)], 4)) == 1200


def test_two_processes_write_one_file(tmp_path):
    path = tmp_path / "new" / "kept.sqlite"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=fill, args=(path, name)) for name in ("left", "right")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    texts = [f"{name} {row}" for name in ("shared", "left", "right") for row in range(30)]
    assert len(EmbeddingCache(path, "model").read(texts, 4)) == 90


def test_the_oldest_go_when_the_file_grows_too_large(tmp_path):
    cache = EmbeddingCache(tmp_path / "kept.sqlite", "model", max_bytes=100_000)
    for number in range(40):
        cache.write([(f"{number} {row}", np.zeros(100, dtype=np.float32)) for row in range(20)])
    assert cache.read(["0 0"], 100) == {}
    assert len(cache.read([f"39 {row}" for row in range(20)], 100)) == 20
    cache.close()
    assert (tmp_path / "kept.sqlite").stat().st_size < 200_000


@pytest.mark.parametrize("content", [b"not a database at all, but long enough to be read as one" * 20])
def test_a_broken_cache_is_said_once_and_does_not_stop_the_run(tmp_path, capsys, content):
    (tmp_path / "kept.sqlite").write_bytes(content)
    embed = Embedder(device="cpu", cache=tmp_path / "kept.sqlite")
    assert embed(["x"]).shape == embed(["y"]).shape == (1, 384)
    assert capsys.readouterr().err.count("embeddings are not kept between runs") == 1


def test_a_folder_that_cannot_be_made_does_not_stop_the_run_either(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    cache = EmbeddingCache(tmp_path / "file" / "kept.sqlite", "model")
    cache.write(vectors(1))
    assert cache.read(["text 0"], 4) == {}
    assert "KP_CACHE names a folder" in capsys.readouterr().err


@pytest.mark.parametrize("blob", [b"short", np.full(4, np.nan, dtype=np.float32).tobytes()])
def test_a_damaged_vector_is_as_good_as_none(tmp_path, blob):
    cache = EmbeddingCache(tmp_path / "kept.sqlite", "model")
    cache.write(vectors(2))
    cache.close()
    with sqlite3.connect(tmp_path / "kept.sqlite") as connection:
        connection.execute("UPDATE embedding SET vector = ? WHERE number = 1", (blob,))
    connection.close()
    assert set(cache.read(["text 0", "text 1"], 4)) == {"text 1"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"KP_CACHE": "/a"}, "/a/embeddings.sqlite"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/knowledge-purification/embeddings.sqlite"),
        ({"HOME": "/c"}, "/c/.cache/knowledge-purification/embeddings.sqlite"),
        ({"KP_CACHE": "OFF"}, "None"),
    ],
)
def test_where_the_cache_lies_is_for_the_user_to_say(monkeypatch, environment, expected):
    for name in ("KP_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert str(cache_file()) == expected
