"""Test questions that stand in training data, found before they are published.

A test question leaks when a training question is the same after normalisation (context, question and choices, in
whatever case, punctuation and order), or nearly the same: the Jaccard index of their sets of word 3-shingles is at
least `NEAR`. Numbers and words count alike, so two instances of one long template can come out as near; the author
decides (`--allow-leaks`).

Axes: Q test questions.

Source: shingles and their resemblance as in Broder, "On the resemblance and containment of documents" (1997); 0.8 as in
Lee et al., arXiv:2107.06499. Differs from both: compared exactly, through an inverted index over the test side, and
not by MinHash.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from kp_data.answers import normalise_answer
from kp_data.errors import DataError

NEAR: Final = 0.8
"""At this Jaccard index two questions count as the same: in a text of thirty words, one changed."""
SHINGLE: Final = 3
_LISTED: Final = 10
_WORD: Final = re.compile(r"\w+")

Key = tuple[str, str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class Leak:
    """A test question that stands in train.

    Attributes:
        train_id: of the training question.
        test_id: of the test question.
        similarity: 1.0 when they are the same after normalisation, else their Jaccard index.
        exact: whether they are the same after normalisation.
    """

    train_id: str
    test_id: str
    similarity: float
    exact: bool

    @property
    def likeness(self) -> str:
        """In words."""
        return "the same" if self.exact else f"{self.similarity:.0%} alike"


@dataclass(frozen=True)
class LeakCheck:
    """What was found when one set of test questions was looked for in train.

    Attributes:
        name: of the benchmark.
        num_questions: test questions looked for.
        leaks: at most one a test question, its most similar one, in the order of the test questions.
    """

    name: str
    num_questions: int
    leaks: tuple[Leak, ...]

    @property
    def num_exact(self) -> int:
        """Test questions that stand in train as they are."""
        return sum(leak.exact for leak in self.leaks)

    @property
    def num_near(self) -> int:
        """Test questions that stand in train nearly as they are."""
        return len(self.leaks) - self.num_exact

    def as_dict(self) -> dict[str, Any]:
        """For a card: how many, not which."""
        return {"benchmark": self.name, "questions": self.num_questions, "exact": self.num_exact, "near": self.num_near}


class LeakError(DataError):
    """Test questions would be published as training data; `checks` says which, within the process that found them."""

    checks: tuple[LeakCheck, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For `--json`: every leak of every benchmark."""
        leaks = {check.name: [asdict(leak) for leak in check.leaks] for check in self.checks}
        return {"error": "leaks", "leaks": leaks}


def find_leaks(train: pa.Table, test: pa.Table, *, name: str, near: float = NEAR) -> LeakCheck:
    """Look for test questions in training questions.

    Args:
        train: with columns id, question, choices and context.
        test: with the same columns.
        name: of the benchmark, for messages.
        near: Jaccard index from which two questions are the same; 1 finds the same shingles only.
    """
    exact = dict(zip(question_keys(train), train["id"].to_pylist(), strict=True))
    near_Q = _Index(list(shingle_sets(test))).best_matches(shingle_sets(train), near)
    train_ids = train["id"].to_pylist()
    leaks = []
    for row, (test_id, key) in enumerate(zip(test["id"].to_pylist(), question_keys(test), strict=True)):
        if (same := exact.get(key)) is not None:
            leaks.append(Leak(same, test_id, 1.0, True))
        elif (match := near_Q.get(row)) is not None:
            leaks.append(Leak(train_ids[match[1]], test_id, round(match[0], 3), False))
    return LeakCheck(name, test.num_rows, tuple(leaks))


def refuse_leaks(checks: Sequence[LeakCheck]) -> None:
    """Say which test questions stand in train, if any do.

    Raises:
        LeakError: at least one does.
    """
    pairs = [
        f"{leak.train_id} is {check.name}'s {leak.test_id} ({leak.likeness})"
        for check in checks
        for leak in check.leaks
    ]
    if not pairs:
        return
    more = [f"and {len(pairs) - _LISTED} more"] if len(pairs) > _LISTED else []
    count = "1 test question stands" if len(pairs) == 1 else f"{len(pairs)} test questions stand"
    remedy = "Leave them out and purify again, or publish them knowingly with --allow-leaks; the card then says so."
    lines = [f"{count} in what would be published as training data:", *pairs[:_LISTED], *more]
    error = LeakError("\n  ".join(lines) + f"\n{remedy}")
    error.checks = tuple(checks)
    raise error


def question_keys(questions: pa.Table) -> Iterator[Key]:
    """What makes two questions the same: context, question and choices, in whatever order and case."""
    for context, question, choices in _columns(questions):
        yield (
            normalise_answer(context or ""),
            normalise_answer(question),
            frozenset(map(normalise_answer, choices or ())),
        )


def shingle_sets(questions: pa.Table) -> Iterator[frozenset[int]]:
    """The hashed word 3-shingles of every question with its choices in sorted order; of short texts, the words."""
    for context, question, choices in _columns(questions):
        parts = [context or "", question, *sorted(map(normalise_answer, choices or ()))]
        words = _WORD.findall(" ".join(parts).casefold())
        span = min(SHINGLE, max(1, len(words)))
        yield frozenset(map(hash, zip(*(words[start:] for start in range(span)), strict=False)))


def _columns(questions: pa.Table) -> Iterator[tuple[Any, ...]]:
    return zip(*(questions[name].to_pylist() for name in ("context", "question", "choices")), strict=True)


class _Index:
    """Shingle to the test questions that hold it."""

    def __init__(self, sets: Sequence[frozenset[int]]) -> None:
        holders: dict[int, list[int]] = {}
        for row, shingles in enumerate(sets):
            for shingle in shingles:
                holders.setdefault(shingle, []).append(row)
        self._holders = {shingle: np.array(rows, np.int32) for shingle, rows in holders.items()}
        self._size_Q = np.array([len(one) for one in sets], np.int64)

    def best_matches(self, others: Iterable[frozenset[int]], near: float) -> dict[int, tuple[float, int]]:
        """Row here to (Jaccard index, row there) of its most similar other, where there is one of `near` or more."""
        best: dict[int, tuple[float, int]] = {}
        for there, shingles in enumerate(others):
            # Jaccard ≥ near needs that many shared shingles; most questions share next to none, and end here.
            rows_per_shingle = [self._holders[shingle] for shingle in shingles if shingle in self._holders]
            if not rows_per_shingle or len(rows_per_shingle) < near * len(shingles):
                continue
            shared_Q = np.bincount(np.concatenate(rows_per_shingle), minlength=len(self._size_Q))
            for here in np.flatnonzero(shared_Q >= near * len(shingles)).tolist():
                jaccard = float(shared_Q[here] / (len(shingles) + self._size_Q[here] - shared_Q[here]))
                if jaccard >= near and jaccard > best.get(here, (0.0, 0))[0]:
                    best[here] = (jaccard, there)
        return best
