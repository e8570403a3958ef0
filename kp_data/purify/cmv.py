"""Conflict mitigation value (CMV): how much purification helps a student, over growing numbers of teachers.

Axes: S seeds, Q questions of one data set, D data sets, B bootstrap draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kp_data.errors import DataError
from kp_data.purify.metrics import Interval, interval

Array = np.ndarray[Any, Any]
Outcomes = Mapping[int, Sequence[Array]]
"""Number of teachers to one (S, Q) array a data set: whether the student of each seed is right on each question."""


@dataclass(frozen=True)
class ConflictMitigation:
    """A conflict mitigation value and what it is made of.

    Attributes:
        value: the CMV, in accuracy (0.02: two points); in shares of the baseline's accuracy where `relative`.
        ci95: 95 % bootstrap interval; None where the value is undefined in some draws.
        deltas: number of teachers to the mean difference over data sets.
        relative: whether differences were divided by the baseline's accuracy.
        undefined: share of the draws in which the baseline is never right on a data set, so that there is nothing to
            divide by. An interval of the other draws would leave out the very ones in which the value has no bound.
    """

    value: float
    ci95: Interval
    deltas: dict[int, float]
    relative: bool
    undefined: float = 0.0


def conflict_mitigation_value(
    method: Outcomes, baseline: Outcomes, *, relative: bool = False, seed: int = 0, num_draws: int = 1000
) -> ConflictMitigation:
    """The mean over n = 2..N teachers, and over data sets, of Acc_method(n, d) - Acc_baseline(n, d).

    The baseline distills every rationale of the same first n teachers (TinyLLM). n = 0 and 1 count for nothing and are
    left out where they are given: one rationale purified is that rationale. The bootstrap draws questions and seeds,
    the same for method and baseline and for every n. Of S seeds it draws S - 1: as many as there are would make the
    part of the variance that is due to seeds too small by (S - 1) / S. With one seed it knows nothing of them.

    Args:
        method: results of the students trained on purified rationales.
        baseline: of those trained on all, with the same shapes: same questions, same seeds.
        relative: divide each difference by the baseline's accuracy. Where the baseline is right so seldom that some
            draws hold none of it, there is a value and no interval.
        seed: of the draws.
        num_draws: B.

    Raises: DataError, when only n = 1 is given, an n between 2 and N is missing, the shapes do not pair, or a
        result is not between 0 and 1.
    Source: Knowledge Purification, arXiv:2602.01064; reconstructed, because the definition leaves room: this one fits
        the signs and the growth with n of its published values, and `relative` cannot be excluded by them. Drawing one
        unit less: the rescaling bootstrap (Rao and Wu 1988).

    >>> right, wrong = np.ones((1, 4)), np.zeros((1, 4))
    >>> half = np.array([[1.0, 0, 1, 0]])
    >>> conflict_mitigation_value({2: [half], 3: [right]}, {2: [half], 3: [half]}).value
    0.25
    """
    counts = _counts(method, baseline)
    pairs = {count: _paired(method[count], baseline[count], count) for count in counts}
    _check_same_questions(pairs)
    deltas = {count: float(np.mean([_delta(pair, relative) for pair in pairs[count]])) for count in counts}
    value = float(np.mean(list(deltas.values())))
    if np.isnan(value):
        raise DataError("the baseline is never right on a data set, so there is no relative value", place="CMV")
    draws_B = _draws(pairs, relative=relative, seed=seed, num_draws=num_draws)
    undefined = float(np.isnan(draws_B).mean())
    return ConflictMitigation(value, None if undefined else interval(draws_B), deltas, relative, undefined)


def _counts(method: Outcomes, baseline: Outcomes) -> list[int]:
    """The numbers of teachers that count, 2..N.

    Raises: DataError.
    """
    counts, others = (sorted({count for count in side if count > 1}) for side in (method, baseline))
    if counts != others:
        raise DataError(
            f"method has results for {sorted(method)} teachers and baseline for {sorted(baseline)}; give both the same",
            place="CMV",
        )
    if not counts:
        raise DataError(
            "needs results with two or more teachers: with one there is no conflict to mitigate", place="CMV"
        )
    if missing := sorted(set(range(2, counts[-1] + 1)) - set(counts)):
        raise DataError(f"results for {missing[0]} teachers are missing; run every number from 2 up", place="CMV")
    return counts


def _paired(method: Sequence[Array], baseline: Sequence[Array], count: int) -> list[Array]:
    """One (2, S, Q) array a data set, method first.

    Raises: DataError, when they do not pair.
    """
    shapes = [[np.atleast_2d(right_SQ).shape for right_SQ in side] for side in (method, baseline)]
    if shapes[0] != shapes[1] or not shapes[0] or any(0 in shape or len(shape) != 2 for shape in shapes[0]):
        raise DataError(
            f"with {count} teachers, seeds x questions are {shapes[0]} for the method and {shapes[1]} for the "
            "baseline; give both the same questions and seeds",
            place="CMV",
        )
    pairs = [np.stack([np.atleast_2d(one), np.atleast_2d(other)]) for one, other in zip(method, baseline, strict=True)]
    if not all(((pair >= 0) & (pair <= 1)).all() for pair in pairs):
        raise DataError(f"with {count} teachers, a result is not between wrong (0) and right (1)", place="CMV")
    return pairs


def _check_same_questions(pairs: Mapping[int, Sequence[Array]]) -> None:
    """Raises: DataError, when data sets differ between numbers of teachers, so that draws could not be shared."""
    shapes = {count: [pair.shape for pair in data] for count, data in pairs.items()}
    if len({tuple(shape) for shape in shapes.values()}) > 1:
        raise DataError("data sets, seeds or questions differ between numbers of teachers; give the same", place="CMV")


def _delta(pair: Array, relative: bool) -> float:
    method, baseline = pair.mean(axis=(1, 2))
    if not relative:
        return float(method - baseline)
    return float((method - baseline) / baseline) if baseline > 0 else float("nan")


def _draws(pairs: Mapping[int, Sequence[Array]], *, relative: bool, seed: int, num_draws: int) -> Array:
    """(B,) float, the value under questions and seeds drawn with replacement, per data set."""
    random = np.random.default_rng(seed)
    shapes = [pair.shape for pair in next(iter(pairs.values()))]
    draws_B = np.empty(num_draws)
    for draw in range(num_draws):
        drawn = [(_weights(random, shape[1], max(1, shape[1] - 1)), _weights(random, shape[2])) for shape in shapes]
        draws_B[draw] = np.mean(
            [
                _delta((seeds @ pair @ questions)[:, None, None], relative)
                for data in pairs.values()
                for pair, (seeds, questions) in zip(data, drawn, strict=True)
            ]
        )
    return draws_B


def _weights(random: np.random.Generator, num: int, draws: int | None = None) -> Array:
    """(num,) float, the share of the draws (default: `num`) that each of `num` things has: sums to 1."""
    draws = num if draws is None else draws
    return np.asarray(np.bincount(random.integers(0, num, draws), minlength=num) / draws)
