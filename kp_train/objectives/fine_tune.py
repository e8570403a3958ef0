"""Fine-tuning: the answer alone, the baseline that every distillation has to beat.

L = L_PR, the negative log-likelihood of the answer text under the label prefix.
Source: the fine-tuning baseline of arXiv:2602.01064.
"""

from __future__ import annotations

from kp_train.objectives.objective import Objective, Weights, need_nothing
from kp_train.views import Row, Target, label_view


def fine_tune(row: Row, weights: Weights) -> list[Target]:
    """The answer."""
    return label_view(row, weights.labels)


FINE_TUNE = Objective(
    name="fine-tune",
    targets=fine_tune,
    formula="L_PR",
    needs="answers",
    check=need_nothing,
    source="baseline of arXiv:2602.01064",
)
