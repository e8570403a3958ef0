"""The practice teachers, or the recorded answers of a panel, as an OpenAI-compatible server.

    POST /v1/chat/completions   GET /v1/models   GET /stats   POST /stats/reset   PUT /faults
    (batch endpoints: `batches`)

It is light (no framework beyond aiohttp) and misbehaves on request, so that clients can be tested against limits,
failures and silence. `GET /stats` tells what was asked, begun, billed and completed, call by call under a hash of what
was asked (`?brief` leaves those out). `PUT /faults` with `{"faults": …, "retry_after_s": …}` changes how it misbehaves.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from kp_data.errors import ConfigError
from kp_data.practice.batch_jobs import BatchBehaviour
from kp_data.practice.batches import BatchDesk
from kp_data.practice.completion import (
    Ask,
    Completion,
    NotServed,
    PracticeSpeaker,
    ReplaySpeaker,
    Speaker,
    read_ask,
)
from kp_data.practice.faults import BROKEN, CUT, DISCONNECT, HANG, HTML, OK, FaultPlan, parse_faults, uniform
from kp_data.practice.replay import Recorded
from kp_data.practice.spoiling import response_of, send_half, spoiled

MAX_BODY_BYTES: Final = 32 * 2**20
RETRY_AFTER_S: Final = 1


@dataclass(frozen=True)
class ServerSettings:
    """How a practice server is run.

    Attributes:
        host: address to listen on.
        port: 0 takes any free one.
        latency_s: how long every answer takes.
        jitter_s: up to so much longer, at random.
        faults: see `faults.parse_faults`.
        seed: of faults and jitter.
        replay: serve the recorded answers of this panel folder instead of the practice teachers.
        api_key: demand this key.
        retry_after_s: what Retry-After says with 429 and 503.
        batches: how batch jobs go.
    """

    host: str = "127.0.0.1"
    port: int = 0
    latency_s: float = 0.0
    jitter_s: float = 0.0
    faults: str | None = None
    seed: int = 0
    replay: Path | None = None
    api_key: str | None = field(default=None, repr=False)
    retry_after_s: float = RETRY_AFTER_S
    batches: BatchBehaviour = field(default_factory=BatchBehaviour)


DEFAULT_SETTINGS: Final = ServerSettings()


async def run_server(
    settings: ServerSettings = DEFAULT_SETTINGS, on_ready: Callable[[str], None] | None = None
) -> None:
    """Serve until cancelled.

    Args:
        settings: how.
        on_ready: gets the base URL, which ends in `/v1`, once the server listens.

    Raises:
        ConfigError: the port is taken, or a setting cannot be.
        DataError: the panel to replay cannot be read.
    """
    server = _Server(settings)
    runner = web.AppRunner(server.app(), access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await _listen(runner, settings)
        host, port = runner.addresses[0][:2]
        if on_ready is not None:
            on_ready(f"http://{f'[{host}]' if ':' in host else host}:{port}/v1")
        await asyncio.Event().wait()
    finally:
        server.closing.set()
        await runner.cleanup()


@contextmanager
def practice_server(settings: ServerSettings = DEFAULT_SETTINGS, **changes: Any) -> Iterator[str]:
    """A server on a thread of its own, for as long as the block lasts; gives its base URL, which ends in `/v1`.

    Args:
        settings: how; the port is any free one unless it is set.
        changes: settings by name, such as `faults="500,ok"`.

    Raises:
        KpError: as `run_server`.
    """
    settings = replace(settings, **changes)
    ready: Future[tuple[str, asyncio.AbstractEventLoop, asyncio.Task[None]]] = Future()

    async def serve() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        await run_server(settings, on_ready=lambda url: ready.set_result((url, loop, task)))

    def work() -> None:
        try:
            asyncio.run(serve())
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    thread = threading.Thread(target=work, name="practice-server", daemon=True)
    thread.start()
    url, loop, task = ready.result()
    try:
        yield url
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()


async def _listen(runner: web.AppRunner, settings: ServerSettings) -> None:
    try:
        await web.TCPSite(runner, settings.host, settings.port).start()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"cannot listen ({getattr(error, 'strerror', None) or error}); choose another --port, or 0 for a free one",
            place=f"{settings.host}:{settings.port}",
        ) from error


class _Stats:
    """What was asked and what was completed."""

    def __init__(self) -> None:
        self.requests = 0
        self.faults: Counter[str] = Counter()
        self.per_model: Counter[str] = Counter()
        self.begun: dict[str, Counter[str]] = {}
        self.completed: dict[str, Counter[str]] = {}
        self.billed: dict[str, Counter[str]] = {}
        self.in_flight = 0
        self.most_in_flight = 0
        self.abandoned = 0

    def begin(self, ask: Ask) -> None:
        self.begun.setdefault(ask.model, Counter())[ask.digest()] += 1

    def bill(self, ask: Ask, completion: Completion) -> None:
        bill = self.billed.setdefault(ask.model, Counter())
        bill["calls"] += 1
        bill["prompt_tokens"] += completion.prompt_tokens
        bill["completion_tokens"] += completion.completion_tokens

    @contextmanager
    def working(self) -> Iterator[None]:
        """A call that the model works on; whoever hangs up meanwhile pays all the same."""
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            yield
        except asyncio.CancelledError:
            self.abandoned += 1
            raise
        finally:
            self.in_flight -= 1

    def complete(self, ask: Ask) -> None:
        self.completed.setdefault(ask.model, Counter())[ask.digest()] += 1

    def as_dict(self, batches: BatchDesk) -> dict[str, Any]:
        completed = {model: Counter(calls) for model, calls in self.completed.items()}
        for ask in batches.answered():
            completed.setdefault(ask.model, Counter())[ask.digest()] += 1
        counts = [count for calls in completed.values() for count in calls.values()]
        return {
            "requests": self.requests,
            "requests_per_model": dict(self.per_model),
            "faults": dict(self.faults),
            "completed": sum(counts),
            "repeated": sum(count - 1 for count in counts),
            "completed_per_model": {model: calls.total() for model, calls in completed.items()},
            "calls": {model: dict(calls) for model, calls in completed.items()},
            "begun": {model: dict(calls) for model, calls in self.begun.items()},
            "begun_again": sum(count - 1 for calls in self.begun.values() for count in calls.values()),
            "in_flight": self.in_flight,
            "most_in_flight": self.most_in_flight,
            "abandoned": self.abandoned,
            "billed": {model: dict(bill) for model, bill in self.billed.items()},
            "batches": batches.stats(),
        }


class _Server:
    """The handlers and what they share."""

    def __init__(self, settings: ServerSettings) -> None:
        if settings.latency_s < 0 or settings.jitter_s < 0:
            raise ConfigError("latency and jitter are seconds, 0 or more", place="practice server")
        self.closing = asyncio.Event()
        self._settings = settings
        self._faults: FaultPlan = parse_faults(settings.faults, seed=settings.seed)
        self._retry_after_s = settings.retry_after_s
        self._speaker = _speaker(settings.replay)
        self._stats = _Stats()
        self._batches = BatchDesk(settings.batches, self._speaker, self.closing)
        self._asked = 0

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._guard], client_max_size=MAX_BODY_BYTES)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_get("/v1/models", self._models)
        self._batches.add_routes(app.router)
        app.router.add_get("/stats", self._show_stats)
        app.router.add_post("/stats/reset", self._reset_stats)
        app.router.add_put("/faults", self._change_faults)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Every refusal in the shape of the dialect."""
        try:
            self._check_key(request)
            response: web.StreamResponse = await handler(request)
            return response
        except NotServed as error:
            headers = {"Retry-After": f"{self._retry_after_s:g}"} if error.status in (429, 503) else {}
            return web.json_response(error.body(), status=error.status, headers=headers)
        except web.HTTPException as error:
            return web.json_response(NotServed(error.status, error.reason).body(), status=error.status)

    def _check_key(self, request: web.Request) -> None:
        key = self._settings.api_key
        if key is None or not request.path.startswith("/v1/"):
            return
        named = request.headers.get("x-api-key")
        given = named if named is not None else request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), key.encode()):
            raise NotServed(401, "the API key is missing or wrong", code="invalid_api_key")

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        self._stats.requests += 1
        ask = read_ask(await request.read(), self._speaker.models)
        self._stats.per_model[ask.model] += 1
        number, self._asked = self._asked, self._asked + 1
        fault = self._faults.fault(number)
        if fault != OK:
            self._stats.faults[fault] += 1
        if fault.isdigit():
            raise NotServed(int(fault), f"a fault that was asked for: HTTP {fault}", code="fault")
        completion = spoiled(fault, self._speaker.answer(ask))
        self._stats.begin(ask)
        # Before anything can go wrong on the way, as providers do: an answer that nobody received costs the same.
        self._stats.bill(ask, completion)
        with self._stats.working():
            if fault == HANG:
                await self.closing.wait()
            await self._take_time(number)
            if fault in (HANG, DISCONNECT):
                return await self._hang_up(request)
            return await self._send(request, fault, ask, completion)

    async def _send(self, request: web.Request, fault: str, ask: Ask, completion: Completion) -> web.StreamResponse:
        response = response_of(fault, ask, completion)
        if fault == CUT:
            return await send_half(request, response)
        await response.prepare(request)
        await response.write_eof()
        # Only what was written out whole counts as completed.
        if fault not in (BROKEN, HTML):
            self._stats.complete(ask)
        return response

    async def _take_time(self, number: int) -> None:
        settings = self._settings
        if settings.latency_s > 0 or settings.jitter_s > 0:
            late = settings.jitter_s * uniform(f"jitter:{settings.seed}:{number}")
            await asyncio.sleep(settings.latency_s + late)

    async def _hang_up(self, request: web.Request) -> web.StreamResponse:
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

    async def _models(self, request: web.Request) -> web.Response:
        models = [
            {"id": model, "object": "model", "created": 0, "owned_by": "practice"} for model in self._speaker.models
        ]
        return web.json_response({"object": "list", "data": models})

    async def _show_stats(self, request: web.Request) -> web.Response:
        shown = self._stats.as_dict(self._batches)
        if "brief" in request.query:
            del shown["calls"], shown["begun"]
        return web.json_response(shown)

    async def _change_faults(self, request: web.Request) -> web.Response:
        try:
            change = json.loads(await request.read())
            faults, pause_s = change["faults"], float(change.get("retry_after_s", self._retry_after_s))
            self._faults = parse_faults(faults, seed=self._settings.seed)
        except (ConfigError, LookupError, TypeError, ValueError) as error:
            raise NotServed(400, f"no change of faults: {error}") from error
        self._retry_after_s, self._asked = pause_s, 0
        return web.json_response({"faults": faults, "retry_after_s": pause_s})

    async def _reset_stats(self, request: web.Request) -> web.Response:
        self._stats = _Stats()
        self._batches.reset()
        return web.json_response(self._stats.as_dict(self._batches))


def _speaker(replay: Path | None) -> Speaker:
    if replay is None:
        return PracticeSpeaker()
    return ReplaySpeaker(Recorded.read(replay))
