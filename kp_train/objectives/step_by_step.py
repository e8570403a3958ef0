"""Distilling step by step: the answer, and the rationale of one teacher as a second task.

L = L_PR + lambda L_DL. The authors' code weighs alpha L_PR + (1 - alpha) L_DL instead, which is the same up to a
constant factor with lambda = (1 - alpha) / alpha.
Source: Hsieh et al. 2023, arXiv:2305.02301.
"""

from __future__ import annotations

from kp_data.errors import MethodError
from kp_train.dataset import Dataset
from kp_train.objectives.objective import Objective, Weights, need_teachers
from kp_train.views import Row, Target, label_view, rationale_view


def step_by_step(row: Row, weights: Weights) -> list[Target]:
    """The answer, and the one teacher's rationale."""
    (teacher,) = weights.teachers
    rationales = rationale_view(row, teacher, weight=weights.rationale, own_prefix=False)
    return [*label_view(row, weights.labels), *weights.seen(row, rationales)]


def need_one_teacher(dataset: Dataset, weights: Weights) -> None:
    """Exactly one teacher must be chosen.

    Raises:
        MethodError: none, or several.
    """
    need_teachers(dataset, weights)
    if len(weights.teachers) > 1:
        raise MethodError(
            f"step-by-step learns from one teacher, and {len(weights.teachers)} are chosen; name one with --teachers "
            f"({', '.join(weights.teachers)})",
            place=dataset.place,
        )


STEP_BY_STEP = Objective(
    name="step-by-step",
    targets=step_by_step,
    formula="L_PR + lambda L_DL",
    needs="answers, rationales of one teacher",
    check=need_one_teacher,
    source="arXiv:2305.02301",
    options=("teachers", "rationale_weight", "view"),
)
