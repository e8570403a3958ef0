"""What a panel and a purification are worth, as pure functions on arrays.

Axes: Q questions, T teachers, M measured columns, B bootstrap draws.
Answers are the panel's small integers, -1 (NONE) where none could be read; a missing answer is wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from kp_data.measures import wilson_interval
from kp_data.panel import NONE

Array = np.ndarray[Any, Any]
Interval = tuple[float, float] | None


def accuracy(correct_Q: Array) -> float | None:
    """Share of right among the questions where right is known (not nan), None where there is none.

    >>> accuracy(np.array([1.0, 0.0, np.nan])), accuracy(np.array([np.nan]))
    (0.5, None)
    """
    known_Q = correct_Q[~np.isnan(correct_Q)]
    return float(known_Q.mean()) if len(known_Q) else None


def ranking_T(accuracy_T: Array) -> Array:
    """(T,) int, teachers from best to worst; equal ones, and unknown (nan) ones, in the order of the columns.

    >>> ranking_T(np.array([0.2, 0.7, 0.7, 0.5])).tolist()
    [1, 2, 3, 0]
    """
    return np.argsort(-np.nan_to_num(accuracy_T, nan=-1.0), kind="stable")


def votes_QT(answer_QT: Array) -> Array:
    """(Q, T) int, how many teachers, itself counted, give the answer of each teacher; 0 for one without an answer.

    >>> votes_QT(np.array([[4, 4, 1, -1]])).tolist()
    [[2, 2, 1, 0]]
    """
    same_QTT = answer_QT[:, :, None] == answer_QT[:, None, :]
    return np.asarray(same_QTT.sum(2) * (answer_QT != NONE))


def majority_Q(answer_QT: Array, order_T: Array) -> Array:
    """(Q,) int, the answer with the most votes, -1 where nobody answers.

    Args:
        answer_QT: (Q, T) int.
        order_T: (T,) int, teachers from best to worst; of answers with equally many votes, the one wins that the
            best of their teachers gives.

    >>> majority_Q(np.array([[3, 5, 5], [3, 5, 6], [-1, -1, -1]]), np.array([2, 0, 1])).tolist()
    [5, 6, -1]
    """
    ordered_QT = answer_QT[:, order_T]
    # argmax takes the first of equals, which in this order of columns is the better teacher.
    winner_Q = votes_QT(ordered_QT).argmax(1)
    return np.asarray(ordered_QT[np.arange(len(ordered_QT)), winner_Q])


def choose(score_QT: Array, available_QT: Array, order_T: Array | None = None) -> Array:
    """(Q,) int, the teacher with the highest score among the available ones, -1 where there is none.

    Args:
        score_QT: (Q, T) float; nan counts as lower than any number.
        available_QT: (Q, T) bool, teachers that have a rationale.
        order_T: (T,) int, breaks ties; default: the order of the columns.

    >>> choose(np.array([[0.1, 0.9], [0.1, 0.9], [0.5, 0.5]]), np.array([[1, 1], [1, 0], [0, 0]], dtype=bool)).tolist()
    [1, 0, -1]
    """
    order = np.arange(score_QT.shape[1]) if order_T is None else order_T
    known_QT = np.nan_to_num(score_QT[:, order], nan=np.finfo(float).min)
    best_Q = np.where(available_QT[:, order], known_QT, -np.inf).argmax(1)
    return np.where(available_QT.any(1), order[best_Q], NONE)


def teacher_share_T(kept_QT: Array) -> Array:
    """(T,) float, share of each teacher among the kept rationales; 0 where none is kept.

    >>> teacher_share_T(np.array([[True, False], [True, False], [False, True], [False, False]])).round(2).tolist()
    [0.67, 0.33]
    """
    return np.asarray(kept_QT.sum(0) / max(int(kept_QT.sum()), 1))


def gap_closed(purified: float | None, best_single: float | None, oracle: float | None) -> float | None:
    """Share of the way from the best single teacher to the oracle; None where there is no way or no gold.

    On an unfinished panel the best teacher's own questions can be easier than all: then there is no way either.

    >>> round(gap_closed(0.6, 0.5, 0.75), 3), gap_closed(0.5, 0.5, 0.5), gap_closed(None, 0.5, 0.7)
    (0.4, None, None)
    """
    if purified is None or best_single is None or oracle is None or oracle <= best_single:
        return None
    return (purified - best_single) / (oracle - best_single)


def paired_gain(new_Q: Array, old_Q: Array) -> tuple[float, float]:
    """Mean difference of two outcomes on the same questions, and its standard error (inf below 2 questions).

    >>> gain, error = paired_gain(np.array([1, 1, 1, 0]), np.array([1, 0, 1, 0]))
    >>> gain, round(error, 4)
    (0.25, 0.25)
    """
    difference_Q = new_Q.astype(float) - old_Q.astype(float)
    if len(difference_Q) < 2:
        return float(difference_Q.sum()), math.inf
    return float(difference_Q.mean()), float(difference_Q.std(ddof=1) / math.sqrt(len(difference_Q)))


def bootstrap_means(value_QM: Array, *, seed: int = 0, num_draws: int = 1000) -> Array:
    """Means over questions drawn with replacement; a draw takes the same questions in every column, so columns pair.

    Args:
        value_QM: (Q, M) float, one row a question; nan is left out of the mean of its column.
        seed: of the draws; the same seed and Q give the same questions.
        num_draws: B.

    Returns: (B, M) float, nan where a draw has no value.
    """
    known_QM = ~np.isnan(value_QM)
    filled_QM = np.where(known_QM, value_QM, 0.0)
    random = np.random.default_rng(seed)
    count = len(value_QM)
    means = np.full((num_draws, value_QM.shape[1]), np.nan)
    for draw in range(num_draws):
        weight_Q = np.bincount(random.integers(0, count, count), minlength=count)
        weight_M = weight_Q @ known_QM
        np.divide(weight_Q @ filled_QM, weight_M, out=means[draw], where=weight_M > 0)
    return means


def interval(draws_B: Array, level: float = 0.95) -> Interval:
    """The central interval of bootstrap draws, nan left out; None where every draw is nan.

    >>> interval(np.arange(101.0), level=0.5)
    (25.0, 75.0)
    """
    known = draws_B[~np.isnan(draws_B)]
    if not len(known):
        return None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class Difference:
    """How much more often one method is right than another, on the questions where both are known.

    Attributes:
        value: mean difference in [-1, 1]; None where no question is known for both.
        ci95: 95 % interval of it.
        num: questions it rests on.
    """

    value: float | None
    ci95: Interval
    num: int


def share_interval(value_Q: Array, draws_B: Array) -> Interval:
    """95 % interval of a mean of 0s and 1s: of its bootstrap draws, or Wilson's where all values are alike.

    A bootstrap over questions that were all right (or all wrong) draws the same mean every time: an interval of no
    width, as if 20 right of 20 proved 100 %.

    Args:
        value_Q: (Q,) float, nan where unknown.
        draws_B: (B,) float, bootstrap means of it.

    >>> [round(bound, 3) for bound in share_interval(np.ones(20), np.ones(1000))]
    [0.839, 1.0]
    """
    known_Q = value_Q[~np.isnan(value_Q)]
    alike = len(known_Q) > 0 and bool((known_Q == known_Q[0]).all())
    if alike and known_Q[0] in (0.0, 1.0):
        return wilson_interval(float(known_Q[0]), len(known_Q))
    return interval(draws_B)


def difference_interval(difference_Q: Array, draws_B: Array, num_apart: int | None = None) -> Interval:
    """95 % interval of a mean of paired differences: of its bootstrap draws, widened where these have no width.

    Where no question gives a difference, those on which the two chose differently could have: the share of them that
    would is only known to be below Wilson's bound for none of so many. Two that never choose differently differ by 0
    for certain.

    Args:
        difference_Q: (Q,) float in [-1, 1], nan where unknown.
        draws_B: (B,) float, bootstrap means of it.
        num_apart: on how many questions the two chose differently; default: on all.
    Source: own fallback; percentile bootstrap elsewhere.

    >>> [round(bound, 3) for bound in difference_interval(np.zeros(20), np.zeros(1000))]
    [-0.161, 0.161]
    """
    known_Q = difference_Q[~np.isnan(difference_Q)]
    if not len(known_Q) or not bool((known_Q == known_Q[0]).all()):
        return interval(draws_B)
    apart = len(known_Q) if num_apart is None else min(num_apart, len(known_Q))
    _, bound = wilson_interval(0.0, apart) or (0.0, 0.0)
    value, spread = float(known_Q[0]), bound * apart / len(known_Q)
    return max(-1.0, value - spread), min(1.0, value + spread)


def paired_differences(
    right_QM: Array, *, apart_MM: Array | None = None, seed: int = 0, num_draws: int = 1000
) -> list[list[Difference]]:
    """Every method against every other, on the same questions: M rows of M, row minus column.

    Pairing takes out what makes a question hard for all methods, so a difference can be certain where the intervals of
    the two accuracies overlap.

    Args:
        right_QM: (Q, M) float in [0, 1], how right each method is on each question, nan where unknown.
        apart_MM: (M, M) int, on how many questions two methods chose differently; see `difference_interval`.
        seed: of the draws; the questions drawn are the same for every pair.
        num_draws: B.
    """
    num = right_QM.shape[1]
    difference_QN = (right_QM[:, :, None] - right_QM[:, None, :]).reshape(len(right_QM), -1)
    draws_BN = bootstrap_means(difference_QN, seed=seed, num_draws=num_draws)
    apart_N = [None] * (num * num) if apart_MM is None else apart_MM.reshape(-1).tolist()
    columns = zip(difference_QN.T, draws_BN.T, apart_N, strict=True)
    cells = [_difference(values, draws, apart) for values, draws, apart in columns]
    return [cells[start : start + num] for start in range(0, num * num, num)]


def _difference(value_Q: Array, draws_B: Array, num_apart: int | None) -> Difference:
    known = int((~np.isnan(value_Q)).sum())
    return Difference(accuracy(value_Q), difference_interval(value_Q, draws_B, num_apart), known)
