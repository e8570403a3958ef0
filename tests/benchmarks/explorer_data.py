"""A purified dataset as large as one likes, made a file at a time: texts, scores, clustered embeddings and a panel.

Axes: N rows of a file, S sentences, T teachers, D embedding size.
Texts are sentences of made-up words with the frequencies of natural ones. A row's embedding is the real encoder's of
the sentence that its question begins with, and noise: so vectors cluster, and a text finds rows that speak of it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kp_data.hub.release import ROWS_A_FILE
from kp_data.purify.embedding import Embedder
from kp_data.schema import PURIFIED, RESPONSES
from kp_data.tables import write_json

Array = np.ndarray[Any, Any]

TEACHERS: Final = tuple(
    f"lab-{letter}/teacher-{size}b" for letter, size in zip("abcdef", (3, 7, 8, 14, 32, 70), strict=True)
)
SUBJECTS: Final = (
    *("biology", "business", "chemistry", "computing", "economics", "engineering", "health"),
    *("history", "law", "maths", "philosophy", "physics", "psychology", "other"),
)
VOCABULARY: Final = 40_000
SENTENCES: Final = 30_000
TOPICS: Final = 500
"""Sentences that a question may begin with: as many clusters."""
SIZE: Final = 384

_BLOCK: Final = 16_384


@dataclass(frozen=True)
class Stock:
    """What texts are put together from.

    Attributes:
        sentences: S texts of 6 to 20 words.
        topic_SD: embeddings of the first TOPICS of them, as unit vectors.
    """

    sentences: pa.Array
    topic_SD: Array


def make_stock(seed: int) -> Stock:
    """Sentences, and what the encoder makes of the topics among them."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("etaoinshrdlucmfwypvbgk"))
    vocabulary = np.array(["".join(rng.choice(letters, size)) for size in rng.integers(2, 11, VOCABULARY)])
    # Zipf's law, as natural words have it.
    weight = 1 / np.arange(1, VOCABULARY + 1)
    lengths = rng.integers(6, 21, SENTENCES)
    words = vocabulary[rng.choice(VOCABULARY, lengths.sum(), p=weight / weight.sum())]
    sentences = [" ".join(part).capitalize() + "." for part in np.split(words, np.cumsum(lengths)[:-1])]
    return Stock(pa.array(sentences), Embedder(cache=None)(sentences[:TOPICS]))


def write_dataset(folder: Path, num_rows: int, *, seed: int, panel: bool = True) -> Stock:
    """A dataset in the files and row groups in which `push` writes it.

    Args:
        folder: is made.
        num_rows: questions.
        seed: the same gives the same bytes.
        panel: also what each of six teachers said to each question.
    """
    stock = make_stock(seed)
    files = list(range(0, num_rows, ROWS_A_FILE))
    for path, first in zip(_paths(folder / "purified", len(files)), files, strict=True):
        rng = np.random.default_rng((seed, first))
        pq.write_table(_purified(stock, rng, first, min(ROWS_A_FILE, num_rows - first)), path, **_AS_RELEASED)
    said = list(itertools.product(enumerate(TEACHERS), files)) if panel else []
    for path, ((number, teacher), first) in zip(_paths(folder / "panel", len(said)), said, strict=True):
        rng = np.random.default_rng((seed, first, number))
        table = _responses(stock, rng, first, min(ROWS_A_FILE, num_rows - first), teacher)
        pq.write_table(table, path, **_AS_RELEASED)
    write_json({"method": "weighted-vote", "teachers": list(TEACHERS), "n_questions": num_rows}, folder / "report.json")
    return stock


_AS_RELEASED: Final[dict[str, Any]] = {"compression": "zstd", "use_content_defined_chunking": True}


def _paths(folder: Path, num: int) -> list[Path]:
    """Files of one split, numbered as they are published."""
    folder.mkdir(parents=True, exist_ok=True)
    return [folder / f"train-{number:05d}-of-{num:05d}.parquet" for number in range(num)]


def _ids(first: int, num: int) -> pa.Array:
    return pa.array([f"q{row:07d}" for row in range(first, first + num)])


def _texts(
    stock: Stock, rng: np.random.Generator, num: int, sentences: int, opening_N: Array | None = None
) -> pa.Array:
    """N texts of so many sentences; the first one may be given."""
    picks = [rng.integers(0, SENTENCES, num) for _ in range(sentences)]
    if opening_N is not None:
        picks[0] = opening_N
    return pc.binary_join_element_wise(*(stock.sentences.take(pa.array(pick)) for pick in picks), " ")


def _purified(stock: Stock, rng: np.random.Generator, first: int, num: int) -> pa.Table:
    topic_N, gold_N = rng.integers(0, TOPICS, num), rng.integers(0, 4, num).astype(np.int32)
    score_NT = rng.random((num, len(TEACHERS)))
    kept_N = score_NT.argmax(1)
    choices = pc.binary_join_element_wise(
        *(pa.array(rng.integers(0, 999, num)).cast(pa.string()) for _ in range(8)), ""
    )
    options = pa.ListArray.from_arrays(
        pa.array(np.arange(0, 4 * num + 1, 4), pa.int32()),
        pa.array([text for text in choices.to_pylist() for _ in "1234"]),
    )
    columns = {
        "id": _ids(first, num),
        "question": _texts(stock, rng, num, 2, topic_N),
        "choices": options,
        "answer": choices,
        "answer_index": pa.array(gold_N),
        "split": pa.array(["train"] * num),
        "subject": pa.array(np.array(SUBJECTS)[topic_N % len(SUBJECTS)]),
        "context": pa.nulls(num, pa.string()),
        "rationale": _texts(stock, rng, num, 4),
        "teacher": pa.array(np.array(TEACHERS)[kept_N]),
        "method": pa.array(["weighted-vote"] * num),
        "score": pa.array(score_NT.max(1)),
        "scores": pa.ListArray.from_arrays(
            pa.array(np.arange(0, score_NT.size + 1, len(TEACHERS)), pa.int32()), pa.array(score_NT.ravel())
        ),
        "purified_answer_index": pa.array(gold_N),
        "conflict": pa.array(rng.random(num) < 0.4),
    }
    table = pa.table({name: columns[name] for name in PURIFIED.names}).cast(PURIFIED)
    return table.append_column("embedding", _embeddings(stock, rng, topic_N))


def _embeddings(stock: Stock, rng: np.random.Generator, topic_N: Array) -> pa.Array:
    """Unit vectors about their topics', as far from these as paraphrases are (cosine about 0.8)."""
    vector_ND = np.empty((len(topic_N), SIZE), np.float16)
    for block in (slice(start, start + _BLOCK) for start in range(0, len(topic_N), _BLOCK)):
        drawn_ND = rng.standard_normal((len(topic_N[block]), SIZE), np.float32) * (0.75 / SIZE**0.5)
        drawn_ND += stock.topic_SD[topic_N[block]]
        vector_ND[block] = drawn_ND / np.linalg.norm(drawn_ND, axis=1, keepdims=True)
    return pa.FixedSizeListArray.from_arrays(pa.array(vector_ND.ravel()), SIZE)


def _responses(stock: Stock, rng: np.random.Generator, first: int, num: int, teacher: str) -> pa.Table:
    chosen_N = rng.integers(0, 4, num).astype(np.int32)
    known = {
        "question_id": _ids(first, num),
        "teacher": pa.array([teacher] * num),
        "mode": pa.array(["blind"] * num),
        "sample": pa.array(np.zeros(num, np.int32)),
        "rationale": _texts(stock, rng, num, 4),
        "answer_index": pa.array(chosen_N),
        "correct": pa.array(rng.random(num) < 0.6),
        "model": pa.array([teacher] * num),
        "cost_usd": pa.array(rng.random(num) / 1_000),
        "completion_tokens": pa.array(rng.integers(40, 200, num), pa.int32()),
    }
    columns = {name: known.get(name, pa.nulls(num)) for name in RESPONSES.names}
    table = pa.table({name: column.cast(RESPONSES.field(name).type) for name, column in columns.items()})
    return table.append_column("split", pa.array(["train"] * num))
