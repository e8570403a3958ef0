"""What a teacher that is trained in a sweep is told."""

from __future__ import annotations

import pytest

from kp_data.errors import ConfigError
from kp_data.practice import SUBJECTS
from kp_train.experiments.config import Lessons
from kp_train.experiments.taught import lessons_of_teacher
from kp_train.views import Row


def rows_about_plants(*knows: str) -> list[Row]:
    lessons = Lessons(student="any", knows=knows, questions=60, heard=60, seed=3)
    return [row for row in lessons_of_teacher(lessons).rows if row.question.subject == "plants"]


def is_right(row: Row) -> bool:
    return row.purified_answer == row.question.answer


@pytest.mark.parametrize(("written", "states"), [("plants", True), ("plants:0", False)])
def test_a_subject_is_known_as_its_percentage_says_and_not_heard_of_besides(written: str, states: bool) -> None:
    rows = rows_about_plants("law", written)
    assert len(rows) > 5
    assert all(is_right(row) for row in rows)
    kinds = SUBJECTS["plants"].kinds
    assert {any(kind in row.question.question for kind in kinds) for row in rows} == {states}


def test_who_does_not_know_a_subject_hears_what_is_wrong_about_it() -> None:
    rows = rows_about_plants("law")
    assert rows
    assert not any(is_right(row) for row in rows)


@pytest.mark.parametrize("wrong", ["plants:many", "alchemy"])
def test_a_subject_that_there_is_not_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"taught\.knows"):
        rows_about_plants(wrong)
