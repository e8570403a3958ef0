"""What a sweep starts from, looked at before a teacher is trained or asked: a mistake in it must not cost a call.

Only what is still to be done is looked at; what was read before is not read again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from kp_data.console import say
from kp_data.errors import ConfigError, KpError
from kp_data.schema import Question
from kp_train.experiments.config import Data, StudentSpec, Sweep
from kp_train.experiments.panels import check_panel, is_at_hand, load_data, refuse_leaks
from kp_train.experiments.plan import Plan
from kp_train.experiments.work import is_done

_CHECKPOINTS: Final = ("encoder", "student")
"""Options of methods that name a checkpoint."""
CONFIG: Final = "config.json"
_PATH_HEADS: Final = ("/", "./", "../", "~")


def check_inputs(plan: Plan, root: Path, *, home: Path, only_local: bool = False) -> None:
    """Look at every dataset, teacher and checkpoint of what is left of a plan.

    Args:
        plan: of the sweep.
        root: its folder, which need not exist.
        home: where relative paths of the file start.
        only_local: pass over what is not on this machine: names of a hub, and data whose size the file foretells.

    Raises:
        ConfigError: a checkpoint, a teacher or a subject is not there.
        DataError: a dataset is missing or broken, lacks a column, a split or a teacher, or leaks into another.
    """
    left = [task for task in plan.tasks if not is_done(root, task)]
    _check_teachers(plan.sweep, only_local=only_local)
    _check_students(plan.sweep, {task.cell.student for task in left if task.cell is not None}, only_local)
    _check_purifiers(plan.sweep, only_local or all(task.kind != "purify" for task in left))
    wanted = {str(task.facts["dataset"]) for task in left if task.kind == "ask"}
    if any(task.kind == "join" for task in left):
        wanted |= {data.name for data in plan.sweep.datasets}
    questions = {data.name: found for data in plan.sweep.all_data if (found := _look(data, wanted, home, only_local))}
    refuse_leaks([one for data in plan.sweep.datasets for one in _led(data.name, questions.get(data.name, []))])
    for data in plan.sweep.datasets:
        if data.panel is not None and data.name in questions:
            check_panel(plan.sweep, home / data.panel)


def _look(data: Data, wanted: set[str], home: Path, only_local: bool) -> list[Question] | None:
    """The questions of a dataset in its splits; None where it is not to be looked at."""
    if data.name not in wanted or (only_local and not is_at_hand(data, home)):
        return None
    try:
        return load_data(data, home)
    except KpError as error:
        raise type(error)(f"dataset {data.name}: {str(error).removeprefix(f'{data.name}: ')}") from error


def _led(name: str, questions: Sequence[Question]) -> Iterator[Question]:
    """Questions as a joined panel has them."""
    return (replace(question, id=f"{name}/{question.id}") for question in questions)


def _check_teachers(sweep: Sweep, *, only_local: bool) -> None:
    from kp_data.generate.prepare import known_teachers
    from kp_data.practice.world import choose_subjects
    from kp_data.teachers.transport import resolve_endpoint

    for teacher in sweep.teachers:
        if teacher.taught:
            choose_subjects(teacher.taught.knows, place=f"teacher {teacher.name}: knows")
    if any(data.source for data in sweep.all_data):
        asked = [teacher for teacher in sweep.teachers if teacher.taught is None]
        for one in known_teachers("", asked) if asked else ():
            if not only_local:  # its key may be on another machine
                resolve_endpoint(one, "auto", practice_base="http://localhost")


def _check_students(sweep: Sweep, students: set[str], only_local: bool) -> None:
    taught = {teacher.taught.student for teacher in sweep.teachers if teacher.taught}
    for spec in sweep.students:
        if spec.model is not None and spec.name in students | taught:
            _check_student(spec, only_local)


def _check_purifiers(sweep: Sweep, only_local: bool) -> None:
    _check_checkpoint(sweep.embedder, "embedder", only_local)
    for method in sweep.methods:
        for option in _CHECKPOINTS:
            if (name := method.options.get(option)) is not None:
                _check_checkpoint(str(name), f"method {method.name}: {option}", only_local)


def _check_student(spec: StudentSpec, only_local: bool) -> None:
    from kp_train.students import check_student_name

    place, name = f"student {spec.name}", str(spec.model)
    _check_checkpoint(name, place, only_local)
    try:
        check_student_name(name)
    except ConfigError as error:
        raise ConfigError(str(error).removeprefix("--student: "), place=place) from error


def _check_checkpoint(name: str, place: str, only_local: bool) -> None:
    """Refuse a path that leads nowhere, and a name that a hub does not have; names made here have no slash."""
    if Path(name).exists():
        return
    if name.startswith(_PATH_HEADS):
        raise ConfigError(f"no folder {name}; correct the path (from where the command runs)", place=place)
    if "/" in name and not only_local:
        _check_on_hub(name, place)


def _check_on_hub(name: str, place: str) -> None:
    """Find the smallest file of a checkpoint in the cache, or fetch it."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(name, CONFIG), str):
        return
    say(f"looking for {name} on the hub")
    # Its retries are told in a line each; what became of them is told below.
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        hf_hub_download(name, CONFIG)
    # The library raises a dozen types for "not there", "not allowed" and "no network".
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise ConfigError(
            f"{name} is no folder here and cannot be had from the hub ({reason}); correct the name, or give a folder",
            place=place,
        ) from error
    finally:
        logger.setLevel(level)
