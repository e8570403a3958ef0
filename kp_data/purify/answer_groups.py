"""Teachers who give the same answer, and what their agreement is worth as evidence.

Answers are compared within one question, and only for being equal: which number stands for which answer never matters.

Axes: Q questions, T teachers (a second T: the teacher compared with).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from kp_data.panel import NONE
from kp_data.schema import Question

Array = np.ndarray[Any, Any]

OPEN_OPTIONS: Final = 10
"""Answers that an open-ended question is taken to have, where fewer are given: how seldom two errors coincide."""
PRIOR_RIGHT: Final = 1.0
PRIOR_WRONG: Final = 1.0
"""Pseudo-answers, right and wrong, that keep a teacher seen seldom away from certainty."""
MAX_ROUNDS: Final = 200
CONVERGED: Final = 1e-7


def same_answer_QTT(answer_QT: Array) -> Array:
    """(Q, T, T) bool, whether two teachers give the same answer; nobody agrees with a teacher that has none.

    >>> same_answer_QTT(np.array([[3, 3, -1]])).astype(int).tolist()
    [[[1, 1, 0], [1, 1, 0], [0, 0, 0]]]
    """
    same_QTT = answer_QT[:, :, None] == answer_QT[:, None, :]
    return np.asarray(same_QTT & (answer_QT != NONE)[:, :, None])


def group_sum_QT(value_QT: Array, answer_QT: Array) -> Array:
    """(Q, T) float, the sum of a value over all teachers who give this teacher's answer; 0 for one without an answer.

    >>> group_sum_QT(np.array([[0.5, 0.25, 0.4, 9.0]]), np.array([[1, 1, 2, -1]])).tolist()
    [[0.75, 0.75, 0.4, 0.0]]
    """
    return np.asarray(np.einsum("qtu,qu->qt", same_answer_QTT(answer_QT).astype(float), value_QT))


def group_mean_QT(value_QT: Array, answer_QT: Array) -> Array:
    """(Q, T) float, the mean of a value over all teachers who give this teacher's answer; 0 for one without an answer.

    >>> group_mean_QT(np.array([[0.5, 0.25, 0.5]]), np.array([[1, 1, -1]])).tolist()
    [[0.375, 0.375, 0.0]]
    """
    size_QT = same_answer_QTT(answer_QT).sum(2)
    return np.asarray(group_sum_QT(value_QT, answer_QT) / np.maximum(size_QT, 1))


def num_answers_Q(answer_QT: Array) -> Array:
    """(Q,) int, distinct answers that are given.

    >>> num_answers_Q(np.array([[1, 1, 4], [-1, -1, -1]])).tolist()
    [2, 0]
    """
    ordered_QT = np.sort(answer_QT, axis=1)
    first_Q1 = ordered_QT[:, :1] != NONE
    new_QT = np.concatenate([first_Q1, (np.diff(ordered_QT, axis=1) != 0) & (ordered_QT[:, 1:] != NONE)], axis=1)
    return np.asarray(new_QT.sum(1))


def num_options_Q(questions: Sequence[Question], answer_QT: Array) -> Array:
    """(Q,) int, how many answers are possible: the choices, or for an open-ended question at least OPEN_OPTIONS.

    Never fewer than one more than are given, and than two: a teacher can be wrong in some way that nobody named.
    """
    listed_Q = np.array([len(question.choices) or OPEN_OPTIONS for question in questions], dtype=int)
    open_Q = np.array([not question.choices for question in questions], dtype=bool)
    return np.asarray(np.maximum(np.maximum(listed_Q, num_answers_Q(answer_QT) + open_Q), 2))


def answer_posterior_QT(answer_QT: Array, skill_QT: Array, options_Q: Array) -> Array:
    """How likely each teacher's answer is right, if teachers err independently and their errors spread evenly.

    A teacher that is right less often than by chance counts against what it says. Answers that nobody gives keep their
    share of the probability.

    Args:
        answer_QT: (Q, T) int, -1: none.
        skill_QT: (Q, T) or (1, T) float in (0, 1), how often each teacher is right when it answers.
        options_Q: (Q,) int, possible answers, at least 2 and no fewer than are given.

    Returns: (Q, T) float, the same for teachers of one answer, 0 for one without an answer.
    Source: Dawid and Skene 1979 with one parameter a teacher; as weights of a vote, Nitzan and Paroush 1982.

    Two teachers right in 3 of 4, with two options, agree: odds 3 · 3 to 1.

    >>> answer_posterior_QT(np.array([[0, 0]]), np.array([[0.75, 0.75]]), np.array([2])).round(6).tolist()
    [[0.9, 0.9]]
    """
    wrong_each_QT = (1 - skill_QT) / (options_Q[:, None] - 1)
    log_odds_QT = np.log(np.broadcast_to(skill_QT, answer_QT.shape) / wrong_each_QT)
    evidence_QT = group_sum_QT(log_odds_QT, answer_QT)
    answered_QT = answer_QT != NONE
    # The largest term is taken out before exp; the answers that nobody gives have evidence 0.
    top_Q1 = np.maximum(np.where(answered_QT, evidence_QT, -np.inf).max(1, keepdims=True), 0.0)
    weight_QT = np.where(answered_QT, np.exp(evidence_QT - top_Q1), 0.0)
    size_QT = np.maximum(same_answer_QTT(answer_QT).sum(2), 1)
    unnamed_Q = (options_Q - num_answers_Q(answer_QT)) * np.exp(-top_Q1[:, 0])
    total_Q = (weight_QT / size_QT).sum(1) + unnamed_Q
    return np.asarray(weight_QT / total_Q[:, None])


def skill_from_labels_T(right_QT: Array, answered_QT: Array, *, strength: float = 10.0) -> Array:
    """How often each teacher is right when it answers, drawn to the mean of all where there is little to go by.

    Args:
        right_QT: (Q, T) bool, whether the answer is right.
        answered_QT: (Q, T) bool, cells that count.
        strength: answers that the mean of all teachers is worth.

    Returns: (T,) float inside (0, 1).

    >>> skill_from_labels_T(np.array([[1, 0], [1, 0]]), np.ones((2, 2)), strength=2.0).round(3).tolist()
    [0.75, 0.25]
    """
    num_right_T, num_T = (right_QT * answered_QT).sum(0), answered_QT.sum(0)
    mean = (num_right_T.sum() + PRIOR_RIGHT) / (num_T.sum() + PRIOR_RIGHT + PRIOR_WRONG)
    return np.asarray((num_right_T + strength * mean) / (num_T + strength))


def skill_by_agreement_T(answer_QT: Array, options_Q: Array) -> Array:
    """How often each teacher is right when it answers, from nothing but who agrees with whom.

    Expectation-maximisation: given skills, how likely is each answer; given that, how often is each teacher right. It
    starts from teachers who are all right in half of their answers, which is the plain vote, so the group that agrees
    most is taken to be the right one: teachers who share their errors are overrated, and this data cannot tell.
    Questions that fewer than two teachers answer say nothing and are left out.

    Returns: (T,) float inside (0, 1); 0.5 where nothing is known.
    Source: Dawid and Skene 1979, one parameter a teacher, errors spread evenly over the other options.
    """
    useful_Q = (answer_QT != NONE).sum(1) > 1
    answer_QT, options_Q = answer_QT[useful_Q], options_Q[useful_Q]
    num_T = (answer_QT != NONE).sum(0)
    skill_T = np.full(answer_QT.shape[1], 0.5)
    for _ in range(MAX_ROUNDS):
        posterior_QT = answer_posterior_QT(answer_QT, skill_T[None, :], options_Q)
        following_T = (posterior_QT.sum(0) + PRIOR_RIGHT) / (num_T + PRIOR_RIGHT + PRIOR_WRONG)
        moved = float(np.abs(following_T - skill_T).max(initial=0.0))
        skill_T = following_T
        if moved < CONVERGED:
            break
    return skill_T
