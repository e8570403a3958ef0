"""From scores to probabilities that mean what they say: one slope and one shift, fitted on answers that were judged.

Axes: N scored items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

Array = np.ndarray[Any, Any]

CLIP: Final = 1e-6
MAX_STEPS: Final = 100
RIDGE: Final = 1e-3
"""Draws the slope to 1 and the shift to 0, as if a few items had said so: a separable sample has no other optimum."""


def logit(probability: Array) -> Array:
    """Log-odds, in nats; probabilities are kept a millionth away from 0 and 1.

    >>> logit(np.array([0.5, 0.9])).round(4).tolist()
    [0.0, 2.1972]
    """
    inside = np.clip(probability, CLIP, 1 - CLIP)
    return np.asarray(np.log(inside) - np.log1p(-inside))


def sigmoid(log_odds: Array) -> Array:
    """Probabilities of log-odds, without overflow.

    >>> sigmoid(np.array([0.0, -1000.0])).tolist()
    [0.5, 0.0]
    """
    return np.asarray(np.exp(-np.logaddexp(0.0, -np.asarray(log_odds, dtype=float))))


@dataclass(frozen=True, slots=True)
class Platt:
    """Calibrated log-odds are slope · score + shift.

    Attributes:
        slope, shift: fitted; (1, 0) leaves log-odds as they are.
        num_items: judged items that they were fitted on.
    """

    slope: float = 1.0
    shift: float = 0.0
    num_items: int = 0

    def __call__(self, score: Array) -> Array:
        """Probabilities, in the shape of the scores; a higher score never has a lower one."""
        return sigmoid(self.slope * np.asarray(score, dtype=float) + self.shift)


def fit_platt(score_N: Array, right_N: Array) -> Platt:
    """The slope and shift under which the outcomes are most likely; the slope is never negative.

    Args:
        score_N: (N,) float, log-odds, or any score whose order means something.
        right_N: (N,) bool or 0/1.

    Returns: identity where all outcomes, or none, are right: these say nothing about a slope.
    Source: Platt 1999, "Probabilistic outputs for support vector machines"; Newton steps on a slightly drawn-in loss.
    """
    right_N = np.asarray(right_N, dtype=float)
    if not len(right_N) or right_N.min() == right_N.max():
        return Platt(num_items=len(right_N))
    column_N2 = np.stack([np.asarray(score_N, dtype=float), np.ones(len(right_N))], axis=1)
    prior_2 = np.array([1.0, 0.0])
    weight_2 = prior_2.copy()
    for _ in range(MAX_STEPS):
        step_2 = _newton_step(column_N2, right_N, weight_2, prior_2)
        weight_2 = weight_2 - step_2
        if np.abs(step_2).max() < 1e-10:
            break
    if weight_2[0] < 0:
        # Scores that point the wrong way carry nothing: the best constant then.
        rate = float(right_N.mean())
        return Platt(0.0, float(logit(np.array(rate))), len(right_N))
    return Platt(float(weight_2[0]), float(weight_2[1]), len(right_N))


def log_loss(probability_N: Array, right_N: Array) -> float:
    """Mean surprise at the outcomes, in nats.

    >>> round(log_loss(np.array([0.5, 0.5]), np.array([1, 0])), 4)
    0.6931
    """
    inside_N = np.clip(probability_N, CLIP, 1 - CLIP)
    right_N = np.asarray(right_N, dtype=float)
    return float(-(right_N * np.log(inside_N) + (1 - right_N) * np.log1p(-inside_N)).mean())


def _newton_step(column_N2: Array, right_N: Array, weight_2: Array, prior_2: Array) -> Array:
    ridge = RIDGE * len(right_N)
    probability_N = sigmoid(column_N2 @ weight_2)
    slope_2 = column_N2.T @ (probability_N - right_N) + ridge * (weight_2 - prior_2)
    spread_N = probability_N * (1 - probability_N)
    curve_22 = (column_N2 * spread_N[:, None]).T @ column_N2 + ridge * np.eye(2)
    step_2 = np.linalg.solve(curve_22, slope_2)
    # A far-off start can overshoot where the loss is flat; a bounded step cannot.
    return np.asarray(step_2 / max(1.0, float(np.abs(step_2).max())))
