"""What runs in a litellm process: `python -m kp_data.teachers.litellm_process`, started by `litellm_pool`.

Its parent sends calls, and it sends back replies and failures. It ends when the parent's pipe closes, however the
parent ended: nobody is left to keep what teachers answer.

    from the parent   open (a teacher takes a seat), check, ask, cancel
    to the parent     ready or broken; done, reply, failure or trouble for each check and ask; busy every second
"""

from __future__ import annotations

import asyncio
import gc
import os
import selectors
import sys
import time
from collections.abc import Coroutine
from typing import Any, Final

from kp_data.config import Teacher
from kp_data.errors import TeacherError
from kp_data.teachers.litellm_carrier import LitellmCarrier, warm_up
from kp_data.teachers.transport import Call, CallFailed, Endpoint, keep_secret
from kp_data.teachers.wire import Message, Outbox, pack, pack_failure, pack_reply, unpack

BUSY_WINDOW_S: Final = 1.0
"""How often a process tells which share of the time it was at work."""
_LONGEST_MESSAGE: Final = 1_000


class WatchedSelector(selectors.DefaultSelector):
    """Knows how long its loop had nothing to do. CPU time does not tell that where CPUs are short."""

    idle_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """See `selectors.BaseSelector.select`."""
        began = time.monotonic()
        ready = super().select(timeout)
        self.idle_s += time.monotonic() - began
        return ready


class Desk:
    """Takes the messages of the parent, one after another."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._carriers: dict[int, LitellmCarrier] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def take(self, message: Message) -> None:
        """Do what one message says; answers come later."""
        match message["do"]:
            case "open":
                self._open(message)
            case "check":
                self._start(message["id"], self._check(message))
            case "ask":
                self._start(message["id"], self._ask(message))
            case "cancel" if (task := self._tasks.get(message["id"])) is not None:
                task.cancel()

    async def close(self) -> None:
        """Give up what is under way, and close connections."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for carrier in self._carriers.values():
            await carrier.close()

    def _open(self, message: Message) -> None:
        endpoint = Endpoint(**message["endpoint"])
        if endpoint.api_key is not None:
            keep_secret(endpoint.api_key)
        self._carriers[message["seat"]] = LitellmCarrier(Teacher.model_validate(message["teacher"]), endpoint)

    def _start(self, number: int, work: Coroutine[Any, Any, Message]) -> None:
        task = self._tasks[number] = asyncio.create_task(self._answer(number, work))
        task.add_done_callback(lambda _: self._tasks.pop(number, None))

    async def _answer(self, number: int, work: Coroutine[Any, Any, Message]) -> None:
        try:
            answer = await work
        except CallFailed as failure:
            answer = {"failure": pack_failure(failure)}
        except TeacherError as error:
            answer = {"trouble": str(error)}
        except Exception as error:
            # A reply of a form that nobody foresaw must not leave the parent waiting.
            said = f"{type(error).__name__}: {error}"[:_LONGEST_MESSAGE]
            answer = {"failure": pack_failure(CallFailed("bad_response", said, retryable=True))}
        self._outbox.put({"id": number, **answer})

    async def _check(self, message: Message) -> Message:
        await self._carriers[message["seat"]].check()
        return {"done": True}

    async def _ask(self, message: Message) -> Message:
        call = Call(message["messages"], message["parameters"], message["timeout_s"])
        return {"reply": pack_reply(await self._carriers[message["seat"]].ask(call))}


async def serve(incoming: int, outgoing: int, selector: WatchedSelector) -> None:
    """Answer the parent until it is gone.

    Args:
        incoming: file descriptor of the pipe that it writes to.
        outgoing: file descriptor of the pipe that it reads from.
        selector: of the running loop.
    """
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(incoming, "rb", 0))
    transport, _ = await loop.connect_write_pipe(asyncio.Protocol, os.fdopen(outgoing, "wb", 0))
    outbox = Outbox(transport.write)
    desk = Desk(outbox)
    outbox.put({"ready": True})
    pulse = asyncio.create_task(_tell_how_busy(outbox, selector))
    async for message in unpack(reader):
        desk.take(message)
    pulse.cancel()
    await desk.close()
    transport.close()


async def _tell_how_busy(outbox: Outbox, selector: WatchedSelector) -> None:
    while True:
        began, idle_s = time.monotonic(), selector.idle_s
        await asyncio.sleep(BUSY_WINDOW_S)
        outbox.put({"busy": 1 - (selector.idle_s - idle_s) / (time.monotonic() - began)})


def main() -> None:
    """Run a litellm process on the pipes at standard input and output."""
    incoming, outgoing = os.dup(0), os.dup(1)
    # What libraries print must not end up among the messages.
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    try:
        warm_up()
    except Exception as error:
        os.write(outgoing, pack([{"broken": f"{type(error).__name__}: {error}"[:_LONGEST_MESSAGE]}]))
        sys.exit(1)
    # litellm leaves some hundred thousand objects that never go away: the collector need not look at them again, and
    # looks less often at the rest.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    selector = WatchedSelector()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        runner.run(serve(incoming, outgoing, selector))


if __name__ == "__main__":
    main()
