"""From the cell store to the panel folder: the questions, every response in a fixed order, and how they came about."""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kp_data.errors import DataError
from kp_data.generate.plan import Plan
from kp_data.generate.reading import read_cell
from kp_data.schema import SCHEMA_VERSION, Response
from kp_data.store import Store
from kp_data.tables import (
    questions_of,
    read_json,
    read_questions,
    read_responses,
    table_of_responses,
    write_json,
    write_parquet,
)
from kp_data.teachers.prompts import PROMPT_VERSION

_CHUNK = 256
_OURS = re.compile(
    r"^(questions\.parquet|examples\.parquet|responses\.parquet|run\.json|report\.html|compare\.json|cells\.sqlite.*|"
    r"\.lock|\..*\.tmp)$"
)
EXAMPLES_FILE = "examples.parquet"


def check_out(out: Path, questions: pa.Table) -> pa.Table:
    """The questions that the panel of a folder will hold: those already there, then new ones.

    Args:
        out: panel folder, which may not exist yet.
        questions: of the source.

    Raises:
        DataError: the folder holds something else, a panel of other questions, or a question that changed.
    """
    if out.exists() and not out.is_dir():
        raise DataError("is a file; --out must be a new folder, or a panel to go on with", place=out)
    names = sorted(path.name for path in out.iterdir()) if out.exists() else []
    if foreign := [name for name in names if not _OURS.match(name)]:
        raise DataError(f"holds something else ({foreign[0]}); choose another --out", place=out)
    if "questions.parquet" not in names:
        return questions
    old = read_questions(out / "questions.parquet")
    before = {question.id: question for question in questions_of(old)}
    after = {question.id: question for question in questions_of(questions)}
    if not (before.keys() <= after.keys() or after.keys() <= before.keys()):
        raise DataError("holds a panel of other questions; choose another --out", place=out)
    for name, question in after.items():
        if before.get(name, question) != question:
            raise DataError(
                f"question {name} differs from the one in the panel; choose another --out, or a new id", place=out
            )
    new = questions.filter(pa.array([name not in before for name in after], pa.bool_()))
    return pa.concat_tables([old, new], promote_options="default") if new.num_rows else old


def example_pool(out: Path, source: pa.Table) -> pa.Table:
    """The solved questions that in-context examples come from: the panel's own pool, or a new one from split train.

    An answer of another split must never stand in a prompt; and a pool that grew with the questions would change every
    prompt, so the first run of a panel fixes it.

    Args:
        out: panel folder, which may not exist yet.
        source: every question of the source, whatever split is asked.
    """
    if (out / EXAMPLES_FILE).is_file():
        return read_questions(out / EXAMPLES_FILE)
    solved = pc.and_(pc.equal(source["split"], "train"), pc.is_valid(source["answer"]))
    return source.filter(solved)


def check_teachers(out: Path, plan: Plan) -> None:
    """Refuse to mix the answers of two models under one teacher's name.

    Raises:
        DataError: the panel has a teacher of that name with another model.
    """
    before = {entry["name"]: entry["model"] for entry in _teachers_before(out)}
    for teacher in plan.teachers:
        if before.get(teacher.name, teacher.model) != teacher.model:
            raise DataError(
                f"teacher {teacher.name} was {before[teacher.name]} here and is {teacher.model} now; give it another "
                "name, or choose another --out",
                place=out,
            )


def begin_panel(plan: Plan, out: Path, questions: pa.Table, pool: pa.Table | None) -> None:
    """Write questions.parquet and run.json first, so that a folder that is being filled is known for what it is."""
    write_parquet(questions, out / "questions.parquet")
    if pool is not None:
        write_parquet(pool, out / EXAMPLES_FILE)
    write_json(_run(plan, out), out / "run.json")


def export_panel(plan: Plan, store: Store, out: Path) -> list[Response]:
    """Write responses.parquet from what the store holds; returns the responses of this plan.

    Responses of teachers or modes that this plan does not ask are kept. Rows stand in the order of the questions, then
    of the teachers, modes and samples, so that the same store gives the same table.

    Raises:
        DataError: the folder cannot be written.
        StoreError: the store cannot be read.
    """
    responses = list(_responses(plan, store))
    table = table_of_responses(responses)
    path = out / "responses.parquet"
    if path.exists():
        table = _with_others(table, read_responses(path))
    write_parquet(_in_order(table, read_questions(out / "questions.parquet")["id"].to_pylist()), path)
    return responses


def _responses(plan: Plan, store: Store) -> Iterator[Response]:
    for teacher in plan.teachers:
        cells = plan.cells(teacher)
        while chunk := list(itertools.islice(cells, _CHUNK)):
            held = store.get([cell.key for cell in chunk])
            for cell in chunk:
                if stored := held.get(cell.key):
                    yield read_cell(stored, cell.question, teacher=cell.teacher, mode=cell.mode, sample=cell.sample)


def _with_others(new: pa.Table, old: pa.Table) -> pa.Table:
    """The old rows whose cell is not among the new ones, then the new ones; the old teachers keep their places."""
    names = ("question_id", "teacher", "mode", "sample")
    fresh = set(zip(*(new[name].to_pylist() for name in names), strict=True))
    old_keys = zip(*(old[name].to_pylist() for name in names), strict=True)
    kept = old.filter(pa.array([key not in fresh for key in old_keys], pa.bool_()))
    if not kept.num_rows:
        return new
    places = {teacher: place for place, teacher in enumerate(dict.fromkeys(old["teacher"].to_pylist()))}
    both = pa.concat_tables([kept, new], promote_options="default")
    order = sorted(range(both.num_rows), key=lambda row: places.get(both["teacher"][row].as_py(), len(places)))
    return both.take(pa.array(order))


def _in_order(table: pa.Table, ids: list[str]) -> pa.Table:
    """Rows by question; the sort is stable, so teachers, modes and samples keep the order they came in."""
    place = {name: position for position, name in enumerate(ids)}
    positions = [place[name] for name in table["question_id"].to_pylist()]
    return table.take(pa.array(sorted(range(len(positions)), key=positions.__getitem__), pa.int64()))


def _run(plan: Plan, out: Path) -> dict[str, Any]:
    """What went into the panel. No time and no secret: the same run writes the same bytes."""
    asked = [question.id for question in plan.questions]
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "panel",
        "prompt_version": PROMPT_VERSION,
        "questions_sha256": hashlib.sha256((out / "questions.parquet").read_bytes()).hexdigest(),
        # Only where a run asked about some of the questions.
        "asked_questions": asked if len(asked) < pq.read_metadata(out / "questions.parquet").num_rows else None,
        "modes": list(plan.modes),
        "samples": plan.samples,
        "examples": plan.examples,
        "seed": plan.seed,
        "teachers": [
            # Teachers of earlier runs whose responses are kept.
            *(entry for entry in _teachers_before(out) if entry["name"] not in {one.name for one in plan.teachers}),
            *_teachers_now(plan),
        ],
        "versions": {"knowledge-purification": importlib.metadata.version("knowledge-purification")},
    }


def _teachers_before(out: Path) -> list[dict[str, Any]]:
    if not (out / "run.json").is_file():
        return []
    run = read_json(out / "run.json")
    entries = run.get("teachers") if isinstance(run, dict) else None
    return [entry for entry in entries or [] if isinstance(entry, dict) and {"name", "model"} <= entry.keys()]


def _teachers_now(plan: Plan) -> list[dict[str, Any]]:
    """What each teacher is and how it is asked. Nothing secret: a URL holds no password, a key only its name."""
    return [
        {**teacher.model_dump(exclude_none=True), "identity": plan.endpoints[teacher.name].identity}
        for teacher in plan.teachers
    ]
