"""Panel: questions × teachers, aligned arrays over a panel folder; what every purifier and student reads.

Axes: Q questions (in the order of questions.parquet), T teachers (in order of first appearance, or as asked).
Answers are small integers that can be compared within one question: the choice index for a choice question, and for
an open-ended one the group of its text (`kp_data.answers.answer_groups`), 0 for gold's. -1 stands for "none".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kp_data.answers import answer_groups
from kp_data.answers import normalise_answer as normalise_answer
from kp_data.errors import DataError
from kp_data.schema import Mode, Question
from kp_data.tables import questions_of, read_questions, read_responses

Array = np.ndarray[Any, Any]
NONE = -1
UNANSWERED = ("rate_limited", "timeout", "bad_response", "auth", "budget")
"""Failures of the call, not of the teacher: they say nothing about its skill. A refusal does."""


@dataclass(frozen=True)
class Panel:
    """What every teacher said to every question.

    Attributes:
        questions: Q questions.
        teachers: T teacher names.
        modes: the modes the panel holds, `blind` first.
        rationale_mode: the mode that `rationale_QT` comes from: `teacher_forced` where there is one, else `blind`;
            a question that was asked blind only gives its blind rationales in either case.
        rationale_QT: (Q, T) object array of rationale texts, None where there is none.
        answer_QT: (Q, T) int, what each teacher concluded blind (all -1 without blind responses), -1: none read.
        stated_QT: (Q, T) int, what the rationale of `rationale_QT` concludes, -1: none read.
        skill_QT: (Q, T) float in [0, 1], share of a cell's blind samples that are right; nan: not asked, no reply
            came, or no gold.
        asked_QT: (Q, T) bool, whether the panel holds the cell of `rationale_mode` at all, failed or not.
        gold_Q: (Q,) int, gold answer, -1: unlabelled.
    """

    questions: tuple[Question, ...]
    teachers: tuple[str, ...]
    modes: tuple[Mode, ...]
    rationale_mode: Mode
    rationale_QT: Array
    answer_QT: Array
    stated_QT: Array
    skill_QT: Array
    asked_QT: Array
    gold_Q: Array
    folder: Path | None = None

    @classmethod
    def read(cls, folder: Path, *, teachers: Sequence[str] | None = None) -> Panel:
        """The panel of a folder that holds `questions.parquet` and `responses.parquet`.

        Args:
            folder: panel folder.
            teachers: take only these, in this order; default: all, in order of first appearance.

        Raises:
            DataError: a file is missing or broken, an unknown teacher is named, or a response belongs to no question.
        """
        folder = Path(folder)
        for name in ("questions.parquet", "responses.parquet"):
            if not (folder / name).is_file():
                raise DataError(f"no panel here: {name} is missing; make one with `kp-data generate`", place=folder)
        questions = questions_of(read_questions(folder / "questions.parquet"))
        responses = read_responses(folder / "responses.parquet")
        return replace(cls.of_tables(questions, responses, teachers=teachers, place=folder), folder=folder)

    @classmethod
    def of_tables(
        cls,
        questions: Sequence[Question],
        responses: pa.Table,
        *,
        teachers: Sequence[str] | None = None,
        place: object = "panel",
    ) -> Panel:
        """A panel of questions and a checked responses table; arguments and errors as in `read`."""
        present = list(dict.fromkeys(responses["teacher"].to_pylist()))
        chosen = list(dict.fromkeys(teachers)) if teachers is not None else present
        if unknown := [name for name in chosen if name not in present]:
            raise DataError(
                f"no responses of teacher {unknown[0]!r}; the panel has {', '.join(present) or 'none'}", place=place
            )
        if not questions or not chosen:
            raise DataError("an empty panel: it needs at least one question and one teacher", place=place)
        modes: tuple[Mode, ...] = tuple(
            mode for mode in ("blind", "teacher_forced") if mode in set(responses["mode"].to_pylist())
        )
        return _align(tuple(questions), tuple(chosen), modes, responses, place)

    def __len__(self) -> int:
        return len(self.questions)

    @cached_property
    def split_Q(self) -> Array:
        """(Q,) object, the split of each question."""
        return np.array([question.split for question in self.questions], dtype=object)

    @cached_property
    def subject_Q(self) -> Array:
        """(Q,) object, the subject of each question, "" where it has none."""
        return np.array([question.subject or "" for question in self.questions], dtype=object)

    @cached_property
    def concluded_QT(self) -> Array:
        """(Q, T) int, what each teacher concludes: blind where the panel has blind answers, else as stated."""
        return self.answer_QT if "blind" in self.modes else self.stated_QT

    @cached_property
    def conflict_Q(self) -> Array:
        """(Q,) bool, whether two teachers conclude differently."""
        concluded = self.concluded_QT
        highest = concluded.max(axis=1)
        lowest = np.where(concluded == NONE, np.iinfo(concluded.dtype).max, concluded).min(axis=1)
        return np.asarray((highest != NONE) & (lowest != highest))

    @cached_property
    def has_rationale_QT(self) -> Array:
        """(Q, T) bool, whether there is a rationale to choose."""
        return np.array([[text is not None for text in row] for row in self.rationale_QT], dtype=bool)

    def take(self, keep: Array) -> Panel:
        """The panel of the questions that a boolean or an index array keeps."""
        rows = np.flatnonzero(keep) if keep.dtype == bool else keep
        arrays = ("rationale_QT", "answer_QT", "stated_QT", "skill_QT", "asked_QT", "gold_Q")
        kept = {name: getattr(self, name)[rows] for name in arrays}
        return replace(self, questions=tuple(self.questions[row] for row in rows), **kept)

    def split(self, *names: str) -> Panel:
        """The questions of these splits.

        Raises:
            DataError: no question has such a split; names the splits there are.
        """
        keep = np.isin(self.split_Q.astype(str), names)
        if not keep.any():
            there = ", ".join(sorted(set(self.split_Q)))
            raise DataError(
                f"no question in split {' or '.join(names)}; this panel has {there}", place=self.folder or "panel"
            )
        return self.take(keep)


def question_text(question: Question) -> str:
    """Context, question and choices as one text: what a router or embedder reads. The gold answer is never in it."""
    lines = [question.context] if question.context else []
    return "\n".join([*lines, question.question, *question.choices])


def _align(
    questions: tuple[Question, ...],
    teachers: tuple[str, ...],
    modes: tuple[Mode, ...],
    responses: pa.Table,
    place: object,
) -> Panel:
    responses = responses.filter(pc.is_in(responses["teacher"], pa.array(teachers)))
    row_of = {question.id: row for row, question in enumerate(questions)}
    column_of = {teacher: column for column, teacher in enumerate(teachers)}
    shape = (len(questions), len(teachers))
    codes = _text_codes(questions, responses)
    gold_Q = np.array([_code(question.answer_index, question.answer, codes[question.id]) for question in questions])
    rationale_mode: Mode = "teacher_forced" if "teacher_forced" in modes else "blind"
    rationale_QT = np.full(shape, None, dtype=object)
    answer_QT, stated_QT = np.full(shape, NONE), np.full(shape, NONE)
    right_QT, samples_QT = np.zeros(shape), np.zeros(shape)
    asked_QT = np.zeros(shape, dtype=bool)
    names = ("question_id", "teacher", "mode", "sample", "rationale", "answer", "answer_index", "error")
    forced = responses.filter(pc.equal(responses["mode"], "teacher_forced"))["question_id"].to_pylist()
    forced_Q = np.isin([question.id for question in questions], list(set(forced)))
    rows = zip(*(responses[name].to_pylist() for name in names), strict=True)
    for number, (question_id, teacher, mode, sample, rationale, answer, index, error) in enumerate(rows, start=1):
        if question_id not in row_of:
            raise DataError(
                f"a response of {teacher} belongs to question {question_id!r}, which questions.parquet lacks",
                place=place,
            )
        cell = row_of[question_id], column_of[teacher]
        choices = questions[cell[0]].choices
        if index is not None and not 0 <= index < len(choices):
            raise DataError(
                f"column 'answer_index', row {number}: {index}, but question {question_id} has {len(choices)} choices",
                place=place,
            )
        code = _code(index, answer if not choices else None, codes[question_id])
        if mode == "blind" and error not in UNANSWERED:
            samples_QT[cell] += 1
            right_QT[cell] += code != NONE and code == gold_Q[cell[0]]
            if sample == 0:
                answer_QT[cell] = code
        # A question without gold answer is asked blind only, also in a teacher-forced panel.
        if sample == 0 and mode == ("teacher_forced" if forced_Q[cell[0]] else "blind"):
            asked_QT[cell] = True
            stated_QT[cell] = code
            rationale_QT[cell] = rationale if rationale and rationale.strip() else None
    known_QT = (samples_QT > 0) & (gold_Q != NONE)[:, None]
    skill_QT = np.where(known_QT, right_QT / np.maximum(samples_QT, 1), np.nan)
    return Panel(
        questions, teachers, modes, rationale_mode, rationale_QT, answer_QT, stated_QT, skill_QT, asked_QT, gold_Q
    )


def _text_codes(questions: Sequence[Question], responses: pa.Table) -> dict[str, dict[str, int]]:
    """For each question, the number of every answer text given to it; only open-ended questions have any."""
    texts: dict[str, dict[str, None]] = {question.id: {} for question in questions if not question.choices}
    if texts:
        for question_id, answer in zip(
            *(responses[name].to_pylist() for name in ("question_id", "answer")), strict=True
        ):
            if answer is not None and question_id in texts:
                texts[question_id][answer] = None
    codes: dict[str, dict[str, int]] = {}
    for question in questions:
        given, gold = list(texts.get(question.id, ())), None if question.choices else question.answer
        codes[question.id] = dict(zip(given, answer_groups(given, gold), strict=True))
        if gold is not None:
            codes[question.id][gold] = 0
    return codes


def _code(index: int | None, answer: str | None, known: dict[str, int]) -> int:
    if index is not None:
        return index
    return NONE if answer is None else known.get(answer, NONE)
