"""Workers: processes that do tasks, as many as there are devices or as are asked for, one task at a time each.

A worker that dies takes one task with it and is replaced. What passes between the processes is JSON.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Final, Protocol

from kp_data.errors import ConfigError, KpError
from kp_train.experiments.plan import Cell, Task

SWEEP_FILE: Final = "sweep.yaml"
"""The copy of the file in the sweep's folder, so that an edit meanwhile changes nothing."""
_ENDED_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a task ended.

    Attributes:
        task: what was to be done.
        error: one sentence for people; None when it is done.
        trace: where it happened, for `--debug`.
    """

    task: Task
    error: str | None = None
    trace: str | None = None


class Pool(Protocol):
    """Somebody who does tasks."""

    @property
    def free(self) -> int:
        """How many more tasks can be taken on now."""

    def submit(self, task: Task) -> None:
        """Begin a task."""

    def wait(self, timeout_s: float) -> list[Outcome]:
        """Tasks that ended meanwhile; at most so many seconds, at once where one has."""

    @property
    def running(self) -> tuple[Task, ...]:
        """What is being done."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker computes: a device of its own, or so many threads of the processor."""

    device: str | None
    threads: int


def places(jobs: int | None) -> list[Place]:
    """One place a CUDA device; without any, `jobs` places (default: one a core) that share the processor."""
    if devices := _devices():
        threads = max(1, _cores() // len(devices))
        per_device = max(1, (jobs or len(devices)) // len(devices))
        return [Place(device, max(1, threads // per_device)) for device in devices for _ in range(per_device)]
    count = jobs or _cores()
    return [Place(None, max(1, _cores() // count))] * count


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _devices() -> list[str]:
    """CUDA devices, without loading torch where there is no driver."""
    if not Path("/proc/driver/nvidia").exists() and "CUDA_VISIBLE_DEVICES" not in os.environ:
        return []
    import torch

    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named or [str(number) for number in range(torch.cuda.device_count())]


@contextmanager
def local_pool(root: Path, home: Path, jobs: int | None) -> Iterator[Pool]:
    """Worker processes on this machine, ended with the block; they read the copy of the file in the sweep's folder."""
    pool = _LocalPool(root, home, places(jobs))
    try:
        yield pool
    finally:
        pool.close()


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    task: Task | None = None


class _LocalPool:
    def __init__(self, root: Path, home: Path, places: list[Place]) -> None:
        self._root, self._home = root, home
        self._free = list(places)
        self._busy: dict[Connection, tuple[_Worker, Place]] = {}
        self._resting: list[tuple[_Worker, Place]] = []

    @property
    def free(self) -> int:
        return len(self._free) + len(self._resting)

    @property
    def running(self) -> tuple[Task, ...]:
        return tuple(worker.task for worker, _ in self._busy.values() if worker.task is not None)

    def submit(self, task: Task) -> None:
        worker, place = self._rested()
        worker.task = task
        self._busy[worker.pipe] = worker, place
        # Whoever dies between tasks and is not known to be dead yet is found out by its closed pipe.
        with suppress(OSError):
            worker.pipe.send_bytes(json.dumps(asdict(task)).encode())

    def wait(self, timeout_s: float) -> list[Outcome]:
        ready = wait(list(self._busy), timeout_s)
        return [self._ended(pipe) for pipe in ready if isinstance(pipe, Connection)]

    def close(self) -> None:
        workers = [worker for worker, _ in (*self._busy.values(), *self._resting)]
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.process.join(_ENDED_S)
            if worker.process.is_alive():
                worker.process.kill()
            worker.pipe.close()

    def _rested(self) -> tuple[_Worker, Place]:
        """A worker without a task; those that died while they rested are replaced."""
        while self._resting:
            worker, place = self._resting.pop()
            if worker.process.is_alive():
                return worker, place
            worker.pipe.close()
            self._free.append(place)
        place = self._free.pop()
        return self._start(place), place

    def _ended(self, pipe: Connection) -> Outcome:
        worker, place = self._busy.pop(pipe)
        task = worker.task
        assert task is not None
        worker.task = None
        try:
            answer = json.loads(pipe.recv_bytes())
        except (EOFError, OSError):
            worker.process.join(_ENDED_S)
            self._free.append(place)
            return Outcome(task, _how_it_died(worker.process.exitcode))
        self._resting.append((worker, place))
        return Outcome(task, answer["error"], answer["trace"])

    def _start(self, place: Place) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        arguments = (theirs, str(self._root), str(self._home), place.device, place.threads)
        process = context.Process(target=_work, args=arguments, daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)


def _how_it_died(code: int | None) -> str:
    if code == -signal.SIGKILL:
        return "its process was killed, most likely for want of memory; try --jobs 1, or batch_tokens for the student"
    return f"its process ended with code {code}"


def _work(pipe: Connection, root: str, home: str, device: str | None, threads: int) -> None:
    """A worker's life: take a task, do it, say how it went; until the pipe is closed."""
    _end_with_parent()
    # Ctrl-C is the starting process's business, which then ends its workers; they clean up behind them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    os.environ |= {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    import torch

    from kp_data.console import set_quiet
    from kp_train.experiments.config import load_sweep

    torch.set_num_threads(threads)
    set_quiet(True)
    # What a server of teachers says when its client went away is no answer to anybody: the task's error is.
    logging.getLogger("aiohttp").setLevel(logging.CRITICAL)
    sweep = load_sweep(Path(root) / SWEEP_FILE)
    while True:
        try:
            told = json.loads(pipe.recv_bytes())
            answer = answer_of(sweep, told, root=Path(root), home=Path(home))
        except (EOFError, KeyboardInterrupt):
            # Whatever asks teachers hears the end too, lets calls in flight come back, and says so in this way.
            sys.exit(0)
        pipe.send_bytes(json.dumps(answer).encode())


def _end_with_parent() -> None:
    """A sweep that was killed leaves nobody behind who goes on writing where the next one begins."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="kp-parent", daemon=True).start()


def answer_of(sweep: Any, told: dict[str, Any], *, root: Path, home: Path) -> dict[str, str | None]:
    """Do a task that came as JSON; how it went, for the one who sent it."""
    from kp_train.experiments.work import do_task

    try:
        do_task(sweep, task_of(told), root=root, home=home)
    except KpError as error:
        return {"error": str(error), "trace": traceback.format_exc()}
    except Exception as error:
        # One student that fails must not end the others, whatever a library raised.
        first = (str(error).splitlines() or [""])[0][:300]
        return {"error": f"{type(error).__name__}: {first}", "trace": traceback.format_exc()}
    return {"error": None, "trace": None}


def task_of(told: dict[str, Any]) -> Task:
    """A task from what `dataclasses.asdict` made of it."""
    cell = Cell(**told["cell"]) if told["cell"] is not None else None
    task = Task(**{**told, "cell": cell})
    return replace(task, needs=tuple(task.needs))


def pool_named(engine: str, root: Path, home: Path, jobs: int | None) -> AbstractContextManager[Pool]:
    """The workers of an engine: `local` or `ray`.

    Raises:
        ConfigError: there is no such engine, it cannot be had, or there are fewer than one job.
    """
    if jobs is not None and jobs < 1:
        raise ConfigError(f"{jobs} is not 1 or above", place="--jobs")
    if engine == "local":
        return local_pool(root, home, jobs)
    if engine != "ray":
        raise ConfigError(f"{engine!r} is neither local nor ray", place="--engine")
    try:
        from kp_train.experiments.ray_pool import ray_pool
    except ImportError as error:
        raise ConfigError('needs Ray: pip install "knowledge-purification[ray]"', place="--engine ray") from error
    return ray_pool(root, home, jobs)
