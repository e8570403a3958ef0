"""How likely each rationale's answer is right, learned from evidence without ever scoring a question by its own label.

Training questions are dealt into folds by their ids. Each fold has a model of the other folds, from the skills of the
teachers on: a training question is scored by the one model that has not seen it, any other by all of them together.

Axes: Q questions, T teachers, K training questions, N neighbours, F kinds of evidence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, get_args

import numpy as np

from kp_data.measures import correct_QT, judged_QT
from kp_data.panel import NONE, Panel
from kp_data.purify.answer_groups import group_mean_QT, num_options_Q, skill_from_labels_T
from kp_data.purify.calibration import Platt, fit_platt, log_loss, logit, sigmoid
from kp_data.purify.evidence import Evidence, agreement_evidence, join_evidence

Array = np.ndarray[Any, Any]
Kind = Literal["vote", "logistic", "boosted"]

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
NUM_FOLDS: Final = 5
LEAST_CELLS: Final[Mapping[Kind, int]] = {"vote": 0, "logistic": 100, "boosted": 1000}
"""Judged rationales below which a model is not tried: it would learn their accidents."""
NEIGHBOUR_STRENGTH: Final = 50.0
"""Neighbours that a teacher's skill over all of train is worth."""
FAR: Final = 50.0
"""Log-odds, in nats, that stand for certainty."""


@dataclass(frozen=True)
class Seen:
    """A panel as a selector sees it: no gold, no split.

    Attributes:
        ids: of the Q questions.
        answer_QT: (Q, T) int, what each teacher concludes, -1: none.
        options_Q: (Q,) int, possible answers.
        evidence: what does not depend on labels.
        neighbour_QN: (Q, N) int, rows of the nearest training questions, -1: none; N may be 0.
    """

    ids: tuple[str, ...]
    answer_QT: Array
    options_Q: Array
    evidence: Evidence
    neighbour_QN: Array

    @classmethod
    def of(cls, panel: Panel, evidence: Evidence, neighbour_QN: Array) -> Seen:
        """A panel, the evidence on it and the neighbours of its questions."""
        answer_QT = panel.concluded_QT
        ids = tuple(question.id for question in panel.questions)
        return cls(ids, answer_QT, num_options_Q(panel.questions, answer_QT), evidence, neighbour_QN)


@dataclass(frozen=True)
class Judged:
    """The labels of training questions.

    Attributes:
        right_KT: (K, T) bool, whether the answer is right.
        known_KT: (K, T) bool, an answer was read and gold is known.
        fold_K: (K,) int.
    """

    right_KT: Array
    known_KT: Array
    fold_K: Array

    @classmethod
    def of(cls, panel: Panel) -> Judged:
        """The labels of a panel, dealt into folds."""
        right_KT = correct_QT(panel.answer_QT, panel.gold_Q)
        known_KT = judged_QT(panel) & (panel.answer_QT != NONE)
        return cls(right_KT, known_KT, np.array([fold_of(question.id) for question in panel.questions], dtype=int))


@dataclass(frozen=True)
class FoldModel:
    """What was learned from all folds but one.

    Attributes:
        skill_T: (T,) float, how often each teacher is right when it answers.
        right_KT, known_KT: as in `Judged`, nothing known in the fold left out.
        classifier: an estimator of scikit-learn; None: the vote, which has no further parameters.
        column_F: (F,) bool, the kinds of evidence that it learned from.
    """

    skill_T: Array
    right_KT: Array
    known_KT: Array
    classifier: Any = None
    column_F: Array | None = None

    def evidence(self, seen: Seen, own_row_Q: Array) -> Evidence:
        """All evidence, labels of the fold left out and of the question itself apart.

        Args:
            seen: the questions.
            own_row_Q: (Q,) int, row of each among the training questions, -1 where it is none of them.
        """
        local_QT = local_skill_QT(seen.neighbour_QN, own_row_Q, self.right_KT, self.known_KT, self.skill_T)
        return join_evidence(
            [agreement_evidence(seen.answer_QT, seen.options_Q, self.skill_T, local_QT), seen.evidence]
        )

    def log_odds_QT(self, seen: Seen, own_row_Q: Array) -> Array:
        """(Q, T) float, log-odds of being right; -FAR without an answer."""
        evidence = self.evidence(seen, own_row_Q)
        if self.classifier is None or self.column_F is None:
            score_QT = evidence.value_QTF[:, :, evidence.names.index("local_posterior")]
        else:
            value_NF = evidence.value_QTF[:, :, self.column_F].reshape(-1, int(self.column_F.sum()))
            score_QT = logit(self.classifier.predict_proba(value_NF)[:, 1]).reshape(seen.answer_QT.shape)
        return np.where(seen.answer_QT != NONE, score_QT, -FAR)


@dataclass(frozen=True)
class Selector:
    """The models of all folds, and the scale that makes probabilities of their scores.

    Attributes:
        kind: of the models.
        models: one a fold.
        row_of: row among the training questions, by id.
        platt: from pooled log-odds to probabilities.
    """

    kind: Kind
    models: tuple[FoldModel, ...]
    row_of: Mapping[str, int]
    platt: Platt = field(default_factory=Platt)

    def log_odds_QT(self, seen: Seen) -> Array:
        """(Q, T) float, log-odds of each rationale's answer, uncalibrated; -FAR without an answer.

        A training question hears only the model that was fitted without it; any other, the mean of all.
        """
        own_row_Q = np.array([self.row_of.get(question_id, NONE) for question_id in seen.ids], dtype=int)
        score_KQT = np.stack([model.log_odds_QT(seen, own_row_Q) for model in self.models])
        fold_Q = np.array([fold_of(question_id) for question_id in seen.ids], dtype=int) % len(self.models)
        held_out_QT = score_KQT[fold_Q, np.arange(len(seen.ids))]
        return np.asarray(np.where((own_row_Q != NONE)[:, None], held_out_QT, score_KQT.mean(0)))

    def probability_QT(self, log_odds_QT: Array, answer_QT: Array) -> Array:
        """(Q, T) float, how likely each answer is right, of its log-odds: one number for all who give it."""
        return coherent_QT(self.platt(pooled_log_odds_QT(log_odds_QT, answer_QT)), answer_QT)


def fold_of(question_id: str, num_folds: int = NUM_FOLDS) -> int:
    """The fold of a training question: the same whatever stands beside it."""
    return int.from_bytes(hashlib.sha256(f"fold:{question_id}".encode()).digest()[:8], "big") % num_folds


def pooled_log_odds_QT(log_odds_QT: Array, answer_QT: Array) -> Array:
    """(Q, T) float, log-odds of the mean probability of all who give an answer: being right is theirs together."""
    pooled_QT = logit(group_mean_QT(sigmoid(log_odds_QT), answer_QT))
    return np.where(answer_QT != NONE, pooled_QT, -FAR)


def coherent_QT(probability_QT: Array, answer_QT: Array) -> Array:
    """Probabilities of which those of different answers to one question never sum to more than 1.

    >>> coherent_QT(np.array([[0.9, 0.9, 0.6]]), np.array([[2, 2, 0]])).round(2).tolist()
    [[0.6, 0.6, 0.4]]
    """
    probability_QT = np.where(answer_QT != NONE, probability_QT, 0.0)
    size_QT = (answer_QT[:, :, None] == answer_QT[:, None, :]).sum(2)
    total_Q1 = (probability_QT / size_QT).sum(1, keepdims=True)
    return np.asarray(probability_QT / np.maximum(total_Q1, 1.0))


def local_skill_QT(neighbour_QN: Array, own_row_Q: Array, right_KT: Array, known_KT: Array, skill_T: Array) -> Array:
    """How often each teacher is right on the nearest training questions, drawn to its skill on all of them.

    Args:
        neighbour_QN: (Q, N) int, rows of training questions, -1: none.
        own_row_Q: (Q,) int, the row that is the question itself and must not count, -1: none is.
        right_KT, known_KT: (K, T) bool, labels, and where there are any.
        skill_T: (T,) float.

    Returns: (Q, T) float inside (0, 1).
    Source: own.
    """
    counted_QN = (neighbour_QN != NONE) & (neighbour_QN != own_row_Q[:, None])
    if not neighbour_QN.size:
        return np.broadcast_to(skill_T, (len(neighbour_QN), len(skill_T)))
    known_QNT = known_KT[neighbour_QN] & counted_QN[:, :, None]
    num_right_QT = (right_KT[neighbour_QN] & known_QNT).sum(1)
    return np.asarray((num_right_QT + NEIGHBOUR_STRENGTH * skill_T) / (known_QNT.sum(1) + NEIGHBOUR_STRENGTH))


def fit_selector(seen: Seen, judged: Judged, kind: Kind, *, seed: int = 0) -> Selector:
    """Models of every fold, calibrated on what each says of the fold it has not seen.

    Args:
        seen: the K training questions, in the order of `judged`; their neighbours among themselves.
        judged: their labels.
        kind: `vote`: skills alone, local where there are neighbours; `logistic` and `boosted` read all evidence.
        seed: of the boosting.

    Source: own; stacking with held-out predictions, Wolpert 1992.
    """
    own_row_Q = np.arange(len(seen.ids))
    models = tuple(_fit_fold(seen, judged, own_row_Q, kind, fold, seed) for fold in range(NUM_FOLDS))
    row_of = {question_id: row for row, question_id in enumerate(seen.ids)}
    return calibrated(Selector(kind, models, row_of), seen, judged)


def calibrated(selector: Selector, seen: Seen, judged: Judged) -> Selector:
    """A selector whose probabilities fit judged answers: of questions it was not fitted on, or out of fold."""
    score_QT = pooled_log_odds_QT(selector.log_odds_QT(seen), seen.answer_QT)
    platt = fit_platt(score_QT[judged.known_KT], judged.right_KT[judged.known_KT])
    return replace(selector, platt=platt)


def surprise(selector: Selector, seen: Seen, judged: Judged) -> float:
    """Mean log-loss, in nats, of the probabilities of judged answers."""
    probability_QT = selector.probability_QT(selector.log_odds_QT(seen), seen.answer_QT)
    return log_loss(probability_QT[judged.known_KT], judged.right_KT[judged.known_KT])


def kinds_to_try(judged: Judged) -> tuple[Kind, ...]:
    """The models that this many labels can carry: all folds must hold right and wrong answers."""
    known, right = judged.known_KT.sum(), (judged.right_KT & judged.known_KT).sum()
    mixed = min(right, known - right) >= 4 * NUM_FOLDS
    return tuple(kind for kind in KINDS if kind == "vote" or (mixed and known >= LEAST_CELLS[kind]))


def _fit_fold(seen: Seen, judged: Judged, own_row_Q: Array, kind: Kind, fold: int, seed: int) -> FoldModel:
    known_KT = judged.known_KT & (judged.fold_K != fold)[:, None]
    model = FoldModel(skill_from_labels_T(judged.right_KT, known_KT), judged.right_KT, known_KT)
    if kind == "vote":
        return model
    value_NF = model.evidence(seen, own_row_Q).value_QTF[known_KT]
    # What is nowhere known teaches nothing, and the binning of the boosting fails on it.
    column_F = ~np.isnan(value_NF).all(0)
    classifier = _make(kind, seed)
    classifier.fit(value_NF[:, column_F], judged.right_KT[known_KT])
    return replace(model, classifier=classifier, column_F=column_F)


def _make(kind: Kind, seed: int) -> Any:
    if kind == "boosted":
        from sklearn.ensemble import HistGradientBoostingClassifier

        # Compared by cross-validation on the training and validation questions of MMLU-Pro; within reason, no value
        # made a difference beyond its standard error.
        return HistGradientBoostingClassifier(
            max_iter=250,
            learning_rate=0.05,
            max_leaf_nodes=8,
            min_samples_leaf=40,
            l2_regularization=5.0,
            max_features=0.3,
            early_stopping=False,
            random_state=seed,
        )
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    fill = SimpleImputer(strategy="median")
    return make_pipeline(fill, StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
