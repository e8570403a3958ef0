"""Verifiers as a method and as evidence: fitted crosswise, so that no question is judged by its own gold answer.

Axes: Q questions, T teachers, N claims.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from kp_data.errors import MethodError
from kp_data.panel import NONE, Panel
from kp_data.purify.answer_groups import group_mean_QT, num_answers_Q, same_answer_QTT
from kp_data.purify.calibration import logit, sigmoid
from kp_data.purify.choosing import choose_by
from kp_data.purify.evidence import Evidence
from kp_data.purify.metrics import ranking_T
from kp_data.purify.protocol import Context, FitData, Fitted, Method, MethodInfo, Progress, Purification, quiet
from kp_data.purify.selector import Judged, fold_of
from kp_data.purify.verifier import NAME, Verifier, VerifierOptions, contested, fit_verifier
from kp_data.purify.verifier_input import Claim, claims_of

Array = np.ndarray[Any, Any]

VERIFIER_KINDS: Final = ("verified", "verified_group", "verified_rival", "verified_lead")
LARGEST_CHECK: Final = 1_000
"""Validation claims, drawn, by which an epoch is chosen and calibrated: reading more costs more than it tells."""


@dataclass(frozen=True)
class CrossVerifier:
    """Verifiers of which each has left out one fold of the training questions.

    Attributes:
        verifiers: one a fold.
        trained_on: ids of all training questions.

    It remembers what it has read, because fitting a selector and purifying read the same claims.
    """

    verifiers: tuple[Verifier, ...]
    trained_on: frozenset[str]
    _known: dict[tuple[int, Claim], float] = field(default_factory=dict, init=False, repr=False, compare=False)

    def log_odds_QT(self, panel: Panel, *, only: Array | None = None, progress: Progress = quiet) -> Array:
        """Calibrated log-odds of each claim: from the verifier that has not seen the question, or the mean of all.

        Args:
            panel: its gold answers are not read.
            only: (Q,) bool, questions to score; default: all.
            progress: told how far it is.

        Returns: (Q, T) float, nan where there is no rationale, no answer, or nothing was to be scored.
        """
        wanted_QT = panel.has_rationale_QT & (panel.concluded_QT != NONE)
        if only is not None:
            wanted_QT = wanted_QT & only[:, None]
        cells = np.argwhere(wanted_QT)
        fold_Q = np.array([self._fold(question.id) for question in panel.questions], dtype=int)
        total_QT, count_QT = np.zeros(wanted_QT.shape), np.zeros(wanted_QT.shape)
        for fold, verifier in enumerate(self.verifiers):
            mine = cells[np.isin(fold_Q[cells[:, 0]], (NONE, fold))]
            at = tuple(mine.T)
            total_QT[at] += self._read(fold, verifier, claims_of(panel, mine), progress)
            count_QT[at] += 1
        return np.divide(total_QT, count_QT, out=np.full(wanted_QT.shape, np.nan), where=count_QT > 0)

    def _read(self, fold: int, verifier: Verifier, claims: list[Claim], progress: Progress) -> Array:
        """(N,) float, calibrated log-odds of claims by one verifier."""
        new = [claim for claim in dict.fromkeys(claims) if (fold, claim) not in self._known]
        if new:
            log_odds_N = logit(verifier.platt(verifier.log_odds(new, progress)))
            self._known.update(zip(((fold, claim) for claim in new), log_odds_N.tolist(), strict=True))
        return np.array([self._known[fold, claim] for claim in claims])

    def _fold(self, question_id: str) -> int:
        """The fold that a training question belongs to, -1 for any other."""
        return fold_of(question_id, len(self.verifiers)) if question_id in self.trained_on else NONE

    @property
    def num_parameters(self) -> int:
        """Parameters of all verifiers."""
        return sum(verifier.num_parameters for verifier in self.verifiers)


def fit_cross_verifier(data: FitData, options: VerifierOptions, context: Context) -> CrossVerifier:
    """One verifier a fold, each from the training questions of the other folds, all selected on validation.

    Raises:
        MethodError: rationales are teacher-forced, or too few questions have a right and a wrong rationale.
        ConfigError: the encoder cannot be loaded.
    """
    check_readable(data)
    judged, checked = Judged.of(data.train), Judged.of(data.validation)
    cells = _judged_cells(data.train, judged)
    checked_cells = _sample(_judged_cells(data.validation, checked), context.seed)
    fold_N = np.array([fold_of(data.train.questions[row].id, options.folds) for row in cells[:, 0]], dtype=int)
    claims, validation = claims_of(data.train, cells), claims_of(data.validation, checked_cells)
    right_N = judged.right_KT[tuple(cells.T)]
    verifiers = []
    for fold in range(options.folds):
        rows = np.flatnonzero(fold_N != fold)
        part, part_right_N = [claims[row] for row in rows], right_N[rows]
        if not len(contested(part, part_right_N, 0, context.seed)):
            raise MethodError(
                f"among the training questions of one of {options.folds} folds there is none on which one rationale is "
                "right and another wrong; ask more questions or more teachers, or take method 'consensus'",
                place=NAME,
            )
        verifiers.append(
            fit_verifier(
                part,
                part_right_N,
                validation,
                checked.right_KT[tuple(checked_cells.T)],
                options=options,
                seed=context.seed + fold,
                device=context.embed.device,
                progress=context.progress,
            )
        )
    return CrossVerifier(tuple(verifiers), frozenset(question.id for question in data.train.questions))


def check_readable(data: FitData) -> None:
    """Refuse rationales that argue for the gold answer they were given.

    Raises: MethodError.
    """
    if data.train.rationale_mode != "blind":
        raise MethodError(
            "the rationales are teacher-forced and argue for the gold answer they were given, so a verifier would "
            "learn nothing from them; run `kp-data generate` with --mode blind, or take method 'consensus'",
            place=NAME,
        )


def verifier_evidence(panel: Panel, verifier: CrossVerifier, progress: Progress = quiet) -> Evidence:
    """What the verifiers say of each rationale, of all of its answer, and of the best rival answer.

    Questions on which all agree are not read: there is nothing to choose, and that costs nothing.

    Returns: evidence of `VERIFIER_KINDS` in log-odds, nan where nothing was read.
    """
    answer_QT = panel.concluded_QT
    own_QT = verifier.log_odds_QT(panel, only=num_answers_Q(answer_QT) > 1, progress=progress)
    known_QT = ~np.isnan(own_QT)
    probability_QT = np.where(known_QT, sigmoid(np.nan_to_num(own_QT)), 0.0)
    group_QT = group_mean_QT(probability_QT, np.where(known_QT, answer_QT, NONE))
    rival_QTT = ~same_answer_QTT(answer_QT) & known_QT[:, None, :]
    rival_QT = np.where(rival_QTT, group_QT[:, None, :], 0.0).max(2)
    columns = (own_QT, logit(group_QT), logit(rival_QT), group_QT - rival_QT)
    return Evidence(VERIFIER_KINDS, np.stack([np.where(known_QT, column, np.nan) for column in columns], axis=2))


def fit_verified(data: FitData, options: VerifierOptions, context: Context) -> Fitted:
    """The rationale that a verifier finds likeliest to lead to the right answer, whether or not others agree."""
    verifier = fit_cross_verifier(data, options, context)
    judged = Judged.of(data.train)
    order_T = ranking_T((judged.right_KT & judged.known_KT).sum(0) / np.maximum(judged.known_KT.sum(0), 1))

    def purify(panel: Panel) -> Purification:
        log_odds_QT = verifier.log_odds_QT(panel, progress=context.progress)
        there_QT = panel.has_rationale_QT
        score_QT = np.where(np.isnan(log_odds_QT), 0.0, sigmoid(np.nan_to_num(log_odds_QT)))
        score_QT = np.where(there_QT, score_QT, np.nan)
        return Purification.of_choice(score_QT, choose_by(score_QT, available_QT=there_QT, order_T=order_T))

    return Fitted(
        purify,
        calls_per_question=len(data.train.teachers),
        extra_parameters=verifier.num_parameters,
        facts={**verifier_facts(verifier), **score_meaning()},
    )


def verifier_facts(verifier: CrossVerifier) -> dict[str, Any]:
    """How fitting went, fold by fold."""
    return {"verifiers": [dict(one.facts) for one in verifier.verifiers]}


def _judged_cells(panel: Panel, judged: Judged) -> Array:
    """(N, 2) int, question and teacher of the rationales whose answer is known to be right or wrong."""
    return np.argwhere(judged.known_KT & panel.has_rationale_QT)


def _sample(cells: Array, seed: int) -> Array:
    """At most LARGEST_CHECK of some cells, in their order."""
    drawn = np.random.default_rng(seed).permutation(len(cells))[:LARGEST_CHECK]
    return np.asarray(cells[np.sort(drawn)])


def score_meaning() -> Mapping[str, str]:
    """The fact that tells readers of a report that scores are probabilities."""
    from kp_data.purify.reliability import PROBABILITY_RIGHT, SCORE_MEANING

    return {SCORE_MEANING: PROBABILITY_RIGHT}


VERIFIER = Method(
    MethodInfo(
        name=NAME,
        summary="the rationale that a trained cross-encoder finds likeliest to lead to the right answer",
        kind="selector",
        needs=("rationales", "blind answers", "train labels"),
        trained=True,
        transferable=True,
        source="own",
        evidence="own",
    ),
    fit_verified,
    VerifierOptions,
)
