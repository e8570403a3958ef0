"""Where a panel stands, and why a cell would or would not be asked: read from the folder and the store alone.

The plan of the last run is rebuilt from `questions.parquet` and `run.json`, so nothing is asked and no key is needed;
both work while a run is filling the panel.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from kp_data.config import Teacher
from kp_data.errors import DataError
from kp_data.generate.export import EXAMPLES_FILE
from kp_data.generate.history import Earlier, asked_before, why_new
from kp_data.generate.plan import Cell, Plan
from kp_data.generate.reading import CONTENT_ERRORS, read_cell
from kp_data.store import Store, StoredCell
from kp_data.store.jobs import Jobs, describe_jobs
from kp_data.tables import Questions, read_json, read_questions
from kp_data.teachers.transport import Endpoint

_CHUNK: Final = 256


@dataclass
class TeacherStatus:
    """Where one teacher stands.

    Attributes:
        teacher: name.
        cells: cells of the plan.
        answered: cells with a usable reply.
        failed: class of failure to number of cells; those of `CONTENT_ERRORS` were paid for.
        left: cells that were never tried.
        prompt_tokens, completion_tokens: of all replies, as far as endpoints said.
        cost_usd: of all replies whose price is known.
        cost_unknown: replies whose price is not known.
    """

    teacher: str
    cells: int
    answered: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    left: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    cost_unknown: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {**vars(self), "failed": dict(self.failed)}


def panel_status(folder: Path, *, store_url: str | None = None) -> list[TeacherStatus]:
    """Where every teacher of a panel stands.

    Args:
        folder: panel folder.
        store_url: where its cells are, when not in the folder.

    Raises:
        DataError: the folder is no panel that `kp-data generate` began.
        StoreError: the store cannot be read.
    """
    plan = plan_of_folder(folder)
    store = _open(folder, store_url)
    try:
        return [_status(plan, teacher, store) for teacher in plan.teachers]
    finally:
        store.close()


def open_jobs(folder: Path, *, store_url: str | None = None) -> str:
    """The batch jobs that providers are working on, in one phrase; "" without any.

    Args:
        folder: panel folder.
        store_url: where its cells are, when not in the folder.

    Raises:
        StoreError: the store cannot be read.
    """
    store = _open(folder, store_url)
    try:
        return describe_jobs(Jobs(store).open_jobs())
    finally:
        store.close()


def explain_cell(folder: Path, *, question: str, teacher: str, store_url: str | None = None) -> list[dict[str, Any]]:
    """The cells of one question and teacher: key, what went into it, its history, and whether it would be asked.

    Where the store holds the same question to the same model under other keys, each cell says what has changed since.

    Args:
        folder: panel folder.
        question: id.
        teacher: name.
        store_url: where its cells are, when not in the folder.

    Raises:
        DataError: no such question or teacher in the panel.
        StoreError: the store cannot be read.
    """
    plan = plan_of_folder(folder)
    asked = next((one for one in plan.teachers if one.name == teacher), None)
    if asked is None:
        raise DataError(
            f"no teacher {teacher!r}; the panel asks {', '.join(t.name for t in plan.teachers)}", place=folder
        )
    cells = [cell for cell in plan.cells(asked) if cell.question.id == question]
    if not cells:
        raise DataError(f"no question {question!r} that {teacher} is asked", place=folder)
    store = _open(folder, store_url)
    try:
        held = store.get([cell.key for cell in cells])
        return [_explained(cell, held.get(cell.key), asked_before(cell, store)) for cell in cells]
    finally:
        store.close()


def plan_of_folder(folder: Path) -> Plan:
    """The plan of the last run that filled a panel.

    Raises:
        DataError: the folder is no panel that `kp-data generate` began.
    """
    if not (folder / "run.json").is_file() or not (folder / "questions.parquet").is_file():
        raise DataError("no run.json and questions.parquet; a panel made by `kp-data generate` has them", place=folder)
    run = read_json(folder / "run.json")
    if isinstance(run, dict) and run.get("kind") == "import":
        raise DataError("this panel was imported: no call was made for it, so there is none to tell of", place=folder)
    table = read_questions(folder / "questions.parquet")
    pool = read_questions(folder / EXAMPLES_FILE) if (folder / EXAMPLES_FILE).is_file() else None
    try:
        teachers = tuple(_teacher(entry) for entry in run["teachers"])
        identities = {entry["name"]: str(entry["identity"]) for entry in run["teachers"]}
        names = set(run["asked_questions"]) if run.get("asked_questions") is not None else None
        return Plan(
            questions=Questions(table if names is None else table.filter(pc.is_in(table["id"], value_set=names))),
            teachers=teachers,
            endpoints={name: Endpoint("", "", identity, None) for name, identity in identities.items()},
            modes=tuple(run["modes"]),
            samples=int(run["samples"]),
            examples=int(run["examples"]),
            seed=int(run["seed"]),
            pool=Questions(pool) if pool is not None else (),
            routed=run.get("routed"),
            example_rationales=rationales_of(pool),
        )
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        raise DataError(
            f"not the run of a panel ({type(error).__name__}: {error})", place=folder / "run.json"
        ) from error


def rationales_of(table: pa.Table | None) -> dict[str, str] | None:
    """Question id to the rationale that its source gave it, for in-context examples; None without such a column."""
    if table is None or "rationale" not in table.column_names:
        return None
    pairs = zip(table["id"].to_pylist(), table["rationale"].to_pylist(), strict=True)
    return {name: str(text) for name, text in pairs if text}


def _teacher(entry: dict[str, Any]) -> Teacher:
    return Teacher(**{name: value for name, value in entry.items() if name in Teacher.model_fields})


def _open(folder: Path, url: str | None) -> Store:
    if url is None and not (folder / "cells.sqlite").is_file():
        raise DataError("no cells.sqlite; give --store where the cells are elsewhere", place=folder)
    return Store.of_folder(folder, url)


def _status(plan: Plan, teacher: Teacher, store: Store) -> TeacherStatus:
    status = TeacherStatus(teacher.name, plan.count(teacher))
    cells = plan.cells(teacher)
    while chunk := list(itertools.islice(cells, _CHUNK)):
        held = store.get([cell.key for cell in chunk])
        for cell in chunk:
            _add(status, cell, held.get(cell.key))
    return status


def _add(status: TeacherStatus, cell: Cell, stored: StoredCell | None) -> None:
    if stored is None:
        status.left += 1
        return
    error = _error(cell, stored)
    if error is None:
        status.answered += 1
    else:
        status.failed[error] += 1
    status.prompt_tokens += stored.prompt_tokens or 0
    status.completion_tokens += stored.completion_tokens or 0
    status.cost_usd += stored.cost_usd or 0.0
    status.cost_unknown += stored.error is None and stored.cost_usd is None


def _error(cell: Cell, stored: StoredCell) -> str | None:
    return read_cell(stored, cell.question, teacher=cell.teacher, mode=cell.mode, sample=cell.sample).error


def _explained(cell: Cell, stored: StoredCell | None, earlier: list[Earlier]) -> dict[str, Any]:
    told: dict[str, Any] = {
        "key": cell.key,
        "mode": cell.mode,
        "sample": cell.sample,
        "in_key": {name: value for name, value in json.loads(cell.request).items() if name != "question"},
        "prompt": cell.messages[-1]["content"],
    }
    if stored is None:
        told |= {"state": "never asked in these words", "why": why_new(earlier), "next_run": "asks it"}
        return {**told, "before": [one.as_dict() for one in earlier]}
    error = _error(cell, stored)
    history = asdict(stored)
    told |= {name: history[name] for name in ("attempts", "message", "model", "finish_reason", "cost_usd", "reply")}
    told["at"] = stored.created_at.isoformat()
    # Under what was asked later, this cell was not new.
    if before := [one for one in earlier if one.at <= stored.created_at]:
        told |= {"why": why_new(before), "before": [one.as_dict() for one in before]}
    if stored.error is not None:
        return {**told, "state": f"failed: {stored.error}", "next_run": "asks it again, because no reply came"}
    if error in CONTENT_ERRORS:
        return {**told, "state": f"unusable: {error}", "next_run": f"keeps it; --retry-failed {error} asks again"}
    return {**told, "state": "answered", "next_run": "keeps it"}
