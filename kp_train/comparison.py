"""Intervals of accuracies, and of the difference between two students on the same questions.

Axes: Q questions, V distinct values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from kp_data.errors import DataError

Array = np.ndarray[Any, Any]

RESAMPLES: Final = 10_000
EDGES: Final = (0.025, 0.975)


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """One student beside another on the same questions.

    Attributes:
        other: who it is compared with.
        other_accuracy: the other's share of right answers.
        difference: accuracy of this one minus that of the other.
        ci95: 95 % interval of the difference, by bootstrap over questions.
        n: questions.
        only_this: questions that this one alone has right.
        only_other: questions that the other alone has right.
        p_value: McNemar's exact test, two-sided: how often fair coins would divide those questions so unevenly.
    """

    other: str
    other_accuracy: float
    difference: float
    ci95: tuple[float, float]
    n: int
    only_this: int
    only_other: int
    p_value: float


def bootstrap_interval(num_correct: int, n: int, *, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of an accuracy by bootstrap over questions.

    Drawing n questions with replacement and counting the right ones is a binomial draw, so that is what is drawn.

    Args:
        num_correct: questions answered right.
        n: questions.
        seed: of the draws.

    >>> bootstrap_interval(10, 10)
    (1.0, 1.0)
    """
    accuracies = np.random.default_rng(seed).binomial(n, num_correct / n, size=RESAMPLES) / n
    low, high = np.quantile(accuracies, EDGES)
    return float(low), float(high)


def paired_interval(difference_Q: Array, *, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of a mean difference by bootstrap over questions, each kept with its pair.

    Resampled questions matter only by how often each value of the difference is drawn, so those numbers are drawn.

    Args:
        difference_Q: (Q,) float, what one student has on each question more than the other; of several seeds, the
            mean over them.
        seed: of the draws.

    >>> paired_interval(np.ones(5))
    (1.0, 1.0)
    """
    value_V, count_V = np.unique(difference_Q, return_counts=True)
    n = len(difference_Q)
    drawn = np.random.default_rng(seed).multinomial(n, count_V / n, size=RESAMPLES)
    low, high = np.quantile(drawn @ value_V / n, EDGES)
    return float(low), float(high)


def mcnemar(only_this: int, only_other: int) -> float:
    """Two-sided p-value of McNemar's exact test.

    Args:
        only_this: questions that one student alone has right.
        only_other: questions that the other alone has right.

    >>> mcnemar(5, 0), mcnemar(3, 3)
    (0.0625, 1.0)
    """
    total, fewer = only_this + only_other, min(only_this, only_other)
    # In whole numbers until the last step: 0.5 ** total is 0 for some thousand questions.
    tail = sum(math.comb(total, k) for k in range(fewer + 1))
    return min(1.0, float(2 * tail / 2**total))


def compare_paired(ours: Sequence[bool], theirs: Sequence[bool], *, other: str, seed: int = 0) -> PairedComparison:
    """Two students on the same questions, in the same order.

    Args:
        ours: whether this student is right, question by question.
        theirs: the same of the other.
        other: what the other is called.
        seed: of the bootstrap.

    Raises:
        DataError: not the same number of questions, or none.
    """
    if len(ours) != len(theirs) or not ours:
        raise DataError(f"{len(ours)} answers beside {len(theirs)}; both students must answer the same questions")
    this_Q, other_Q = np.array(ours, dtype=bool), np.array(theirs, dtype=bool)
    difference_Q = this_Q.astype(float) - other_Q
    only_this, only_other = int((this_Q & ~other_Q).sum()), int((~this_Q & other_Q).sum())
    return PairedComparison(
        other=other,
        other_accuracy=float(other_Q.mean()),
        difference=float(difference_Q.mean()),
        ci95=paired_interval(difference_Q, seed=seed),
        n=len(this_Q),
        only_this=only_this,
        only_other=only_other,
        p_value=mcnemar(only_this, only_other),
    )
