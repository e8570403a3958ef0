"""A TCP proxy before a hub: counts what clients send, slows it down, tells when so much went through, and can die."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

_PIECE = 64 * 1024


@dataclass
class CountingProxy:
    """Between clients and one server.

    Attributes:
        sent: bytes that clients sent so far.
        bytes_per_s: how fast they may send at most; None: as fast as they can.
        dies_after: once they have sent so many, every connection is cut and none is taken; None: never.
    """

    port: int = 0
    target: int = 0
    sent: int = 0
    bytes_per_s: float | None = None
    dies_after: int | None = None
    _reached: threading.Condition = field(default_factory=threading.Condition)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def is_dead(self) -> bool:
        return self.dies_after is not None and self.sent >= self.dies_after

    def wait_for(self, num_bytes: int, timeout_s: float = 60.0) -> bool:
        """Until clients have sent so many bytes in all."""
        with self._reached:
            return self._reached.wait_for(lambda: self.sent >= num_bytes, timeout_s)

    @contextmanager
    def running(self) -> Iterator[CountingProxy]:
        loop, started = asyncio.new_event_loop(), threading.Event()

        async def serve() -> None:
            listening = socket.create_server(("127.0.0.1", 0))
            # What a killed client had written must not go on arriving for megabytes.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _PIECE)
            server = await asyncio.start_server(self._relay, sock=listening, limit=_PIECE)
            self.port = server.sockets[0].getsockname()[1]
            started.set()
            async with server:
                await server.serve_forever()

        task = loop.create_task(serve())
        thread = threading.Thread(target=lambda: loop.run_until_complete(asyncio.gather(task, return_exceptions=True)))
        thread.start()
        started.wait()
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])
            thread.join()
            loop.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_dead:
            writer.transport.abort()
            return
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.target)
        up = asyncio.create_task(self._copy(reader, there_writer, count=True))
        down = asyncio.create_task(self._copy(there_reader, writer, count=False))
        try:
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (up, down):
                task.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
            writer.transport.abort()
            there_writer.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, count: bool) -> None:
        while (data := await reader.read(_PIECE)) and not self.is_dead:
            if count:
                with self._reached:
                    self.sent += len(data)
                    self._reached.notify_all()
                if self.bytes_per_s:
                    await asyncio.sleep(len(data) / self.bytes_per_s)
            writer.write(data)
            await writer.drain()
