"""Workers on a Ray cluster: one task each, a GPU where the cluster has any; the sweep's folder must be shared.

Imports Ray, and so is imported only where `--engine ray` is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from kp_data.generate.cluster import joined_cluster
from kp_train.experiments.plan import Task
from kp_train.experiments.pool import SWEEP_FILE, Outcome, Pool, answer_of


@contextmanager
def ray_pool(root: Path, home: Path, jobs: int | None) -> Iterator[Pool]:
    """Workers of a cluster; tasks that still run when the block ends are cancelled.

    Raises:
        ConfigError: there is no such cluster.
    """
    with joined_cluster(jobs):
        pool = _RayPool(root, home, jobs)
        try:
            yield pool
        finally:
            pool.close()


class _RayPool:
    def __init__(self, root: Path, home: Path, jobs: int | None) -> None:
        self._root, self._home = root, home
        there = ray.cluster_resources()
        self._gpus = int(there.get("GPU", 0))
        self._places = jobs or self._gpus or max(1, int(there.get("CPU", 1)))
        self._running: dict[Any, Task] = {}
        here = ray.get_runtime_context().get_node_id()
        self._here = NodeAffinitySchedulingStrategy(here, soft=False)
        self._here_gpus = sum(int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["NodeID"] == here)

    @property
    def free(self) -> int:
        return self._places - len(self._running)

    @property
    def running(self) -> tuple[Task, ...]:
        return tuple(self._running.values())

    def submit(self, task: Task) -> None:
        remote = ray.remote(max_calls=0, **self._needs(task))(_remote)
        self._running[remote.remote(asdict(task), str(self._root), str(self._home))] = task

    def _needs(self, task: Task) -> dict[str, Any]:
        """What a task takes of the cluster."""
        if task.kind != "ask":
            return {"num_cpus": 1, "num_gpus": min(1.0, self._gpus / self._places) if self._gpus else 0}
        # Answers go to a SQLite file, which two machines must never write to: whatever asks does so on this one, where
        # it mostly waits, and where there may be no processor for tasks at all.
        share = min(1.0, self._here_gpus / self._places) if self._here_gpus else 0
        return {"num_cpus": 0, "num_gpus": share, "scheduling_strategy": self._here}

    def wait(self, timeout_s: float) -> list[Outcome]:
        ready, _ = ray.wait(list(self._running), num_returns=1, timeout=timeout_s)
        return [self._ended(reference) for reference in ready]

    def close(self) -> None:
        for reference in self._running:
            ray.cancel(reference, force=True)

    def _ended(self, reference: Any) -> Outcome:
        task = self._running.pop(reference)
        try:
            answer = ray.get(reference)
        except ray.exceptions.RayError as error:
            return Outcome(task, f"its worker ended ({str(error).splitlines()[0][:300]})")
        return Outcome(task, answer["error"], answer["trace"])


def _remote(told: dict[str, Any], root: str, home: str) -> dict[str, str | None]:
    from kp_data.console import set_quiet
    from kp_train.experiments.config import load_sweep

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    set_quiet(True)
    return answer_of(load_sweep(Path(root) / SWEEP_FILE), told, root=Path(root), home=Path(home))
