from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from kp_data.errors import ConfigError
from kp_data.schema import Question
from kp_train.scoring import SCORES, choice_scores, scoring_named

QUESTION = Question(id="1", question="Is ice cold?", choices=("yes", "not at all", "ñ"), context="Ice melts.")


class Counting:
    """Each choice is as likely as its words are few; without a question, all are alike."""

    writes_text = True

    def choice_log_probs(self, questions: Sequence[Question], *, per_token: bool = False) -> list[list[float]]:
        words = [[len(choice.split()) for choice in question.choices] for question in questions]
        if per_token:
            return [[-1.0 for _ in row] for row in words]
        return [
            [-float(count) if question.question else -2.0 for count in row]
            for question, row in zip(questions, words, strict=True)
        ]


STUDENT: Any = Counting()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sum", [-1.0, -3.0, -1.0]),
        ("token", [-1.0, -1.0, -1.0]),
        ("char", [-1 / 3, -3 / 10, -1 / 2]),
        ("pmi", [1.0, -1.0, 1.0]),
    ],
)
def test_each_score_is_what_its_formula_says(name: str, expected: list[float]) -> None:
    assert choice_scores(STUDENT, [QUESTION], SCORES[name])[0] == pytest.approx(expected)


def test_the_premise_of_pmi_holds_the_choices_and_nothing_else() -> None:
    seen: list[Question] = []

    class Watched(Counting):
        def choice_log_probs(self, questions: Sequence[Question], *, per_token: bool = False) -> list[list[float]]:
            seen.extend(questions)
            return super().choice_log_probs(questions, per_token=per_token)

    watched: Any = Watched()
    choice_scores(watched, [QUESTION], SCORES["pmi"])
    assert [(question.question, question.context) for question in seen] == [("Is ice cold?", "Ice melts."), ("", None)]
    assert all(question.choices == QUESTION.choices for question in seen)


def test_an_unknown_score_is_refused_with_those_there_are() -> None:
    assert scoring_named("char") == "option-likelihood-per-character"
    with pytest.raises(ConfigError, match="sum, token, char, pmi"):
        scoring_named("length")
