"""Whom to ask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripted import Scripted, classroom, world

from kp_data.errors import ConfigError
from kp_data.purify.routers import ConstantRouter
from kp_data.schema import Question
from kp_train.assistant.routing import Chooser, fit_router, given_router
from kp_train.assistant.teachers import Request

Array = np.ndarray[Any, Any]
ROOM = classroom(world(160))
THREE = Scripted((0, 30, 50))


class ByLength:
    """A router that sends long questions to the second teacher; it names the teachers in another order."""

    teachers = ("erring-30", "erring-50", "erring-0")

    def route(self, questions: Sequence[Question]) -> tuple[Array, tuple[str, ...]]:
        score_QT = np.array([[0.8, 0.1, 0.1] if len(one.question) > 45 else [0.1, 0.1, 0.8] for one in questions])
        return score_QT, tuple(self.teachers[column] for column in score_QT.argmax(1))

    def save(self, folder: Path) -> None:
        """Not needed."""


def test_without_a_router_teachers_take_turns_by_the_question_alone() -> None:
    chosen = Chooser(THREE).choose(ROOM.pool, seed=0)
    assert min(Counter(chosen).values()) > len(ROOM.pool) / 6
    assert Chooser(THREE).choose(ROOM.pool[::-1], seed=0) == chosen[::-1]
    assert Chooser(THREE).choose(ROOM.pool, seed=1) != chosen


def test_a_router_chooses_and_its_scores_come_in_the_order_of_the_teachers() -> None:
    chooser = Chooser(THREE, ByLength())
    for question, teacher in zip(ROOM.pool, chooser.choose(ROOM.pool, seed=0), strict=True):
        assert teacher == ("erring-30" if len(question.question) > 45 else "erring-0")
    score_QT = chooser.scores(ROOM.pool)
    assert score_QT is not None
    assert [THREE.teachers[column] for column in score_QT.argmax(1)] == chooser.choose(ROOM.pool, seed=0)


class OnlyTheWorst(Scripted):
    """The best teacher cannot be asked."""

    def can_answer(self, question_id: str, teacher: str) -> bool:
        return teacher != "erring-0"


def test_a_teacher_that_cannot_answer_is_never_chosen() -> None:
    source = OnlyTheWorst((0, 50))
    router = ConstantRouter(("erring-0", "erring-50"), (0.9, 0.1), "best-single")
    assert set(Chooser(source, router).choose(ROOM.pool, seed=0)) == {"erring-50"}


def test_a_router_of_other_teachers_is_refused(tmp_path: Path) -> None:
    ConstantRouter(("ada", "bruno"), (0.5, 0.5), "best-single").save(tmp_path)
    with pytest.raises(ConfigError, match="the router knows ada, bruno, and not erring-0"):
        given_router(tmp_path, THREE.teachers)
    assert given_router(tmp_path, ("bruno",)).teachers == ("ada", "bruno")


@pytest.mark.slow
def test_a_router_of_a_small_warm_up_finds_the_better_teacher(tmp_path: Path) -> None:
    source = Scripted((0, 50))
    questions = [ROOM.judged(question) for question in ROOM.pool[:40]]
    answered = source.ask([Request(one, name) for one in questions for name in source.teachers], stage=tmp_path)
    router = fit_router(questions, answered, source.teachers, seed=0)
    assert router is not None
    chosen = Chooser(source, router).choose(ROOM.pool, seed=0)
    assert chosen.count("erring-0") > 0.9 * len(chosen)
