"""Answer questions with a student, with rationales where it can write them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from kp_data.errors import DataError, MethodError
from kp_data.schema import Question
from kp_data.tables import questions_of, read_questions
from kp_data.teachers.parsing import parse_answer
from kp_train.answering import Prediction, predict_by_writing, predict_choices
from kp_train.students import Student, load_student
from kp_train.views import LABEL_PREFIX, View, rationale_prefix

AT_ONCE: Final = 64
"""Questions answered before the first of them is told: enough to fill a batch, few enough to wait for."""


def answer_file(
    student_dir: Path, file: Path, *, explain: bool = False, teacher: str | None = None, view: View | None = None
) -> Iterator[dict[str, Any]]:
    """One answer a question, in the order of the file, as they become known.

    Args:
        student_dir: folder of a fitted student.
        file: questions.
        explain: add what the student writes under its rationale prefix.
        teacher: under the prefix of this teacher instead.
        view: how the student learned rationales: `rationale-first` and `answer-first` are asked for both in one text,
            in which the answer is read.

    Raises:
        DataError: the file is broken, or an open-ended question meets a student that only scores choices.
        MethodError: a text is asked of a student that cannot write.
    """
    questions = questions_of(read_questions(file))
    student = load_student(student_dir)
    one_text = view not in (None, "separate")
    if (explain or one_text) and not student.writes_text:
        option = "--view" if one_text else "--explain"
        raise MethodError(f"this student scores choices and cannot write rationales; leave {option} out")
    if not student.writes_text and (bare := [question.id for question in questions if not question.choices]):
        raise DataError(f"question {bare[0]} has no choices, and this student only scores choices", place=file)
    for start in range(0, len(questions), AT_ONCE):
        chunk = questions[start : start + AT_ONCE]
        if one_text:
            prefix = rationale_prefix(view or "separate", teacher)
            yield from _in_one_text(student, chunk, prefix, answer_first=view == "answer-first")
            continue
        answers = _answers(student, chunk)
        if explain:
            texts = student.generate_all(chunk, rationale_prefix(teacher=teacher))
            answers = [answer | {"rationale": text} for answer, text in zip(answers, texts, strict=True)]
        yield from answers


def _answers(student: Student, questions: Sequence[Question]) -> list[dict[str, Any]]:
    """The likeliest choice of each, or what is written where there are none."""
    closed = [question for question in questions if question.choices]
    opened = [question for question in questions if not question.choices]
    answers = {
        each.id: _chosen(question, each)
        for question, each in zip(closed, predict_choices(student, closed), strict=True)
    }
    if opened:
        texts = student.generate_all(opened, LABEL_PREFIX)
        answers |= {
            question.id: {"id": question.id, "answer": text} for question, text in zip(opened, texts, strict=True)
        }
    return [answers[question.id] for question in questions]


def _chosen(question: Question, prediction: Prediction) -> dict[str, Any]:
    assert prediction.predicted is not None  # where choices are scored, one of them is the highest
    return {
        "id": question.id,
        "answer": question.choices[prediction.predicted],
        "answer_index": prediction.predicted,
        "scores": list(prediction.scores),
    }


def _in_one_text(
    student: Student, questions: Sequence[Question], prefix: str, *, answer_first: bool
) -> Iterator[dict[str, Any]]:
    """Answer and rationale as the student writes them together; `answer` is None where none can be read."""
    for question, read in zip(questions, predict_by_writing(student, questions, prefix), strict=True):
        text = read.written or ""
        stated = parse_answer(text).answer or (text.split("\n")[0] if answer_first else None)
        if question.choices:
            stated = None if read.predicted is None else question.choices[read.predicted]
            yield {"id": question.id, "answer": stated, "answer_index": read.predicted, "rationale": read.written}
        else:
            yield {"id": question.id, "answer": stated, "rationale": read.written}
