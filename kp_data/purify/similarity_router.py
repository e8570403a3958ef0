"""Similarity router: choose the teacher whose embedding is nearest to the question's.

Axes: Q questions, T teachers, D embedding size, V validation questions.
The encoder stays frozen; a projection and one embedding a teacher are trained by the dual contrastive loss. A router
that does not beat the best single teacher on validation is not used: the method then falls back to that teacher.
"""

from __future__ import annotations

import warnings
from typing import Any, Final

import numpy as np

from kp_data.measures import comparable_accuracy_T, correct_QT, judged_QT
from kp_data.panel import NONE, Panel, question_text
from kp_data.purify.labels import routing_signal
from kp_data.purify.metrics import choose, paired_gain, ranking_T
from kp_data.purify.protocol import Context, FitData, Fitted, Method, MethodInfo, Purification
from kp_data.purify.routers import ConstantRouter, SimilarityHead, SimilarityRouter
from kp_data.purify.similarity_options import NAME, SimilarityOptions

Array = np.ndarray[Any, Any]

CLUSTER_SAMPLE: Final = 20_000
"""Questions that the cluster centres are fitted on; the rest are assigned to the nearest."""


def fit_similarity(data: FitData, options: SimilarityOptions, context: Context) -> Fitted:
    """Train the router on `train`, keep its best epoch on `validation`, and use it only if it has proven a gain.

    Source: similarity-based router of Knowledge Purification (arXiv:2602.01064), trained as RouterDC
    (arXiv:2409.19886). Differs: the encoder is frozen, and the fallback is our own.
    """
    good_QT, bad_QT = routing_signal(data.train.skill_QT)
    facts = _count_signal(data.train, good_QT, bad_QT)
    # Teachers are compared on the same questions, so a call that failed takes its question out for all of them.
    judged_V = np.asarray(judged_QT(data.validation).all(1))
    if reason := _no_way_to_learn(data, facts["num_with_signal"], int(judged_V.sum())):
        return _fall_back(data, facts, reason)
    validation = data.validation.take(judged_V)
    head, facts["training"] = _train(data.train, validation, (good_QT, bad_QT), options, context)
    router = SimilarityRouter(data.train.teachers, head, context.embed)
    facts["validation"] = verdict = _verdict(data, validation, router)
    if verdict["gain"] <= options.min_gain_errors * verdict["standard_error"]:
        reason = (
            f"on {verdict['n']} validation questions it routes {verdict['routed_accuracy']:.3f} against "
            f"{verdict['best_single_accuracy']:.3f} of the best single teacher, which is no proven gain "
            f"(needs more than {options.min_gain_errors:g} standard errors of {verdict['standard_error']:.3f})"
        )
        return _fall_back(data, facts, reason)
    parameters = head.num_parameters + context.embed.num_parameters
    return Fitted(
        lambda panel: _purify(panel, router),
        calls_per_question=1,
        extra_parameters=parameters,
        router=router,
        facts={**facts, "fallback": False},
        notes=_notes(data, facts),
    )


SIMILARITY_ROUTER = Method(
    MethodInfo(
        name=NAME,
        summary="the teacher whose trained embedding is nearest to the question's",
        kind="router",
        needs=("rationales", "blind answers", "train labels"),
        trained=True,
        transferable=True,
        source="Knowledge Purification, arXiv:2602.01064; RouterDC, arXiv:2409.19886",
        evidence="reconstructed",
        differs="frozen encoder with a trained projection; labels from blind answers; falls back without a proven gain",
    ),
    fit_similarity,
    SimilarityOptions,
)


def _purify(panel: Panel, router: SimilarityRouter) -> Purification:
    score_QT, _ = router.route(panel.questions)
    return Purification.of_choice(score_QT, choose(score_QT, panel.has_rationale_QT))


def _train(
    train: Panel, validation: Panel, signal: tuple[Array, Array], options: SimilarityOptions, context: Context
) -> tuple[SimilarityHead, dict[str, Any]]:
    from kp_data.purify.contrastive import train_head

    train_QD, validation_VD = (context.embed(_texts(panel)) for panel in (train, validation))
    right_VT = correct_QT(validation.answer_QT, validation.gold_Q)

    def validate(score_VT: Array) -> float:
        return float(_taken(right_VT, choose(score_VT, validation.has_rationale_QT)).mean())

    trained = train_head(
        train_QD,
        *signal,
        _clusters(train_QD, options.num_clusters, context.seed),
        options=options,
        seed=context.seed,
        validate=validate,
        validation_ND=validation_VD,
        progress=lambda done, total: context.progress("training the router", done, total),
    )
    return trained.head, {"epochs": trained.epochs, "best_epoch": trained.best_epoch}


def _clusters(question_QD: Array, num_clusters: int, seed: int) -> Array:
    """(Q,) int64, k-means cluster of each question."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    sample = np.random.default_rng(seed).permutation(len(question_QD))[:CLUSTER_SAMPLE]
    means = KMeans(min(num_clusters, len(sample)), n_init=2, random_state=seed)
    with warnings.catch_warnings():
        # Fewer distinct questions than clusters: the spare clusters stay empty, which harms nothing.
        warnings.simplefilter("ignore", ConvergenceWarning)
        means.fit(question_QD[sample])
    return np.asarray(means.predict(question_QD), dtype=np.int64)


def _verdict(data: FitData, validation: Panel, router: SimilarityRouter) -> dict[str, Any]:
    """The router against the best single teacher of train, question by question, where all teachers answered."""
    right_VT = correct_QT(validation.answer_QT, validation.gold_Q)
    routed_V = _taken(right_VT, _purify(validation, router).chosen_Q)
    best_V = right_VT[:, ranking_T(comparable_accuracy_T(data.whole_train))[0]]
    gain, error = paired_gain(routed_V, best_V)
    return {
        "n": len(validation),
        "held_out_of_train": data.held_out,
        "routed_accuracy": float(routed_V.mean()),
        "best_single_accuracy": float(best_V.mean()),
        "gain": gain,
        "standard_error": error,
    }


def _count_signal(train: Panel, good_QT: Array, bad_QT: Array) -> dict[str, Any]:
    """How many training questions can teach a router, and why the others cannot."""
    known_Q = (good_QT | bad_QT).any(1)
    has_Q = good_QT.any(1) & bad_QT.any(1)
    return {
        "num_train": len(train),
        "num_with_signal": int(has_Q.sum()),
        "dropped": {
            "all_right": int((known_Q & ~bad_QT.any(1)).sum()),
            "all_wrong": int((known_Q & ~good_QT.any(1)).sum()),
            "unlabelled": int((~known_Q).sum()),
        },
    }


def _no_way_to_learn(data: FitData, num_with_signal: int, num_validation: int) -> str | None:
    if len(data.train.teachers) == 1:
        return "there is one teacher, so there is nothing to choose"
    if not num_with_signal:
        return "on no training question is one teacher right and another wrong"
    if num_validation < 2:
        return (
            "fewer than two validation questions have a gold answer and an answer of every teacher, "
            "so a gain cannot be shown"
        )
    return None


def _fall_back(data: FitData, facts: dict[str, Any], reason: str) -> Fitted:
    score_T = comparable_accuracy_T(data.whole_train)
    router = ConstantRouter.of_accuracies(data.train.teachers, score_T, method=NAME)

    def purify(panel: Panel) -> Purification:
        score_QT, _ = router.route(panel.questions)
        return Purification.of_choice(score_QT, choose(score_QT, panel.has_rationale_QT, ranking_T(score_T)))

    best = data.train.teachers[ranking_T(score_T)[0]]
    return Fitted(
        purify,
        calls_per_question=1,
        router=router,
        facts={**facts, "fallback": True, "fallback_reason": reason},
        notes=(f"fell back to the best single teacher ({best}): {reason}", *_notes(data, facts)),
    )


def _notes(data: FitData, facts: dict[str, Any]) -> tuple[str, ...]:
    if not data.held_out:
        return ()
    return (f"no split 'validation': {len(data.validation)} questions of train were held out for selection",)


def _texts(panel: Panel) -> list[str]:
    return [question_text(question) for question in panel.questions]


def _taken(right_QT: Array, chosen_Q: Array) -> Array:
    """(Q,) bool, whether the chosen teacher is right; not where none is chosen."""
    return np.asarray(right_QT[np.arange(len(chosen_Q)), chosen_Q] & (chosen_Q != NONE))
