"""The vote in which a teacher counts as much as it is right on train: what a method that reads rationales must beat.

Axes: Q questions, T teachers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kp_data.measures import comparable_accuracy_T
from kp_data.panel import Panel
from kp_data.purify.answer_groups import group_sum_QT
from kp_data.purify.metrics import choose, ranking_T
from kp_data.purify.protocol import Context, FitData, Fitted, Method, MethodInfo, Purification

Array = np.ndarray[Any, Any]


def fit_weighted_vote(data: FitData, options: object, context: Context) -> Fitted:
    """A teacher whose answer gathers the most accuracy; of several, the one that is most often right on train.

    A teacher that answered less than half of what the fullest did has no vote; see `kp_data.measures`. Scores are
    shares of all the weight that was cast.
    """
    accuracy_T = comparable_accuracy_T(data.whole_train)
    order_T, weight_T = ranking_T(accuracy_T), np.nan_to_num(accuracy_T)

    def purify(panel: Panel) -> Purification:
        answer_QT = panel.concluded_QT
        vote_QT = group_sum_QT(np.broadcast_to(weight_T, answer_QT.shape), answer_QT)
        cast_Q1 = ((answer_QT >= 0) * weight_T).sum(1, keepdims=True)
        share_QT = np.divide(vote_QT, cast_Q1, out=np.full(vote_QT.shape, np.nan), where=cast_Q1 > 0)
        # The same sum in another order differs in its last bits, which must not break a tie.
        return Purification.of_choice(share_QT, choose(share_QT.round(9), panel.has_rationale_QT, order_T))

    return Fitted(purify, calls_per_question=len(data.train.teachers))


WEIGHTED_VOTE = Method(
    MethodInfo(
        name="weighted-vote",
        summary="a teacher that concludes what most conclude, each counted by its accuracy on train",
        kind="baseline",
        needs=("rationales", "blind answers", "train labels"),
        trained=False,
        transferable=True,
        source="own",
        evidence="own",
    ),
    fit_weighted_vote,
)
