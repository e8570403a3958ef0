"""An assistant that costs a second: how rationales look that turned out right, learned from the warm-up's answers.

It knows nothing of any subject. It sees what `kp_data.purify.surface` reads from a rationale (its length, hedges,
numbers that do not add up, whether it names its answer) and the place of the answer among the choices.

Axes: N claims, F kinds of evidence.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from kp_data.errors import MethodError
from kp_data.panel import NONE, Panel
from kp_data.purify.selector import fold_of
from kp_data.purify.surface import surface_evidence
from kp_data.purify.verifier import LEAST_TO_CALIBRATE
from kp_data.purify.verifier_input import Claim

Array = np.ndarray[Any, Any]

FOLDS: Final = 5
LEAST: Final = 40
"""Judged answers below which nothing can be learned from looks."""
RIDGE: Final = 0.1
"""Inverse strength of the pull to zero: there are dozens of kinds of evidence and few answers."""


@dataclass(frozen=True)
class SurfaceAssistant:
    """Logistic regressions, each of which has left out one fold of the questions that they were fitted on.

    Attributes:
        models: one a fold, pipelines of scikit-learn.
        names: kinds of evidence, F of them.
        trained_on: ids of the questions.
    """

    models: tuple[Any, ...]
    names: tuple[str, ...]
    trained_on: frozenset[str]
    least_judged = LEAST_TO_CALIBRATE

    @classmethod
    def fit(cls, claims: Sequence[Claim], right_N: Array) -> SurfaceAssistant:
        """Learn from judged answers; the same answers give the same assistant.

        Args:
            claims: of teachers.
            right_N: (N,) bool, whether each is right.

        Raises: MethodError, when there are too few, or all are right, or wrong.
        """
        from sklearn.impute import SimpleImputer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        right_N = np.asarray(right_N, dtype=bool)
        fold_N = np.array([fold_of(claim.question.id, FOLDS) for claim in claims], dtype=int)
        kinds = [len(np.unique(right_N[fold_N != fold])) for fold in range(FOLDS)] if len(claims) else [0]
        if len(claims) < LEAST or min(kinds) < 2:
            raise MethodError(
                f"{len(claims)} answers of the warm-up with gold answers are too few, or too alike, to learn from; "
                "give a larger --call-budget or --warm-up, or another --assistant",
                place="--assistant surface",
            )
        evidence = surface_evidence(_panel(claims))
        value_NF = evidence.value_QTF[:, 0, :]
        models = []
        for fold in range(FOLDS):
            model = make_pipeline(
                SimpleImputer(keep_empty_features=True), StandardScaler(), LogisticRegression(C=RIDGE, max_iter=1000)
            )
            with warnings.catch_warnings():
                # Kinds of evidence that no answer of the fold has are zeros then.
                warnings.simplefilter("ignore")
                models.append(model.fit(value_NF[fold_N != fold], right_N[fold_N != fold]))
        return cls(tuple(models), evidence.names, frozenset(claim.question.id for claim in claims))

    def log_odds(self, claims: Sequence[Claim]) -> Array:
        """(N,) float, the mean over the models that have not seen the question."""
        if not claims:
            return np.zeros(0)
        value_NF = self._columns(claims)
        odds_FN = np.stack([model.decision_function(value_NF) for model in self.models])
        fold_N = np.array([self._fold(claim) for claim in claims], dtype=int)
        own_N = odds_FN[np.maximum(fold_N, 0), np.arange(len(claims))]
        return np.asarray(np.where(fold_N >= 0, own_N, odds_FN.mean(0)))

    def _columns(self, claims: Sequence[Claim]) -> Array:
        """(N, F) float, the kinds of evidence that were learned, nan where these claims have none of a kind."""
        evidence = surface_evidence(_panel(claims))
        known = {name: evidence.value_QTF[:, 0, column] for column, name in enumerate(evidence.names)}
        lacking_N = np.full(len(claims), np.nan)
        return np.stack([known.get(name, lacking_N) for name in self.names], axis=1)

    def _fold(self, claim: Claim) -> int:
        return fold_of(claim.question.id, FOLDS) if claim.question.id in self.trained_on else -1


def _panel(claims: Sequence[Claim]) -> Panel:
    """Claims as the answers of one teacher, each to a question of its own."""
    answer_N1 = np.array([[_index(claim)] for claim in claims], dtype=int)
    shape = answer_N1.shape
    rationale_N1 = np.empty(shape, dtype=object)
    rationale_N1[:, 0] = [claim.rationale or None for claim in claims]
    return Panel(
        questions=tuple(claim.question for claim in claims),
        teachers=("asked",),
        modes=("blind",),
        rationale_mode="blind",
        rationale_QT=rationale_N1,
        answer_QT=answer_N1,
        stated_QT=answer_N1,
        skill_QT=np.full(shape, np.nan),
        asked_QT=np.ones(shape, dtype=bool),
        gold_Q=np.full(len(claims), NONE),
    )


def _index(claim: Claim) -> int:
    return claim.question.choices.index(claim.answer) if claim.answer in claim.question.choices else NONE
