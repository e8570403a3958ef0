"""What a worker does: one task at a time, its folder whole or not marked as done."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from kp_data.config import Teacher
from kp_data.schema import Question
from kp_data.tables import read_json, write_json
from kp_train.experiments.config import ALL, Sweep
from kp_train.experiments.panels import PANEL, Staff, ask_in_domain, ask_routed, join_panels
from kp_train.experiments.plan import Task

DONE: Final = "done.json"
MODEL: Final = "model"
"""Where a teacher that was trained here lies, below its task."""


def is_done(root: Path, task: Task) -> bool:
    """Whether a task's result is there, of this very key."""
    return (root / task.name / DONE).is_file()


def read_done(root: Path, task: Task) -> dict[str, Any]:
    """What a task said when it was done."""
    return dict(read_json(root / task.name / DONE))


def do_task(sweep: Sweep, task: Task, *, root: Path, home: Path) -> None:
    """Do a task whose needs are done, and mark it; what an earlier try left is gone on with.

    Args:
        sweep: the file.
        task: what to do.
        root: the sweep's folder.
        home: where relative paths of the file start.

    Raises: KpError, and whatever a library raises; the task is then not done.
    """
    folder = root / task.name
    folder.mkdir(parents=True, exist_ok=True)
    wall, processor = time.perf_counter(), time.process_time()
    facts = _DOERS[task.kind](sweep, task, root, home)
    spent = {"wall_s": round(time.perf_counter() - wall, 2), "task_cpu_s": round(time.process_time() - processor, 2)}
    write_json({"key": task.key, "task": task.words, **spent, **facts}, folder / DONE)


def _do_teach(sweep: Sweep, task: Task, root: Path, home: Path) -> dict[str, Any]:
    from kp_train.experiments.taught import teach

    return teach(sweep, str(task.facts["teacher"]), root / task.name)


def _do_ask(sweep: Sweep, task: Task, root: Path, home: Path) -> dict[str, Any]:
    data = next(one for one in sweep.all_data if one.name == task.facts["dataset"])
    folder = root / task.name
    with ExitStack() as stack:
        if "method" not in task.facts:
            staff = Staff(root) if data.panel else _staff(sweep, len(sweep.teachers), task, root, stack)
            return ask_in_domain(sweep, data, folder, home=home, staff=staff)
        staff = _staff(sweep, int(task.facts["count"]), task, root, stack)
        route = _route(task, root, staff.names)
        return ask_routed(sweep, data, folder, home=home, staff=staff, route=route)


def _do_join(sweep: Sweep, task: Task, root: Path, home: Path) -> dict[str, Any]:
    names = [data.name for data in sweep.datasets]
    panels = [root / need / PANEL for need in task.needs]
    return join_panels(list(zip(names, panels, strict=True)), root / task.name / PANEL)


def _do_purify(sweep: Sweep, task: Task, root: Path, home: Path) -> dict[str, Any]:
    from kp_data.panel import Panel
    from kp_data.purify import Partners, purify_panel
    from kp_train.reward import learner_named

    chosen = sweep.method(str(task.facts["method"]))
    names = [teacher.name for teacher in sweep.teachers[: int(task.facts["count"])]]
    panel = Panel.read(root / task.needs[0] / PANEL, teachers=names)
    folder = root / task.name / PANEL
    report = purify_panel(
        panel,
        method=chosen.name,
        out=folder,
        seed=sweep.purify_seed,
        embedder=sweep.embedder,
        options=chosen.options,
        partners=Partners(learner=learner_named),
    )
    told = report.as_dict()
    kept = {name: told["splits"].get("test", {}).get(name) for name in ("purified_accuracy", "oracle_accuracy")}
    return {"seconds_fit": told["seconds_fit"], "extra_parameters": told["extra_parameters"], **kept}


def _do_cell(sweep: Sweep, task: Task, root: Path, home: Path) -> dict[str, Any]:
    from kp_train.experiments.training import train_cell

    return train_cell(sweep, task, root=root, joined=len(sweep.datasets) > 1)


_DOERS: Final[dict[str, Callable[[Sweep, Task, Path, Path], dict[str, Any]]]] = {
    "teach": _do_teach,
    "ask": _do_ask,
    "join": _do_join,
    "purify": _do_purify,
    "cell": _do_cell,
}


def _staff(sweep: Sweep, count: int, task: Task, root: Path, stack: ExitStack) -> Staff:
    """The first teachers of the file; those that were trained here are served as long as the stack is open."""
    chosen = sweep.teachers[:count]
    taught = {
        one.name: root / need / MODEL for one in chosen if one.taught for need in task.needs if _is_of(one.name, need)
    }
    served: dict[str, str] = {}
    identities: dict[str, str] = {}
    if taught:
        from kp_train.serve import identity_of, serving

        served = stack.enter_context(serving(taught))
        # They are served at another port every time; what they answer depends on their weights.
        identities = {name: identity_of(student) for name, student in taught.items()}
    teachers = []
    for one in chosen:
        values = one.model_dump(exclude={"taught"})
        if one.name in taught:
            values |= {"model": one.name, "api_base": served[one.name]}
        teachers.append(Teacher.model_validate(values))
    return Staff(root, tuple(teachers), identities)


def _is_of(teacher: str, need: str) -> bool:
    # A teacher's name may begin with another's and a dash; the key behind the last dash has none.
    return need.rpartition("-")[0] == f"teachers/{teacher}"


def _route(task: Task, root: Path, names: Sequence[str]) -> Callable[[Sequence[Question]], Sequence[str]] | None:
    """How a teacher is chosen for each question from the question alone; None: all are asked."""
    method, router = task.facts["method"], task.facts["router"]
    if method == ALL or not names:
        return None
    if method == "random":
        return lambda questions: [names[_lot(question.id, len(names))] for question in questions]
    from kp_data.purify import load_router

    fitted = load_router(root / str(router) / PANEL)
    return lambda questions: fitted.route(questions)[1]


def _lot(question_id: str, num: int) -> int:
    return int.from_bytes(hashlib.sha256(f"random {question_id}".encode()).digest()[:8], "big") % num


def clear(root: Path, task: Task) -> None:
    """Forget a task, so that it is done anew."""
    shutil.rmtree(root / task.name, ignore_errors=True)
