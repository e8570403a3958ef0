"""Whether a student is as often right as it is sure: expected calibration error, and the table behind it.

Axes: Q questions, C choices, B bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

Array = np.ndarray[Any, Any]

BINS: Final = 15
"""As in Guo et al."""


@dataclass(frozen=True, slots=True)
class Bin:
    """Questions that were answered with like confidence.

    Attributes:
        low, high: confidences above `low`, up to and with `high`.
        n: questions.
        confidence: their mean confidence.
        accuracy: share of them answered right.
    """

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """How far confidence and accuracy are apart.

    Attributes:
        ece: expected calibration error: the mean over questions of |accuracy - confidence| of their bins, in [0, 1].
        bins: those that hold a question, from the least confident on.
    """

    ece: float
    bins: tuple[Bin, ...]


def calibration(confidence_Q: Array, correct_Q: Array, *, num_bins: int = BINS) -> Calibration:
    """Expected calibration error over bins of equal width.

    Args:
        confidence_Q: (Q,) float in [0, 1], the probability of the answer that was given.
        correct_Q: (Q,) bool.
        num_bins: B, into which (0, 1] is divided; a confidence of 0 belongs to the first.

    Source: Guo et al. (arXiv:1706.04599), equation 3.

    >>> calibration(np.array([0.9, 0.9, 0.9, 0.9]), np.array([True, True, False, False])).ece
    0.4
    """
    bin_Q = np.clip(np.ceil(confidence_Q * num_bins).astype(int) - 1, 0, num_bins - 1)
    bins = []
    for number in np.unique(bin_Q):
        inside_Q = bin_Q == number
        bins.append(
            Bin(
                low=float(number / num_bins),
                high=float((number + 1) / num_bins),
                n=int(inside_Q.sum()),
                confidence=float(confidence_Q[inside_Q].mean()),
                accuracy=float(correct_Q[inside_Q].mean()),
            )
        )
    error = sum(part.n * abs(part.accuracy - part.confidence) for part in bins) / len(confidence_Q)
    return Calibration(round(error, 12), tuple(bins))


def confidences(scores: Sequence[Sequence[float]]) -> Array:
    """(Q,) float, the softmax over each question's scores, at its highest.

    >>> confidences([[0.0, 0.0], [np.log(0.9), np.log(0.1)]]).round(3).tolist()
    [0.5, 0.9]
    """
    shifted = (np.asarray(row) - np.max(row) for row in scores)
    return np.array([1.0 / np.exp(row).sum() for row in shifted])
