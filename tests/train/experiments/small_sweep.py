"""A sweep of a few rows, done in this process: no worker has to load torch anew."""

from __future__ import annotations

from pathlib import Path

import yaml
from small_rows import write_panel

from kp_train.experiments.config import Sweep, load_sweep
from kp_train.experiments.plan import Plan, Task, plan_sweep
from kp_train.experiments.pool import Outcome, answer_of

SMALL = {
    "name": "small",
    "datasets": [{"name": "colours", "panel": "panel"}],
    "teachers": ["ada", "bruno"],
    "methods": ["fine-tune", "all", "best-single"],
    "students": [{"name": "tiny", "shape": {"width": 16, "layers": 1, "heads": 2}, "batch": 4, "bf16": False}],
    "seeds": [0, 1],
    "budget": {"steps": 2, "evaluations": 1},
}


def write_sweep(folder: Path, **changes: object) -> Path:
    """A sweep file, with a panel of small rows beside it."""
    if not (folder / "panel").exists():
        write_panel(folder / "panel")
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({**SMALL, **changes}, sort_keys=False), encoding="utf-8")
    return path


def plan_of(path: Path) -> Plan:
    """The plan of a sweep file."""
    return plan_sweep(load_sweep(path), home=path.parent)


class HerePool:
    """Does one task at a time, here."""

    def __init__(self, sweep: Sweep, root: Path, home: Path) -> None:
        self._sweep, self._root, self._home = sweep, root, home
        self.done: list[str] = []
        self._task: Task | None = None

    @property
    def free(self) -> int:
        return int(self._task is None)

    @property
    def running(self) -> tuple[Task, ...]:
        return (self._task,) if self._task else ()

    def submit(self, task: Task) -> None:
        self._task = task

    def wait(self, timeout_s: float) -> list[Outcome]:
        from dataclasses import asdict

        task, self._task = self._task, None
        assert task is not None
        self.done.append(task.name)
        answer = answer_of(self._sweep, asdict(task), root=self._root, home=self._home)
        return [Outcome(task, answer["error"], answer["trace"])]
