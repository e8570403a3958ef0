"""Similarity router: choose the teacher whose embedding is nearest to the question's.

Axes: Q questions, T teachers, D embedding size, N neighbours.
One embedding a teacher is trained by the dual contrastive loss, together with a projection of frozen question
embeddings, or with the encoder itself. Whether a teacher is right on one question is mostly chance; whether it is right
on questions of a kind is skill: so the labels are averaged over each question's nearest ones before the loss sees them.
"""

from __future__ import annotations

import warnings
from typing import Any, Final

import numpy as np

from kp_data.purify.gate import Candidate, Lesson, fit_gated, question_texts
from kp_data.purify.local_skill import LocalSkill
from kp_data.purify.neighbours import build_index
from kp_data.purify.protocol import Context, FitData, Fitted, Method, MethodInfo
from kp_data.purify.routers import SimilarityRouter
from kp_data.purify.similarity_options import NAME, SimilarityOptions

Array = np.ndarray[Any, Any]

CLUSTER_SAMPLE: Final = 20_000
"""Questions that the cluster centres are fitted on; the rest are assigned to the nearest."""
MAX_NEIGHBOURS: Final = 200
SMOOTHED_AT_ONCE: Final = 4096


def fit_similarity(data: FitData, options: SimilarityOptions, context: Context) -> Fitted:
    """Train the router on `train`, keep its best epoch on `validation`, and use it only if it has proven a gain.

    Source: similarity-based router of Knowledge Purification (arXiv:2602.01064), trained as RouterDC
    (arXiv:2409.19886). Differs: the encoder is frozen unless `tuned` is set; labels are shared among like questions,
    and local skill is added to the cosines, unless `neighbour_share` is 0; the fallback is our own. With `tuned` 1 and
    `neighbour_share` 0 it is the papers' method.
    """

    def learn(lesson: Lesson) -> Candidate:
        router, facts = _train(lesson, options, context)
        parameters = router.head.num_parameters + router.embed.num_parameters
        return Candidate(router, parameters, {"training": facts})

    return fit_gated(data, learn, method=NAME, min_gain_errors=options.min_gain_errors)


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
        differs="by default a frozen encoder under a trained projection, labels shared among like questions, and local "
        "skill beside the cosines; falls back without a proven gain",
    ),
    fit_similarity,
    SimilarityOptions,
)


def smoothed_labels(question_QD: Array, good_QT: Array, bad_QT: Array, count: int) -> tuple[Array, Array]:
    """How right and how wrong each teacher is on the nearest questions of each question, itself among them.

    Args:
        question_QD: (Q, D) unit vectors.
        good_QT, bad_QT: (Q, T) bool, who is right and who wrong; a teacher that is neither is left out.
        count: questions to average over; at 1 the labels stay as they are.

    Returns: (Q, T) float32 share of right, (Q, T) float32 share of wrong; they sum to 1, or to 0 where no neighbour
    has a label.
    Source: own.
    """
    index = build_index(question_QD, count=count)
    good_QT, bad_QT = good_QT.astype(np.float32), bad_QT.astype(np.float32)
    shares = [np.zeros((2, 0, good_QT.shape[1]), np.float32)]
    for start in range(0, len(question_QD), SMOOTHED_AT_ONCE):
        block_QD = question_QD[start : start + SMOOTHED_AT_ONCE]
        row_QN = index.search(block_QD, count)[1] if count > 1 else start + np.arange(len(block_QD))[:, None]
        found_QN1 = (row_QN >= 0)[:, :, None]
        sum_2QT = np.stack([np.where(found_QN1, label[row_QN], 0).sum(1) for label in (good_QT, bad_QT)])
        shares.append(sum_2QT / np.maximum(sum_2QT.sum(0), 1))
    right_QT, wrong_QT = np.concatenate(shares, axis=1).astype(np.float32)
    return right_QT, wrong_QT


def _train(lesson: Lesson, options: SimilarityOptions, context: Context) -> tuple[SimilarityRouter, dict[str, Any]]:
    from kp_data.purify.contrastive import train_head, train_tuned

    train, validation = question_texts(lesson.train), question_texts(lesson.validation)
    train_QD = context.embed(train)
    count = max(1, min(MAX_NEIGHBOURS, round(options.neighbour_share * len(train))))
    labels = smoothed_labels(train_QD, lesson.good_QT, lesson.bad_QT, count)
    cluster_Q = _clusters(train_QD, options.num_clusters, context.seed)

    def progress(done: int, total: int) -> None:
        context.progress("training the router", done, total)

    if options.tuned:
        head, embed, facts = train_tuned(lesson, labels, cluster_Q, options, context, progress)
        return SimilarityRouter(lesson.train.teachers, head, embed), facts | {"num_neighbours": count}
    trained = train_head(
        train_QD,
        *labels,
        cluster_Q,
        options=options,
        seed=context.seed,
        validate=lesson.validation_accuracy,
        validation_ND=context.embed(validation),
        progress=progress,
    )
    facts = {"epochs": trained.epochs, "best_epoch": trained.best_epoch, "num_neighbours": count}
    skill = None
    if options.skill_weight and options.neighbour_share:
        share, weight = options.neighbour_share, options.skill_weight
        skill = LocalSkill.of_training(
            train_QD, lesson.good_QT, lesson.bad_QT, share=share, weight=weight, seed=context.seed
        )
    return SimilarityRouter(lesson.train.teachers, trained.head, context.embed, skill), facts


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
