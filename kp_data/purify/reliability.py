"""Reliability: whether a score that claims to be a probability of being right comes true as often as it says.

Axes: N scored rationales, K bins.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from kp_data.errors import DataError
from kp_data.measures import wilson_interval

Array = np.ndarray[Any, Any]

SCORE_MEANING: Final = "score_meaning"
"""Under this name in `Fitted.facts` a method says what its scores are."""
PROBABILITY_RIGHT: Final = "probability of being right"
"""What it says there when each score is the probability that the teacher's answer is right; only then reliability is
measured. A softmax over teachers is none: several teachers can be right, and it sums to 1."""


@dataclass(frozen=True, slots=True)
class Bin:
    """Rationales of like score.

    Attributes:
        predicted: mean score.
        observed: share that is right.
        low, high: 95 % interval of `observed` (Wilson).
        num: how many.
    """

    predicted: float
    observed: float
    low: float
    high: float
    num: int


@dataclass(frozen=True, slots=True)
class Reliability:
    """How far scores are from what comes true.

    Attributes:
        ece: expected calibration error, see `reliability_of`.
        bins: the reliability curve, by rising score.
        num: scored rationales.
    """

    ece: float
    bins: tuple[Bin, ...]
    num: int

    def as_dict(self) -> dict[str, Any]:
        """One JSON object."""
        return asdict(self)


def reliability_of(score_N: Array, right_N: Array, *, num_bins: int = 10) -> Reliability | None:
    """The reliability curve and the expected calibration error, ECE = sum over bins of (n_k / N) |right_k - score_k|.

    Bins hold about as many scores each (equal mass), which has less bias than bins of equal width; equal scores always
    share a bin, so that the order of the data does not matter. Even perfect scores have an ECE above 0 in a finite
    sample: about sqrt(K / N) / 3 for K bins.

    Args:
        score_N: (N,) float in [0, 1], the probability of being right that was claimed; nan is left out.
        right_N: (N,) float, 1 where it came true, 0 where not; nan is left out.
        num_bins: K at most; fewer where few scores differ.

    Returns: None where nothing is known.
    Raises: DataError, when a score is no probability.
    Source: Naeini et al. 2015 (ECE); equal mass after Nguyen and O'Connor 2015.

    >>> reliability_of(np.array([0.2, 0.2, 0.8, 0.8]), np.array([0.0, 0.0, 1.0, 0.0]), num_bins=2).ece
    0.25
    """
    known_N = ~np.isnan(score_N) & ~np.isnan(right_N)
    score, right = score_N[known_N], right_N[known_N]
    if not len(score):
        return None
    if score.min() < 0 or score.max() > 1:
        worst = float(score.min() if score.min() < 0 else score.max())
        raise DataError(f"a score of {worst:g} is no probability, so its reliability has no meaning", place="scores")
    order = np.argsort(score, kind="stable")
    score, right = score[order], right[order]
    first_N = np.searchsorted(score, score)
    bin_N = first_N * num_bins // len(score)
    bins = tuple(_bin(score[bin_N == number], right[bin_N == number]) for number in np.unique(bin_N))
    ece = sum(one.num * abs(one.observed - one.predicted) for one in bins) / len(score)
    return Reliability(float(ece), bins, len(score))


def _bin(score_N: Array, right_N: Array) -> Bin:
    observed = float(right_N.mean())
    low, high = wilson_interval(observed, len(right_N)) or (0.0, 1.0)
    return Bin(float(score_N.mean()), observed, low, high, len(right_N))
