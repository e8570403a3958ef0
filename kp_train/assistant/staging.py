"""One stage of the loop, step by step; each step leaves a file, and is skipped where that file is there.

Axes: Q questions, T teachers, N judged answers, L questions that were asked already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from kp_data.purify.calibration import Platt, fit_platt
from kp_data.purify.reliability import reliability_of
from kp_data.purify.verifier_input import Claim
from kp_data.schema import Question
from kp_data.tables import write_json
from kp_train.assistant.judges import Assistant, Calibrated, without_gold
from kp_train.assistant.lessons import Classroom
from kp_train.assistant.options import AssistantOptions
from kp_train.assistant.records import PLAN, PLAN_FACTS, Signal, write_signals
from kp_train.assistant.routing import Chooser
from kp_train.assistant.sampling import student_votes
from kp_train.assistant.signals import Thresholds, Vote, place_of, threshold_at_recall
from kp_train.assistant.strategies import Pool, strategy_named
from kp_train.assistant.teachers import Answered, Request, TeacherSource
from kp_train.students import Student
from kp_train.views import View

Array = np.ndarray[Any, Any]

COVERAGE: Final = "coverage"


@dataclass(frozen=True)
class Judged:
    """An assistant's word about answers whose gold is known, and how it was calibrated by them.

    Attributes:
        calibrated: to judge others of the same kind with.
        probability_N: (N,) float.
        right_N: (N,) bool.
    """

    calibrated: Calibrated
    probability_N: Array
    right_N: Array

    @classmethod
    def of(cls, assistant: Assistant, claims: Sequence[Claim], right_N: Array) -> Judged:
        """Calibrate an assistant on claims; with few of them its log-odds are left as they are.

        Where the assistant has trained on the questions, it must judge them crosswise.
        """
        right_N = np.asarray(right_N, dtype=bool)
        score_N = assistant.log_odds(claims) if claims else np.zeros(0)
        enough = assistant.least_judged is not None and len(claims) >= assistant.least_judged
        platt = fit_platt(score_N, right_N) if enough else Platt(num_items=0)
        return cls(Calibrated(assistant, platt), platt(score_N), right_N)

    def threshold(self, given: float, recall: float | None) -> float:
        """The threshold that was given, or the one that keeps this share of the right answers."""
        if recall is None or not len(self.right_N):
            return given
        return threshold_at_recall(self.probability_N, self.right_N, recall=recall)

    def as_facts(self) -> dict[str, Any]:
        """For reports: how far probabilities are from what comes true."""
        reliability = reliability_of(self.probability_N, self.right_N.astype(float))
        platt = self.calibrated.platt
        return {
            "n": len(self.right_N),
            "right": float(self.right_N.mean()) if len(self.right_N) else None,
            "slope": platt.slope,
            "shift": platt.shift,
            "calibrated_on": platt.num_items,
            "reliability": None if reliability is None else reliability.as_dict(),
        }


@dataclass(frozen=True)
class Look:
    """A student's answers to questions, and what its assistant makes of them.

    Attributes:
        questions: Q of them.
        votes: one each.
        student_Q: (Q,) float, s2; 0 where no answer could be read.
    """

    questions: tuple[Question, ...]
    votes: tuple[Vote, ...]
    student_Q: Array

    @property
    def consistency_Q(self) -> Array:
        """(Q,) float, s1."""
        return np.array([each.consistency for each in self.votes])

    def share_QC(self) -> Array:
        """(Q, C) float, share of the samples for each choice, 0 for choices that a question lacks."""
        width = max((len(each.share_C) for each in self.votes), default=0)
        return np.array([[*each.share_C, *[0.0] * (width - len(each.share_C))] for each in self.votes]).reshape(
            len(self.votes), width
        )

    def take(self, rows: Sequence[int]) -> Look:
        """A part of it."""
        return Look(
            tuple(self.questions[row] for row in rows),
            tuple(self.votes[row] for row in rows),
            self.student_Q[list(rows)],
        )


def look_at(
    student: Student,
    questions: Sequence[Question],
    judge: Calibrated | None,
    *,
    options: AssistantOptions,
    view: View,
    seed: int,
) -> Look:
    """Sample a student and have its majority answers judged; without a judge s2 is 0."""
    votes = student_votes(
        student, questions, samples=options.samples, temperature=options.temperature, view=view, seed=seed
    )
    student_Q = np.zeros(len(questions))
    if judge is not None:
        read = [row for row, each in enumerate(votes) if each.answer is not None]
        student_Q[read] = judge([claim_of(questions[row], votes[row]) for row in read])
    return Look(tuple(questions), tuple(votes), student_Q)


def claim_of(question: Question, said: Vote) -> Claim:
    """A student's majority answer as an assistant reads it."""
    return Claim(question, said.rationale or "", said.answer or "")


def calibrate_student(
    assistant: Assistant, student: Student, classroom: Classroom, *, options: AssistantOptions, view: View, seed: int
) -> Judged:
    """The assistant's word about a student's answers to the validation questions, whose gold is known."""
    seen = look_at(student, classroom.validation, None, options=options, view=view, seed=seed)
    read = [
        (question, said) for question, said in zip(seen.questions, seen.votes, strict=True) if said.answer is not None
    ]
    claims = [without_gold(claim_of(question, said)) for question, said in read]
    return Judged.of(assistant, claims, np.array([said.answer == question.answer for question, said in read]))


def plan_warm_up(
    classroom: Classroom, source: TeacherSource, *, calls: int, side_by_side: bool, seed: int
) -> list[Signal]:
    """Questions drawn at random, each for all teachers where they are to be compared, else for one drawn at random."""
    order = sorted(classroom.pool, key=lambda question: place_of(question.id, seed))
    signals: list[Signal] = []
    for question in order:
        able = [name for name in source.teachers if source.can_answer(question.id, name)]
        wanted = len(able) if side_by_side else min(1, len(able))
        chosen = able if side_by_side else sorted(able, key=lambda name: place_of(f"{question.id}/{name}", seed))[:1]
        if wanted and len(signals) + wanted <= calls:
            signals += [Signal(question.id, "warm-up", "asked", teacher=name) for name in chosen]
    return signals


def plan_round(
    seen: Look,
    known: Look,
    chooser: Chooser,
    *,
    name: str,
    calls: int,
    thresholds: Thresholds,
    ask_first: str,
    seed: int,
) -> list[Signal]:
    """What is done with each question that was not asked yet: keep the student's answer, ask, or leave it for later.

    Args:
        seen: the questions, as the student and the assistant see them.
        known: questions that were asked before, for coverage; may be empty.
        chooser: whom to ask.
        name: of the stage.
        calls: how many may be spent.
        thresholds: when the student's own answer is kept.
        ask_first: the strategy.
        seed: of ties.
    """
    own_Q = thresholds.keeps_own(seen.consistency_Q, seen.student_Q)
    able = [row for row, question in enumerate(seen.questions) if not own_Q[row] and chooser.can_answer(question.id)]
    open_ = seen.take(able)
    pool = Pool(
        ids=tuple(question.id for question in open_.questions),
        consistency_Q=open_.consistency_Q,
        student_Q=open_.student_Q,
        share_QC=open_.share_QC(),
        known_LC=known.share_QC(),
        teacher_QT=chooser.scores(open_.questions),
        seed=seed,
    )
    chosen: list[int] = strategy_named(ask_first)(pool, calls).tolist() if able and calls else []
    teachers = chooser.choose([open_.questions[row] for row in chosen], seed=seed)
    asked = {able[row]: teacher for row, teacher in zip(chosen, teachers, strict=True)}
    return [_signal(seen, row, name, own=bool(own_Q[row]), teacher=asked.get(row)) for row in range(len(own_Q))]


def write_plan(stage: Path, signals: Sequence[Signal], facts: Mapping[str, Any]) -> None:
    """What is decided, before any call; the table comes last and vouches for the facts."""
    write_json(dict(facts), stage / PLAN_FACTS)
    write_signals(signals, stage / PLAN)


def requests_of(classroom: Classroom, signals: Sequence[Signal]) -> list[Request]:
    """The calls of a plan."""
    questions = {question.id: question for question in classroom.pool}
    return [Request(questions[signal.question_id], signal.teacher or "") for signal in _asked(signals)]


def answers_of(classroom: Classroom, signals: Sequence[Signal]) -> list[Answered]:
    """What came of the calls of a stage, as it was recorded."""
    return [
        Answered(request, _claim_of(request.question, signal), signal.cost_usd)
        for request, signal in zip(requests_of(classroom, signals), _asked(signals), strict=True)
    ]


def with_answers(
    signals: Sequence[Signal], answered: Sequence[Answered], judge: Calibrated, *, least: float
) -> list[Signal]:
    """A plan with what the teachers said; kept is what the assistant trusts, and the student's own answers.

    Args:
        signals: the plan.
        answered: one for each signal that asks, in that order.
        judge: of the teachers' answers.
        least: tau_T.
    """
    claims = [each.claim for each in answered if each.claim is not None]
    confidences = iter(judge([without_gold(claim) for claim in claims]).tolist())
    rest = iter(answered)
    return [
        _answered(signal, next(rest), confidences, least) if signal.decision == "asked" else _unasked(signal)
        for signal in signals
    ]


def _asked(signals: Sequence[Signal]) -> list[Signal]:
    return [signal for signal in signals if signal.decision == "asked"]


def _claim_of(question: Question, signal: Signal) -> Claim | None:
    if signal.teacher_answer is None:
        return None
    return Claim(question, signal.teacher_rationale or "", signal.teacher_answer)


def _answered(signal: Signal, answered: Answered, confidences: Any, least: float) -> Signal:
    claim = answered.claim
    if claim is None:
        return replace(signal, cost_usd=answered.cost_usd)
    confidence = float(next(confidences))
    return replace(
        signal,
        teacher_answer=claim.answer,
        teacher_rationale=claim.rationale or None,
        teacher_confidence=confidence,
        cost_usd=answered.cost_usd,
        kept=confidence >= least,
    )


def _unasked(signal: Signal) -> Signal:
    return replace(signal, kept=signal.decision == "own")


def _signal(seen: Look, row: int, name: str, *, own: bool, teacher: str | None) -> Signal:
    said = seen.votes[row]
    return Signal(
        question_id=seen.questions[row].id,
        stage=name,
        decision="own" if own else "asked" if teacher is not None else "waiting",
        consistency=said.consistency,
        student_answer=said.answer,
        student_rationale=said.rationale,
        student_confidence=float(seen.student_Q[row]),
        teacher=teacher,
    )
