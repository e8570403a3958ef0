"""Choosing one rationale a question, with ties broken the same way each time.

Axes: Q questions, T teachers.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from kp_data.purify.metrics import choose

Array = np.ndarray[Any, Any]

TIE_DIGITS: Final = 9
LOWEST: Final = -1e99
"""Stands for no score; unlike the lowest number there is, it can be rounded."""


def choose_by(score_QT: Array, *tie_breaks_QT: Array, available_QT: Array, order_T: Array) -> Array:
    """(Q,) int, the available teacher with the highest score; of equals the highest in each tie-break in turn.

    Args:
        score_QT: (Q, T) float; nan is lower than any number; equal to 9 digits is equal.
        tie_breaks_QT: (Q, T) float each, in turn.
        available_QT: (Q, T) bool, teachers that have a rationale.
        order_T: (T,) int, teachers from best to worst: the last word.

    Returns: teacher columns, -1 where none is available.

    >>> one = np.ones((1, 3))
    >>> choose_by(one, np.array([[0, 2, 2]]), available_QT=one > 0, order_T=np.array([2, 1, 0])).tolist()
    [2]
    """
    left_QT = available_QT
    for value_QT in (score_QT, *tie_breaks_QT):
        known_QT = np.nan_to_num(np.asarray(value_QT, dtype=float), nan=LOWEST).round(TIE_DIGITS)
        known_QT = np.where(left_QT, known_QT, -np.inf)
        left_QT = left_QT & (known_QT == known_QT.max(1, keepdims=True))
    return choose(left_QT.astype(float), left_QT, order_T)
