"""TinyLLM: the answer, and every teacher's rationale as a task with a prefix of its own.

L = L_PR + sum_j lambda_j L_DL_j. Every teacher has the same lambda here.
Source: Tian et al. 2024, arXiv:2402.04616, where there are two teachers; any number works.
"""

from __future__ import annotations

from kp_train.objectives.objective import Objective, Weights, need_teachers
from kp_train.views import Row, Target, all_views, label_view


def tinyllm(row: Row, weights: Weights) -> list[Target]:
    """The answer, and all rationales."""
    rationales = all_views(row, weights.teachers, weight=weights.rationale)
    return [*label_view(row, weights.labels), *weights.seen(row, rationales)]


TINYLLM = Objective(
    name="tinyllm",
    targets=tinyllm,
    formula="L_PR + sum_j lambda L_DL_j",
    needs="answers, rationales of the teachers",
    check=need_teachers,
    source="arXiv:2402.04616",
    options=("teachers", "rationale_weight", "view", "as_published"),
)
