from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from small_sweep import plan_of, write_sweep

from kp_data.errors import ConfigError
from kp_data.tables import write_json
from kp_train.experiments.plan import Plan, Task
from kp_train.experiments.pool import Outcome
from kp_train.experiments.run import Standing, run_plan, sweep_folder
from kp_train.experiments.work import DONE


@dataclass
class PretendPool:
    """Marks tasks as done without doing them; fails those whose name begins with one of `failing`."""

    root: Path
    failing: tuple[str, ...] = ()
    places: int = 2
    order: list[str] = field(default_factory=list)
    taken: list[Task] = field(default_factory=list)
    most_at_once: int = 0

    @property
    def free(self) -> int:
        return self.places - len(self.taken)

    @property
    def running(self) -> tuple[Task, ...]:
        return tuple(self.taken)

    def submit(self, task: Task) -> None:
        assert self.free
        assert task.kind != "ask" or all(other.kind != "ask" for other in self.taken)
        self.taken.append(task)
        self.most_at_once = max(self.most_at_once, len(self.taken))

    def wait(self, timeout_s: float) -> list[Outcome]:
        task = self.taken.pop(0)
        self.order.append(task.name)
        if task.name.startswith(self.failing or ("nothing",)):
            return [Outcome(task, "it broke")]
        write_json({"task_cpu_s": 0.0}, self.root / task.name / DONE)
        return [Outcome(task)]


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return plan_of(write_sweep(tmp_path))


def test_one_task_at_a_time_asks_teachers_while_others_go_on(tmp_path: Path) -> None:
    ood = {"datasets": [{"name": "plants", "source": "practice:20?subjects=plants"}], "methods": ["all", "random"]}
    plan = plan_of(write_sweep(tmp_path, out_of_domain=ood, methods=["all", "random"]))
    assert sum(task.kind == "ask" for task in plan.tasks) == 3
    pool = PretendPool(tmp_path / "out", places=8)
    assert run_plan(plan, tmp_path / "out", pool).left == 0
    assert pool.most_at_once > 2


def test_nothing_begins_before_what_it_needs(plan: Plan, tmp_path: Path) -> None:
    pool = PretendPool(tmp_path / "out", places=5)
    standing = run_plan(plan, tmp_path / "out", pool)
    assert standing.left == 0
    for task in plan.tasks:
        assert all(pool.order.index(need) < pool.order.index(task.name) for need in task.needs)


def test_what_is_done_is_never_done_again(plan: Plan, tmp_path: Path) -> None:
    run_plan(plan, tmp_path / "out", PretendPool(tmp_path / "out"))
    again = PretendPool(tmp_path / "out")
    standing = run_plan(plan, tmp_path / "out", again)
    assert again.order == []
    assert standing.reused == len(plan.tasks)


def test_what_fails_takes_only_what_needs_it_along(plan: Plan, tmp_path: Path) -> None:
    seen: list[int] = []
    pool = PretendPool(tmp_path / "out", failing=("purified/best-single",))
    standing = run_plan(plan, tmp_path / "out", pool, watch=lambda now: seen.append(now.left))
    assert [outcome.error for outcome in standing.failed.values()] == ["it broke"]
    assert len(standing.blocked) == 2
    assert standing.done == {"ask": 1, "cell": 6}
    assert (standing.left, seen[-1]) == (0, 0)


def test_the_next_run_takes_up_what_failed(plan: Plan, tmp_path: Path) -> None:
    run_plan(plan, tmp_path / "out", PretendPool(tmp_path / "out", failing=("cells/",)))
    pool = PretendPool(tmp_path / "out")
    standing: Standing = run_plan(plan, tmp_path / "out", pool)
    assert len(pool.order) == len(plan.cells)
    assert not standing.failed


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    path = write_sweep(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds files that are not of a sweep"), sweep_folder(tmp_path / "out", path):
        pass
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["letter.txt"]


def test_two_sweeps_cannot_write_into_one_folder(tmp_path: Path) -> None:
    path = write_sweep(tmp_path)
    with (
        sweep_folder(tmp_path / "out", path),
        pytest.raises(ConfigError, match="another sweep is writing here"),
        sweep_folder(tmp_path / "out", path),
    ):
        pass
