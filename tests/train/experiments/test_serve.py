from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kp_data.config import Generate, Teacher
from kp_data.errors import ConfigError
from kp_data.generate import generate_panel
from kp_data.schema import Question
from kp_data.tables import read_responses
from kp_data.teachers.prompts import build_messages
from kp_train.serve import read_question, serving_writers


def last_choice(questions: Sequence[Question], prefix: str) -> list[str]:
    assert prefix == "reason: "
    return [f"It must be the last.\nThe answer is {question.choices[-1]}" for question in questions]


def post(url: str, body: object) -> tuple[int, dict[str, object]]:
    request = urllib.request.Request(
        f"{url}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_a_question_is_read_back_as_it_was_asked() -> None:
    question = Question("q", "Is ice (A) cold?", ("yes", "no (not at all)"), "yes", 0)
    for examples in ((), (Question("e", "Is fire cold?", ("yes", "no"), "no", 1),)):
        prompt = build_messages(question, mode="blind", examples=examples)[0]["content"]
        read = read_question(prompt)
        assert (read.question, read.choices) == (question.question, question.choices)


@pytest.mark.parametrize(
    ("text", "context"),
    [
        ("Which drug helps?", "A trial.\n\nOf two drugs."),
        ("Read this:\n\nIce melts. Is it cold?", None),
        ("What follows Question: in a form?", None),
    ],
)
def test_passages_and_blank_lines_are_read_back_too(text: str, context: str | None) -> None:
    question = Question("q", text, ("yes", "no"), "yes", 0, context=context)
    example = Question("e", "Is fire cold?", ("yes", "no"), "no", 1, context="Of fire.")
    for examples in ((), (example,)):
        read = read_question(build_messages(question, mode="blind", examples=examples)[0]["content"])
        assert (read.question, read.choices, read.context) == (text, ("yes", "no"), context)


def test_an_address_that_cannot_be_listened_on_is_told() -> None:
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1: cannot listen"), serving_writers({}, host="192.0.2.1"):
        pass


def test_a_served_student_is_asked_like_any_other_teacher(tmp_path: Path) -> None:
    with serving_writers({"south": last_choice}) as url:
        teacher = Teacher(name="south", model="south", api_base=url)
        summary = generate_panel("practice:12", out=tmp_path / "panel", teachers=[teacher], options=Generate())
    assert summary.left == 0
    responses = read_responses(tmp_path / "panel" / "responses.parquet")
    assert set(responses["answer_index"].to_pylist()) == {3}
    assert set(responses["rationale"].to_pylist()) == {"It must be the last."}


def test_requests_that_wait_are_written_together() -> None:
    batches: list[int] = []

    def write(questions: Sequence[Question], prefix: str) -> list[str]:
        batches.append(len(questions))
        return [question.question for question in questions]

    with serving_writers({"south": write}) as url, ThreadPoolExecutor(16) as threads:
        bodies = [{"model": "south", "messages": [{"role": "user", "content": f"Question: {n}"}]} for n in range(32)]
        replies = list(threads.map(lambda body: post(url, body)[1]["choices"][0]["message"]["content"], bodies))
    assert replies == [str(n) for n in range(32)]
    assert sum(batches) == 32


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"model": "north", "messages": [{"role": "user", "content": "?"}]}, 404, "no model 'north'; there are south"),
        ({"messages": []}, 400, "no chat request"),
        ([], 400, "no chat request"),
        ({"model": "south", "messages": [{"role": "user", "content": ["?"]}]}, 400, "must be texts"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_the_dialect(body: object, status: int, message: str) -> None:
    with serving_writers({"south": last_choice}) as url:
        code, reply = post(url, body)
    assert code == status
    assert message in str(reply["error"])


def test_a_student_that_breaks_breaks_no_server() -> None:
    def write(questions: Sequence[Question], prefix: str) -> list[str]:
        if questions[0].question == "bad":
            raise RuntimeError("no memory")
        return ["fine"] * len(questions)

    with serving_writers({"south": write}) as url:
        asked = {text: {"model": "south", "messages": [{"role": "user", "content": text}]} for text in ("bad", "good")}
        code, reply = post(url, asked["bad"])
        assert (code, "no memory" in str(reply["error"])) == (500, True)
        assert post(url, asked["good"])[0] == 200
