"""How good teachers are and how alike: one definition for the dataset, the report, the card and every method.

A teacher's accuracy is taken over the questions it answered blind, by its first sample. A refusal, a truncated or an
unreadable answer is an answer, and wrong; a call that failed on the way (`kp_data.panel.UNANSWERED`) and a cell that
the panel lacks are none, and left out: they say nothing about the teacher.

Axes: Q questions, T teachers.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from kp_data.panel import NONE, Array, Panel

LEAST_SHARE: Final = 0.5
"""A teacher that answered less than this share of what the fullest one did cannot be the best single teacher: what
it left out may well be what is hard."""


def correct_QT(answer_QT: Array, gold_Q: Array) -> Array:
    """(Q, T) bool, who is right; nobody is where there is no gold, and a missing answer is wrong.

    >>> correct_QT(np.array([[0, 1, -1], [2, 2, 2]]), np.array([1, -1])).tolist()
    [[False, True, False], [False, False, False]]
    """
    return np.asarray((answer_QT == gold_Q[:, None]) & (gold_Q != NONE)[:, None])


def judged_QT(panel: Panel) -> Array:
    """(Q, T) bool, whether a blind answer came to a question whose gold is known: the cells accuracy is about."""
    return np.asarray(~np.isnan(panel.skill_QT) & (panel.gold_Q != NONE)[:, None])


def accuracy_T(panel: Panel) -> Array:
    """(T,) float, share of its judged cells in which each teacher is right; nan for one without any."""
    judged, right = judged_QT(panel), correct_QT(panel.answer_QT, panel.gold_Q)
    return _share(np.asarray((right & judged).sum(0)), np.asarray(judged.sum(0)))


def comparable_accuracy_T(panel: Panel) -> Array:
    """(T,) float, `accuracy_T`, but nan for a teacher that answered too little to be chosen; see LEAST_SHARE."""
    count_T = judged_QT(panel).sum(0)
    return np.where(count_T >= LEAST_SHARE * count_T.max(initial=0), accuracy_T(panel), np.nan)


def agreement_TT(answer_QT: Array) -> Array:
    """(T, T) float, share of the questions both teachers answered on which they agree; nan where there is none.

    >>> agreement_TT(np.array([[1, 1], [0, 2], [3, -1]])).round(2).tolist()
    [[1.0, 0.5], [0.5, 1.0]]
    """
    answered_QT = answer_QT != NONE
    both_TT = answered_QT.T.astype(np.int64) @ answered_QT.astype(np.int64)
    columns = answer_QT.T
    agreed_TT = np.array([((columns == column) & (column != NONE)).sum(1) for column in columns])
    return _share(agreed_TT, both_TT)


def unfinished_note(panel: Panel) -> str | None:
    """Which teachers left questions unanswered, for a reader of their accuracies; None where none did.

    Where gold or blind answers lack, a failed call cannot be told from a refusal: there only missing cells count.
    """
    known_Q1 = ((panel.gold_Q != NONE) & ("blind" in panel.modes))[:, None]
    count_T = np.where(known_Q1, judged_QT(panel), panel.asked_QT).sum(0).tolist()
    short = [
        f"{name}: {count} of {len(panel)} questions"
        for name, count in zip(panel.teachers, count_T, strict=True)
        if count < len(panel)
    ]
    return f"panel unfinished for {', '.join(short)}" if short else None


def _share(part: Array, whole: Array) -> Array:
    share: Array = np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
    return share
