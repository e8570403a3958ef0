"""Small panels for the tests of this folder: three plainly different topics, a teacher expert in each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kp_data.panel import Panel
from kp_data.schema import Question, Response
from kp_data.tables import table_of_questions, table_of_responses, write_parquet

TOPICS = {
    "cooking": (
        "How long does one boil {} in salted water?",
        ("potatoes", "rice", "eggs", "carrots", "lentils", "beans"),
    ),
    "astronomy": ("How far is {} from the sun?", ("Mars", "Venus", "Saturn", "Neptune", "Mercury", "Jupiter")),
    "football": ("How many goals did {} score in the league?", ("Ajax", "Arsenal", "Porto", "Lyon", "Celtic", "Roma")),
}
TEACHERS = ("cook", "astronomer", "coach")
SPLITS = ("train", "train", "train", "validation", "test")


def topic_questions(per_topic: int = 60, *, splits: Sequence[str] = SPLITS) -> list[Question]:
    """Questions with two choices, gold always the first, topics in turn."""
    questions = []
    for number in range(per_topic):
        for topic, (wording, things) in TOPICS.items():
            text = wording.format(things[number % len(things)]) + f" Case {number}."
            split = splits[number % len(splits)]
            questions.append(Question(f"{topic}-{number}", text, ("right", "wrong"), "right", 0, split, topic))
    return questions


def topic_answers(questions: Sequence[Question], *, seed: int = 0) -> list[Response]:
    """Blind answers: an expert is right in 19 of 20 of its own topic, and in 7 of 20 elsewhere."""
    random = np.random.default_rng(seed)
    responses = []
    for question in questions:
        for teacher, topic in zip(TEACHERS, TOPICS, strict=True):
            right = random.random() < (0.95 if topic == question.subject else 0.35)
            responses.append(response(question.id, teacher, 0 if right else 1))
    return responses


def response(question_id: str, teacher: str, index: int | None, *, mode: str = "blind", **rest: object) -> Response:
    """A response that says who speaks and what is concluded."""
    said = {"rationale": f"{teacher} says {index}", "answer_index": index, **rest}
    return Response(question_id, teacher, mode, **said)  # type: ignore[arg-type]


def panel_of(questions: Sequence[Question], responses: Sequence[Response]) -> Panel:
    """A panel in memory."""
    return Panel.of_tables(questions, table_of_responses(responses))


def write_panel(folder: Path, questions: Sequence[Question], responses: Sequence[Response]) -> Panel:
    """A panel on disk, read back."""
    write_parquet(table_of_questions(questions), folder / "questions.parquet")
    write_parquet(table_of_responses(responses), folder / "responses.parquet")
    return Panel.read(folder)


def grid(
    rows: Sequence[Sequence[int | None]], *, golds: Sequence[int | None] | None = None, split: str = "train"
) -> Panel:
    """A panel of choice questions q0, q1, … with answers as given, one column a teacher a, b, …; gold 0 by default."""
    golds = golds if golds is not None else [0] * len(rows)
    choices = ("w", "x", "y", "z")
    questions = [
        Question(f"q{row}", f"question {row}", choices, None if gold is None else choices[gold], gold, split)
        for row, gold in enumerate(golds)
    ]
    cells = [
        response(f"q{row}", "abcdef"[column], index)
        for row, answers in enumerate(rows)
        for column, index in enumerate(answers)
    ]
    return panel_of(questions, cells)
