"""A student that counts words: the cheapest that can be taught and give rewards, with nothing to install or wait for.

It predicts the next word of a text from the word before it, from the text in view (by copying it, and by what came with
its words before), and from how often words come at all.
Source: own; interpolated n-grams (Jelinek and Mercer, 1980) with the text in view as a cache and as in IBM model 1.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from kp_data.learner import Lesson
from kp_data.panel import question_text
from kp_data.schema import Question

Array = np.ndarray[Any, Any]

NGRAM: Final = "ngram"
BEFORE, COPIED, RELATED, ANY, CHANCE = 0.4, 0.2, 0.2, 0.15, 0.05
"""Weights of the word before, of a copy of what is in view, of what came with the words in view, of words at all, and
of chance; they add up to 1."""
KEPT: Final = 0.5
"""Share of what was learned that a further phase keeps: a student forgets what it is no longer shown."""

_WORD: Final = re.compile(r"\w+|[^\w\s]")
_END: Final = "\n"


class NgramLearner:
    """Counts of what follows what, one table a task; see `learner.Learner`."""

    def __init__(self, vocabulary: int) -> None:
        """An untaught student of a vocabulary of so many words."""
        self._answers, self._readings, self._rationales = (_Table(vocabulary) for _ in range(3))

    @property
    def num_parameters(self) -> int:
        """Pairs of words that it has a count of."""
        return sum(table.num_counts for table in (self._answers, self._readings, self._rationales))

    def train(self, lessons: Sequence[Lesson], *, epochs: int) -> None:
        """See `Learner.train`; an epoch adds one count of everything."""
        for table in (self._answers, self._readings, self._rationales):
            table.fade(KEPT)
        for lesson in lessons:
            question, answer = question_text(lesson.question), lesson.question.answer
            if answer:
                self._answers.count(question, answer, epochs)
            if lesson.rationale:
                self._rationales.count(question, lesson.rationale, epochs)
            if answer and lesson.rationale:
                self._readings.count(lesson.rationale, answer, epochs)

    def answer_losses(self, lessons: Sequence[Lesson]) -> Array:
        """See `Learner.answer_losses`; with a rationale in view it reads nothing else, for it has no attention."""
        return np.array([self._answer_loss(lesson.question, lesson.rationale) for lesson in lessons], dtype=float)

    def rationale_losses(self, lessons: Sequence[Lesson]) -> Array:
        """See `Learner.rationale_losses`."""
        losses = [self._rationales.loss(question_text(one.question), one.rationale or "") for one in lessons]
        return np.array(losses, dtype=float)

    def _answer_loss(self, question: Question, rationale: str | None) -> float:
        if not question.answer:
            return 0.0
        if rationale is None:
            return self._answers.loss(question_text(question), question.answer)
        return self._readings.loss(rationale, question.answer)


def make_ngram_learner(lessons: Sequence[Lesson], *, seed: int) -> NgramLearner:
    """See `learner.MakeLearner`; nothing about it is random."""
    known = {_END}
    for lesson in lessons:
        view = question_text(lesson.question)
        known.update(_words(view), _words(lesson.rationale or ""), _words(lesson.question.answer or ""))
    # One more for all that it was never shown.
    return NgramLearner(len(known) + 1)


class _Table:
    """How often words followed a word, a question's word, and anything."""

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary
        self._after: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._about: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._total: defaultdict[tuple[str, str], float] = defaultdict(float)
        self._any: Counter[str] = Counter()

    @property
    def num_counts(self) -> int:
        return sum(len(words) for words in (*self._after.values(), *self._about.values()))

    def fade(self, kept: float) -> None:
        for counts in (*self._after.values(), *self._about.values(), self._any):
            for word in counts:
                counts[word] *= kept  # type: ignore[assignment]  # counts are fractions after the first phase
        for context in self._total:
            self._total[context] *= kept

    def count(self, view: str, text: str, times: int) -> None:
        """Read a text some times, with another in view."""
        seen, words, before = set(_words(view)), (*_words(text), _END), _END
        for word in words:
            self._any[word] += times
            self._after[before][word] += times
            self._total["after", before] += times
            for one in seen:
                self._about[one][word] += times
                self._total["about", one] += times
            before = word
        self._total["any", ""] += times * len(words)

    def loss(self, view: str, text: str) -> float:
        """Mean negative log-likelihood of a word, the end counted as one, in nats."""
        shown = Counter(_words(view))
        related = [word for word in shown if ("about", word) in self._total]
        words = (*_words(text), _END)
        logs = [
            math.log(self._probability(shown, related, before, word))
            for before, word in itertools.pairwise((_END, *words))
        ]
        return -sum(logs) / len(logs)

    def _probability(self, shown: Counter[str], related: Sequence[str], before: str, word: str) -> float:
        """Where a part knows nothing of its context, it says what words at all say."""
        total = self._total.get(("any", ""), 0.0)
        plain = self._any[word] / total if total else 1 / self._vocabulary
        came = self._total.get(("after", before), 0.0)
        after = self._after[before][word] / came if came else plain
        copied = shown[word] / shown.total() if shown else plain
        about = plain
        if related:
            about = sum(self._about[one][word] / self._total["about", one] for one in related) / len(related)
        return BEFORE * after + COPIED * copied + RELATED * about + ANY * plain + CHANCE / self._vocabulary


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
