"""What can be seen of each rationale without the gold answer: named numbers that a selector learns from.

Axes: Q questions, T teachers, F kinds of evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kp_data.panel import NONE
from kp_data.purify.answer_groups import answer_posterior_QT, num_answers_Q, same_answer_QTT
from kp_data.purify.calibration import logit

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Evidence:
    """Named numbers, one of each kind a rationale.

    Attributes:
        names: F names, each once.
        value_QTF: (Q, T, F) float, nan where a kind does not apply.
    """

    names: tuple[str, ...]
    value_QTF: Array

    def __post_init__(self) -> None:
        assert self.value_QTF.shape[2:] == (len(self.names),)

    def take(self, rows: Array) -> Evidence:
        """The evidence of some questions."""
        return Evidence(self.names, self.value_QTF[rows])


def join_evidence(parts: Sequence[Evidence]) -> Evidence:
    """All kinds of evidence on the same questions and teachers, side by side."""
    names = tuple(name for part in parts for name in part.names)
    return Evidence(names, np.concatenate([part.value_QTF for part in parts], axis=2))


def no_evidence(num_questions: int, num_teachers: int) -> Evidence:
    """Evidence of no kind."""
    return Evidence((), np.zeros((num_questions, num_teachers, 0)))


def agreement_evidence(answer_QT: Array, options_Q: Array, skill_T: Array, local_skill_QT: Array) -> Evidence:
    """Who speaks, who agrees, and how much that is worth by the skill of those who do.

    Which teachers agree stands beside how many, so that a learner can tell the agreement of two teachers who share
    their errors from that of two who do not.

    Args:
        answer_QT: (Q, T) int, -1: none.
        options_Q: (Q,) int, possible answers.
        skill_T: (T,) float in (0, 1), how often each teacher is right.
        local_skill_QT: (Q, T) float in (0, 1), the same on questions like this one.

    Source: own.
    """
    num_questions, num_teachers = answer_QT.shape
    same_QTT = same_answer_QTT(answer_QT)
    answered_QT = answer_QT != NONE
    # 1 where the other gives the same answer, -1 where another one, 0 where it gives none and for the teacher itself.
    against_QTT = answered_QT[:, None, :] & answered_QT[:, :, None] & ~same_QTT
    stance_QTT = (same_QTT & ~np.eye(num_teachers, dtype=bool)).astype(float) - against_QTT
    speaker_QTT = np.broadcast_to(np.eye(num_teachers), (num_questions, num_teachers, num_teachers))
    columns = {
        "votes": same_QTT.sum(2),
        "num_answers": np.broadcast_to(num_answers_Q(answer_QT)[:, None], answer_QT.shape),
        "num_silent": np.broadcast_to((~answered_QT).sum(1)[:, None], answer_QT.shape),
        "own_skill": local_skill_QT,
    }
    for name, skill_QT in (("", skill_T[None, :]), ("local_", local_skill_QT)):
        posterior_QT = answer_posterior_QT(answer_QT, skill_QT, options_Q)
        rival_QT = np.where(against_QTT, posterior_QT[:, None, :], 0.0).max(2)
        columns[f"{name}posterior"] = logit(posterior_QT)
        columns[f"{name}rival_posterior"] = logit(rival_QT)
        columns[f"{name}lead"] = posterior_QT - rival_QT
    names = (
        *(f"is_teacher_{teacher}" for teacher in range(num_teachers)),
        *(f"agrees_with_{teacher}" for teacher in range(num_teachers)),
        *columns,
    )
    stacked_QTF = np.stack([np.asarray(column, dtype=float) for column in columns.values()], axis=2)
    return Evidence(names, np.concatenate([speaker_QTT, stance_QTT, stacked_QTF], axis=2))
