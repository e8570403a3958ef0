"""The wire between a client and a hub: a relay on loopback that counts bytes, injects faults and says when it is time.

It stands in front of a real hub and answers nothing of its own but the faults that a test asks for. Requests keep
their Host, so that the addresses that the hub gives out lead through the wire, too.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from yarl import URL

UPLOADS = r"POST /xet/[^/]+/v1/xorbs/|PUT /objects/"
"""Requests that carry the contents of large files: by Xet, and by LFS."""
COMMIT = r"POST /api/datasets/[^/]+/[^/]+/commit/"
_BLOCK = 2**16
_OF_ONE_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade"}
_SESSION = web.AppKey("session", aiohttp.ClientSession)


@dataclass
class Exchange:
    """A request and its answer, as far as they got. Bytes are of bodies; `status` 0: no answer came."""

    line: str
    sent: int = 0
    received: int = 0
    status: int = 0


@dataclass
class Fault:
    """What is to go wrong with the next requests whose line matches.

    Attributes:
        line: a regular expression for `METHOD /path?query`.
        status: answered instead of asking the hub; 0: asked.
        times: how often.
        without: a header of the request that does not arrive.
        lose_answer: the hub is asked, and its answer never arrives.
        act: called when `after` bytes of matching requests' bodies have passed, once; the request then gets no further.
        after: bytes; 0: as soon as the request comes.
        passing: the request that makes `act` happen does get through, at the same moment.
    """

    line: str
    status: int = 0
    times: int = 1
    without: str = ""
    lose_answer: bool = False
    act: Callable[[], None] | None = None
    after: int = 0
    passing: bool = False


@dataclass
class Wire:
    """A relay to `target` that may move; see the module."""

    target: str
    url: str = ""
    exchanges: list[Exchange] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def count(self, line: str) -> int:
        """How many requests match."""
        return sum(bool(re.match(line, exchange.line)) for exchange in self.exchanges)

    def sent(self, line: str = UPLOADS) -> int:
        """Bytes of the bodies of requests that match, whether or not anybody took them."""
        return sum(exchange.sent for exchange in self.exchanges if re.match(line, exchange.line))

    def clear(self) -> None:
        """Forget what has passed, and every fault."""
        self.exchanges, self.faults = [], []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Pass a request on, or let its fault happen."""
        exchange = Exchange(f"{request.method} {request.raw_path}")
        self.exchanges.append(exchange)
        fault = self._fault(exchange.line)
        try:
            if fault is not None and fault.act is not None and not fault.after:
                self._act(fault)
                if not fault.passing:
                    raise _CutError
            if fault is not None and fault.status:
                await request.read()
                exchange.status = fault.status
                return web.json_response({"error": "injected"}, status=fault.status)
            return await self._relay(request, exchange, fault)
        except (_CutError, aiohttp.ClientError):
            # The hub is gone, or seems so: the connection ends as it would without a relay.
            if request.transport is not None:
                request.transport.abort()
            return web.Response()

    async def _relay(self, request: web.Request, exchange: Exchange, fault: Fault | None) -> web.StreamResponse:
        without = _OF_ONE_HOP | ({fault.without} if fault is not None else set())
        headers = {name: value for name, value in request.headers.items() if name.lower() not in without}
        body = self._body(request, exchange, fault) if request.can_read_body else None
        address = URL(f"{self.target}{request.raw_path}", encoded=True)
        session = request.app[_SESSION]
        async with session.request(
            request.method, address, headers=headers, data=body, allow_redirects=False
        ) as answer:
            exchange.status = answer.status
            if fault is not None and fault.lose_answer:
                await answer.read()
                raise _CutError
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _OF_ONE_HOP}
            back = web.StreamResponse(status=answer.status, headers=kept)
            await back.prepare(request)
            async for block in answer.content.iter_chunked(_BLOCK):
                exchange.received += len(block)
                await back.write(block)
            await back.write_eof()
            return back

    async def _body(self, request: web.Request, exchange: Exchange, fault: Fault | None) -> AsyncIterator[bytes]:
        async for block in request.content.iter_chunked(_BLOCK):
            exchange.sent += len(block)
            if fault is not None and fault.act is not None and 0 < fault.after <= self.sent(fault.line):
                self._act(fault)
                raise _CutError
            yield block

    def _fault(self, line: str) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and re.match(fault.line, line):
                # An act by bytes waits for its moment over as many requests as it takes.
                fault.times -= 0 if fault.act is not None and fault.after else 1
                return fault
        return None

    def _act(self, fault: Fault) -> None:
        assert fault.act is not None
        fault.times = 0
        fault.act()
        # Last: whoever waits for the act to be done looks here.
        fault.act = None


class _CutError(Exception):
    """The connection ends here."""


async def _session(app: web.Application) -> AsyncIterator[None]:
    # A connection for each request: a hub that died must not be met on an old one.
    connector = aiohttp.TCPConnector(force_close=True, limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, auto_decompress=False, skip_auto_headers=("User-Agent", "Accept-Encoding")
    ) as session:
        app[_SESSION] = session
        yield


@contextmanager
def wired(target: str) -> Iterator[Wire]:
    """A wire to a hub, open until the block ends."""
    wire, loop, ready = Wire(target), asyncio.new_event_loop(), threading.Event()
    runner = web.AppRunner(_application(wire), access_log=None, shutdown_timeout=0.1)

    async def open_wire() -> None:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        wire.url = "http://{}:{}".format(*runner.addresses[0][:2])
        ready.set()

    def run() -> None:
        loop.run_until_complete(open_wire())
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ready.wait()
    try:
        yield wire
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def _application(wire: Wire) -> web.Application:
    app = web.Application(client_max_size=2**40)
    app.cleanup_ctx.append(_session)
    app.router.add_route("*", "/{path:.*}", wire.handle)
    return app
