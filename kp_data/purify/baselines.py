"""The methods every other one is measured against: random, best-single, majority, oracle, all.

Axes: Q questions, T teachers.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from kp_data.measures import comparable_accuracy_T, correct_QT
from kp_data.panel import Panel
from kp_data.purify.metrics import choose, ranking_T, votes_QT
from kp_data.purify.protocol import Context, FitData, Fitted, Method, MethodInfo, Purification
from kp_data.purify.routers import ConstantRouter
from kp_data.schema import EVERY_RATIONALE

Array = np.ndarray[Any, Any]


def fit_random(data: FitData, options: object, context: Context) -> Fitted:
    """Any teacher that has a rationale, all equally likely; the same for the same question id and seed."""

    def purify(panel: Panel) -> Purification:
        available_QT = panel.has_rationale_QT
        lottery_QT = np.array(
            [[_lot(context.seed, question.id, teacher) for teacher in panel.teachers] for question in panel.questions]
        )
        count_Q1 = available_QT.sum(1, keepdims=True)
        score_QT = np.where(available_QT, 1 / np.maximum(count_Q1, 1), np.where(count_Q1 > 0, 0.0, np.nan))
        return Purification.of_choice(score_QT, choose(lottery_QT, available_QT))

    return Fitted(purify, calls_per_question=1)


def fit_best_single(data: FitData, options: object, context: Context) -> Fitted:
    """The teacher that is most often right on train; where it has no rationale, the next best.

    One that answered less than half of what the fullest did comes last; see `kp_data.measures`.
    """
    score_T = comparable_accuracy_T(data.whole_train)
    router = ConstantRouter.of_accuracies(data.train.teachers, score_T, method="best-single")

    def purify(panel: Panel) -> Purification:
        score_QT = np.tile(score_T, (len(panel), 1))
        return Purification.of_choice(score_QT, choose(score_QT, panel.has_rationale_QT, ranking_T(score_T)))

    return Fitted(purify, calls_per_question=1, router=router)


def fit_majority(data: FitData, options: object, context: Context) -> Fitted:
    """A teacher that concludes what most conclude; of several, the one that is most often right on train."""
    order_T = ranking_T(comparable_accuracy_T(data.whole_train))

    def purify(panel: Panel) -> Purification:
        vote_QT = votes_QT(panel.concluded_QT)
        voters_Q1 = (vote_QT > 0).sum(1, keepdims=True)
        share_QT = np.where(voters_Q1 > 0, vote_QT / np.maximum(voters_Q1, 1), np.nan)
        return Purification.of_choice(share_QT, choose(share_QT, panel.has_rationale_QT, order_T))

    notes: tuple[str, ...] = ()
    if "blind" not in data.train.modes:
        notes = ("teacher-forced rationales state the gold answer, so a vote over them hardly chooses",)
    return Fitted(purify, calls_per_question=len(data.train.teachers), notes=notes)


def fit_oracle(data: FitData, options: object, context: Context) -> Fitted:
    """A teacher that is right, wherever there is one: a bound that no method can pass, not a method.

    Of several right ones, and where none is right or gold is unknown, the one most often right on train.
    """
    order_T = ranking_T(comparable_accuracy_T(data.whole_train))

    def purify(panel: Panel) -> Purification:
        right_QT = correct_QT(panel.answer_QT, panel.gold_Q).astype(float)
        score_QT = np.where((panel.gold_Q >= 0)[:, None], right_QT, np.nan)
        return Purification.of_choice(score_QT, choose(score_QT, panel.has_rationale_QT, order_T))

    return Fitted(purify, calls_per_question=len(data.train.teachers))


def fit_all(data: FitData, options: object, context: Context) -> Fitted:
    """Every rationale there is: no purification, what TinyLLM trains on."""

    def purify(panel: Panel) -> Purification:
        return Purification(np.full(panel.has_rationale_QT.shape, np.nan), panel.has_rationale_QT, several=True)

    note = "every rationale is kept: one row a question and teacher, and accuracy is the mean over the kept rationales"
    return Fitted(purify, calls_per_question=len(data.train.teachers), notes=(note,))


RANDOM = Method(
    MethodInfo(
        name="random",
        summary="any teacher that has a rationale",
        kind="baseline",
        needs=("rationales",),
        trained=False,
        transferable=True,
        source="own",
        evidence="own",
    ),
    fit_random,
)
BEST_SINGLE = Method(
    MethodInfo(
        name="best-single",
        summary="always the teacher that is most often right on train",
        kind="baseline",
        needs=("rationales", "blind answers", "train labels"),
        trained=False,
        transferable=True,
        source="own",
        evidence="own",
    ),
    fit_best_single,
)
MAJORITY = Method(
    MethodInfo(
        name="majority",
        summary="a teacher that concludes what most conclude",
        kind="baseline",
        needs=("rationales",),
        trained=False,
        transferable=True,
        source="own",
        evidence="own",
    ),
    fit_majority,
)
ORACLE = Method(
    MethodInfo(
        name="oracle",
        summary="a teacher that is right, where there is one: the upper bound, needs the answers",
        kind="baseline",
        needs=("rationales", "blind answers", "gold of every question"),
        trained=False,
        transferable=False,
        source="own",
        evidence="own",
    ),
    fit_oracle,
)
ALL = Method(
    MethodInfo(
        name=EVERY_RATIONALE,
        summary="every rationale, no purification: TinyLLM's view",
        kind="baseline",
        needs=("rationales",),
        trained=False,
        transferable=True,
        source="TinyLLM, arXiv:2402.04616",
        evidence="verified",
    ),
    fit_all,
)


def _lot(seed: int, question_id: str, teacher: str) -> float:
    digest = hashlib.sha256(f"random:{seed}:{question_id}:{teacher}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
