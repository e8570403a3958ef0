"""Faults on the way back, what is billed all the same, and faults that change while the server runs."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from typing import Any

import pytest

from kp_data.errors import ConfigError
from kp_data.practice import make_questions, practice_server
from kp_data.practice.faults import parse_faults
from kp_data.teachers.prompts import render_question


def ask(url: str, number: int = 0) -> tuple[str, bytes]:
    """Content type and body of an answer."""
    question = make_questions(10, seed=0)[number]
    body = json.dumps({"model": "ada", "messages": [{"role": "user", "content": render_question(question)}]})
    request = urllib.request.Request(f"{url}/chat/completions", body.encode())
    with urllib.request.urlopen(request) as answer:
        return answer.headers["Content-Type"], answer.read()


def words(content: bytes) -> Any:
    return json.loads(content)["choices"][0]


def stats(url: str, query: str = "") -> Any:
    with urllib.request.urlopen(f"{url.removesuffix('/v1')}/stats{query}") as answer:
        return json.load(answer)


def change(url: str, body: bytes) -> Any:
    request = urllib.request.Request(f"{url.removesuffix('/v1')}/faults", body, method="PUT")
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def test_a_sequence_may_repeat_a_fault_and_end_in_one_for_good() -> None:
    plan = parse_faults("500*2, ok*3,401*")
    assert [plan.fault(number) for number in range(7)] == ["500", "500", "ok", "ok", "ok", "401", "401"]
    assert plan.fault(10**6) == "401"
    assert parse_faults("hang*").fault(5) == "hang"


@pytest.mark.parametrize("text", ["500*0", "500*-1", "500**", "500*,ok", "500*many", "*", "*3"])
def test_a_repetition_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="faults: "):
        parse_faults(text)


def test_each_fault_on_the_way_back_looks_as_it_is_called() -> None:
    with practice_server(faults="ok,truncated,html,mislabelled,huge,other-model,cut") as url:
        (_, whole), (_, half), page, mislabelled, (_, huge), (_, other) = (ask(url) for _ in range(6))
        assert words(half)["finish_reason"] == "length"
        text = words(whole)["message"]["content"]
        assert 0 < len(words(half)["message"]["content"]) < len(text)
        assert text.startswith(words(half)["message"]["content"])
        assert page[0].startswith("text/html")
        assert page[1].startswith(b"<!doctype html>")
        assert mislabelled[0].startswith("text/html")
        assert words(mislabelled[1]) == words(whole)
        assert len(huge) > 10_000_000
        assert words(huge)["message"]["content"].endswith(text)
        assert json.loads(other)["model"] == "ada-of-another-kind"
        with pytest.raises(http.client.IncompleteRead):
            ask(url)


def test_what_the_model_worked_on_is_billed_whether_or_not_it_arrived() -> None:
    with practice_server(faults="ok,cut,disconnect,broken,html,500,429") as url:
        usage = json.loads(ask(url)[1])["usage"]
        for _ in range(6):
            with pytest.raises((http.client.HTTPException, OSError, ValueError)):
                json.loads(ask(url)[1])
        seen = stats(url)
        # The answer and the four that got lost; not the two that were refused.
        bill = {"calls": 5} | {name: 5 * usage[name] for name in ("prompt_tokens", "completion_tokens")}
        assert seen["billed"] == {"ada": bill}
        assert (seen["completed"], seen["begun_again"], seen["in_flight"]) == (1, 4, 0)
        assert list(seen["begun"]["ada"].values()) == [5]
        assert "begun" not in stats(url, "?brief")


def test_faults_and_retry_after_change_while_the_server_runs() -> None:
    with practice_server(faults="ok,ok,500*") as url:
        ask(url)
        assert change(url, b'{"faults": "429,ok", "retry_after_s": 89}') == {"faults": "429,ok", "retry_after_s": 89}
        with pytest.raises(urllib.error.HTTPError) as caught:
            ask(url)
        assert (caught.value.code, caught.value.headers["Retry-After"]) == (429, "89")
        caught.value.close()
        ask(url)
        for nonsense in (b"{}", b"no json", b'{"faults": "explode"}', b'{"faults": null, "retry_after_s": "soon"}'):
            with pytest.raises(urllib.error.HTTPError, match="400") as caught:
                change(url, nonsense)
            caught.value.close()
        ask(url)
