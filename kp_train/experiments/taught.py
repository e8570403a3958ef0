"""Teachers that are language models trained here, each on its own mixture of the practice world.

A teacher learns the subjects that it knows from arguments that are right, and hears of the others, if at all, from
practice teachers that are wrong about them. Asked about what it never learned, it makes up what sounds alike. What it
writes is a rationale with the answer at its end, in one text, so that it can be asked like any other model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from kp_data.practice import SUBJECTS, TEACHERS, make_questions
from kp_data.practice.world import choose_subjects
from kp_data.schema import Question
from kp_data.teachers.parsing import parse_answer
from kp_data.teachers.prompts import build_messages
from kp_train.dataset import Dataset
from kp_train.experiments.config import Lessons, StudentSpec, Sweep
from kp_train.experiments.fresh import fresh_checkpoint, recipe_of, texts_of
from kp_train.experiments.panels import TRAIN, VALIDATION
from kp_train.experiments.work import MODEL
from kp_train.fit import fit
from kp_train.fit_options import FitOptions
from kp_train.views import Row, rationale_prefix

VALIDATION_SHARE = 0.1


def teach(sweep: Sweep, name: str, folder: Path) -> dict[str, Any]:
    """Train the teacher of a name into a folder; resumes by itself.

    Raises:
        ConfigError: its lessons name a subject that there is not.
    """
    lessons = next(teacher.taught for teacher in sweep.teachers if teacher.name == name)
    assert lessons is not None
    spec = sweep.student(lessons.student)
    dataset = lessons_of_teacher(lessons)
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    student = str(spec.model)
    if spec.shape is not None:
        texts = [
            *texts_of([dataset]),
            *(row.purified or "" for row in dataset.rows),
            rationale_prefix("rationale-first"),
        ]
        student = str(fresh_checkpoint(spec.shape, texts, folder / "fresh", seed=seed))
    record = fit(dataset, _options(spec, lessons, student, seed), folder / MODEL)
    kept = ("steps", "flops", "tokens", "validation_accuracy", "parameters")
    return {"lessons": len(dataset.rows), **{figure: record[figure] for figure in kept}}


def lessons_of_teacher(lessons: Lessons) -> Dataset:
    """Questions with what the teacher is told about them.

    Raises:
        ConfigError: it is to know a subject that there is not.
    """
    rows = tuple(_rows(lessons))
    digest = hashlib.sha256(repr(rows).encode()).hexdigest()
    return Dataset("lessons of a teacher", rows, hashes={"lessons": digest})


def _rows(lessons: Lessons) -> Iterator[Row]:
    known = [asked.subject.name for asked in choose_subjects(lessons.knows, place="taught.knows")]
    for question in make_questions(lessons.questions, seed=lessons.seed, subjects=lessons.knows):
        if (row := _told(question, right=True)) is not None:
            yield row
    others = [subject for subject in SUBJECTS if subject not in known]
    for question in make_questions(lessons.heard, seed=lessons.seed, subjects=others) if lessons.heard else ():
        if (row := _told(question, right=False)) is not None:
            yield row


def _told(question: Question, *, right: bool) -> Row | None:
    """The argument of a practice teacher that is right, or that is wrong; None where there is no such teacher."""
    lot = int.from_bytes(hashlib.sha256(question.id.encode()).digest()[:8], "big")
    split = VALIDATION if lot / 2**64 < VALIDATION_SHARE else TRAIN
    for teacher in TEACHERS.values():
        concluded = teacher.conclude(question)
        if concluded is None or (concluded == question.answer_index) != right:
            continue
        parsed = parse_answer(teacher.answer(build_messages(question, mode="blind")).text, question.choices)
        if parsed.index == concluded and parsed.rationale:
            own = replace(question, split=split)
            return Row(own, purified=parsed.rationale, purified_answer=question.choices[concluded])
    return None


def _options(spec: StudentSpec, lessons: Lessons, student: str, seed: int) -> FitOptions:
    return FitOptions(
        student=student,
        objective="purified",
        labels="purified",
        view="rationale-first",
        steps=lessons.steps,
        eval_steps=max(1, -(-lessons.steps // 4)),
        batch_tokens=spec.batch_tokens,
        seed=seed,
        log_to=(),
        **recipe_of(spec),
    )
