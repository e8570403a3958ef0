"""Answer questions with a student, with rationales where it can write them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kp_data.errors import DataError, MethodError
from kp_data.schema import Question
from kp_data.tables import questions_of, read_questions
from kp_train.answering import predict_choices
from kp_train.students import Student, load_student
from kp_train.views import LABEL_PREFIX, RATIONALE_PREFIX, teacher_prefix


def answer_file(
    student_dir: Path, file: Path, *, explain: bool = False, teacher: str | None = None
) -> Iterator[dict[str, Any]]:
    """One answer a question, in the order of the file, as they become known.

    Args:
        student_dir: folder of a fitted student.
        file: questions.
        explain: add what the student writes under its rationale prefix.
        teacher: under the prefix of this teacher instead.

    Raises:
        DataError: the file is broken, or an open-ended question meets a student that only scores choices.
        MethodError: a rationale is asked of a student that cannot write.
    """
    questions = questions_of(read_questions(file))
    student = load_student(student_dir)
    if explain and not student.writes_text:
        raise MethodError("this student scores choices and cannot write rationales; leave --explain out")
    if not student.writes_text and (bare := [question.id for question in questions if not question.choices]):
        raise DataError(f"question {bare[0]} has no choices, and this student only scores choices", place=file)
    for question in questions:
        answer = _answer(student, question)
        if explain:
            answer["rationale"] = student.generate(question, teacher_prefix(teacher) if teacher else RATIONALE_PREFIX)
        yield answer


def _answer(student: Student, question: Question) -> dict[str, Any]:
    if not question.choices:
        return {"id": question.id, "answer": student.generate(question, LABEL_PREFIX)}
    (prediction,) = predict_choices(student, [question])
    assert prediction.predicted is not None  # where choices are scored, one of them is the highest
    return {
        "id": question.id,
        "answer": question.choices[prediction.predicted],
        "answer_index": prediction.predicted,
        "scores": list(prediction.scores),
    }
