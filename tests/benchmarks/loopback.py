"""The endpoint that the benchmarks ask: as small as can be, and it notes when it was asked and what that cost it."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import resource
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

LATENCY_S = 0.05
REPLY = json.dumps(
    {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "bench",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": "Frost is a cold spell. " * 8 + "The answer is (A)."},
            }
        ],
        "usage": {"prompt_tokens": 80, "completion_tokens": 60, "total_tokens": 140},
    }
).encode()
MODELS = json.dumps({"object": "list", "data": [{"id": "bench", "object": "model"}]}).encode()


@dataclass(frozen=True)
class Visit:
    """What the server saw of one contestant.

    Attributes:
        asked_at: when each call came, in seconds of one clock.
        cpu_s: CPU seconds of the server meanwhile.
    """

    asked_at: list[float]
    cpu_s: float

    def steady_rate(self) -> float:
        """Calls a second from the 40th to the 90th of a hundred: start-up, growth and the end left out.

        >>> round(Visit([number / 50 for number in range(101)], cpu_s=0.0).steady_rate())
        50
        """
        first, last = (int(len(self.asked_at) * share) for share in (0.4, 0.9))
        return (last - first) / (self.asked_at[last] - self.asked_at[first])


class Connection(asyncio.Protocol):
    """One connection of an HTTP/1.1 server that answers every POST alike, after 50 ms."""

    asked_at: list[float] = []
    cpu_at_start = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, mark, body = self.buffer.partition(b"\r\n\r\n")
        if not mark:
            return
        length = next(
            (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
        )
        if len(body) < length:
            return
        self.buffer = b""
        if head.startswith(b"POST"):
            self.asked_at.append(time.monotonic())
            asyncio.get_running_loop().call_later(LATENCY_S, self.send, REPLY)
        else:
            self.send(self.visit() if head.startswith(b"GET /visit") else MODELS)

    def visit(self) -> bytes:
        """What was seen since the last look; begins anew."""
        cpu_s = time.process_time()
        said = json.dumps({"asked_at": self.asked_at, "cpu_s": cpu_s - Connection.cpu_at_start}).encode()
        Connection.asked_at, Connection.cpu_at_start = [], time.process_time()
        return said

    def send(self, body: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        self.transport.write(head + body)


@contextmanager
def loopback_server() -> Iterator[str]:
    """The server, in a process of its own for as long as the block lasts; gives its base URL."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    port = multiprocessing.Value("i", 0)
    server = multiprocessing.Process(target=_serve, args=(port,), daemon=True)
    server.start()
    while port.value == 0:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port.value}/v1"
    finally:
        server.terminate()
        server.join()


def look(url: str) -> Visit:
    """What the server saw since the last look."""
    with urllib.request.urlopen(url.removesuffix("/v1") + "/visit") as answer:
        return Visit(**json.load(answer))


def _serve(port: Any) -> None:
    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0, backlog=4096)
        port.value = server.sockets[0].getsockname()[1]
        await server.serve_forever()

    asyncio.run(run())
