"""A call that a sweep has paid for is never paid again: real servers on loopback that count what they are asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from small_rows import small_questions
from small_sweep import HerePool, plan_of, write_sweep

from kp_data.schema import Question
from kp_data.tables import table_of_questions, write_json, write_parquet
from kp_train.experiments.panels import CELLS
from kp_train.experiments.plan import Plan
from kp_train.experiments.results import collect
from kp_train.experiments.run import Standing, run_plan
from kp_train.experiments.training import ANSWERS
from kp_train.experiments.work import DONE, read_done
from kp_train.serve import serving_writers

TRAIN, ALL_SPLITS = 12, 20


@dataclass
class Counted:
    """Teachers that say the first choice, and count what they are asked."""

    asked: Counter[tuple[str, str]] = field(default_factory=Counter)

    def calls(self) -> dict[str, int]:
        """Calls of each teacher since the last look."""
        calls = Counter(teacher for teacher, _ in self.asked.elements())
        self.asked.clear()
        return dict(calls)

    def writer(self, name: str) -> Callable[[Sequence[Question], str], list[str]]:
        def write(questions: Sequence[Question], prefix: str) -> list[str]:
            self.asked.update((name, question.question) for question in questions)
            return [f"I have seen it.\nThe answer is {question.choices[0]}" for question in questions]

        return write


@contextmanager
def counting(*names: str) -> Iterator[tuple[Counted, str]]:
    counted = Counted()
    with serving_writers({name: counted.writer(name) for name in names}) as url:
        yield counted, url


def world(folder: Path, url: str, *, teachers: Sequence[str] = ("ada", "bruno"), **changes: object) -> Path:
    """A sweep that asks: a dataset in domain and another out of domain, both small."""
    questions = small_questions()
    write_parquet(table_of_questions(questions), folder / "colours.parquet")
    others = [replace(one, id=f"p{one.id}", question=one.question.replace("Thing", "Plant")) for one in questions]
    write_parquet(table_of_questions(others), folder / "plants.parquet")
    (folder / "panel").mkdir(exist_ok=True)
    ood = {"datasets": [{"name": "plants", "source": "plants.parquet"}], "methods": ["all", "random"]}
    values: Mapping[str, object] = {
        "datasets": [{"name": "colours", "source": "colours.parquet"}],
        "teachers": [{"name": name, "model": name, "api_base": url, "concurrency": 4} for name in teachers],
        "methods": ["all", "random"],
        "out_of_domain": ood,
        "seeds": [0],
        **changes,
    }
    return write_sweep(folder, **values)


def ask(path: Path, out: Path) -> tuple[Plan, Standing]:
    """Everything of a sweep but its students."""
    plan = plan_of(path)
    tasks = tuple(task for task in plan.tasks if task.kind != "cell")
    out.mkdir(exist_ok=True)
    standing = run_plan(replace(plan, tasks=tasks), out, HerePool(plan.sweep, out, path.parent))
    return plan, standing


def errors(standing: Standing) -> list[str]:
    return [outcome.trace or str(outcome.error) for outcome in standing.failed.values()]


def facts_of(plan: Plan, out: Path, method: str | None, dataset: str) -> dict[str, Any]:
    (task,) = [
        task
        for task in plan.tasks
        if task.kind == "ask" and (task.facts["dataset"], task.facts.get("method")) == (dataset, method)
    ]
    return read_done(out, task)


def test_a_teacher_more_asks_the_new_teacher_alone(tmp_path: Path) -> None:
    with counting("ada", "bruno", "clara") as (counted, url):
        _, standing = ask(world(tmp_path, url), tmp_path / "out")
        assert errors(standing) == []
        assert counted.calls() == {"ada": ALL_SPLITS + TRAIN, "bruno": ALL_SPLITS + TRAIN}
        _, standing = ask(world(tmp_path, url, teachers=("ada", "bruno", "clara")), tmp_path / "out")
        assert errors(standing) == []
        assert counted.calls() == {"clara": ALL_SPLITS + TRAIN}


def test_a_router_pays_nothing_for_what_all_teachers_were_asked_and_is_reckoned_by_what_it_needs(
    tmp_path: Path,
) -> None:
    with counting("ada", "bruno") as (counted, url):
        plan, standing = ask(world(tmp_path, url), tmp_path / "out")
        assert errors(standing) == []
        assert set(counted.asked.values()) == {1}
        assert counted.calls() == {"ada": ALL_SPLITS + TRAIN, "bruno": ALL_SPLITS + TRAIN}
    everybody = facts_of(plan, tmp_path / "out", "all", "plants")
    routed = facts_of(plan, tmp_path / "out", "random", "plants")
    assert (everybody["calls"], everybody["asked_anew"], everybody["calls_saved"]) == (2 * TRAIN, 2 * TRAIN, 0.0)
    # By itself the router would ask one teacher a question.
    assert (routed["calls"], routed["asked_anew"], routed["calls_saved"]) == (TRAIN, 0, 0.5)


def test_another_limit_asks_about_the_new_questions_alone(tmp_path: Path) -> None:
    def limited(url: str, limit: int) -> Path:
        data = [{"name": "colours", "source": "colours.parquet", "limit": limit}]
        return world(tmp_path, url, datasets=data, out_of_domain=None)

    with counting("ada", "bruno") as (counted, url):
        ask(limited(url, 18), tmp_path / "out")
        assert counted.calls() == {"ada": 18, "bruno": 18}
        ask(limited(url, 20), tmp_path / "out")
        assert counted.calls() == {"ada": 2, "bruno": 2}


def test_calls_in_the_table_are_those_of_the_method_whatever_was_paid_before(tmp_path: Path) -> None:
    with counting("ada", "bruno", "clara") as (counted, url):
        ask(world(tmp_path, url, out_of_domain=None, methods=["all"]), tmp_path / "out")
        counted.calls()
        path = world(tmp_path, url, teachers=("ada", "bruno", "clara"), out_of_domain=None, methods=["all"])
        plan, standing = ask(path, tmp_path / "out")
        assert errors(standing) == []
        assert counted.calls() == {"clara": ALL_SPLITS}
    for task in plan.cells:
        write_json({"task_cpu_s": 0.0}, tmp_path / "out" / task.name / DONE)
        (tmp_path / "out" / task.name / ANSWERS).write_text('{"id": "q16", "correct": true}', encoding="utf-8")
    calls = {(row.method, row.teachers): row.calls for row in collect(plan, tmp_path / "out").rows}
    assert collect(plan, tmp_path / "out").asked == 3 * ALL_SPLITS
    assert calls == {("step-by-step", 1): TRAIN, ("all", 2): 2 * TRAIN, ("all", 3): 3 * TRAIN}


def test_what_a_dead_server_had_answered_is_not_asked_again(tmp_path: Path) -> None:
    with counting("ada", "bruno") as (counted, url):
        path = world(tmp_path, url, out_of_domain=None)
        plan, _ = ask(path, tmp_path / "out")
        counted.calls()
        (panel,) = [task for task in plan.tasks if task.kind == "ask"]
        # As after a kill between the answers and the mark: the folder of the task is not even there.
        (tmp_path / "out" / panel.name / DONE).unlink()
        for left in (tmp_path / "out" / panel.name / "panel").iterdir():
            left.unlink()
        _, standing = ask(path, tmp_path / "out")
        assert errors(standing) == []
        assert counted.calls() == {}
    assert facts_of(plan, tmp_path / "out", None, "colours")["asked_anew"] == 0


def test_what_a_version_before_the_one_store_had_asked_is_not_asked_again(tmp_path: Path) -> None:
    with counting("ada", "bruno") as (counted, url):
        path = world(tmp_path, url, out_of_domain=None)
        plan, _ = ask(path, tmp_path / "out")
        counted.calls()
        (panel,) = [task for task in plan.tasks if task.kind == "ask"]
        (tmp_path / "out" / panel.name / DONE).unlink()
        (tmp_path / "out" / CELLS).rename(tmp_path / "out" / panel.name / "panel" / CELLS)
        _, standing = ask(path, tmp_path / "out")
        assert errors(standing) == []
        assert counted.calls() == {}
    assert collect(plan, tmp_path / "out").asked == 2 * ALL_SPLITS


def test_a_teacher_that_is_gone_is_named_with_its_reason(tmp_path: Path) -> None:
    with counting("ada", "bruno") as (_, url):
        path = world(tmp_path, url, out_of_domain=None)
    _, standing = ask(path, tmp_path / "out")
    (outcome,) = standing.failed.values()
    assert "ada" in str(outcome.error)
    assert "cannot be reached" in str(outcome.error) or "refused" in str(outcome.error)


@pytest.mark.slow
def test_a_taught_teacher_is_known_by_its_weights_and_not_by_its_port(tmp_path: Path) -> None:
    shape = {"architecture": "llama", "width": 16, "layers": 1, "heads": 2}
    tiny = {"batch": 4, "lr": 0.001, "bf16": False}
    lessons = {"student": "teacher", "knows": ["animals"], "questions": 30, "steps": 2}
    students = [
        {"name": "teacher", "shape": shape, **tiny},
        {"name": "base", "shape": {"width": 16, "heads": 2}, **tiny},
    ]
    path = write_sweep(
        tmp_path,
        datasets=[{"name": "world", "source": "practice:30?seed=1&subjects=animals"}],
        students=students,
        teachers=[{"name": "north", "taught": lessons, "max_tokens": 16}],
        methods=["all"],
    )
    plan, standing = ask(path, tmp_path / "out")
    assert errors(standing) == []
    (panel,) = [task for task in plan.tasks if task.kind == "ask"]
    assert read_done(tmp_path / "out", panel)["asked_anew"] > 0
    (tmp_path / "out" / panel.name / DONE).unlink()
    _, standing = ask(path, tmp_path / "out")
    assert errors(standing) == []
    assert read_done(tmp_path / "out", panel)["asked_anew"] == 0
    assert read_done(tmp_path / "out", panel)["calls"] > 0
