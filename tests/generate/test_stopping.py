"""How a person ends a run: presses, signals, and `q` on real pseudo-terminals, with the terminal given back."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kp_data.generate.stopping import Keyboard, Stop, listening, wait_out

if sys.platform == "win32":
    pytest.skip("no terminals of this kind", allow_module_level=True)

import pty
import termios

PATIENCE_S = 60.0
"""After which a test that waits for something is wrong."""

# A run of two teachers on the terminal at stdin, whose calls end only when they are told to.
RUN = """
import asyncio, fcntl, os, sys, termios
from kp_data.generate.progress import live_view
from kp_data.generate.stopping import Stop
from kp_data.generate.tally import Tally

async def main():
    stop = Stop()
    tallies = [Tally("ada", 100, answered=40, in_flight=3), Tally("bruno", 100, answered=7, in_flight=2)]
    async with live_view(tallies, stop=stop):
        print("running", file=sys.stderr)
        await stop.asked.wait()
        if "fail" in sys.argv:
            raise RuntimeError("failed on purpose")
        if "twice" in sys.argv:
            await stop.now.wait()
    print("ended", "dropped" if stop.now.is_set() else "finished")

if "own" in sys.argv:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
asyncio.run(main())
"""

# A shell with job control: runs its arguments as a job on the terminal, and tells how the job fares.
SHELL = """
import fcntl, os, signal, sys, termios, time

def mode():
    return "cooked" if termios.tcgetattr(0)[3] & termios.ICANON else "cbreak"

def give(group):
    os.tcsetpgrp(0, group)

fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
background = sys.argv[1] == "background"
job = os.fork()
if job == 0:
    os.setpgid(0, 0)
    while not background and os.tcgetpgrp(0) != os.getpid():
        time.sleep(0.01)
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
signal.signal(signal.SIGTERM, lambda *_: os.kill(job, signal.SIGKILL))
try:
    os.setpgid(job, job)
except PermissionError:
    pass
if not background:
    give(job)
while True:
    _, status = os.waitpid(job, os.WUNTRACED)
    give(os.getpid())
    if not os.WIFSTOPPED(status):
        break
    print(f"[stopped by {signal.Signals(os.WSTOPSIG(status)).name}, {mode()}]", flush=True)
    if background:
        os.kill(job, signal.SIGKILL)
        continue
    give(job)
    os.kill(job, signal.SIGCONT)
print(f"[exit {os.waitstatus_to_exitcode(status)}, {mode()}]", flush=True)
"""


def is_cooked(descriptor: int) -> bool:
    return bool(termios.tcgetattr(descriptor)[3] & termios.ICANON)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@contextmanager
def pseudo_terminal() -> Iterator[tuple[int, int]]:
    """A person's end and a program's end."""
    person, program = pty.openpty()
    try:
        yield person, program
    finally:
        for descriptor in (person, program):
            try:
                os.close(descriptor)
            except OSError:
                continue


@dataclass
class Seen:
    """A program on a terminal of its own, and what a person sees there."""

    person: int
    process: "subprocess.Popen[bytes]"
    text: str = field(default="", init=False)

    def read(self) -> None:
        """Until the terminal has gone; on a thread, so that the program is never held up."""
        while True:
            try:
                data = os.read(self.person, 4096)
            except OSError:
                return
            self.text += data.decode()

    def until_seen(self, text: str) -> None:
        until(lambda: text in self.text)


@contextmanager
def at_terminal(*arguments: str) -> Iterator[Seen]:
    """A Python program in a session of its own, with a pseudo-terminal as stdin, stdout and stderr."""
    with pseudo_terminal() as (person, program):
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=program,
            stdout=program,
            stderr=program,
            start_new_session=True,
            env=environment,
        )
        seen = Seen(person, process)
        reader = threading.Thread(target=seen.read, daemon=True)
        reader.start()
        try:
            yield seen
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(program)
            reader.join(PATIENCE_S)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_first_press_asks_the_second_drops_and_the_third_interrupts() -> None:
    clock = Clock()
    stop = Stop(clock)
    assert not stop.asked.is_set()
    stop.press()
    assert (stop.asked.is_set(), stop.now.is_set()) == (True, False)
    clock.now += 1
    stop.press()
    assert stop.now.is_set()
    clock.now += 1
    with pytest.raises(KeyboardInterrupt):
        stop.press()


def test_ctrl_c_that_comes_twice_at_once_is_one_press_and_impatience_is_more() -> None:
    clock = Clock()
    stop = Stop(clock)
    stop.press()
    stop.press()
    assert not stop.now.is_set()
    for _ in range(3):
        clock.now += 0.2
        stop.press()
    assert stop.now.is_set()


def test_calls_in_flight_are_waited_for_until_the_grace_is_over() -> None:
    async def run() -> tuple[int, bool]:
        quick, endless = asyncio.create_task(asyncio.sleep(0.01)), asyncio.create_task(asyncio.sleep(1000))
        left = await wait_out([quick, endless], Stop(), grace_s=0.1)
        endless.cancel()
        return len(left), endless in left

    assert asyncio.run(run()) == (1, True)


def test_the_second_press_ends_the_wait_for_calls_in_flight() -> None:
    async def run() -> bool:
        stop, endless = Stop(), asyncio.create_task(asyncio.sleep(1000))
        asyncio.get_running_loop().call_later(0.05, stop.now.set)
        left = await wait_out([endless], stop, grace_s=1000)
        endless.cancel()
        return endless in left

    assert asyncio.run(run())
    assert asyncio.run(wait_out([], Stop(), grace_s=1000)) == set()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_presses_and_afterwards_does_what_it_did(number: signal.Signals) -> None:
    async def run() -> None:
        stop, before = Stop(), signal.getsignal(number)
        with listening(stop):
            os.kill(os.getpid(), number)
            await asyncio.wait_for(stop.asked.wait(), PATIENCE_S)
        assert signal.getsignal(number) is before

    outside = signal.getsignal(number)
    asyncio.run(run())
    assert signal.getsignal(number) is outside


def test_a_process_that_ignores_ctrl_c_goes_on_ignoring_it() -> None:
    async def run() -> bool:
        stop = Stop()
        with listening(stop):
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(0.05)
        return stop.asked.is_set()

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert not asyncio.run(run())
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_nothing_is_listened_to() -> None:
    async def run() -> None:
        with listening(Stop(), keys=True):
            heard.append(signal.getsignal(signal.SIGINT))

    heard: list[Any] = []
    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    thread.join()
    assert heard == [before]


def test_q_is_heard_without_enter_and_other_keys_are_not() -> None:
    async def run(person: int, program: int) -> list[str]:
        pressed: list[str] = []
        heard = asyncio.Event()

        def press() -> None:
            pressed.append("q")
            heard.set()

        keyboard = Keyboard(program, asyncio.get_running_loop(), press)
        keyboard.open()
        os.write(person, "xyz \x1b[Aä\n".encode())
        await asyncio.sleep(0.05)
        assert pressed == []
        os.write(person, b"q")
        await asyncio.wait_for(heard.wait(), PATIENCE_S)
        # A key that is held down repeats itself, and is one press.
        for _ in range(20):
            os.write(person, b"q")
            await asyncio.sleep(0.03)
        keyboard.close()
        return pressed

    with pseudo_terminal() as (person, program):
        before = termios.tcgetattr(program)
        assert asyncio.run(run(person, program)) == ["q"]
        assert termios.tcgetattr(program) == before


def test_a_terminal_that_goes_away_is_no_longer_read() -> None:
    async def run(person: int, program: int) -> None:
        keyboard = Keyboard(program, asyncio.get_running_loop(), lambda: None)
        keyboard.open()
        os.close(person)
        deadline = time.monotonic() + PATIENCE_S
        while keyboard.is_open:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        keyboard.close()

    with pseudo_terminal() as (person, program):
        asyncio.run(run(person, program))


@pytest.mark.parametrize("gone", ["stdin", "stderr"])
def test_keys_are_read_only_where_a_person_sits_at_both_ends(gone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(person: int, program: int) -> None:
        stop = Stop()
        with listening(stop, keys=True):
            assert is_cooked(program)
            os.write(person, b"q\n")
            await asyncio.sleep(0.05)
        assert not stop.asked.is_set()
        # Nobody has taken what was typed.
        assert os.read(program, 10) == b"q\n"

    with (
        pseudo_terminal() as (person, program),
        Path(os.devnull).open("r+") as nothing,
        os.fdopen(os.dup(program), "r") as here,
        os.fdopen(os.dup(program), "w") as there,
    ):
        monkeypatch.setattr("sys.stdin", nothing if gone == "stdin" else here)
        monkeypatch.setattr("sys.stderr", nothing if gone == "stderr" else there)
        asyncio.run(run(person, program))
        monkeypatch.undo()


def test_q_ends_a_run_on_a_terminal_and_gives_the_terminal_back() -> None:
    with at_terminal("-c", RUN, "own") as seen:
        before = termios.tcgetattr(seen.person)
        seen.until_seen("q or Ctrl-C stops")
        assert not is_cooked(seen.person)
        os.write(seen.person, b"q")
        assert seen.process.wait(PATIENCE_S) == 0
        assert termios.tcgetattr(seen.person) == before
        seen.until_seen("ended finished")
        # The cursor was hidden, and is shown again.
        assert seen.text.rfind("\x1b[?25h") > seen.text.rfind("\x1b[?25l") > 0


@pytest.mark.slow
def test_ctrl_c_twice_drops_calls_and_a_failure_gives_the_terminal_back_too() -> None:
    with at_terminal("-c", RUN, "own", "twice") as seen:
        seen.until_seen("q or Ctrl-C stops")
        os.write(seen.person, b"\x03")
        seen.until_seen("finishing 5 calls in flight; press again to drop them")
        time.sleep(0.6)
        os.write(seen.person, b"\x03")
        assert seen.process.wait(PATIENCE_S) == 0
        seen.until_seen("ended dropped")
    with at_terminal("-c", RUN, "own", "fail") as seen:
        before = termios.tcgetattr(seen.person)
        seen.until_seen("q or Ctrl-C stops")
        seen.process.send_signal(signal.SIGTERM)
        assert seen.process.wait(PATIENCE_S) == 1
        assert termios.tcgetattr(seen.person) == before
        seen.until_seen("failed on purpose")


@pytest.mark.slow
def test_ctrl_z_gives_the_terminal_to_the_shell_and_coming_back_takes_it_again() -> None:
    with at_terminal("-c", SHELL, "foreground", "-c", RUN) as seen:
        seen.until_seen("q or Ctrl-C stops")
        os.write(seen.person, b"\x1a")
        seen.until_seen("[stopped by SIGTSTP, cooked]")
        assert seen.text.index("\x1b[?25h") < seen.text.index("[stopped by")
        until(lambda: not is_cooked(seen.person))
        until(lambda: "q or Ctrl-C stops" in seen.text.partition("[stopped by")[2])
        os.write(seen.person, b"q")
        seen.until_seen("[exit 0, cooked]")


@pytest.mark.slow
def test_a_run_in_the_background_leaves_the_terminal_alone() -> None:
    with at_terminal("-c", SHELL, "background", "-c", RUN) as seen:
        seen.until_seen("running")
        job = os.tcgetpgrp(seen.person)
        assert is_cooked(seen.person)
        os.write(seen.person, b"q\n")
        # Lines instead of a table; it is not suspended for reading or setting a terminal that is not its own.
        seen.until_seen("47/200 cells")
        assert job == seen.process.pid
        assert "\x1b[" not in seen.text
        assert "stopped" not in seen.text
