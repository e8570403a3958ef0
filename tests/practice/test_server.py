"""The practice server over real HTTP on loopback."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from kp_data.errors import ConfigError, DataError
from kp_data.practice import ERRING, JUDGES, TEACHERS, ServerSettings, make_questions, practice_server, run_server
from kp_data.practice.teachers import count_tokens
from kp_data.teachers.prompts import build_messages

WORLD = make_questions(40)
ASKED = build_messages(WORLD[0], mode="blind")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with practice_server() as url:
        yield url


def send(url: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any, Any]:
    """Status, parsed body and headers of one call, `path` relative to the base URL."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data=data, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, json.loads(response.read()), response.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read()), error.headers


def ask(url: str, **fields: Any) -> tuple[int, Any, Any]:
    return send(url, "/chat/completions", {"model": "ada", "messages": ASKED, **fields})


def servers_running() -> int:
    return sum(thread.name == "practice-server" for thread in threading.enumerate())


def stats(url: str) -> Any:
    return send(url.removesuffix("/v1"), "/stats")[1]


@pytest.mark.parametrize("model", ["ada", "practice/ada"])
def test_a_completion_has_the_shape_of_the_dialect_and_what_the_teacher_says(url: str, model: str):
    status, body, _ = ask(url, model=model, temperature=0)
    said = TEACHERS["ada"].answer(ASKED)
    assert (status, body["object"], body["model"]) == (200, "chat.completion", "ada")
    (choice,) = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": said.text}
    assert (choice["finish_reason"], choice["logprobs"]) == (said.finish_reason, None)
    prompt_tokens, completion_tokens = count_tokens(ASKED[0]["content"]), count_tokens(said.text)
    assert body["usage"] == {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def test_logprobs_come_when_asked_for_one_a_token(url: str):
    _, body, _ = ask(url, logprobs=True)
    (choice,) = body["choices"]
    tokens = choice["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens) == choice["message"]["content"]
    assert len(tokens) == body["usage"]["completion_tokens"]
    assert all(token["logprob"] < 0 for token in tokens)


def test_several_samples_come_in_one_call(url: str):
    _, body, _ = ask(url, n=8, temperature=1.0)
    assert [choice["index"] for choice in body["choices"]] == [*range(8)]
    assert len({choice["message"]["content"] for choice in body["choices"]}) > 1


def test_a_token_limit_is_kept(url: str):
    for name in ("max_tokens", "max_completion_tokens"):
        _, body, _ = ask(url, **{name: 3})
        assert (body["usage"]["completion_tokens"], body["choices"][0]["finish_reason"]) == (3, "length")


def test_models_are_listed(url: str):
    assert [model["id"] for model in send(url, "/models")[1]["data"]] == [*TEACHERS, *ERRING, "editor", *JUDGES]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"{not json", 400, "not valid JSON"),
        (b"[" * 100_000, 400, "not valid JSON"),
        (b"\xff", 400, "not valid JSON"),
        ([], 400, "must be a JSON object"),
        ({"model": "ada"}, 400, "'messages' must be a list"),
        ({"model": "ada", "messages": []}, 400, "'messages' must be a list"),
        ({"messages": ASKED}, 400, "'model' must be a string"),
        ({"model": "gpt-4o", "messages": ASKED}, 404, "no model 'gpt-4o'; there are ada"),
        ({"model": "ada", "messages": ASKED, "stream": True}, 400, "'stream' is not supported"),
        ({"model": "ada", "messages": ASKED, "n": 0}, 400, "'n' must be a whole number from 1 to 128"),
        ({"model": "ada", "messages": ASKED, "n": "x"}, 400, "'n' must be"),
        ({"model": "ada", "messages": ASKED, "temperature": -1}, 400, "'temperature' must be"),
        ({"model": "ada", "messages": ASKED, "seed": 1.5}, 400, "'seed' must be"),
    ],
)
def test_what_cannot_be_answered_gets_an_error_in_the_shape_of_the_dialect(url: str, body: Any, status: int, says: str):
    got, answer, _ = send(url, "/chat/completions", body)
    assert got == status
    assert says in answer["error"]["message"]
    assert set(answer["error"]) == {"message", "type", "param", "code"}


def test_an_unknown_path_and_a_wrong_verb_get_the_same_shape(url: str):
    assert send(url, "/embeddings", {})[0] == 404
    assert send(url, "/chat/completions")[1]["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("content", [None, 5, ["x", {"type": "text"}], {"a": 1}])
def test_a_message_without_text_is_no_question_of_this_world(url: str, content: Any):
    status, body, _ = ask(url, messages=[{"role": "user", "content": content}])
    assert status == 200
    assert "only know the practice world" in body["choices"][0]["message"]["content"]


def test_stats_tell_which_calls_were_completed_and_which_twice():
    with practice_server() as url:
        for seed in (1, 2, 2):
            ask(url, seed=seed)
        ask(url, model="bruno")
        ask(url, model="nobody")
        seen = stats(url)
        assert (seen["requests"], seen["completed"], seen["repeated"]) == (5, 4, 1)
        assert seen["requests_per_model"] == {"ada": 3, "bruno": 1}
        text = json.dumps([ASKED, 2], ensure_ascii=False, sort_keys=True)
        assert seen["calls"]["ada"][hashlib.sha256(text.encode()).hexdigest()] == 2
        send(url.removesuffix("/v1"), "/stats/reset", b"")
        assert stats(url)["requests"] == 0


def test_a_sequence_of_faults_comes_in_turn_and_none_of_them_counts_as_completed():
    with practice_server(faults="500,429,broken,disconnect,empty,ok") as url:
        assert ask(url)[0] == 500
        status, body, headers = ask(url)
        assert (status, body["error"]["type"], headers["Retry-After"]) == (429, "rate_limit_error", "1")
        with pytest.raises(json.JSONDecodeError):
            ask(url)
        with pytest.raises((urllib.error.URLError, ConnectionError, http.client.HTTPException)):
            ask(url)
        assert ask(url)[1]["choices"][0]["message"]["content"] == ""
        assert ask(url)[0] == 200
        seen = stats(url)
        assert seen["faults"] == {"500": 1, "429": 1, "broken": 1, "disconnect": 1, "empty": 1}
        assert seen["completed"] == 2  # the empty reply is a reply


def test_a_hanging_call_never_answers_and_does_not_keep_the_server_from_closing():
    before = servers_running()
    with practice_server(faults="hang") as url:
        host = url.removeprefix("http://").removesuffix("/v1")
        connection = http.client.HTTPConnection(host, timeout=0.3)
        connection.request("POST", "/v1/chat/completions", json.dumps({"model": "ada", "messages": ASKED}))
        with pytest.raises(TimeoutError):
            connection.getresponse()
    connection.close()
    assert servers_running() == before


def test_a_caller_that_leaves_early_is_not_counted_as_served():
    with practice_server(latency_s=0.3) as url:
        host = url.removeprefix("http://").removesuffix("/v1")
        connection = http.client.HTTPConnection(host)
        connection.request("POST", "/v1/chat/completions", json.dumps({"model": "ada", "messages": ASKED}))
        # The first stats call is answered after the request above was read.
        while stats(url)["requests"] == 0:
            pass
        connection.close()
        assert ask(url)[0] == 200
        assert stats(url)["completed"] == 1


def test_latency_is_kept_for_calls_side_by_side():
    async def call(session: aiohttp.ClientSession, url: str, seed: int) -> int:
        body = {"model": "ada", "messages": ASKED, "seed": seed}
        async with session.post(f"{url}/chat/completions", json=body) as response:
            return response.status

    async def call_all(url: str) -> tuple[list[int], float]:
        loop = asyncio.get_running_loop()
        async with aiohttp.ClientSession() as session:
            start = loop.time()
            statuses = await asyncio.gather(*(call(session, url, seed) for seed in range(40)))
            return statuses, loop.time() - start

    with practice_server(latency_s=0.2, jitter_s=0.05) as url:
        statuses, seconds = asyncio.run(call_all(url))
    assert statuses == [200] * 40
    # One after another they would take 8 s.
    assert 0.2 <= seconds < 4.0


def test_a_key_is_demanded_where_one_is_set_and_never_shown():
    with practice_server(api_key="s3cret") as url:
        assert ask(url)[0] == 401
        assert send(url, "/models", headers={"Authorization": "Bearer wrong"})[1]["error"]["code"] == "invalid_api_key"
        assert send(url, "/models", headers={"Authorization": "Bearer s3cret"})[0] == 200
    assert "s3cret" not in repr(ServerSettings(api_key="s3cret"))


def test_a_taken_port_is_one_clear_message():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(ConfigError, match=rf"127.0.0.1:{port}: .*choose another --port"),
            practice_server(port=port),
        ):
            pass
        with pytest.raises(ConfigError, match="choose another --port"):
            asyncio.run(run_server(ServerSettings(port=port)))


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"faults": "explode"}, ConfigError),
        ({"latency_s": -1.0}, ConfigError),
        ({"port": 70_000}, ConfigError),
        ({"replay": "/nowhere"}, DataError),
    ],
)
def test_settings_that_cannot_be_are_refused_before_the_block_runs(changes: dict[str, Any], error: type[Exception]):
    with pytest.raises(error), practice_server(**changes):
        pytest.fail("the block ran")


def test_an_error_inside_the_block_comes_through_and_the_server_still_closes():
    before = servers_running()
    with pytest.raises(ZeroDivisionError), practice_server():
        raise ZeroDivisionError
    assert servers_running() == before


def test_the_server_tells_its_url_once_it_listens_and_stops_when_cancelled():
    async def serve_and_look() -> int:
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(run_server(ServerSettings(), ready.set_result))
        url = await asyncio.wait_for(ready, 5)
        async with aiohttp.ClientSession() as session, session.get(f"{url}/models") as response:
            status = response.status
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return status

    assert asyncio.run(serve_and_look()) == 200
