"""Replaying a panel: what was recorded comes back, failures included."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kp_data.errors import DataError
from kp_data.practice import practice_server
from kp_data.practice.replay import Recorded
from kp_data.schema import Question, Response
from kp_data.tables import table_of_questions, table_of_responses, write_parquet
from kp_data.teachers.parsing import parse_answer
from kp_data.teachers.prompts import build_messages, render_question

ICE = Question("ice", "Is ice cold?", ("yes", "no"), "yes", 0)
SUM = Question("sum", "What is 2 + 2?", answer="4", split="test")
LONG = Question("long", "Read this.\n\nAnd that. Is it long?", ("yes", "no"), "yes", 0)
IN_LAW = Question("law", "Who pays?", ("the buyer", "the seller"), "the buyer", 0, context="A contract.")
IN_WAR = replace(IN_LAW, id="war", context="A treaty.")
QUESTIONS = [ICE, SUM, LONG, IN_LAW, IN_WAR]
FAILURES = {"truncated": 200, "refused": 200, "empty": 200, "rate_limited": 429, "timeout": 504, "bad_response": 502}
FAILED = [Question(f"failed-{error}", f"What about {error}?", ("yes", "no")) for error in (*FAILURES, "auth", "budget")]
RESPONSES = [
    Response("ice", "meta/llama", "blind", 0, "It is frozen.", "yes", 0, finish_reason="stop", logprob=-0.5),
    Response("ice", "meta/llama", "blind", 1, "Frozen things bite.", "no", 1, prompt_tokens=77, completion_tokens=5),
    Response("ice", "meta/llama", "teacher_forced", 0, "Cold by definition.", "yes", 0),
    Response("ice", "stating", "blind", 0, "Answer: b", "no", 1),
    Response("ice", "lines", "blind", 0, "Frozen.\nThe answer is (A).", "yes", 0),
    Response("ice", "passing", "blind", 0, "It is frozen. So one might think of (B).", "yes", 0),
    Response("ice", "hinting", "blind", 0, "It is frozen. So yes.", "yes", 0),
    Response("ice", "silent", "blind", 0, "Hard to say."),
    Response("sum", "meta/llama", "blind", 0, "Two and two.", "4"),
    Response("long", "meta/llama", "blind", 0, "Two paragraphs.", "yes", 0),
    Response("law", "meta/llama", "blind", 0, "By contract.", "the seller", 1),
    Response("war", "meta/llama", "blind", 0, "By treaty.", "the buyer", 0),
    *(
        Response(
            q.id, "meta/llama", "blind", error=q.id.removeprefix("failed-"), rationale="I" if "trunc" in q.id else None
        )
        for q in FAILED
    ),
]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    panel = tmp_path_factory.mktemp("panel")
    write_parquet(table_of_questions([*QUESTIONS, *FAILED]), panel / "questions.parquet")
    write_parquet(table_of_responses(RESPONSES), panel / "responses.parquet")
    with practice_server(replay=panel) as url:
        yield url


def ask(url: str, content: str | list[dict[str, str]], model: str = "meta/llama", **fields: Any) -> tuple[int, Any]:
    messages = content if isinstance(content, list) else [{"role": "user", "content": content}]
    body = json.dumps({"model": model, "messages": messages, **fields}).encode()
    try:
        with urllib.request.urlopen(f"{url}/chat/completions", data=body, timeout=10) as response:
            return 200, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def said(url: str, question: Question, **fields: Any) -> str:
    mode = fields.pop("mode", "blind")
    status, body = ask(url, build_messages(question, mode=mode, examples=fields.pop("examples", ())), **fields)
    assert status == 200, body
    text = body["choices"][0]["message"]["content"]
    assert isinstance(text, str)
    return text


def test_a_recorded_answer_comes_back_with_the_line_that_states_it(url: str):
    assert said(url, ICE) == "It is frozen.\nThe answer is (A)."
    assert said(url, SUM) == "Two and two.\nThe answer is 4."


def test_the_line_is_not_put_back_where_an_answer_is_stated_or_none_was_read(url: str):
    assert said(url, ICE, model="stating") == "Answer: b"
    assert said(url, ICE, model="lines") == "Frozen.\nThe answer is (A)."
    assert said(url, ICE, model="silent") == "Hard to say."


def test_a_hint_at_the_end_of_a_rationale_is_not_taken_for_the_statement(url: str):
    assert parse_answer("It is frozen. So yes.", ICE.choices).rationale == "It is frozen."
    assert parse_answer(said(url, ICE, model="hinting"), ICE.choices).rationale == "It is frozen. So yes."


def test_a_letter_named_in_passing_does_not_replace_the_recorded_answer(url: str):
    assert parse_answer("It is frozen. So one might think of (B).", ICE.choices).index == 1
    assert said(url, ICE, model="passing").endswith("\nThe answer is (A).")


def test_what_comes_back_parses_to_what_was_recorded(url: str):
    for response in RESPONSES:
        question = next((q for q in QUESTIONS if q.id == response.question_id), None)
        if question is None or response.sample or response.mode != "blind":
            continue
        parsed = parse_answer(said(url, question, model=response.teacher), question.choices)
        assert (parsed.answer, parsed.index) == (response.answer, response.answer_index)


def test_the_gold_answer_after_the_question_asks_for_the_forced_rationale(url: str):
    assert said(url, ICE, mode="teacher_forced") == "Cold by definition.\nThe answer is (A)."


def test_examples_with_gold_answers_do_not_make_a_prompt_forced(url: str):
    assert said(url, ICE, examples=[LONG]) == "It is frozen.\nThe answer is (A)."


def test_the_seed_asks_for_a_sample_and_falls_back_to_the_first(url: str):
    assert said(url, ICE, seed=1).startswith("Frozen things bite.")
    assert said(url, ICE, seed=9).startswith("It is frozen.")
    _, body = ask(url, build_messages(ICE, mode="blind"), n=2)
    assert [choice["message"]["content"].split("\n")[0] for choice in body["choices"]] == [
        "It is frozen.",
        "Frozen things bite.",
    ]


def test_recorded_tokens_and_logprobs_come_back(url: str):
    _, body = ask(url, build_messages(ICE, mode="blind"), seed=1)
    assert body["usage"] == {"prompt_tokens": 77, "completion_tokens": 5, "total_tokens": 82}
    _, body = ask(url, build_messages(ICE, mode="blind"), logprobs=True)
    assert [token["logprob"] for token in body["choices"][0]["logprobs"]["content"]] == [-0.5]


def test_a_question_with_an_empty_line_in_it_is_found(url: str):
    assert said(url, LONG).startswith("Two paragraphs.")


def test_the_context_tells_twins_apart(url: str):
    assert said(url, IN_LAW).startswith("By contract.")
    assert said(url, IN_WAR).startswith("By treaty.")


def test_a_question_inside_another_layout_is_found(url: str):
    status, body = ask(url, f"### Task\n{render_question(ICE)} <end>\nExplain.")
    assert (status, body["choices"][0]["message"]["content"]) == (200, "It is frozen.\nThe answer is (A).")


@pytest.mark.parametrize(("error", "status"), [*FAILURES.items(), ("auth", 401), ("budget", 422)])
def test_a_recorded_failure_is_served_as_a_failure(url: str, error: str, status: int):
    question = next(q for q in FAILED if q.id == f"failed-{error}")
    got, body = ask(url, build_messages(question, mode="blind"))
    assert got == status
    if status == 200:
        choice = body["choices"][0]
        expected = {"truncated": ("I", "length"), "empty": ("", "stop")}
        assert choice["finish_reason"] == expected.get(error, ("", "content_filter"))[1]
        assert choice["message"]["content"] == expected.get(error, ("I'm sorry, but I can't help with that.", ""))[0]
    else:
        assert body["error"]["code"] == error


def test_what_was_not_recorded_is_said(url: str):
    status, body = ask(url, "Question: Is fire hot?\nAnswer choices:\n(A) yes\n(B) no")
    assert (status, body["error"]["code"]) == (404, "question_not_found")
    status, body = ask(url, build_messages(SUM, mode="blind"), model="silent")
    assert (status, body["error"]["code"]) == (422, "not_recorded")
    status, body = ask(url, build_messages(SUM, mode="blind"), model="ada")
    assert (status, body["error"]["code"]) == (404, "model_not_found")


def test_a_folder_that_is_no_panel_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"questions\.parquet is missing"):
        Recorded.read(tmp_path)
    write_parquet(table_of_questions([ICE]), tmp_path / "questions.parquet")
    write_parquet(table_of_responses([]), tmp_path / "responses.parquet")
    with pytest.raises(DataError, match="no responses to replay"):
        Recorded.read(tmp_path)
