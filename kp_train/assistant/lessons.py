"""What a student learns in a stage: kept answers as rows of a dataset."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from kp_data.schema import Question
from kp_train.assistant.records import Signal
from kp_train.dataset import Dataset
from kp_train.views import Row


@dataclass(frozen=True)
class Classroom:
    """The questions of a run.

    Attributes:
        place: where they come from, for messages.
        pool: to learn from, by id; without their gold answers, which a run must not see by accident.
        validation: to select and to calibrate on, with gold answers, choice questions alone.
        gold: gold answer text of the pool's questions that have one.
        split, validation_split: names of the two.
    """

    place: str
    pool: tuple[Question, ...]
    validation: tuple[Question, ...]
    gold: Mapping[str, str]
    split: str
    validation_split: str

    @classmethod
    def of(cls, dataset: Dataset, *, split: str, validation_split: str) -> Classroom:
        """The questions of a dataset; a part of the pool is held out where there is no validation split.

        Raises: DataError, when there is no such split.
        """
        train = dataset.split(split)
        if dataset.has_split(validation_split):
            validation = dataset.split(validation_split)
        else:
            train, validation = train.hold_out()
        questions = sorted((row.question for row in train.rows), key=lambda question: question.id)
        checked = [row.question for row in validation.rows if row.question.answer and row.question.choices]
        return cls(
            place=dataset.place,
            pool=tuple(replace(question, answer=None, answer_index=None) for question in questions),
            validation=tuple(
                replace(question, split=validation_split) for question in sorted(checked, key=lambda one: one.id)
            ),
            gold={question.id: question.answer for question in questions if question.answer},
            split=split,
            validation_split=validation_split,
        )

    def judged(self, question: Question) -> Question:
        """A question of the pool with its gold answer, where that is known."""
        answer = self.gold.get(question.id)
        index = question.choices.index(answer) if answer in question.choices else None
        return replace(question, answer=answer, answer_index=index)


def kept_rows(classroom: Classroom, signals: Sequence[Signal], *, rationales: bool) -> tuple[Row, ...]:
    """One row a question that has a kept answer, in the order of the pool.

    Of several teachers' kept answers the one that the assistant trusts most is taken, of equals the first.

    Args:
        classroom: the questions.
        signals: the last word on each.
        rationales: whether the student can learn them.
    """
    best: dict[str, Signal] = {}
    for signal in signals:
        if not signal.kept:
            continue
        known = best.get(signal.question_id)
        if known is None or (signal.teacher_confidence or 0.0) > (known.teacher_confidence or 0.0):
            best[signal.question_id] = signal
    return tuple(
        _row(question, best[question.id], rationales=rationales) for question in classroom.pool if question.id in best
    )


def lessons_of(classroom: Classroom, rows: Sequence[Row], *, name: str) -> Dataset:
    """A dataset of these rows and the validation questions, whose gold answers take the place of purified ones."""
    checked = [Row(question, purified_answer=question.answer) for question in classroom.validation]
    digest = hashlib.sha256(repr([*rows, *checked]).encode()).hexdigest()
    return Dataset(f"{classroom.place} ({name})", (*rows, *checked), hashes={"lessons": digest})


def _row(question: Question, signal: Signal, *, rationales: bool) -> Row:
    own = signal.decision == "own"
    rationale = signal.student_rationale if own else signal.teacher_rationale
    return Row(
        question,
        purified=(rationale or None) if rationales else None,
        purified_answer=signal.student_answer if own else signal.teacher_answer,
        score=signal.student_confidence if own else signal.teacher_confidence,
    )
