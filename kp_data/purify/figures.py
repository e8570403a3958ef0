"""The figures of a purification: computed once per question, then averaged over any part of the panel.

Axes: Q questions, T teachers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from kp_data.measures import (
    agreement_TT,
    comparable_accuracy_T,
    correct_QT,
    judged_QT,
    unfinished_note,
    wilson_interval,
)
from kp_data.panel import NONE, Panel
from kp_data.purify.metrics import accuracy, gap_closed, majority_Q, ranking_T, teacher_share_T
from kp_data.purify.protocol import Purification

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Figures:
    """What a purification is worth over some questions; accuracies are None where nothing can be said.

    Attributes:
        n_questions, n_labelled: questions, and those with a gold answer.
        n_without_rationale: questions for which nothing is kept.
        n_unjudged: labelled questions that `purified_accuracy` leaves out, because the teacher whose rationale is
            kept never answered them blind (or nobody did): whether it is right is not known.
        conflict_rate: share of questions on which two teachers conclude differently.
        teacher_share: teacher to its share of the kept rationales.
        teacher_accuracy: teacher to its accuracy over the labelled questions it answered; see `kp_data.measures`.
        purified_accuracy: share of labelled questions whose kept teacher is right blind; where nothing is kept though
            a teacher answered, that is wrong.
        best_single_accuracy: of the teacher that is best on train, over the labelled questions it answered.
        majority_accuracy, oracle_accuracy: of the vote; of "some teacher is right"; over the labelled questions that
            some teacher answered.
        gap_closed: (purified - best single) / (oracle - best single).
        ci95: 95 % intervals (Wilson) of the four accuracies, where each question is right or wrong; not for `all`,
            which is partly right.
    """

    n_questions: int
    n_labelled: int
    n_without_rationale: int
    n_unjudged: int
    conflict_rate: float
    teacher_share: dict[str, float]
    teacher_accuracy: dict[str, float | None]
    purified_accuracy: float | None
    best_single_accuracy: float | None
    majority_accuracy: float | None
    oracle_accuracy: float | None
    gap_closed: float | None
    ci95: dict[str, list[float] | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What came of each question.

    Attributes:
        teachers: T names.
        best_single: the teacher most often right on train, None where train says nothing.
        labelled_Q: (Q,) bool, gold known and answers blind: correctness means something.
        right_QT: (Q, T) float, whether each teacher is right, nan where it did not answer.
        purified_Q: (Q,) float, share of the kept rationales whose author is right, nan where that is not known.
        majority_Q: (Q,) float, whether the vote is right, nan where nobody answered.
        kept_QT: (Q, T) bool.
        empty_Q: (Q,) bool, nothing is kept.
        conflict_Q: (Q,) bool.
    """

    teachers: tuple[str, ...]
    best_single: str | None
    labelled_Q: Array
    right_QT: Array
    purified_Q: Array
    majority_Q: Array
    kept_QT: Array
    empty_Q: Array
    conflict_Q: Array

    @property
    def best_Q(self) -> Array:
        """(Q,) float, whether the best single teacher is right; nan where it did not answer or is unknown."""
        if self.best_single is None:
            return np.full(len(self.right_QT), np.nan)
        return np.asarray(self.right_QT[:, self.teachers.index(self.best_single)])

    @property
    def oracle_Q(self) -> Array:
        """(Q,) float, whether some teacher is right; nan where nobody answered."""
        return np.where(np.isnan(self.right_QT).all(1), np.nan, (self.right_QT == 1).any(1))

    def take(self, keep_Q: Array) -> Outcome:
        """The outcome over some questions."""
        arrays = ("labelled_Q", "right_QT", "purified_Q", "majority_Q", "kept_QT", "empty_Q", "conflict_Q")
        return replace(self, **{name: getattr(self, name)[keep_Q] for name in arrays})

    def figures(self) -> Figures:
        """Averages over all questions of this outcome."""
        known_Q = self.labelled_Q
        purified = accuracy(self.purified_Q[known_Q])
        best = accuracy(self.best_Q[known_Q])
        oracle = accuracy(self.oracle_Q[known_Q])
        per_teacher = (accuracy(column) for column in self.right_QT[known_Q].T)
        return Figures(
            n_questions=len(known_Q),
            n_labelled=int(known_Q.sum()),
            n_without_rationale=int(self.empty_Q.sum()),
            n_unjudged=int(np.isnan(self.purified_Q[known_Q]).sum()),
            conflict_rate=float(self.conflict_Q.mean()) if len(known_Q) else 0.0,
            teacher_share=dict(zip(self.teachers, teacher_share_T(self.kept_QT).tolist(), strict=True)),
            teacher_accuracy=dict(zip(self.teachers, per_teacher, strict=True)),
            purified_accuracy=purified,
            best_single_accuracy=best,
            majority_accuracy=accuracy(self.majority_Q[known_Q]),
            oracle_accuracy=oracle,
            gap_closed=gap_closed(purified, best, oracle),
            ci95={
                "purified_accuracy": _interval(self.purified_Q[known_Q]),
                "best_single_accuracy": _interval(self.best_Q[known_Q]),
                "majority_accuracy": _interval(self.majority_Q[known_Q]),
                "oracle_accuracy": _interval(self.oracle_Q[known_Q]),
            },
        )


def _interval(right_Q: Array) -> list[float] | None:
    """Wilson's interval of a share of right questions; None where a question can be partly right, or none is known."""
    known_Q = right_Q[~np.isnan(right_Q)]
    if not np.isin(known_Q, (0.0, 1.0)).all():
        return None
    found = wilson_interval(float(known_Q.mean()), len(known_Q)) if len(known_Q) else None
    return None if found is None else list(found)


def outcome_of(panel: Panel, purification: Purification) -> Outcome:
    """What came of each question of a panel. The best single teacher is the one most often right on split `train`.

    A teacher that answered less than half of what the fullest did on train is not the best one.
    """
    on_train_T = comparable_accuracy_T(panel.take(panel.split_Q == "train"))
    order_T = ranking_T(on_train_T)
    right_QT = np.where(judged_QT(panel), correct_QT(panel.answer_QT, panel.gold_Q), np.nan)
    kept_QT, written_Q = purification.kept_QT & ~purification.written_Q[:, None], purification.written_Q
    empty_Q, silent_Q = ~kept_QT.any(1) & ~written_Q, np.isnan(right_QT).all(1)
    vote_Q = (majority_Q(panel.concluded_QT, order_T) == panel.gold_Q) & (panel.gold_Q != NONE)
    return Outcome(
        teachers=panel.teachers,
        best_single=None if np.isnan(on_train_T).all() else panel.teachers[order_T[0]],
        labelled_Q=(panel.gold_Q != NONE) & ("blind" in panel.modes),
        right_QT=right_QT,
        purified_Q=_purified_Q(panel, purification, np.where(kept_QT, right_QT, np.nan), empty_Q & ~silent_Q),
        majority_Q=np.where(silent_Q, np.nan, vote_Q),
        kept_QT=kept_QT,
        empty_Q=empty_Q,
        conflict_Q=panel.conflict_Q,
    )


def _purified_Q(panel: Panel, purification: Purification, right_QT: Array, missed_Q: Array) -> Array:
    """(Q,) float, how right what is kept is, of (Q, T) kept teachers and of questions missed; nan where unknown."""
    num_known_Q = (~np.isnan(right_QT)).sum(1)
    share_Q = np.where(num_known_Q > 0, np.nansum(right_QT, axis=1) / np.maximum(num_known_Q, 1), np.nan)
    share_Q = np.where(missed_Q, 0.0, share_Q)
    if purification.answer_Q is None:
        return share_Q
    right_Q = (purification.answer_Q == panel.gold_Q) & (panel.gold_Q != NONE)
    return np.where(purification.written_Q, right_Q, share_Q)


@dataclass(frozen=True)
class Report:
    """Everything that `report.json` says.

    `overall` spans every split, `train` included, where trained methods have seen the answers: it describes the
    dataset. How good a method is, `splits` tells.
    """

    method: str
    teachers: tuple[str, ...]
    rationale_mode: str
    best_single_teacher: str | None
    overall: Figures
    splits: dict[str, Figures]
    subjects: dict[str, Figures]
    agreement: list[list[float | None]]
    calls_per_question: float
    extra_parameters: int
    seconds_fit: float
    seconds_score: float
    fit: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """One JSON object, the overall figures at its top level."""
        rest = {
            name: value for name, value in vars(self).items() if name not in ("method", "overall", "splits", "subjects")
        }
        parts = {
            name: {key: dict(vars(figures)) for key, figures in getattr(self, name).items()}
            for name in ("splits", "subjects")
        }
        return {"method": self.method, **vars(self.overall), **rest, **parts}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Report:
        """The report that `as_dict` gave.

        Raises: KeyError or TypeError, when a field is missing or unknown.
        """
        parsed: dict[str, Any] = {name: value[name] for name in cls.__dataclass_fields__ if name != "overall"}
        for name in ("splits", "subjects"):
            parsed[name] = {key: Figures(**part) for key, part in value[name].items()}
        for name in ("teachers", "notes"):
            parsed[name] = tuple(value[name])
        return cls(overall=Figures(**{name: value[name] for name in Figures.__dataclass_fields__}), **parsed)


def agreement_matrix(panel: Panel) -> list[list[float | None]]:
    """T rows of T: share of questions on which two teachers conclude the same, None where they share none."""
    return [
        [None if math.isnan(value) else value for value in row] for row in agreement_TT(panel.concluded_QT).tolist()
    ]


def panel_notes(panel: Panel, figures: Figures) -> tuple[str, ...]:
    """What a reader of figures must know where calls failed or are still to be made."""
    notes = [] if (note := unfinished_note(panel)) is None else [note]
    if figures.n_unjudged:
        notes.append(
            f"{figures.n_unjudged} labelled questions are left out of the purified accuracy: the teacher whose "
            "rationale is kept has no blind answer there"
        )
    return tuple(notes)


def by_split(panel: Panel, outcome: Outcome) -> dict[str, Figures]:
    """Figures of each split, in order of first appearance."""
    return _by(panel.split_Q, outcome)


def by_subject(panel: Panel, outcome: Outcome) -> dict[str, Figures]:
    """Figures of each subject, by name; questions without one are left out."""
    return {name: figures for name, figures in sorted(_by(panel.subject_Q, outcome).items()) if name}


def _by(key_Q: Array, outcome: Outcome) -> dict[str, Figures]:
    return {key: outcome.take(key_Q == key).figures() for key in dict.fromkeys(key_Q.tolist())}
