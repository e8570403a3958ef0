"""Show how a training run goes: a live bar on a terminal, otherwise a line every few seconds; always on stderr."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from kp_data.console import is_quiet, say

if TYPE_CHECKING:
    from kp_train.schedule import Progress

SECONDS_BETWEEN_LINES: Final = 5.0

Report = Callable[["Progress"], None]


@contextlib.contextmanager
def show_progress() -> Iterator[Report]:
    """What to call with each piece of progress."""
    if is_quiet():
        yield lambda _: None
    elif sys.stderr.isatty():
        with _bar() as report:
            yield report
    else:
        yield _lines()


@contextlib.contextmanager
def _bar() -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("")
        shown: dict[str, str] = {}

        def report(progress: Progress) -> None:
            shown.update(_figures(progress))
            bar.update(task, completed=progress.step, total=progress.steps, description=", ".join(shown.values()))

        yield report


def _lines() -> Report:
    shown: dict[str, str] = {}
    last = time.monotonic()

    def report(progress: Progress) -> None:
        nonlocal last
        shown.update(_figures(progress))
        if progress.step == progress.steps or time.monotonic() - last >= SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            say(f"step {progress.step} of {progress.steps}, {', '.join(shown.values())}")

    return report


def _figures(progress: Progress) -> dict[str, str]:
    figures = {}
    if progress.loss is not None:
        tasks = ", ".join(f"{task} {loss:.3f}" for task, loss in progress.task_losses.items())
        # With one task, its loss is the loss.
        figures["loss"] = f"loss {progress.loss:.3f}" + (f" ({tasks})" if len(progress.task_losses) > 1 else "")
    if progress.accuracy is not None:
        figures["accuracy"] = f"validation accuracy {progress.accuracy:.3f}"
    if progress.tokens_per_s is not None:
        figures["speed"] = f"{progress.tokens_per_s:,.0f} tokens/s"
    if progress.mfu is not None:
        figures["mfu"] = f"MFU {progress.mfu:.0%}"
    if progress.efficiency is not None and progress.efficiency < 0.995:
        figures["padding"] = f"{1 - progress.efficiency:.0%} padding"
    return figures
