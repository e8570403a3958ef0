"""Worths of teachers under Plackett-Luce, fitted for many questions at once.

Axes: Q questions, K training questions, M contests, T teachers.
A contest is one winner against a set of losers; outcomes are contests with weights. All Q fits share the contests and
differ in the weights alone, so that one Newton step of all of them is a few matrix products and Q systems of size T.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

Array = np.ndarray[Any, Any]

MAX_STEPS: Final = 100
TOLERANCE: Final = 1e-10
"""Largest change of a worth, in nats, at which a fit has converged."""

LONGEST_STEP: Final = 5.0
"""Nats that a worth may move at once."""


@dataclass(frozen=True)
class Contests:
    """Who won against whom, over training questions.

    Attributes:
        winner_MT: (M, T) float, one-hot winner of each contest.
        member_MT: (M, T) float, 1 for the winner and for every loser.
        count_KM: (K, M) float32, 1 where a training question holds a contest.
    """

    winner_MT: Array
    member_MT: Array
    count_KM: Array


def pairwise_contests(good_KT: Array, bad_KT: Array) -> Contests:
    """Every right teacher of a question against every wrong one, pair by pair.

    Args:
        good_KT, bad_KT: (K, T) bool; a teacher that is neither takes part in nothing.

    Source: RouteLLM (arXiv:2406.18665), weighted Bradley-Terry over battles; a question is a battle of each such pair.
    """
    num_teachers = good_KT.shape[1]
    winner_M, loser_M = np.nonzero(~np.eye(num_teachers, dtype=bool))
    one_TT = np.eye(num_teachers)
    count_KM = (good_KT[:, winner_M] & bad_KT[:, loser_M]).astype(np.float32)
    return Contests(one_TT[winner_M], one_TT[winner_M] + one_TT[loser_M], count_KM)


def ranking_contests(skill_KT: Array) -> Contests:
    """Every teacher of a question against all that did strictly worse: the factors of a Plackett-Luce ranking.

    Without ties these are the factors of the ranking itself. Teachers that tie do not compete with each other.

    Args:
        skill_KT: (K, T) float, graded scores, nan: unknown.

    Source: Plackett-Luce; ties reconstructed.
    """
    worse_KTT = skill_KT[:, :, None] > skill_KT[:, None, :]
    question_N, winner_N = np.nonzero(worse_KTT.any(2))
    num_teachers = skill_KT.shape[1]
    pattern_NT = np.concatenate([winner_N[:, None], worse_KTT[question_N, winner_N]], axis=1)
    pattern_MT, which_N = np.unique(pattern_NT, axis=0, return_inverse=True)
    count_KM = np.zeros((len(skill_KT), len(pattern_MT)), dtype=np.float32)
    count_KM[question_N, which_N.reshape(-1)] = 1.0
    winner_MT = np.eye(num_teachers)[pattern_MT[:, 0]]
    return Contests(winner_MT, winner_MT + pattern_MT[:, 1:], count_KM)


def fit_worth(weight_QM: Array, contests: Contests, *, ridge: float = 1e-4, start_T: Array | None = None) -> Array:
    """The worths that maximise the weighted likelihood of the contests, less a ridge.

    Minimises, for every question on its own,
        sum over m of weight_m * -log(e^worth_winner / sum over members of e^worth) + ridge * sum of worth^2.
    The ridge keeps the minimum finite where a teacher never loses. Newton's method, halving a step that does not help.

    Args:
        weight_QM: (Q, M) float, not negative.
        contests: shared by all questions; `count_KM` is not read.
        ridge: above 0.
        start_T: (T,) float, where to start; worths of alike weights save most of the steps.

    Returns: (Q, T) float64 worths in nats; each row sums to 0.
    """
    weight_QM = np.asarray(weight_QM, dtype=np.float64)
    shape = len(weight_QM), contests.winner_MT.shape[1]
    worth_QT = np.tile(np.zeros(shape[1]) if start_T is None else start_T, (shape[0], 1))
    open_R = np.arange(shape[0])
    for _ in range(MAX_STEPS):
        if not len(open_R):
            break
        step_RT = _newton_step(worth_QT[open_R], weight_QM[open_R], contests, ridge)
        worth_QT[open_R] += _damped(step_RT, worth_QT[open_R], weight_QM[open_R], contests, ridge)
        open_R = open_R[np.abs(step_RT).max(axis=1) > TOLERANCE]
    return worth_QT


def loss_Q(worth_QT: Array, weight_QM: Array, contests: Contests, ridge: float) -> Array:
    """(Q,) float, what `fit_worth` minimises, in nats.

    >>> one = pairwise_contests(np.array([[True, False]]), np.array([[False, True]]))
    >>> loss_Q(np.array([[1.0, 0.0]]), np.array([[1.0, 0.0]]), one, 0.0).round(4)
    array([0.3133])
    """
    shift_Q1 = worth_QT.max(axis=1, keepdims=True)
    total_QM = np.exp(worth_QT - shift_Q1) @ contests.member_MT.T
    lost_QM = np.log(total_QM) + shift_Q1 - worth_QT @ contests.winner_MT.T
    return np.asarray((weight_QM * lost_QM).sum(1) + ridge * (worth_QT**2).sum(1))


def _newton_step(worth_QT: Array, weight_QM: Array, contests: Contests, ridge: float) -> Array:
    """(Q, T) float, towards the minimum of the local quadratic."""
    num_teachers = worth_QT.shape[1]
    member_MT = contests.member_MT
    power_QT = np.exp(worth_QT - worth_QT.max(axis=1, keepdims=True))
    total_QM = power_QT @ member_MT.T
    # Per contest, the chance of teacher i is power_i / total; products with M sum them without an array of (Q, M, T).
    expected_QT = power_QT * ((weight_QM / total_QM) @ member_MT)
    gradient_QT = expected_QT - weight_QM @ contests.winner_MT + 2 * ridge * worth_QT
    pair_MTT = member_MT[:, :, None] * member_MT[:, None, :]
    joint_QTT = ((weight_QM / total_QM**2) @ pair_MTT.reshape(len(member_MT), -1)).reshape(
        -1, num_teachers, num_teachers
    )
    hessian_QTT = -joint_QTT * power_QT[:, :, None] * power_QT[:, None, :]
    diagonal = np.arange(num_teachers)
    hessian_QTT[:, diagonal, diagonal] += expected_QT + 2 * ridge
    step_QT = -np.linalg.solve(hessian_QTT, gradient_QT[:, :, None])[:, :, 0]
    # The likelihood does not see a common shift, and the ridge wants it to be 0: rounding must not make one.
    return np.asarray(step_QT - step_QT.mean(axis=1, keepdims=True))


def _damped(step_QT: Array, worth_QT: Array, weight_QM: Array, contests: Contests, ridge: float) -> Array:
    """(Q, T) float, the step, cut to LONGEST_STEP, and halved for each question until its loss does not rise."""
    # Where nearly every contest is decided the curvature all but vanishes, and a whole step would go far astray.
    step_QT = step_QT * np.minimum(1.0, LONGEST_STEP / np.maximum(np.abs(step_QT).max(axis=1, keepdims=True), 1e-300))
    before_Q = loss_Q(worth_QT, weight_QM, contests, ridge)
    slack_Q = 1e-12 * np.abs(before_Q)
    for _ in range(30):
        worse_Q = loss_Q(worth_QT + step_QT, weight_QM, contests, ridge) > before_Q + slack_Q
        if not worse_Q.any():
            break
        step_QT[worse_Q] /= 2
    return step_QT
