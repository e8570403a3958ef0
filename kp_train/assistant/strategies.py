"""Which questions to spend calls on: five ways behind one shape, so that they can be compared.

Each way gives an order of the questions that may be asked, the most wanted first; the order of the questions that it is
given does not matter.
Axes: Q questions that may be asked, P places in it, C choices (padded), L questions with an answer already, T teachers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from kp_data.errors import ConfigError, MethodError
from kp_train.assistant.signals import place_of

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Pool:
    """Questions that may be asked, and what is known of them.

    Attributes:
        ids: of the Q questions.
        consistency_Q: (Q,) float, s1.
        student_Q: (Q,) float, s2.
        share_QC: (Q, C) float, the student's answer distribution over the choices of each question.
        known_LC: (L, C) float, the same of the questions that have an answer already.
        teacher_QT: (Q, T) float, 0 or more, a router's score of each teacher; None: there is no router.
        seed: of ties, and of the random order.
    """

    ids: tuple[str, ...]
    consistency_Q: Array
    student_Q: Array
    share_QC: Array
    known_LC: Array = field(default_factory=lambda: np.zeros((0, 0)))
    teacher_QT: Array | None = None
    seed: int = 0

    def by(self, value_Q: Array, rows: Sequence[int] | None = None) -> Array:
        """(P,) int, rows by rising value; equals in a random order that their ids decide."""
        chosen = range(len(self.ids)) if rows is None else rows
        return np.array(sorted(chosen, key=lambda row: (value_Q[row], place_of(self.ids[row], self.seed))), dtype=int)


Strategy = Callable[[Pool, int], Array]
"""(pool, how many) to (P,) int, at most so many rows of the pool, the most wanted first."""


def ask_at_random(pool: Pool, count: int) -> Array:
    """Any."""
    return pool.by(np.zeros(len(pool.ids)))[:count]


def ask_least_consistent(pool: Pool, count: int) -> Array:
    """Those on which the student contradicts itself most: the lowest s1."""
    return pool.by(pool.consistency_Q)[:count]


def ask_least_trusted(pool: Pool, count: int) -> Array:
    """Those on which the assistant trusts the student least: the lowest s2."""
    return pool.by(pool.student_Q)[:count]


def ask_for_coverage(pool: Pool, count: int) -> Array:
    """Those whose answer distributions are farthest from all that are known or chosen.

    x* = argmax over the pool of min over u, known or chosen, of ||P(x) - P(u)||_2, one after the other.

    Raises: MethodError, when the questions have no choices.
    Source: PCoreSet (arXiv:2506.00910). Differs: P is the student's distribution over the choices of a question, sorted
        from the likeliest down, because the places of choices mean nothing across questions; with nothing known, the
        first pick is the one farthest from the mean.
    """
    if pool.share_QC.shape[1] == 0:
        raise MethodError("coverage compares answer distributions over choices, and these questions have none")
    width = max(pool.share_QC.shape[1], pool.known_LC.shape[1])
    share_QC, known_LC = _sorted(pool.share_QC, width), _sorted(pool.known_LC, width)
    known_LC = known_LC if len(known_LC) else share_QC.mean(0, keepdims=True)
    return farthest_first(share_QC, known_LC, count, order_Q=pool.by(np.zeros(len(pool.ids))))


def ask_least_routable(pool: Pool, count: int) -> Array:
    """Those of which the router can least say whom to ask: the highest entropy of its scores, made to sum to 1.

    Raises: MethodError, when there is no router.
    Source: own.
    """
    if pool.teacher_QT is None:
        raise MethodError("'router' asks where a router is unsure, and there is none; name two teachers or more")
    weight_QT = np.maximum(pool.teacher_QT, 1e-12)
    share_QT = weight_QT / weight_QT.sum(1, keepdims=True)
    # Rounded: equal scores must be equals, whatever their last bits.
    return pool.by(np.round((share_QT * np.log(share_QT)).sum(1), 9))[:count]


def farthest_first(point_QC: Array, known_LC: Array, count: int, *, order_Q: Array) -> Array:
    """(P,) int, rows chosen one after the other, each the farthest from all known and chosen points.

    Args:
        point_QC: (Q, C) float.
        known_LC: (L, C) float, at least one.
        count: how many to choose at most.
        order_Q: (Q,) int, a permutation of the rows; of equally far ones the first in it is chosen.

    Source: farthest-first traversal, Gonzalez 1985: its k-centre radius is at most twice the best.
    """
    distance_Q = np.full(len(point_QC), np.inf)
    for point_C in known_LC:
        distance_Q = np.minimum(distance_Q, np.linalg.norm(point_QC - point_C, axis=1))
    chosen: list[int] = []
    for _ in range(min(count, len(point_QC))):
        # What was chosen must not come again, however many points are the same.
        distance_Q[chosen[-1:]] = -1.0
        # Rounded: sums in another order differ in their last bits.
        row = int(order_Q[np.argmax(np.round(distance_Q[order_Q], 9))])
        chosen.append(row)
        nearer_Q = np.minimum(distance_Q, np.linalg.norm(point_QC - point_QC[row], axis=1))
        distance_Q = np.where(distance_Q < 0, distance_Q, nearer_Q)
    return np.array(chosen, dtype=int)


STRATEGIES: Final[Mapping[str, Strategy]] = MappingProxyType(
    {
        "random": ask_at_random,
        "self-consistency": ask_least_consistent,
        "assistant": ask_least_trusted,
        "coverage": ask_for_coverage,
        "router": ask_least_routable,
    }
)


def strategy_named(name: str) -> Strategy:
    """The strategy of that name.

    Raises: ConfigError, when there is none; names those there are.
    """
    if name not in STRATEGIES:
        raise ConfigError(f"no strategy {name!r}; there are {', '.join(STRATEGIES)}", place="--ask-first")
    return STRATEGIES[name]


def _sorted(share_NC: Array, width: int) -> Array:
    """Shares from the highest down, with zeros for choices that other questions have."""
    wide_NC = np.zeros((len(share_NC), width))
    wide_NC[:, : share_NC.shape[1]] = share_NC
    return np.asarray(-np.sort(-wide_NC, axis=1))
