"""Knowledge purification: the answer, and the one purified rationale as a second task.

L_MTKD-KP = L_PR + lambda L_DL-KP, with one rationale prefix for all questions, whoever wrote the rationale.
Source: Jin et al. 2026, arXiv:2602.01064.
"""

from __future__ import annotations

from kp_train.objectives.objective import Objective, Weights, need_purified
from kp_train.views import Row, Target, label_view, purified_view


def purified(row: Row, weights: Weights) -> list[Target]:
    """The answer, and the purified rationale."""
    return [*label_view(row, weights.labels), *weights.seen(row, purified_view(row, weight=weights.rationale))]


PURIFIED = Objective(
    name="purified",
    targets=purified,
    formula="L_PR + lambda L_DL-KP",
    needs="answers, one purified rationale a question",
    check=need_purified,
    source="arXiv:2602.01064",
    options=("rationale_weight", "view", "weight_by"),
)
