"""How good teachers are and how alike: one definition for the dataset, the report, the card and every method.

A teacher's accuracy is taken over the questions it answered blind, by its first sample. A refusal, a truncated or an
unreadable answer is an answer, and wrong; a call that failed on the way (`kp_data.panel.UNANSWERED`) and a cell that
the panel lacks are none, and left out: they say nothing about the teacher.

Axes: Q questions, T teachers.
"""

from __future__ import annotations

import math
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
    columns = answer_QT.T
    agreed_TT = np.array([((columns == column) & (column != NONE)).sum(1) for column in columns])
    return _share(agreed_TT, both_answered_TT(answer_QT))


def both_answered_TT(answer_QT: Array) -> Array:
    """(T, T) int, on how many questions both teachers of a pair answered: what their agreement rests on.

    >>> both_answered_TT(np.array([[1, 1], [0, 2], [3, -1]])).tolist()
    [[3, 2], [2, 2]]
    """
    answered_QT = (answer_QT != NONE).astype(np.int64)
    return np.asarray(answered_QT.T @ answered_QT)


def kappa_TT(answer_QT: Array) -> Array:
    """(T, T) float, Cohen's kappa: agreement beyond what the teachers' habits alone would give.

    Chance agreement is that of two teachers who pick each choice as often as they do, whatever the question, so the
    numbers in `answer_QT` must mean the same in every question: choice positions, not groups of open-ended answers.

    Args:
        answer_QT: (Q, T) int, choice indices of choice questions; -1 for none.

    Returns: (T, T) float in [-1, 1]; nan where a pair shares no question, or where chance alone gives full agreement.
    Source: Cohen 1960, "A coefficient of agreement for nominal scales", over the questions that both answered.

    >>> kappa_TT(np.array([[0, 0], [0, 0], [1, 1], [1, 0]])).round(3).tolist()
    [[1.0, 0.5], [0.5, 1.0]]
    """
    num = answer_QT.shape[1]
    kappa = np.full((num, num), np.nan)
    for row in range(num):
        for column in range(row + 1):
            kappa[row, column] = kappa[column, row] = _kappa(answer_QT[:, row], answer_QT[:, column])
    return kappa


def wilson_interval(share: float, num: int) -> tuple[float, float] | None:
    """95 % interval of a share of `num` questions; None for no questions.

    Unlike a bootstrap, it has a width at 0 and at 1: twenty right of twenty are no proof of never being wrong.
    Source: Wilson 1927, score interval without continuity correction.

    >>> [round(bound, 3) for bound in wilson_interval(0.5, 100)]
    [0.404, 0.596]
    """
    if num <= 0:
        return None
    z = 1.959964
    middle = (share + z * z / (2 * num)) / (1 + z * z / num)
    half = z / (1 + z * z / num) * math.sqrt(share * (1 - share) / num + z * z / (4 * num * num))
    # Rounding must not leave the share outside its own interval at 0 and 1.
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


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


def _kappa(first_Q: Array, second_Q: Array) -> float:
    both_Q = (first_Q != NONE) & (second_Q != NONE)
    first, second = first_Q[both_Q], second_Q[both_Q]
    if not len(first):
        return math.nan
    size = int(max(first.max(), second.max())) + 1
    share_C, other_C = (np.bincount(answers, minlength=size) / len(first) for answers in (first, second))
    chance = float(share_C @ other_C)
    # Both give one and the same answer throughout: agreement says nothing.
    return math.nan if chance >= 1 else float(((first == second).mean() - chance) / (1 - chance))


def _share(part: Array, whole: Array) -> Array:
    share: Array = np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
    return share
