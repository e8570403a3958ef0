"""From the cell store to the panel folder: the questions, every response in a fixed order, and how they came about.

Responses are read, parsed and written a few hundred questions at a time, so a panel may be larger than memory.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kp_data.config import Teacher
from kp_data.errors import DataError
from kp_data.generate.plan import Cell, Plan
from kp_data.generate.reading import read_cell
from kp_data.schema import MODES, QUESTIONS, RESPONSES, SCHEMA_VERSION, Response
from kp_data.store import Store
from kp_data.tables import (
    parquet_writer,
    read_json,
    read_questions,
    read_responses,
    table_of_responses,
    write_json,
    write_parquet,
)
from kp_data.teachers.prompts import PROMPT_VERSION

_QUESTIONS_A_BLOCK: Final = 1024
_CELLS_A_LOOK: Final = 1024
_CELL: Final = ("question_id", "teacher", "mode", "sample")
_OURS: Final = re.compile(
    r"^(questions\.parquet|examples\.parquet|responses\.parquet|run\.json|report\.html|compare\.json|cells\.sqlite.*|"
    r"\.lock|\..*\.tmp)$"
)
EXAMPLES_FILE: Final = "examples.parquet"
_WRITTEN: Final = ("questions.parquet", EXAMPLES_FILE, "responses.parquet", "run.json")


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
    place = pc.index_in(questions["id"], value_set=old["id"])
    known = pc.is_valid(place)
    shared = pc.sum(known).as_py() or 0
    if shared < min(old.num_rows, questions.num_rows):
        raise DataError("holds a panel of other questions; choose another --out", place=out)
    _check_unchanged(old.take(place.filter(known)), questions.filter(known), out)
    new = questions.filter(pc.invert(known))
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
    """Write questions.parquet and run.json first, so that a folder that is being filled is known for what it is.

    Only one run writes at a time, so what a killed one has left half-written is nobody's, and is removed.
    """
    for name in _WRITTEN:
        for left in out.glob(f".{name}.*.tmp"):
            left.unlink(missing_ok=True)
    write_parquet(questions, out / "questions.parquet")
    if pool is not None:
        write_parquet(pool, out / EXAMPLES_FILE)
    write_json(_run(plan, out), out / "run.json")


def export_panel(plan: Plan, store: Store, out: Path, *, see: Callable[[Response], None] = lambda _: None) -> None:
    """Write responses.parquet from what the store holds.

    Responses of teachers, modes or questions that this plan does not ask are kept. Rows stand in the order of the
    questions, then of the teachers as run.json has them, then of modes and samples: the same store gives the same
    table.

    Args:
        plan: the cells; its questions in the order of the panel's.
        store: with their outcomes.
        out: panel folder, begun.
        see: told of every response of this plan.

    Raises:
        DataError: the folder cannot be written.
        StoreError: the store cannot be read.
    """
    path = out / "responses.parquet"
    ids = read_questions(out / "questions.parquet")["id"].combine_chunks()
    earlier = _Earlier(path, ids)
    streams = [_Stream(plan, teacher, store, see) for teacher in plan.teachers]
    teachers = pa.array([entry["name"] for entry in _teachers_before(out)], pa.string())
    with parquet_writer(path, earlier.schema) as write:
        for start in range(0, len(ids), _QUESTIONS_A_BLOCK):
            block = ids.slice(start, _QUESTIONS_A_BLOCK)
            asked = frozenset(block.to_pylist())
            new = table_of_responses([row for stream in streams for row in stream.up_to(asked)])
            kept = _without(earlier.up_to(start + len(block)), new)
            both = pa.concat_tables([kept, new], promote_options="default")
            write(_in_order(both, block, teachers).select(earlier.schema.names).cast(earlier.schema))


class _Stream:
    """The responses of one teacher, in the order of the plan."""

    def __init__(self, plan: Plan, teacher: Teacher, store: Store, see: Callable[[Response], None]) -> None:
        self._cells = plan.cells(teacher)
        self._store, self._see = store, see
        self._ahead: Cell | None = next(self._cells, None)

    def up_to(self, asked: frozenset[str]) -> Iterator[Response]:
        """Those ahead whose questions are among these."""
        while cells := list(itertools.islice(self._among(asked), _CELLS_A_LOOK)):
            held = self._store.get([cell.key for cell in cells])
            for cell in cells:
                if stored := held.get(cell.key):
                    one = read_cell(stored, cell.question, teacher=cell.teacher, mode=cell.mode, sample=cell.sample)
                    self._see(one)
                    yield one

    def _among(self, asked: frozenset[str]) -> Iterator[Cell]:
        while self._ahead is not None and self._ahead.question.id in asked:
            cell, self._ahead = self._ahead, next(self._cells, None)
            yield cell


class _Earlier:
    """The rows of an earlier export, in the order of the questions.

    Attributes:
        schema: of the table: ours, and whatever columns others have added.
    """

    def __init__(self, path: Path, ids: pa.Array) -> None:
        self._rows: Iterator[pa.RecordBatch] = iter(())
        self._ahead = RESPONSES.empty_table()
        self._ids, self.schema = ids, RESPONSES
        if not path.exists():
            return
        file = pq.ParquetFile(path)
        place = np.asarray(pc.index_in(file.read(["question_id"])["question_id"], value_set=ids).fill_null(len(ids)))
        if file.schema_arrow.equals(RESPONSES) and bool((np.diff(place) >= 0).all()):
            self._rows = file.iter_batches(batch_size=_CELLS_A_LOOK)
            return
        # Another tool's table, or another order: then as a whole.
        table = read_responses(path)
        self._ahead, self.schema = table.take(pa.array(np.argsort(place, kind="stable"))), table.schema

    def up_to(self, end: int) -> pa.Table:
        """The rows ahead whose questions stand before this place."""
        while (inside := self._inside(end)) == self._ahead.num_rows and (more := next(self._rows, None)) is not None:
            self._ahead = pa.concat_tables([self._ahead, pa.Table.from_batches([more])])
        rows, self._ahead = self._ahead.slice(0, inside), self._ahead.slice(inside)
        return rows

    def _inside(self, end: int) -> int:
        place = pc.index_in(self._ahead["question_id"], value_set=self._ids.slice(0, end))
        return int(self._ahead.num_rows - place.null_count)


def _without(old: pa.Table, new: pa.Table) -> pa.Table:
    """The old rows whose cell is not among the new ones."""
    fresh = set(zip(*(new[name].to_pylist() for name in _CELL), strict=True))
    cells = zip(*(old[name].to_pylist() for name in _CELL), strict=True)
    return old.filter(pa.array([cell not in fresh for cell in cells], pa.bool_()))


def _in_order(table: pa.Table, ids: pa.Array, teachers: pa.Array) -> pa.Table:
    """Rows by question, teacher, mode and sample."""
    keys = pa.table(
        {
            "question": pc.index_in(table["question_id"], value_set=ids),
            "teacher": pc.index_in(table["teacher"], value_set=teachers),
            "mode": pc.index_in(table["mode"], value_set=pa.array(MODES)),
            "sample": table["sample"],
        }
    )
    return table.take(pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in keys.column_names]))


def _check_unchanged(before: pa.Table, after: pa.Table, out: Path) -> None:
    for name in QUESTIONS.names:
        same = _equal(before[name], after[name])
        if not same.all():
            row = int((~same).argmax())
            raise DataError(
                f"question {after['id'][row]} differs from the one in the panel; choose another --out, or a new id",
                place=out,
            )


def _equal(one: pa.ChunkedArray, other: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    if pa.types.is_list(one.type):
        # No kernel compares lists; missing ones are empty.
        pairs = zip(one.to_pylist(), other.to_pylist(), strict=True)
        return np.array([(a or []) == (b or []) for a, b in pairs], dtype=bool)
    both_null = pc.and_(one.is_null(), other.is_null())
    return np.asarray(pc.or_(pc.fill_null(pc.equal(one, other), False), both_null))


def _run(plan: Plan, out: Path) -> dict[str, Any]:
    """What went into the panel. No time and no secret: the same run writes the same bytes."""
    asked = len(plan.questions) < pq.read_metadata(out / "questions.parquet").num_rows
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "panel",
        "prompt_version": PROMPT_VERSION,
        "questions_sha256": hashlib.sha256((out / "questions.parquet").read_bytes()).hexdigest(),
        # Only where a run asked about some of the questions.
        "asked_questions": [question.id for question in plan.questions] if asked else None,
        "modes": list(plan.modes),
        "samples": plan.samples,
        "examples": plan.examples,
        "seed": plan.seed,
        # Only where a router chose whom to ask.
        "routed": None if plan.routed is None else list(plan.routed),
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
        {
            **teacher.model_dump(exclude_none=True),
            # Its default is a number: only the null says that none is sent.
            "temperature": teacher.temperature,
            "identity": plan.endpoints[teacher.name].identity,
        }
        for teacher in plan.teachers
    ]
