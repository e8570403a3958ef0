"""How a person ends a run: Ctrl-C, SIGTERM, or `q` on the terminal; once to finish calls in flight, twice to drop them.

The terminal is put into cbreak mode only while this process owns it, and given back whatever happens: when the run
ends or fails, and while it is suspended with Ctrl-Z.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

_SAME_PRESS_S: Final = 0.5
"""A press so soon after another is the same: Ctrl-C that a wrapper passes on, or a key held down."""


class Stop:
    """What a person has asked of a run.

    Attributes:
        asked: set at the first press: start no further call, let those in flight finish.
        now: set at the second: drop the calls in flight.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.asked, self.now = asyncio.Event(), asyncio.Event()
        self._clock = clock
        self._pressed_at = -math.inf

    def press(self) -> None:
        """Somebody pressed Ctrl-C or `q`, or the system wants the process to end.

        Raises:
            KeyboardInterrupt: at the third press, which finds a run that does not end by itself.
        """
        now = self._clock()
        if now - self._pressed_at < _SAME_PRESS_S:
            return
        self._pressed_at = now
        if self.now.is_set():
            raise KeyboardInterrupt
        if self.asked.is_set():
            self.now.set()
        self.asked.set()


async def wait_out(running: Collection[asyncio.Task[Any]], stop: Stop, *, grace_s: float) -> set[asyncio.Task[Any]]:
    """Let calls in flight finish after a stop was asked for.

    Args:
        running: their tasks.
        stop: its second press ends the wait.
        grace_s: seconds to wait at most.

    Returns: those that still run, for the caller to cancel.
    """
    pending = set(running)
    deadline = time.monotonic() + grace_s
    dropped = asyncio.create_task(stop.now.wait())
    try:
        while pending and not dropped.done() and (left_s := deadline - time.monotonic()) > 0:
            _, rest = await asyncio.wait({*pending, dropped}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            pending = rest - {dropped}
    finally:
        dropped.cancel()
    return pending


@contextmanager
def listening(stop: Stop, *, keys: bool = False, before_suspend: Callable[[], None] | None = None) -> Iterator[None]:
    """Hear Ctrl-C and SIGTERM, and with `keys` also `q`, while the block runs; inside a running event loop.

    Outside the main thread, and where the system has no such signals, nothing changes: Ctrl-C does what it did.

    Args:
        stop: told of every press.
        keys: read the terminal, where stdin and stderr both are one.
        before_suspend: called before Ctrl-Z suspends the process, to leave the screen in order.
    """
    if threading.current_thread() is not threading.main_thread() or sys.platform == "win32":
        yield
        return
    loop = asyncio.get_running_loop()
    with ExitStack() as stack:
        for number in (signal.SIGINT, signal.SIGTERM):
            # A process that was started to ignore Ctrl-C, such as one under nohup, goes on ignoring it.
            if signal.getsignal(number) is not signal.SIG_IGN:
                stack.enter_context(_handling(loop, number, stop.press))
        if keys and (descriptor := _terminal()) is not None:
            stack.enter_context(_reading(loop, Keyboard(descriptor, loop, stop.press), before_suspend))
        yield


def owns_terminal(descriptor: int) -> bool:
    """Whether this process is in the foreground of a terminal; another one must not read it, nor draw on it."""
    try:
        return os.tcgetpgrp(descriptor) == os.getpgrp()
    except (OSError, AttributeError):
        # Nobody's controlling terminal, such as a pseudo-terminal in a test, has no background.
        return True


class Keyboard:
    """`q` on a terminal, without Enter.

    Attributes:
        is_open: whether the terminal is in cbreak mode and read now.
    """

    def __init__(self, descriptor: int, loop: asyncio.AbstractEventLoop, on_q: Callable[[], None]) -> None:
        self._descriptor, self._loop, self._on_q = descriptor, loop, on_q
        self._saved: list[Any] | None = None
        self._q_at = -math.inf

    @property
    def is_open(self) -> bool:
        return self._saved is not None

    def open(self) -> None:
        """Begin to read, unless the terminal belongs to another process now; opening again renews the mode."""
        import termios
        import tty

        if not owns_terminal(self._descriptor):
            self._forget()
            return
        try:
            saved = termios.tcgetattr(self._descriptor) if self._saved is None else self._saved
            tty.setcbreak(self._descriptor, termios.TCSADRAIN)
        except (termios.error, OSError):
            return
        self._saved = saved
        self._loop.add_reader(self._descriptor, self._read)

    def close(self) -> None:
        """Stop reading and give the terminal back as it was found."""
        import termios

        saved = self._saved
        self._forget()
        # In the background the shell has its own mode set, and changing it would suspend this process.
        if saved is None or not owns_terminal(self._descriptor):
            return
        try:
            # Drained, not flushed: what was typed ahead belongs to the shell.
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, saved)
        except (termios.error, OSError):
            return

    def _forget(self) -> None:
        if self._saved is not None:
            self._loop.remove_reader(self._descriptor)
            self._saved = None

    def _read(self) -> None:
        if not owns_terminal(self._descriptor):
            self._forget()
            return
        try:
            typed = os.read(self._descriptor, 1024)
        except OSError:
            typed = b""
        if not typed:
            # The terminal has gone.
            self._forget()
        elif b"q" in typed.lower():
            # Counted from the last repetition: a key may be held down for as long as one likes.
            before, self._q_at = self._q_at, time.monotonic()
            if self._q_at - before >= _SAME_PRESS_S:
                self._on_q()


def _terminal() -> int | None:
    """The descriptor of stdin where a person sits at it and sees stderr, else None."""
    try:
        here = sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()
        return sys.stdin.fileno() if here else None
    except (OSError, ValueError):
        return None


@contextmanager
def _handling(loop: asyncio.AbstractEventLoop, number: signal.Signals, handler: Callable[[], None]) -> Iterator[None]:
    before = signal.getsignal(number)
    loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        loop.remove_signal_handler(number)
        if before is not None:
            signal.signal(number, before)


@contextmanager
def _reading(
    loop: asyncio.AbstractEventLoop, keyboard: Keyboard, before_suspend: Callable[[], None] | None
) -> Iterator[None]:
    """Read the keyboard; closed before the process is suspended, open again when it goes on in the foreground."""

    def suspend() -> None:
        if before_suspend is not None:
            before_suspend()
        keyboard.close()
        loop.remove_signal_handler(signal.SIGTSTP)
        # To this very thread, so that it is suspended here and not a few lines later.
        signal.raise_signal(signal.SIGTSTP)
        loop.add_signal_handler(signal.SIGTSTP, suspend)
        keyboard.open()

    with (
        _handling(loop, signal.SIGTSTP, suspend),
        _handling(loop, signal.SIGCONT, keyboard.open),
    ):
        try:
            keyboard.open()
            yield
        finally:
            keyboard.close()
