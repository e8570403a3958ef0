"""Teachers with an error rate, and judges with one."""

from __future__ import annotations

import math

import pytest

from kp_data.practice import ERRING, JUDGES, find_teacher, make_questions
from kp_data.practice.completion import PracticeSpeaker, read_ask
from kp_data.practice.judges import NOTHING_TO_JUDGE
from kp_data.schema import Question
from kp_data.teachers.prompts import render_question

QUESTIONS = make_questions(600, seed=4)


def wrong(name: str) -> set[str]:
    """Ids of the questions that a teacher concludes wrongly."""
    return {question.id for question in QUESTIONS if ERRING[name].conclude(question) != question.answer_index}


@pytest.mark.parametrize("percent", [0, 10, 30, 50])
def test_an_erring_teacher_is_wrong_as_often_as_its_name_says(percent: int) -> None:
    rate, n = percent / 100, len(QUESTIONS)
    deviation = math.sqrt(rate * (1 - rate) / n)
    assert abs(len(wrong(f"erring-{percent}")) / n - rate) <= 4 * deviation


def test_a_higher_rate_is_wrong_wherever_a_lower_one_is() -> None:
    assert wrong("erring-10") < wrong("erring-30") < wrong("erring-50")


def test_a_wrong_rationale_ends_in_the_answer_that_is_stated() -> None:
    for question in QUESTIONS[:60]:
        messages = [{"role": "user", "content": render_question(question)}]
        believed = ERRING["erring-50"].conclude(question)
        assert believed is not None
        text = ERRING["erring-50"].answer(messages).text
        if "answer is" in text:
            assert question.choices[believed] in text.split("The answer is")[0]


def judged(name: str, question: Question, answer: str) -> str:
    """The word of a judge."""
    prompt = f"{render_question(question)}\n\nProposed answer: {answer}\n\nIs this answer right?"
    return JUDGES[name].answer([{"role": "user", "content": prompt}]).text


def test_a_judge_without_errors_knows_right_from_wrong() -> None:
    for question in QUESTIONS[:40]:
        for choice in question.choices:
            assert judged("judge-0", question, choice) == ("Yes" if choice == question.answer else "No")


def test_a_judge_is_wrong_as_often_as_its_name_says() -> None:
    words = [judged("judge-20", question, question.answer or "") for question in QUESTIONS]
    assert abs(words.count("No") / len(words) - 0.2) < 4 * math.sqrt(0.16 / len(words))


def test_a_judge_says_so_when_there_is_nothing_to_judge() -> None:
    assert JUDGES["judge-0"].answer([{"role": "user", "content": "Hello."}]).text == NOTHING_TO_JUDGE


def test_the_server_serves_them_and_they_are_found_by_name() -> None:
    body = b'{"model": "practice/erring-30", "messages": [{"role": "user", "content": "Hello."}]}'
    assert read_ask(body, PracticeSpeaker().models).model == "erring-30"
    assert "judge-20" in PracticeSpeaker().models
    assert "erring-30" not in find_teacher("ada").name
