"""How fast fitted routers score questions, and how much memory that and embedding take.

Questions are made up: unit vectors around some topics, and teachers that are better at some of them. Each router is
fitted as `kp-data purify` fits it, on ready embeddings, and then scores many more; each in a process of its own, so
that its peak memory is its own. Beside it stands what one would write by hand for one question after the other with
numpy and scikit-learn, on the same router, timed on a sample; it must choose the same teachers.

The last part streams short texts through an `Embedder` whose encoder hashes words instead of running a network: what
is measured is the memory of everything around the encoder, at two lengths of the stream.

Run it with `make bench`, or alone; --questions, --train, --texts make it smaller, --results FILE writes Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

NUM_TEACHERS, NUM_TOPICS, SIZE = 6, 8, 384
OPTIONS: dict[str, dict[str, Any]] = {
    "similarity-router": {},
    "plackett-luce": {},
    "plm-classifier": {"frozen": 1, "encoder": "ready"},
}
BY_HAND = {"similarity-router": 500, "plackett-luce": 30, "plm-classifier": 2_000}
"""Questions that the code by hand is timed on."""


class Ready:
    """An embedder whose texts begin with the row of their vector."""

    encoder, device, batch_size, num_parameters = "ready", None, 64, 0

    def __init__(self, vector_QD: Array) -> None:
        self.vector_QD = vector_QD
        self.model, self.size = self, vector_QD.shape[1]

    def __call__(self, texts: Sequence[str]) -> Array:
        return np.asarray(self.vector_QD[[int(text.split()[0]) for text in texts]])


class WordHashes:
    """An encoder without a network: hashed words, normalised."""

    identity, size, num_parameters = "word hashes", SIZE, 0

    def __init__(self, *_: object) -> None:
        from sklearn.feature_extraction.text import HashingVectorizer

        self.vectorizer = HashingVectorizer(n_features=SIZE)

    def batches(self, texts: Sequence[str], batch_size: int) -> Iterator[tuple[list[int], Array]]:
        """As every encoder gives them."""
        for start in range(0, len(texts), batch_size):
            part = texts[start : start + batch_size]
            yield list(range(start, start + len(part))), self.vectorizer.transform(part).toarray().astype(np.float32)


def questions_of(count: int, *, seed: int) -> tuple[Array, Array]:
    """(Q, D) float32 unit vectors around the topics, and (Q,) int, the topic of each."""
    random = np.random.default_rng(seed)
    centre_CD = np.random.default_rng(0).normal(size=(NUM_TOPICS, SIZE)).astype(np.float32)
    topic_Q = random.integers(NUM_TOPICS, size=count)
    vector_QD = centre_CD[topic_Q]
    vector_QD += 0.5 * random.standard_normal(vector_QD.shape, dtype=np.float32)
    vector_QD /= np.linalg.norm(vector_QD, axis=1, keepdims=True)
    return vector_QD, topic_Q


def fitted_router(method: str, num_train: int) -> Any:
    """A router fitted on `num_train` questions, selected on a quarter as many."""
    from kp_data.panel import Panel
    from kp_data.purify import Context, find_method
    from kp_data.purify.labels import fit_data
    from kp_data.purify.registry import make_options
    from kp_data.schema import Question, Response
    from kp_data.tables import table_of_responses

    vector_QD, topic_Q = questions_of(num_train + num_train // 4, seed=1)
    random = np.random.default_rng(2)
    skill_CT = random.uniform(0.2, 0.9, size=(NUM_TOPICS, NUM_TEACHERS))
    right_QT = random.random((len(topic_Q), NUM_TEACHERS)) < skill_CT[topic_Q]
    questions = [
        Question(f"q{row}", f"{row} ?", ("w", "x"), "w", 0, "train" if row < num_train else "validation")
        for row in range(len(topic_Q))
    ]
    said = [
        Response(question.id, f"t{column}", "blind", rationale="-", answer_index=int(not right))
        for question, right_T in zip(questions, right_QT, strict=True)
        for column, right in enumerate(right_T)
    ]
    chosen = find_method(method)
    context = Context(0, Ready(vector_QD))  # type: ignore[arg-type]
    panel = Panel.of_tables(questions, table_of_responses(said))
    fitted = chosen.fit(fit_data(panel), make_options(chosen, OPTIONS[method]), context)
    if fitted.facts["fallback"]:
        raise SystemExit(f"{method} fell back: {fitted.facts['fallback_reason']}")
    return fitted.router


def by_hand(method: str, router: Any) -> Callable[[Array], Array]:
    """(D,) vector of a question to (T,) scores, as one would write it for one question."""
    from scipy.special import softmax

    if method == "similarity-router":
        from sklearn.metrics.pairwise import cosine_similarity
        from sklearn.neighbors import NearestNeighbors

        head, skill = router.head, router.skill
        near = NearestNeighbors(n_neighbors=skill.count, metric="cosine").fit(skill.known_KD)
        prior_T = (skill.right_KT.sum(0) + 1) / ((skill.right_KT + skill.wrong_KT).sum(0) + 2)

        def similarity(question_D: Array) -> Array:
            projected = head.project_KD @ question_D + head.bias_K
            cosine_T = cosine_similarity(projected[None], head.teacher_TK)[0]
            rows = near.kneighbors(question_D[None], return_distance=False)[0]
            right_T = skill.right_KT[rows].sum(0) + 2 * prior_T
            wrong_T = skill.wrong_KT[rows].sum(0) + 2 * (1 - prior_T)
            return np.asarray(softmax(cosine_T / head.temperature + skill.weight * np.log(right_T / wrong_T)))

        return similarity
    if method == "plackett-luce":
        from sklearn.linear_model import LogisticRegression

        rows, winners, losers = zip(
            *(
                (row, winner, loser)
                for row, skill_T in enumerate(router.skill_KT)
                for winner in np.flatnonzero(skill_T > 0.5)
                for loser in np.flatnonzero(skill_T < 0.5)
            ),
            strict=True,
        )
        contest_MT = np.zeros((len(rows), NUM_TEACHERS))
        contest_MT[np.arange(len(rows)), winners] = 1
        contest_MT[np.arange(len(rows)), losers] = -1
        both_MT, won_M = np.concatenate([contest_MT, -contest_MT]), np.repeat([1, 0], len(rows))

        def ranking(question_D: Array) -> Array:
            weight_K = router.options.gamma ** (1 + router.embedding_KD @ question_D)
            model = LogisticRegression(C=1e4, fit_intercept=False, max_iter=200)
            model.fit(both_MT, won_M, sample_weight=np.tile(weight_K[list(rows)], 2))
            return np.asarray(softmax(model.coef_[0]))

        return ranking
    import torch

    first, second = torch.nn.Linear(SIZE, len(router.layers["b1"])), torch.nn.Linear(len(router.layers["b1"]), 6)
    network = torch.nn.Sequential(first, torch.nn.GELU(), second, torch.nn.Softmax(0)).eval()
    names = {"0.weight": "w1", "0.bias": "b1", "2.weight": "w2", "2.bias": "b2"}
    network.load_state_dict({name: torch.from_numpy(router.layers[ours]) for name, ours in names.items()})

    def classifier(question_D: Array) -> Array:
        with torch.no_grad():
            return np.asarray(network(torch.from_numpy(question_D)).numpy())

    return classifier


def peak_mib() -> float:
    """Most memory this process has held."""
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib / (2**20 if sys.platform == "darwin" else 2**10)


def clock() -> tuple[float, float]:
    """(wall, CPU) seconds."""
    return time.perf_counter(), time.process_time()


def score(method: str, num_questions: int, num_train: int) -> dict[str, Any]:
    """One router: fitted, and timed on many questions; and the code by hand on some of them."""
    router = fitted_router(method, num_train)
    vector_QD, _ = questions_of(num_questions, seed=3)
    sample_QD = vector_QD[: BY_HAND[method]]
    router.score(sample_QD)
    before_mib, (wall, cpu) = peak_mib(), clock()
    score_QT = router.score(vector_QD)
    seconds, cpu_seconds = (now - then for now, then in zip(clock(), (wall, cpu), strict=True))
    grown_mib, peak = peak_mib() - before_mib, peak_mib()
    alone = by_hand(method, router)
    wall, cpu = clock()
    hand_QT = np.stack([alone(question_D) for question_D in sample_QD])
    hand_s, hand_cpu_s = ((now - then) / len(sample_QD) for now, then in zip(clock(), (wall, cpu), strict=True))
    return {
        "method": method,
        "questions_per_s": round(num_questions / seconds),
        "cells_per_s": round(score_QT.size / seconds),
        "cpu_us_a_question": round(1e6 * cpu_seconds / num_questions, 1),
        "by_hand_questions_per_s": round(1 / hand_s, 1),
        "speedup_cpu": round(hand_cpu_s / (cpu_seconds / num_questions), 1),
        "same_choice": float((score_QT[: len(hand_QT)].argmax(1) == hand_QT.argmax(1)).mean()),
        "peak_mib": round(peak),
        "grown_mib": round(grown_mib),
    }


def stream(num_texts: int) -> dict[str, Any]:
    """Short texts through an `Embedder`, block by block."""
    from kp_data.purify import Embedder

    embed = Embedder("hashes", cache=None, load=WordHashes, batch_size=1024)
    embed(["load what is needed"])
    before_mib, (wall, _) = peak_mib(), clock()
    done = sum(len(block) for block in embed.stream(f"what is {n} and {n * 7919 % 104729} ?" for n in range(num_texts)))
    seconds = clock()[0] - wall
    return {
        "texts": done,
        "texts_per_s": round(done / seconds),
        "peak_mib": round(peak_mib()),
        "grown_mib": round(peak_mib() - before_mib),
        "all_vectors_mib": round(done * SIZE * 4 / 2**20),
    }


def in_own_process(*arguments: str) -> dict[str, Any]:
    """The row that this script prints with such arguments."""
    command = [sys.executable, str(Path(__file__)), *arguments]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    row: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    print(json.dumps(row), flush=True)
    return row


def markdown(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A table of rows that have the same keys."""
    yield "| " + " | ".join(name.replace("_", " ") for name in rows[0]) + " |"
    yield "| --- " + "| ---: " * (len(rows[0]) - 1) + "|"
    for row in rows:
        yield "| " + " | ".join(f"{value:,}" if not isinstance(value, str) else value for value in row.values()) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=100_000)
    parser.add_argument("--train", type=int, default=4_000)
    parser.add_argument("--texts", type=int, default=300_000)
    parser.add_argument("--results", type=Path, help="write the tables here, as Markdown")
    parser.add_argument("--only", help="one method, or 'stream': print its row and nothing else")
    args = parser.parse_args()
    if args.only:
        row = stream(args.texts) if args.only == "stream" else score(args.only, args.questions, args.train)
        print(json.dumps(row))
        return
    sizes = ("--questions", str(args.questions), "--train", str(args.train))
    scored = [in_own_process("--only", method, *sizes) for method in OPTIONS]
    streamed = [in_own_process("--only", "stream", "--texts", str(count)) for count in (args.texts // 4, args.texts)]
    if args.results is not None:
        args.results.write_text("\n".join(page(args, scored, streamed)) + "\n", encoding="utf-8")


def page(args: argparse.Namespace, scored: list[dict[str, Any]], streamed: list[dict[str, Any]]) -> Iterator[str]:
    """The results, with what they were measured on."""
    from datetime import UTC, datetime

    yield f"# Scoring and streaming, {datetime.now(UTC):%Y-%m-%d}\n"
    yield (
        f"Machine: {os.cpu_count()} CPUs, {platform.system()}; Python {platform.python_version()}; OMP_NUM_THREADS "
        f"{os.environ.get('OMP_NUM_THREADS', 'not set')}; load average at the end: {os.getloadavg()[0]:.1f} (far above "
        "the number of CPUs, others had them too: wall times then say little, CPU times more).\n"
    )
    yield (
        f"{args.questions:,} questions × {NUM_TEACHERS} teachers from ready embeddings of {SIZE} numbers, routers "
        f"fitted on {args.train:,} questions. `by hand`: one question after the other with numpy and scikit-learn (for "
        "the classifier: torch), timed on a sample; `speedup cpu`: its CPU time by ours, a question; `same choice`: "
        "share of the sample on which both choose the same teacher; `grown mib`: of the peak, what scoring all "
        "questions added to a process that had scored the sample, embeddings loaded.\n"
    )
    yield from markdown(scored)
    yield "\nShort texts, all different, through an Embedder whose encoder hashes words instead of running a network:\n"
    yield from markdown(streamed)
    yield f"\n    python tests/benchmarks/scoring.py --questions {args.questions} --train {args.train}"


if __name__ == "__main__":
    main()
