"""Run a plan: what is done stays, what can run runs, what fails is told at the end while the rest goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from kp_data.errors import ConfigError
from kp_data.tables import replacing
from kp_train.experiments.plan import Kind, Plan, Task
from kp_train.experiments.pool import SWEEP_FILE, Outcome, Pool
from kp_train.experiments.work import is_done

POLL_S: Final = 0.5
_LOCK = ".lock"


@dataclass
class Standing:
    """Where a sweep stands, for those who watch.

    Attributes:
        total: tasks of each kind.
        done: those that are done, of each kind.
        reused: those among them that were done before.
        failed: task to the reason.
        blocked: tasks that need one that failed.
        running: what is being done.
    """

    total: dict[Kind, int] = field(default_factory=dict)
    done: dict[Kind, int] = field(default_factory=dict)
    reused: int = 0
    failed: dict[str, Outcome] = field(default_factory=dict)
    blocked: dict[str, Task] = field(default_factory=dict)
    running: tuple[Task, ...] = ()

    @property
    def left(self) -> int:
        """Tasks that are neither done nor failed nor blocked."""
        over = sum(self.done.values()) + len(self.failed) + len(self.blocked)
        return sum(self.total.values()) - over


@contextmanager
def sweep_folder(root: Path, config: Path) -> Iterator[None]:
    """Hold a sweep's folder, made if need be, and put a copy of the file into it.

    Raises:
        ConfigError: another sweep is writing there, it cannot be written, or it holds something else.
        DataError: the disk is full.
    """
    if not (root / SWEEP_FILE).is_file() and root.is_dir() and any(path.name != _LOCK for path in root.iterdir()):
        raise ConfigError("holds files that are not of a sweep; give another --out", place=root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / _LOCK)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError("another sweep is writing here; wait for it, or give another --out", place=root) from error
    except OSError as error:
        raise ConfigError(f"cannot be written ({error.strerror}); give another --out", place=root) from error
    try:
        _keep_copy(config, root / SWEEP_FILE)
        yield
    finally:
        lock.release()


def _keep_copy(config: Path, copy: Path) -> None:
    """Copy the file, unless it is the copy itself that was given.

    Raises:
        DataError: it cannot be written.
    """
    if not (copy.exists() and copy.samefile(config)):
        with replacing(copy) as temporary:
            shutil.copyfile(config, temporary)


def run_plan(plan: Plan, root: Path, pool: Pool, *, watch: Callable[[Standing], None] = lambda _: None) -> Standing:
    """Do every task of a plan that is not done yet, each as soon as what it needs is.

    Args:
        plan: what is to be done.
        root: the sweep's folder, held.
        pool: who does it.
        watch: called whenever something changed, and twice a second.

    Returns: how it ended; tasks that failed are in it and not raised.
    """
    waiting = {task.name: task for task in plan.tasks}
    standing = Standing()
    for task in plan.tasks:
        standing.total[task.kind] = standing.total.get(task.kind, 0) + 1
        if is_done(root, task):
            del waiting[task.name]
            standing.reused += 1
            _count(standing, task)
    while waiting or pool.running:
        _block(waiting, standing)
        _submit(waiting, standing, pool)
        standing.running = pool.running
        watch(standing)
        if not pool.running:
            break
        for outcome in pool.wait(POLL_S):
            if outcome.error is None:
                _count(standing, outcome.task)
            else:
                standing.failed[outcome.task.name] = outcome
    standing.running = ()
    watch(standing)
    return standing


def _count(standing: Standing, task: Task) -> None:
    standing.done[task.kind] = standing.done.get(task.kind, 0) + 1


def _block(waiting: dict[str, Task], standing: Standing) -> None:
    """Take out what can never run, because something that it needs failed."""
    lost = standing.failed.keys() | standing.blocked.keys()
    for name, task in list(waiting.items()):
        # Tasks stand after those that they need, so one pass finds also what needs the blocked.
        if any(need in lost for need in task.needs):
            standing.blocked[name] = waiting.pop(name)
            lost = {*lost, name}


def _submit(waiting: dict[str, Task], standing: Standing, pool: Pool) -> None:
    open_now: Mapping[str, object] = {**waiting, **{task.name: task for task in pool.running}}
    for name, task in list(waiting.items()):
        if not pool.free:
            return
        # One at a time asks: what a teacher may be asked in a minute holds for a process, and two of them that want
        # the same answers would wait for each other.
        if task.kind == "ask" and any(other.kind == "ask" for other in pool.running):
            continue
        if not any(need in open_now for need in task.needs):
            del waiting[name]
            pool.submit(task)
