"""litellm in processes of its own, so that its CPU time (some milliseconds a call) is not this process's.

One process is started at once and takes every call; only while all are busy most of the time does one more start, up to
the number of CPUs. A few calls thus cost one import of litellm, as they would anywhere, and many get every CPU. A
process that dies fails its calls in flight as retryable and is replaced; processes that die before they answer anything
end the teacher.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Final
from weakref import WeakKeyDictionary

from kp_data.config import Teacher
from kp_data.errors import TeacherError
from kp_data.teachers.litellm_carrier import LitellmCarrier
from kp_data.teachers.transport import Call, CallFailed, Carrier, Endpoint, Reply, redact
from kp_data.teachers.wire import Message, Outbox, unpack, unpack_failure, unpack_reply

WORKERS_VARIABLE: Final = "KP_LITELLM_PROCESSES"
"""Environment variable: how many processes at most; 0 runs litellm in this one."""
_MOST: Final = 4
_BUSY: Final = 0.7
_BUSY_WINDOWS: Final = 2
_DEATHS: Final = 3
_CLOSING_S: Final = 3.0
_GRACE_S: Final = 30.0


def most_processes(environment: Mapping[str, str] = os.environ) -> int:
    """How many litellm processes may run: one a CPU that this process may use, at most four.

    Raises:
        TeacherError: the environment says something that is no number.

    >>> most_processes({"KP_LITELLM_PROCESSES": "2"})
    2
    """
    said = environment.get(WORKERS_VARIABLE)
    if said is None:
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(cpus, _MOST)
    if not said.isdecimal() or int(said) > 64:
        raise TeacherError(f"{WORKERS_VARIABLE} must be a number from 0 to 64, not {said!r}")
    return int(said)


def litellm_carrier(teacher: Teacher, endpoint: Endpoint) -> Carrier:
    """The carrier of a teacher that litellm reaches: in processes of its own, unless the user wants none.

    Raises:
        TeacherError: see `most_processes`.
    """
    return PooledCarrier(teacher, endpoint) if most_processes() else LitellmCarrier(teacher, endpoint)


@dataclass(frozen=True, slots=True)
class Seat:
    """A teacher and its endpoint, under a number that both processes know."""

    number: int
    teacher: Teacher
    endpoint: Endpoint


class PooledCarrier:
    """Calls to one model through the litellm processes of this event loop."""

    _numbers = itertools.count()

    def __init__(self, teacher: Teacher, endpoint: Endpoint) -> None:
        self._seat = Seat(next(self._numbers), teacher, endpoint)
        self._pool: Pool | None = None

    async def check(self) -> None:
        """See `Carrier.check`. An endpoint given by URL is looked at from here: that needs no litellm."""
        pool = self._join()
        if self._seat.endpoint.api_base is None:
            await pool.check(self._seat)
            return
        pool.start_first()
        await LitellmCarrier(self._seat.teacher, self._seat.endpoint).check()
        await pool.ready()

    async def ask(self, call: Call) -> Reply:
        """See `Carrier.ask`."""
        return await self._join().ask(self._seat, call)

    async def close(self) -> None:
        """Leave the pool; the last carrier to leave ends its processes."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.leave(self)

    def _join(self) -> Pool:
        if self._pool is None:
            self._pool = Pool.of_this_loop()
            self._pool.join(self)
        return self._pool


class Pool:
    """The litellm processes of one event loop, and the carriers that use them."""

    _pools: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, Pool]] = WeakKeyDictionary()

    def __init__(self, *, most: int) -> None:
        """Args: most: processes at most, at least 1."""
        self._most = most
        self._members: set[PooledCarrier] = set()
        self._processes: list[_Process] = []
        self._starting: asyncio.Task[None] | None = None
        self._deaths = 0
        self._numbers = itertools.count()

    @classmethod
    def of_this_loop(cls) -> Pool:
        """The pool of the running event loop."""
        loop = asyncio.get_running_loop()
        if loop not in cls._pools:
            cls._pools[loop] = cls(most=max(1, most_processes()))
        return cls._pools[loop]

    @property
    def pids(self) -> list[int]:
        """Ids of the processes that answer."""
        return [process.pid for process in self._processes if process.is_ready]

    def join(self, carrier: PooledCarrier) -> None:
        """One more carrier uses the pool."""
        self._members.add(carrier)

    async def leave(self, carrier: PooledCarrier) -> None:
        """A carrier is done with it; with the last one the processes end."""
        self._members.discard(carrier)
        if self._members:
            return
        self._pools.pop(asyncio.get_running_loop(), None)
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        await asyncio.gather(*(process.close() for process in self._processes))

    def start_first(self) -> None:
        """Have a process started; does not wait for it."""
        if not self._processes:
            self._start()

    async def ready(self) -> _Process:
        """The process with the least to do.

        Raises:
            TeacherError: none can be had.
        """
        while not (ready := [process for process in self._processes if process.is_ready]):
            # Shared by all that wait, so that one of them giving up does not end it.
            await asyncio.shield(self._start())
        return min(ready, key=lambda process: len(process.pending))

    async def check(self, seat: Seat) -> None:
        """Look at a teacher in a process that has litellm.

        Raises:
            TeacherError: what is wrong with it, or that there is no process.
        """
        process = await self.ready()
        answer = await process.request(next(self._numbers), seat, {"do": "check"})
        if "trouble" in answer:
            raise TeacherError(answer["trouble"])
        if "failure" in answer:
            raise TeacherError(str(unpack_failure(answer["failure"])), place=f"teacher {seat.teacher.name}")

    async def ask(self, seat: Seat, call: Call) -> Reply:
        """One call.

        Raises:
            CallFailed: as `Carrier.ask`, or the process that made it died.
        """
        try:
            process = await self.ready()
        except TeacherError as error:
            raise CallFailed("bad_response", str(error), retryable=False, fatal=True, may_be_billed=False) from error
        message = {
            "do": "ask",
            "messages": call.messages,
            "parameters": dict(call.parameters),
            "timeout_s": call.timeout_s,
        }
        # It ends every call in time by itself; where it does not, it hangs, and nothing but its end frees the call.
        alarm = asyncio.get_running_loop().call_later(call.timeout_s + _GRACE_S, process.kill)
        try:
            answer = await process.request(next(self._numbers), seat, message)
        finally:
            alarm.cancel()
        if "reply" in answer:
            return unpack_reply(answer["reply"])
        raise unpack_failure(answer["failure"])

    def _start(self) -> asyncio.Task[None]:
        if self._starting is None or self._starting.done():
            self._starting = asyncio.create_task(self._start_one())
            # Nobody waits for a process that starts because others are busy.
            self._starting.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._starting

    async def _start_one(self) -> None:
        if self._deaths >= _DEATHS:
            raise TeacherError(
                f"the last {self._deaths} litellm processes ended before they answered; is memory short?"
            )
        process = await _Process.start(on_busy=self._grow, on_answer=self._note_answer, on_end=self._note_end)
        self._processes.append(process)
        await asyncio.shield(process.booted)

    def _grow(self) -> None:
        """Start one more process where all have been busy for a while."""
        alone = len(self._processes) >= self._most or self._deaths > 0
        if not alone and all(process.busy_windows >= _BUSY_WINDOWS for process in self._processes):
            self._start()

    def _note_answer(self) -> None:
        self._deaths = 0

    def _note_end(self, process: _Process) -> None:
        if process in self._processes:
            self._processes.remove(process)
        self._deaths += not process.has_answered


class _Process:
    """One litellm process, seen from its parent."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        *,
        on_busy: Callable[[], None],
        on_answer: Callable[[], None],
        on_end: Callable[[_Process], None],
    ) -> None:
        assert process.stdin is not None
        self._process, self._stdin = process, process.stdin
        self._on_busy, self._on_answer, self._on_end = on_busy, on_answer, on_end
        self._outbox = Outbox(self._write)
        self._seats: set[int] = set()
        self.pending: dict[int, asyncio.Future[Message]] = {}
        self.booted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.busy_windows = 0
        self.has_answered = False
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, **hooks: Any) -> _Process:
        """Start a process; `booted` tells when it has litellm."""
        process = await asyncio.create_subprocess_exec(
            # -P: a file in the working folder must not pass for a module.
            *(sys.executable, "-P", "-m", "kp_data.teachers.litellm_process"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Ctrl-C in the terminal is for this process to act on.
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)},
            limit=1 << 20,
        )
        return cls(process, **hooks)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_ready(self) -> bool:
        """Whether it takes calls."""
        return self.booted.done() and self.booted.exception() is None and not self._reading.done()

    async def request(self, number: int, seat: Seat, message: Message) -> Message:
        """Send a message and wait for its answer; giving up gives up the call in the process too.

        Raises:
            CallFailed: the process ended first.
        """
        if seat.number not in self._seats:
            self._seats.add(seat.number)
            about = {"teacher": seat.teacher.model_dump(mode="json"), "endpoint": asdict(seat.endpoint)}
            self._outbox.put({"do": "open", "seat": seat.number, **about})
        answer = self.pending[number] = asyncio.get_running_loop().create_future()
        self._outbox.put({**message, "id": number, "seat": seat.number})
        try:
            answered: Message = await answer
        except asyncio.CancelledError:
            if self.pending.pop(number, None) is not None:
                self._outbox.put({"do": "cancel", "id": number})
            raise
        return answered

    def kill(self) -> None:
        """End it at once; its calls fail as retryable."""
        if self._process.returncode is None:
            self._process.kill()

    async def close(self) -> None:
        """End it in order; one that takes too long, or has not begun, is killed."""
        self._stdin.close()
        if not self.booted.done():
            self.kill()
        try:
            await asyncio.wait_for(asyncio.shield(self._reading), _CLOSING_S)
        except TimeoutError:
            self.kill()
            await self._reading

    def _write(self, data: bytes) -> None:
        if not self._stdin.is_closing():
            self._stdin.write(data)

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for message in unpack(self._process.stdout):
            self._take(message)
        code = await self._process.wait()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        self._end(f"a litellm process ended ({how})")

    def _take(self, message: Message) -> None:
        match message:
            case {"id": number}:
                self.has_answered = True
                self._on_answer()
                if (answer := self.pending.pop(number, None)) is not None and not answer.done():
                    answer.set_result(message)
            case {"busy": share}:
                self.busy_windows = self.busy_windows + 1 if share >= _BUSY else 0
                self._on_busy()
            case {"ready": True}:
                self.booted.set_result(None)
            case {"broken": reason}:
                self.booted.set_exception(TeacherError(f"litellm cannot be imported ({redact(reason)}); reinstall it"))

    def _end(self, reason: str) -> None:
        """Say to everybody who waits that it is gone."""
        self._on_end(self)
        if not self.booted.done():
            # Not an error yet: whoever waits looks for another.
            self.booted.set_result(None)
        pending, self.pending = self.pending, {}
        for answer in pending.values():
            if not answer.done():
                answer.set_exception(CallFailed("bad_response", reason, retryable=True))
