"""Panels of a sweep: questions with splits, teachers asked about them, several panels joined as one.

In domain, every teacher is asked. Out of domain, a router that was fitted in domain names the one teacher that each
train question is asked of; validation and test need gold answers alone (the protocol of arXiv:2602.01064,
reconstructed).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import URL

from kp_data.config import Generate, Teacher
from kp_data.errors import DataError, Unfinished
from kp_data.schema import Question
from kp_data.store import Store
from kp_data.store.cells import in_blocks
from kp_data.tables import (
    questions_of,
    read_questions,
    read_responses,
    table_of_questions,
    write_parquet,
)
from kp_train.dataset import Dataset, read_dataset
from kp_train.experiments.config import ALL, Data, Sweep
from kp_train.views import Row

if TYPE_CHECKING:
    from kp_data.generate import Summary

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS: Final = (TRAIN, VALIDATION, TEST)
SHARES: Final = {TRAIN: 0.62, VALIDATION: 0.12, TEST: 0.26}
"""Of questions that come without a split to learn from: the practice world's own shares, its `ood` among the tests."""
QUESTIONS, PANEL = "questions.parquet", "panel"

CELLS: Final = "cells.sqlite"
"""The answers of all teachers to everything that a sweep asks, below its folder: what is paid once is never paid again,
whichever task asks for it."""

_EVERY: Final = 2**31

Route = Callable[[Sequence[Question]], Sequence[str]]


@dataclass(frozen=True)
class Staff:
    """Who is asked in a sweep, and where what they say is kept.

    Attributes:
        root: the sweep's folder.
        teachers: whom to ask; none: nobody is asked.
        identities: teacher name to what its answers are kept under, where that is not its address.
    """

    root: Path
    teachers: tuple[Teacher, ...] = ()
    identities: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Names of the teachers."""
        return [teacher.name for teacher in self.teachers]

    @property
    def store_url(self) -> str:
        """The store of the sweep as a URL."""
        return URL.create("sqlite", database=str(self.root / CELLS)).render_as_string()


def ask_in_domain(sweep: Sweep, data: Data, folder: Path, *, home: Path, staff: Staff) -> dict[str, Any]:
    """A panel of every teacher's answers to the train, validation and test questions of a dataset.

    Returns: what it took, for the record.

    Raises:
        DataError: the source lacks a split, or answers of a teacher.
        Unfinished: some answers are missing; the next run asks for them.
    """
    if data.panel is not None:
        return _take_panel(sweep, home / data.panel, folder, data, home)
    questions = load_data(data, home)
    write_parquet(table_of_questions(questions), folder / QUESTIONS)
    return _ask(sweep, folder, staff, mode=sweep.mode)


def ask_routed(
    sweep: Sweep, data: Data, folder: Path, *, home: Path, staff: Staff, route: Route | None
) -> dict[str, Any]:
    """The train questions of a dataset, each asked of the teacher that a route names; of all teachers without one.

    Args:
        sweep, data: of the file.
        folder: of the task.
        home: where relative paths start.
        staff: whom to ask.
        route: see `kp_data.generate.generate_panel`.

    Returns: what it takes by itself, with `calls_saved`: the share of the calls that asking every teacher would take.
        Answers that another task of the sweep has paid for count like any others.
    """
    questions = load_data(data, home)
    write_parquet(table_of_questions(questions), folder / QUESTIONS)
    if not staff.teachers:
        return {"questions": len(questions), "calls_saved": None, **_no_calls()}
    # Labels for a router are no longer needed, so the answers of teachers who were shown the gold are left out.
    mode = "teacher-forced" if sweep.mode == "both" else sweep.mode
    spent = _ask(sweep, folder, staff, mode=mode, route=route, split=TRAIN)
    train = sum(question.split == TRAIN for question in questions)
    return {**spent, "calls_saved": round(1 - spent["calls"] / (train * len(staff.teachers)), 6)}


def join_panels(folders: Sequence[tuple[str, Path]], out: Path) -> dict[str, Any]:
    """One panel of several; ids are led by the dataset's name, so that they stay apart.

    Raises:
        DataError: a test question of one dataset is a train question of another.
    """
    questions, responses = [], []
    for name, folder in folders:
        mine = read_questions(folder / QUESTIONS)
        questions.append(_led(mine, "id", name))
        responses.append(_led(read_responses(folder / "responses.parquet"), "question_id", name))
    together = pa.concat_tables(questions, promote_options="default")
    refuse_leaks(questions_of(together))
    write_parquet(together, out / QUESTIONS)
    write_parquet(pa.concat_tables(responses, promote_options="default"), out / "responses.parquet")
    return {"questions": together.num_rows}


def own_rows(dataset: Dataset, name: str, *, joined: bool) -> Dataset:
    """The rows of one dataset; all of them where panels were not joined."""
    if not joined:
        return dataset
    lead = f"{name}/"
    return replace(dataset, rows=tuple(row for row in dataset.rows if row.question.id.startswith(lead)))


def routed_rows(folder: Path, *, method: str, teachers: Sequence[str]) -> Dataset:
    """What students out of domain learn: for `all` every rationale, else the one that was asked for."""
    questions = questions_of(read_questions(folder / QUESTIONS))
    rows = {question.id: Row(question) for question in questions}
    if (folder / PANEL).is_dir():
        # A router may have named few of them: whoever was asked, said what it said.
        asked = read_dataset(folder / PANEL, teachers=teachers if method == ALL else None)
        for row in asked.rows:
            own = rows[row.question.id]
            one = next(iter(row.rationales.values()), None)
            rows[row.question.id] = (
                replace(own, rationales=row.rationales) if method == ALL else replace(own, purified=one)
            )
    return Dataset(str(folder), tuple(rows.values()), tuple(teachers) if method == ALL else ())


def in_splits(questions: Sequence[Question], place: str) -> list[Question]:
    """Questions of train, validation and test; where there is no train split, dealt into the three by hashed id.

    What stands in test is neither learned nor selected on: its copies in train and validation are left out, of which
    published splits have some (14 test questions of OpenBookQA are train questions).

    Raises:
        DataError: there is no test split, or no question has a gold answer.
    """
    if any(question.split == TRAIN for question in questions):
        kept = [question for question in questions if question.split in SPLITS]
    else:
        kept = [replace(question, split=_dealt(question.id)) for question in questions]
    tested = {_read(question) for question in kept if question.split == TEST}
    kept = [question for question in kept if question.split == TEST or _read(question) not in tested]
    if missing := [name for name in (TRAIN, TEST) if not any(question.split == name for question in kept)]:
        raise DataError(f"no question in split {missing[0]!r}; a sweep needs train and test", place=place)
    if not any(question.answer for question in kept if question.split == TEST):
        raise DataError("no test question has a gold answer, so no student can be tested", place=place)
    return kept


def _dealt(question_id: str) -> str:
    """A split by hash: the same for the same id, whatever else there is."""
    lot = int.from_bytes(hashlib.sha256(question_id.encode()).digest()[:8], "big") / 2**64
    return TRAIN if lot < SHARES[TRAIN] else VALIDATION if lot < SHARES[TRAIN] + SHARES[VALIDATION] else TEST


def load_data(data: Data, home: Path) -> list[Question]:
    """The questions of a dataset in their splits.

    Raises:
        DataError: it is missing or broken, or lacks a split.
        ConfigError: its source cannot be understood.
    """
    from kp_data.questions import load_questions

    if data.panel is not None:
        table = read_questions(home / data.panel / QUESTIONS)
    else:
        table = load_questions(_source(data, home), columns=data.columns or None)
    return in_splits(questions_of(table if data.limit is None else table.slice(0, data.limit)), data.name)


def is_at_hand(data: Data, home: Path) -> bool:
    """Whether a dataset can be had without a network."""
    if data.panel is not None:
        return (home / data.panel).exists()
    return str(data.source).startswith("practice:") or (home / str(data.source)).exists()


def _source(data: Data, home: Path) -> str:
    assert data.source is not None
    local = home / data.source
    return str(local) if not data.source.startswith("practice:") and local.exists() else data.source


def _ask(
    sweep: Sweep,
    folder: Path,
    staff: Staff,
    *,
    mode: str,
    route: Route | None = None,
    split: str | None = None,
) -> dict[str, Any]:
    from kp_data.generate import generate_panel

    told = {"mode": mode, "examples": sweep.examples, "split": split, "store": staff.store_url}
    out = folder / PANEL
    _take_over(out, staff.store_url)
    summary = generate_panel(
        str(folder / QUESTIONS),
        out=out,
        teachers=staff.teachers,
        options=Generate.model_validate(told),
        route=route,
        identities=staff.identities,
    )
    if summary.left:
        raise Unfinished(_why_left(summary), place=out)
    # By what the panel holds and not by what was asked just now: other tasks may have paid for some of it.
    spent = spent_on(read_responses(out / "responses.parquet"))
    asked = sum(tally.answered for tally in summary.tallies)
    return {"questions": summary.questions, **spent, "asked_anew": asked}


def _take_over(panel: Path, store_url: str) -> None:
    """Answers that lie in the panel's own folder were paid for by a version before there was one store."""
    if not (panel / CELLS).is_file():
        return
    before, store = Store.of_folder(panel), Store(store_url)
    try:
        cells = {cell.key: cell for cell in before.mentioning([""], most=_EVERY)}
        for keys in in_blocks(list(cells)):
            known = store.states(keys)
            store.put(cells[key] for key in keys if key not in known)
    finally:
        before.close()
        store.close()


def _why_left(summary: Summary) -> str:
    """How many answers are missing, and what each teacher that lacks some said last."""
    reasons = []
    for tally in summary.tallies:
        if tally.left or tally.failed:
            last = next(reversed(tally.messages.values()), "") if tally.messages else ""
            reason = tally.stopped or last or ", ".join(tally.failed)
            reasons.append(f"{tally.teacher}: {reason}" if reason else tally.teacher)
    return f"{summary.left} answers of teachers are missing ({'; '.join(reasons)}); run the same sweep again"[:600]


def spent_on(responses: pa.Table, among: pa.Array | None = None) -> dict[str, Any]:
    """Calls, tokens and cost of these responses; tokens and cost None where any is unknown.

    Args:
        responses: as a panel has them.
        among: ids of questions; others are passed over.
    """
    if among is not None:
        responses = responses.filter(pc.is_in(responses["question_id"], among))
    totals: dict[str, Any] = {"calls": responses.num_rows}
    for name in ("prompt_tokens", "completion_tokens", "cost_usd"):
        column = responses[name] if name in responses.column_names else None
        known = column is not None and column.null_count == 0 and len(column) > 0
        totals[name] = pc.sum(column).as_py() if known else None
    return totals


def _no_calls() -> dict[str, Any]:
    return {"calls": 0, "prompt_tokens": 0, "completion_tokens": 0, "cost_usd": 0.0}


def _take_panel(sweep: Sweep, source: Path, folder: Path, data: Data, home: Path) -> dict[str, Any]:
    """A panel that is there already, its questions in the three splits and the file's teachers alone."""
    questions = load_data(data, home)
    responses = check_panel(sweep, source)
    names = pa.array([teacher.name for teacher in sweep.teachers])
    ids = pa.array([question.id for question in questions])
    kept = responses.filter(pc.and_(pc.is_in(responses["teacher"], names), pc.is_in(responses["question_id"], ids)))
    out = folder / PANEL
    write_parquet(table_of_questions(questions), folder / QUESTIONS)
    write_parquet(table_of_questions(questions), out / QUESTIONS)
    write_parquet(kept, out / "responses.parquet")
    return {"questions": len(questions), **spent_on(kept)}


def check_panel(sweep: Sweep, source: Path) -> pa.Table:
    """The responses of a panel folder.

    Raises:
        DataError: there are none, or none of a teacher of the file.
    """
    responses = read_responses(source / "responses.parquet")
    there = pc.unique(responses["teacher"]).to_pylist()
    if missing := [teacher.name for teacher in sweep.teachers if teacher.name not in there]:
        raise DataError(f"no answers of teacher {missing[0]!r}; the panel has {', '.join(there)}", place=source)
    return responses


def _led(table: pa.Table, column: str, name: str) -> pa.Table:
    led = pc.binary_join_element_wise(name, pc.cast(table[column], pa.string()), "/")
    return table.set_column(table.column_names.index(column), table.schema.field(column), led.cast(pa.string()))


def refuse_leaks(questions: Sequence[Question]) -> None:
    """Purifiers are fitted on all train rows at once, so none may be a test question of another dataset.

    Args:
        questions: of all datasets, with ids that are led by their dataset's name.

    Raises:
        DataError: one is; names both.
    """
    train = {_read(question): question.id for question in questions if question.split == TRAIN}
    for question in questions:
        if question.split == TEST and (same := train.get(_read(question))) is not None:
            raise DataError(
                f"test question {question.id} is train question {same}; leave one of the datasets out", place="datasets"
            )


def _read(question: Question) -> str:
    return " ".join((question.question, *sorted(question.choices))).casefold()


__all__ = [
    "CELLS",
    "Staff",
    "ask_in_domain",
    "ask_routed",
    "check_panel",
    "in_splits",
    "is_at_hand",
    "join_panels",
    "load_data",
    "own_rows",
    "refuse_leaks",
    "routed_rows",
    "spent_on",
]
