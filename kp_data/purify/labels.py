"""What methods learn from: the fitting splits, and who counts as right.

Axes: Q questions, T teachers.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any, Final

import numpy as np

from kp_data.measures import correct_QT
from kp_data.panel import NONE, Panel
from kp_data.purify.metrics import votes_QT
from kp_data.purify.protocol import FitData, Labels

Array = np.ndarray[Any, Any]

HELD_OUT_SHARE: Final = 0.15
"""Share of train that stands in for a missing validation split."""


def fit_data(panel: Panel, *, labels: Labels = "gold", seed: int = 0) -> FitData:
    """The train and validation questions of a panel.

    Without a validation split, 15 % of train are held out for selection: the same questions for the same ids and seed,
    whatever their order.

    Args:
        panel: all questions.
        labels: `gold`, or `agreement`: right is what most teachers conclude; for panels without gold answers.
        seed: of the held-out draw.
    """
    train, validation = (panel.take(panel.split_Q == name) for name in ("train", "validation"))
    if labels == "agreement":
        train, validation = label_by_agreement(train), label_by_agreement(validation)
    whole_train = train
    held_out = not len(validation)
    if held_out:
        taken_Q = np.array([_draw(question.id, seed) < HELD_OUT_SHARE for question in train.questions], dtype=bool)
        train, validation = train.take(~taken_Q), train.take(taken_Q)
    return FitData(train, validation, whole_train, held_out)


def label_by_agreement(panel: Panel) -> Panel:
    """The panel with the answer that most teachers conclude blind in place of gold.

    A question is unlabelled where no two teachers agree, or where two answers have equally many votes. A teacher whose
    answer is missing is wrong where it is known to have answered, unknown elsewhere: without gold, a refusal cannot be
    told from a failed call.
    Source: own; self-consistency over teachers in place of samples.
    """
    vote_QT = votes_QT(panel.answer_QT)
    most_Q = vote_QT.max(axis=1, initial=0)
    top_QT = (vote_QT == most_Q[:, None]) & (panel.answer_QT != NONE)
    winner_Q = np.where(top_QT, panel.answer_QT, NONE).max(axis=1, initial=NONE)
    clear_Q = (most_Q > 1) & (top_QT.sum(1) == most_Q)
    gold_Q = np.where(clear_Q, winner_Q, NONE)
    right_QT = correct_QT(panel.answer_QT, gold_Q).astype(float)
    known_QT = ~np.isnan(panel.skill_QT) | (panel.answer_QT != NONE)
    return replace(panel, gold_Q=gold_Q, skill_QT=np.where(clear_Q[:, None] & known_QT, right_QT, np.nan))


def routing_signal(skill_QT: Array) -> tuple[Array, Array]:
    """Who was right and who was wrong: what a router learns from.

    Args:
        skill_QT: (Q, T) float in [0, 1], share of samples that are right, nan: unknown.

    Returns: (Q, T) bool, right in more than half of the samples; (Q, T) bool, in half or fewer. Unknown is neither.
    Source: RouterDC (arXiv:2409.19886) calls a score of 0.5 or below a negative.

    >>> good, bad = routing_signal(np.array([[1.0, 0.5, np.nan]]))
    >>> good.tolist(), bad.tolist()
    ([[True, False, False]], [[False, True, False]])
    """
    # Comparisons with nan are false, so an unknown teacher falls out of both.
    return skill_QT > 0.5, skill_QT <= 0.5


def _draw(question_id: str, seed: int) -> float:
    digest = hashlib.sha256(f"validation:{seed}:{question_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
