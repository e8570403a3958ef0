"""Whom to ask: the teacher that a router finds likeliest to be right, among those that can answer.

Axes: Q questions, T teachers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kp_data.errors import ConfigError, MethodError
from kp_data.panel import Panel
from kp_data.purify.protocol import Context, FitData, Router
from kp_data.schema import Question, Response
from kp_data.tables import table_of_responses
from kp_train.assistant.signals import place_of
from kp_train.assistant.teachers import Answered, TeacherSource

Array = np.ndarray[Any, Any]

METHOD = "similarity-router"
"""What is fitted on the warm-up questions."""


@dataclass(frozen=True)
class Chooser:
    """Whom to ask.

    Attributes:
        source: who can be asked what.
        router: None: one teacher, or nothing is known about them, and they are drawn at random.
    """

    source: TeacherSource
    router: Router | None = None

    def can_answer(self, question_id: str) -> bool:
        """Whether anybody can."""
        return any(self.source.can_answer(question_id, name) for name in self.source.teachers)

    def scores(self, questions: Sequence[Question]) -> Array | None:
        """(Q, T) float, the router's scores in the order of the teachers; None: there is no router."""
        if self.router is None or not questions:
            return None
        score_QT, _ = self.router.route(questions)
        return score_QT[:, [self.router.teachers.index(name) for name in self.source.teachers]]

    def choose(self, questions: Sequence[Question], *, seed: int) -> list[str]:
        """One teacher a question; of equal scores, and without a router, one drawn by the question's id."""
        score_QT = self.scores(questions)
        return [
            self._best(question, None if score_QT is None else score_QT[row], seed)
            for row, question in enumerate(questions)
        ]

    def _best(self, question: Question, score_T: Array | None, seed: int) -> str:
        def rank(name: str) -> tuple[float, bytes]:
            score = 0.0 if score_T is None else float(score_T[self.source.teachers.index(name)])
            return -round(score, 9), place_of(f"{question.id}/{name}", seed)

        return min((name for name in self.source.teachers if self.source.can_answer(question.id, name)), key=rank)


def given_router(folder: Path, teachers: Sequence[str]) -> Router:
    """The fitted router of a folder.

    Raises:
        ConfigError: it does not know one of the teachers.
        DataError: there is no router, or a broken one.
    """
    from kp_data.purify import load_router

    router = load_router(folder)
    if unknown := [name for name in teachers if name not in router.teachers]:
        raise ConfigError(
            f"the router knows {', '.join(router.teachers)}, and not {unknown[0]}; fit one on these teachers",
            place="--router",
        )
    return router


def fit_router(
    questions: Sequence[Question], answered: Sequence[Answered], teachers: Sequence[str], *, seed: int
) -> Router | None:
    """A router from the warm-up's answers side by side; None where they teach nothing.

    Args:
        questions: asked of several teachers, with their gold answers.
        answered: what came.
        teachers: all names, in order.
        seed: of fitting.
    """
    from kp_data.purify.registry import find_method, make_options

    panel = _panel(questions, answered, teachers)
    if len(panel.teachers) < len(teachers):
        return None
    method = find_method(METHOD)
    # A sixth for validation, the smallest hashed ids: a router without a proven gain falls back to the best teacher.
    order = np.array(sorted(range(len(panel)), key=lambda row: place_of(panel.questions[row].id, seed)))
    cut = len(order) // 6
    data = FitData(train=panel.take(order[cut:]), validation=panel.take(order[:cut]), whole_train=panel, held_out=True)
    try:
        return method.fit(data, make_options(method, {}), Context(seed=seed)).router
    except MethodError:
        return None


def _panel(questions: Sequence[Question], answered: Sequence[Answered], teachers: Sequence[str]) -> Panel:
    asked = {question.id: question for question in questions}
    responses = []
    for one in answered:
        question = asked.get(one.request.question.id)
        if question is None:
            continue
        said = None if one.claim is None else one.claim.answer
        index = question.choices.index(said) if said in question.choices else None
        right = None if question.answer is None else said == question.answer
        responses.append(Response(question.id, one.request.teacher, "blind", 0, said or "", said, index, right))
    there = {response.teacher for response in responses}
    table = table_of_responses(responses)
    return Panel.of_tables(list(questions), table, teachers=[name for name in teachers if name in there])
