"""litellm in processes of its own: the same replies and failures as by the direct path, and no process left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from kp_data.config import Teacher
from kp_data.errors import TeacherError
from kp_data.teachers.direct import DirectCarrier
from kp_data.teachers.litellm_carrier import LitellmCarrier
from kp_data.teachers.litellm_pool import PooledCarrier, litellm_carrier, most_processes
from kp_data.teachers.transport import Call, CallFailed, Endpoint, Reply, keep_secret

KEY = "not-a-real-key-0123456789"
COMPLETION: dict[str, Any] = {
    "id": "x",
    "object": "chat.completion",
    "created": 0,
    "model": "m-1",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {
                "role": "assistant",
                "content": "Frost. The answer is (A).",
                "reasoning_content": "It is cold.",
            },
            "logprobs": {"content": [{"token": "Frost", "logprob": -0.5, "bytes": None, "top_logprobs": []}]},
        }
    ],
    "usage": {"prompt_tokens": 8, "completion_tokens": 6, "total_tokens": 14},
}
HEADERS = {"Retry-After": "7", "x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "3"}


class Server:
    """An endpoint that does what the question says."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.given_up = asyncio.Event()
        self.hanging = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append(body)
        match body["messages"][-1]["content"]:
            case status if status.isdigit():
                said = f"said {status} to {request.headers['Authorization']}"
                return web.json_response({"error": {"message": said}}, status=int(status), headers=HEADERS)
            case "broken":
                return web.Response(text='{"id": "x", "choi', content_type="application/json")
            case "page":
                return web.Response(text="<html>hello</html>", content_type="text/html")
            case "disconnect":
                assert request.transport is not None
                request.transport.close()
            case "no choices":
                return web.json_response({**COMPLETION, "choices": []})
            case "no usage":
                return web.json_response({name: value for name, value in COMPLETION.items() if name != "usage"})
            case "hang":
                await self._hang()
            case "trickle":
                return await self._trickle(request)
        return web.json_response(COMPLETION, headers=HEADERS)

    async def _hang(self) -> None:
        self.hanging.set()
        try:
            await asyncio.sleep(60)
        finally:
            self.given_up.set()

    async def _trickle(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for _ in range(100):
            await response.write(b" ")
            await asyncio.sleep(0.1)
        return response

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        application = web.Application()
        application.router.add_post("/v1/chat/completions", self.answer)
        # A handler whose client is gone is told so.
        runner = web.AppRunner(application, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        finally:
            await runner.cleanup()


class Bench:
    """One event loop with a server, a litellm process, and a direct path to compare with."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner
        self.server = Server()
        self._running = self.server.running()
        self.url = self.do(self._running.__aenter__())
        self.teacher = Teacher(name="t", model="m", api_base=self.url, logprobs=True)
        self.pooled = PooledCarrier(self.teacher, Endpoint("litellm", "openai/m", "", self.url, KEY))
        self.direct = self.do(self._open_direct())

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(work)

    def close(self) -> None:
        self.do(self.pooled.close())
        self.do(self.direct.close())
        self.do(self._running.__aexit__(None, None, None))

    @property
    def pid(self) -> int:
        pool = self.pooled._pool
        assert pool is not None
        (pid,) = pool.pids
        return pid

    async def _open_direct(self) -> DirectCarrier:
        return DirectCarrier(self.teacher, Endpoint("direct", "m", "", self.url, KEY))


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner() as runner:
        patch.setenv("KP_LITELLM_PROCESSES", "1")
        patch.delenv("OPENAI_API_KEY", raising=False)
        keep_secret(KEY)
        bench = Bench(runner)
        yield bench
        bench.close()


def call(question: str, *, timeout_s: float = 20.0) -> Call:
    messages: Any = [{"role": "user", "content": question}]
    return Call(messages, {"max_tokens": 9, "temperature": 0.5, "seed": 3, "logprobs": True}, timeout_s)


async def outcome(carrier: Any, question: str) -> Reply | tuple[object, ...]:
    """A reply, or what the engine acts on in a failure."""
    try:
        reply: Reply = await carrier.ask(call(question))
    except CallFailed as failure:
        return (
            failure.error,
            failure.retryable,
            failure.fatal,
            failure.overloaded,
            failure.retry_after_s,
            failure.may_be_billed,
        )
    return reply


def test_a_reply_is_the_same_as_by_the_direct_path(bench: Bench) -> None:
    by_litellm = bench.do(bench.pooled.ask(call("hello")))
    assert by_litellm == bench.do(bench.direct.ask(call("hello")))
    assert (by_litellm.prompt_tokens, by_litellm.logprob, by_litellm.reasoning) == (8, -0.5, "It is cold.")
    assert by_litellm.limits.requests.remaining == 3


def test_a_request_is_the_same_as_by_the_direct_path(bench: Bench) -> None:
    bench.server.asked.clear()
    bench.do(bench.pooled.ask(call("half a character \ud83d and a whole one 🙂")))
    bench.do(bench.direct.ask(call("half a character \ud83d and a whole one 🙂")))
    by_litellm, by_direct = bench.server.asked
    assert by_litellm == by_direct


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409, 413, 429, 500, 502, 503, 504, 529])
def test_a_status_means_the_same_as_by_the_direct_path(bench: Bench, status: int) -> None:
    assert bench.do(outcome(bench.pooled, str(status))) == bench.do(outcome(bench.direct, str(status)))


@pytest.mark.parametrize("fault", ["broken", "page", "disconnect", "no choices"])
def test_a_reply_that_is_none_may_come_right_next_time(bench: Bench, fault: str) -> None:
    assert bench.do(outcome(bench.pooled, fault))[:4] == ("bad_response", True, False, False)


def test_tokens_are_unknown_where_the_endpoint_counts_none(bench: Bench) -> None:
    reply = bench.do(bench.pooled.ask(call("no usage")))
    assert (reply.prompt_tokens, reply.completion_tokens, reply.cost_usd) == (None, None, None)


@pytest.mark.parametrize("question", ["hang", "trickle"])
def test_a_call_ends_in_time_even_if_the_body_keeps_coming(bench: Bench, question: str) -> None:
    with pytest.raises(CallFailed) as caught:
        bench.do(bench.pooled.ask(call(question, timeout_s=0.5)))
    assert (caught.value.error, caught.value.retryable) == ("timeout", True)


def test_giving_a_call_up_gives_it_up_at_the_server(bench: Bench) -> None:
    async def give_up() -> None:
        bench.server.given_up.clear()
        bench.server.hanging.clear()
        asking = asyncio.create_task(bench.pooled.ask(call("hang")))
        await bench.server.hanging.wait()
        asking.cancel()
        await bench.server.given_up.wait()

    bench.do(asyncio.wait_for(give_up(), 20))


def test_a_key_is_in_no_message_and_no_command_line(bench: Bench) -> None:
    with pytest.raises(CallFailed) as caught:
        bench.do(bench.pooled.ask(call("401")))
    assert "said 401 to Bearer ***" in str(caught.value)
    command = subprocess.run(["ps", "-o", "args=", "-p", str(bench.pid)], capture_output=True, text=True, check=True)
    assert "litellm_process" in command.stdout
    assert KEY not in command.stdout


def test_ctrl_c_in_the_terminal_does_not_reach_the_process(bench: Bench) -> None:
    bench.do(bench.pooled.ask(call("hello")))
    assert os.getsid(bench.pid) != os.getsid(0)


def test_this_process_loads_no_litellm(bench: Bench) -> None:
    bench.do(bench.pooled.ask(call("hello")))
    assert "litellm" not in sys.modules


def test_a_named_model_without_a_key_says_which_variable_to_set(bench: Bench) -> None:
    model = "openai/gpt-4o-mini"
    carrier = PooledCarrier(Teacher(name="mini", model=model), Endpoint("litellm", model, "", None))
    with pytest.raises(TeacherError, match="teacher mini: OPENAI_API_KEY not set"):
        bench.do(carrier.check())
    bench.do(carrier.close())


def test_a_model_of_no_provider_says_how_models_are_written(bench: Bench) -> None:
    carrier = PooledCarrier(Teacher(name="odd", model="nothing-known"), Endpoint("litellm", "nothing-known", "", None))
    with pytest.raises(TeacherError, match="write PROVIDER/MODEL"):
        bench.do(carrier.check())
    bench.do(carrier.close())


def test_an_endpoint_that_is_not_there_is_said_before_anything_is_asked(bench: Bench) -> None:
    url = "http://127.0.0.1:9/v1"
    carrier = PooledCarrier(
        Teacher(name="gone", model="m", api_base=url), Endpoint("litellm", "openai/m", "", url, None)
    )
    with pytest.raises(TeacherError, match=r"teacher gone: .* cannot be reached"):
        bench.do(carrier.check())
    bench.do(carrier.close())


def test_a_killed_process_fails_its_calls_as_retryable_and_is_replaced(bench: Bench) -> None:
    async def kill() -> list[object]:
        bench.server.hanging.clear()
        asking = [asyncio.create_task(bench.pooled.ask(call("hang"))) for _ in range(3)]
        await bench.server.hanging.wait()
        os.kill(bench.pid, signal.SIGKILL)
        return await asyncio.gather(*asking, return_exceptions=True)

    bench.do(bench.pooled.ask(call("hello")))
    before = bench.pid
    failures = bench.do(asyncio.wait_for(kill(), 20))
    assert [(failure.error, failure.retryable, failure.may_be_billed) for failure in failures] == [
        ("bad_response", True, True)
    ] * 3
    assert "killed by SIGKILL" in str(failures[0])
    assert bench.do(bench.pooled.ask(call("hello"))).text.startswith("Frost")
    assert bench.pid != before


def test_processes_that_never_answer_end_the_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    endpoint = Endpoint("litellm", "openai/gpt-4o-mini", "", None)
    carrier = PooledCarrier(Teacher(name="t", model="openai/gpt-4o-mini"), endpoint)

    async def ask() -> None:
        try:
            with pytest.raises(TeacherError, match="3 litellm processes ended before they answered"):
                await carrier.check()
            await carrier.ask(call("hello"))
        finally:
            await carrier.close()

    with pytest.raises(CallFailed, match="ended before they answered") as caught:
        asyncio.run(ask())
    assert (caught.value.fatal, caught.value.may_be_billed) == (True, False)


def test_the_user_sets_how_many_processes_there_are() -> None:
    assert most_processes({"KP_LITELLM_PROCESSES": "3"}) == 3
    assert 1 <= most_processes({}) <= 4
    with pytest.raises(TeacherError, match="KP_LITELLM_PROCESSES must be a number"):
        most_processes({"KP_LITELLM_PROCESSES": "many"})


def test_no_process_means_litellm_in_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KP_LITELLM_PROCESSES", "0")
    carrier = litellm_carrier(Teacher(name="t", model="openai/m"), Endpoint("litellm", "openai/m", "", None))
    assert isinstance(carrier, LitellmCarrier)


PARENT = """
import asyncio, sys
from kp_data.config import Teacher
from kp_data.teachers.litellm_pool import PooledCarrier
from kp_data.teachers.transport import Endpoint

async def main():
    carrier = PooledCarrier(Teacher(name="t", model="openai/m"), Endpoint("litellm", "openai/m", "", None, "key"))
    await carrier.check()
    print(*carrier._pool.pids, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def is_alive(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    # A zombie has ended; only nobody has looked yet.
    return bool(state.strip()) and not state.startswith("Z")


@pytest.mark.slow
def test_processes_end_with_their_parent_however_it_ends(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.kill()
    deadline = time.monotonic() + 30
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(pid)


@pytest.mark.slow
def test_a_busy_process_gets_company_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KP_LITELLM_PROCESSES", "2")

    async def work() -> tuple[int, int]:
        server = Server()
        async with server.running() as url:
            carrier = PooledCarrier(
                Teacher(name="t", model="m", api_base=url), Endpoint("litellm", "openai/m", "", url, None)
            )
            await carrier.ask(call("hello"))
            pool = carrier._pool
            assert pool is not None
            alone = len(pool.pids)

            async def ask_until_grown() -> None:
                while len(pool.pids) < 2:
                    await carrier.ask(call("hello"))

            await asyncio.wait_for(asyncio.gather(*(ask_until_grown() for _ in range(64))), 120)
            grown = len(pool.pids)
            await carrier.close()
            return alone, grown

    assert asyncio.run(work()) == (1, 2)
