"""The gate that every router passes: it is used only where validation shows that it beats the best single teacher.

Axes: Q questions, T teachers, V validation questions that every teacher answered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kp_data.measures import comparable_accuracy_T, correct_QT, judged_QT
from kp_data.panel import NONE, Panel, question_text
from kp_data.purify.labels import routing_signal
from kp_data.purify.metrics import choose, paired_gain, ranking_T
from kp_data.purify.protocol import FitData, Fitted, Purification, Router
from kp_data.purify.routers import ConstantRouter

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Lesson:
    """What a router learns from, once it is known that there is something to learn.

    Attributes:
        train: questions to fit on.
        validation: V questions to select on, each answered by all teachers.
        good_QT, bad_QT: (Q, T) bool, who was right and who was wrong on train.
    """

    train: Panel
    validation: Panel
    good_QT: Array
    bad_QT: Array

    @property
    def signal_Q(self) -> Array:
        """(Q,) bool, whether one teacher was right and another wrong."""
        return np.asarray(self.good_QT.any(1) & self.bad_QT.any(1))

    def validation_accuracy(self, score_VT: Array) -> float:
        """Share of the validation questions on which the teacher of the highest score is right, in [0, 1]."""
        return float(_routed(self.validation, score_VT).mean())


@dataclass(frozen=True)
class Candidate:
    """A trained router, before it has shown what it is worth.

    Attributes:
        router: chooses from the question alone.
        extra_parameters: of everything it needs, encoder included.
        facts: how training went, as JSON values; they join the facts of the fit.
    """

    router: Router
    extra_parameters: int
    facts: dict[str, Any] = field(default_factory=dict)


def fit_gated(data: FitData, learn: Callable[[Lesson], Candidate], *, method: str, min_gain_errors: float) -> Fitted:
    """Train a router and use it only if it has proven a gain; else, and where nothing can be learnt, fall back.

    The fallback is the best single teacher of train. With one teacher, without a question on which one is right and
    another wrong, or without two validation questions, nothing is trained at all.

    Args:
        data: the fitting splits.
        learn: trains a router.
        method: the name asked for.
        min_gain_errors: standard errors by which the router must beat the best single teacher on validation.

    Source: own.
    """
    good_QT, bad_QT = routing_signal(data.train.skill_QT)
    facts = _count_signal(data.train, good_QT, bad_QT)
    # Teachers are compared on the same questions, so a call that failed takes its question out for all of them.
    judged_V = np.asarray(judged_QT(data.validation).all(1))
    if reason := _no_way_to_learn(data, facts["num_with_signal"], int(judged_V.sum())):
        return _fall_back(data, facts, reason, method)
    lesson = Lesson(data.train, data.validation.take(judged_V), good_QT, bad_QT)
    candidate = learn(lesson)
    facts |= candidate.facts
    facts["validation"] = verdict = _verdict(data, lesson, candidate.router)
    if verdict["gain"] <= min_gain_errors * verdict["standard_error"]:
        reason = (
            f"on {verdict['n']} validation questions it routes {verdict['routed_accuracy']:.3f} against "
            f"{verdict['best_single_accuracy']:.3f} of the best single teacher, which is no proven gain "
            f"(needs more than {min_gain_errors:g} standard errors of {verdict['standard_error']:.3f})"
        )
        return _fall_back(data, facts, reason, method)
    return Fitted(
        lambda panel: _purify(panel, candidate.router),
        calls_per_question=1,
        extra_parameters=candidate.extra_parameters,
        router=candidate.router,
        facts={**facts, "fallback": False},
        notes=_notes(data),
    )


def question_texts(panel: Panel) -> list[str]:
    """What a router reads of each question."""
    return [question_text(question) for question in panel.questions]


def _purify(panel: Panel, router: Router) -> Purification:
    score_QT, _ = router.route(panel.questions)
    return Purification.of_choice(score_QT, choose(score_QT, panel.has_rationale_QT))


def _verdict(data: FitData, lesson: Lesson, router: Router) -> dict[str, Any]:
    """The router against the best single teacher of train, question by question, where all teachers answered."""
    validation = lesson.validation
    routed_V = _routed(validation, router.route(validation.questions)[0])
    right_VT = correct_QT(validation.answer_QT, validation.gold_Q)
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


def _routed(panel: Panel, score_QT: Array) -> Array:
    """(Q,) bool, whether the chosen teacher is right; not where none is chosen."""
    chosen_Q = choose(score_QT, panel.has_rationale_QT)
    right_QT = correct_QT(panel.answer_QT, panel.gold_Q)
    return np.asarray(right_QT[np.arange(len(chosen_Q)), chosen_Q] & (chosen_Q != NONE))


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


def _fall_back(data: FitData, facts: dict[str, Any], reason: str, method: str) -> Fitted:
    score_T = comparable_accuracy_T(data.whole_train)
    router = ConstantRouter.of_accuracies(data.train.teachers, score_T, method=method)

    def purify(panel: Panel) -> Purification:
        score_QT, _ = router.route(panel.questions)
        return Purification.of_choice(score_QT, choose(score_QT, panel.has_rationale_QT, ranking_T(score_T)))

    best = data.train.teachers[ranking_T(score_T)[0]]
    return Fitted(
        purify,
        calls_per_question=1,
        router=router,
        facts={**facts, "fallback": True, "fallback_reason": reason},
        notes=(f"fell back to the best single teacher ({best}): {reason}", *_notes(data)),
    )


def _notes(data: FitData) -> tuple[str, ...]:
    if not data.held_out:
        return ()
    return (f"no split 'validation': {len(data.validation)} questions of train were held out for selection",)
