"""Teaching assistant in the loop: the kept answer, and its rationale where it has one.

L = L_PR + lambda L_DL over what is kept: answers of teachers that an assistant trusts, and the student's own where it
is consistent and trusted. What is kept is decided by `kp_train.assistant`; this is the loss of one of its stages. With
a student that scores choices, L_PR alone.
Source: Zhou and Ai 2024, arXiv:2406.05322, reconstructed from its abstract.
"""

from __future__ import annotations

from kp_data.errors import MethodError
from kp_train.dataset import Dataset
from kp_train.objectives.objective import Objective, Weights
from kp_train.views import Row, Target, label_view, purified_view


def teaching_assistant(row: Row, weights: Weights) -> list[Target]:
    """The kept answer, and the kept rationale."""
    return [*label_view(row, weights.labels), *weights.seen(row, purified_view(row, weight=weights.rationale))]


def need_kept(dataset: Dataset, weights: Weights) -> None:
    """The dataset must hold kept answers, and they must be what is learned.

    Raises:
        MethodError: it holds none; names the remedy.
    """
    if weights.labels != "purified" or not any(row.purified_answer for row in dataset.rows):
        raise MethodError(
            "this objective learns what an assistant keeps of the teachers' answers; give --call-budget N, and "
            "teachers to ask or a panel to replay",
            place=dataset.place,
        )


TEACHING_ASSISTANT = Objective(
    name="teaching-assistant",
    targets=teaching_assistant,
    formula="L_PR + lambda L_DL, of what is kept",
    needs="teachers to ask or a panel to replay, --call-budget, answers of the validation split",
    check=need_kept,
    source="arXiv:2406.05322, reconstructed from its abstract",
    options=("teachers", "rationale_weight", "view", "weight_by"),
)
