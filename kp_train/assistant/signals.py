"""Signals: how sure a student is of its own answer, and what is decided from that and from an assistant's word.

    s1   self-consistency: the share of the student's K samples that give its majority answer
    s2   the assistant's probability that the student's majority answer is right
    s3   the assistant's probability that the teacher's answer is right

Reconstructed from the abstract of Zhou and Ai 2024 (arXiv:2406.05322), which names the three signals and the two stages
and no formula.
Axes: Q questions, K samples, C choices (padded), N judged answers.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from kp_data.answers import answer_key
from kp_data.errors import ConfigError, DataError

Array = np.ndarray[Any, Any]

UNREAD: Final = ""
"""The key of a sample from which no answer could be read; it counts among the K and wins no vote."""


@dataclass(frozen=True, slots=True)
class Vote:
    """What a student's samples say together.

    Attributes:
        answer: the majority answer as the student wrote it; None: no sample could be read.
        consistency: s1, the share of all samples that give it, in [0, 1].
        rationale: of one sample that gives it; None: samples have none.
        share_C: share of the samples for each choice, in their order; empty for an open-ended question.
    """

    answer: str | None
    consistency: float
    rationale: str | None = None
    share_C: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From when on an answer is kept.

    Attributes:
        consistency: tau_1, least s1 of a student's own answer.
        student: tau_2, least s2 of it.
        teacher: tau_T, least s3 of a teacher's answer.
    """

    consistency: float = 0.6
    student: float = 0.5
    teacher: float = 0.5

    def check(self) -> None:
        """Refuse what is no share.

        Raises: ConfigError.
        """
        for value in (self.consistency, self.student, self.teacher):
            if not 0 <= value <= 1:
                raise ConfigError(f"{value} is not from 0 to 1", place="--thresholds")

    def keeps_own(self, consistency_Q: Array, student_Q: Array) -> Array:
        """(Q,) bool, whether the student's own answer is kept without a call.

        Args:
            consistency_Q: (Q,) float, s1; 0 where no sample could be read, which is never kept.
            student_Q: (Q,) float, s2.
        """
        return np.asarray(
            (consistency_Q >= self.consistency) & (student_Q >= self.student) & (consistency_Q > 0), dtype=bool
        )


def vote(answers: Sequence[str | None], *, rationales: Sequence[str | None] = (), choices: Sequence[str] = ()) -> Vote:
    """The majority of a student's samples, and s1 = max over answers of (1/K) sum_k [answer_k is it].

    The order of the samples does not matter: of equally many votes the answer whose key comes first wins, and its
    shortest rationale, of equally short ones the first in the alphabet, stands for it.

    Args:
        answers: K texts; None: nothing could be read. For a choice question the text of the choice, as it stands there.
        rationales: K texts, or none.
        choices: of the question.

    Raises: DataError, without a sample.
    Source: reconstructed from arXiv:2406.05322; self-consistency as in Wang et al. 2022 (arXiv:2203.11171).

    >>> vote(["yes", "No.", "no", None]).consistency, vote(["yes", "No.", "no", None]).answer
    (0.5, 'No.')
    """
    if not answers:
        raise DataError("a vote needs at least one sample")
    # Choices have been told apart already, and may differ in nothing but case: "AA" and "Aa" are two genotypes.
    key_of = str if choices else answer_key
    keys = [UNREAD if answer is None else key_of(answer) for answer in answers]
    counts = Counter(key for key in keys if key != UNREAD)
    shares = tuple(sum(answer == choice for answer in answers) / len(answers) for choice in choices)
    if not counts:
        return Vote(None, 0.0, None, shares)
    best = min(counts, key=lambda key: (-counts[key], answer_key(key), key))
    written = min(answer for answer, key in zip(answers, keys, strict=True) if key == best and answer is not None)
    texts = [text for text, key in zip(rationales, keys, strict=False) if key == best and text]
    return Vote(written, counts[best] / len(answers), min(texts, key=lambda t: (len(t), t), default=None), shares)


def threshold_at_recall(score_N: Array, right_N: Array, *, recall: float) -> float:
    """The highest threshold that still keeps this share of the right answers.

    Args:
        score_N: (N,) float, an assistant's probabilities on validation questions.
        right_N: (N,) bool, whether each judged answer is right.
        recall: share of the right answers to keep, above 0 up to 1.

    Returns: a score of a right answer; 0 where nothing is right.
    Raises: ConfigError, when recall is no share above 0.
    Source: West et al. 2021 (arXiv:2110.07178), the critic's threshold; theirs averages validation and test, this one
        sees validation alone.

    >>> threshold_at_recall(np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, True]), recall=0.6)
    0.7
    """
    if not 0 < recall <= 1:
        raise ConfigError(f"{recall} is not above 0 up to 1", place="recall")
    right = np.sort(np.asarray(score_N, dtype=float)[np.asarray(right_N, dtype=bool)])[::-1]
    if not len(right):
        return 0.0
    # A little less than the product: 0.6 times five is a little more than 3.
    return float(right[math.ceil(recall * len(right) - 1e-9) - 1])


def place_of(question_id: str, seed: int) -> bytes:
    """Where a question stands in a random order that does not depend on what other questions there are."""
    return hashlib.blake2b(f"{seed}:{question_id}".encode(), digest_size=16).digest()
