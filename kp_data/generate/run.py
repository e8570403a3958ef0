"""One run of `kp-data generate`, from a source of questions to a panel folder."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from filelock import FileLock, Timeout

from kp_data.config import Generate, Teacher
from kp_data.console import say
from kp_data.errors import ConfigError, DataError, TeacherError
from kp_data.generate.engine import ask_all, check_all
from kp_data.generate.export import begin_panel, check_out, check_teachers, example_pool, export_panel
from kp_data.generate.plan import Plan
from kp_data.generate.progress import live_view
from kp_data.generate.status import rationales_of
from kp_data.generate.tally import Limits, Tally
from kp_data.questions import load_questions, select_questions
from kp_data.schema import ERROR_CLASSES, Mode, Response
from kp_data.store import Store
from kp_data.tables import questions_of
from kp_data.teachers.transport import PRACTICE_PREFIX, Carrier, Endpoint, make_carrier, resolve_endpoint

_MODES: Final[Mapping[str, tuple[Mode, ...]]] = {
    "blind": ("blind",),
    "teacher-forced": ("teacher_forced",),
    "both": ("blind", "teacher_forced"),
}


@dataclass(frozen=True)
class Summary:
    """How a run ended.

    Attributes:
        out: panel folder.
        questions: number of questions asked about.
        tallies: one a teacher; failed calls of this run, by class.
        unusable: per teacher, replies that hold no rationale, by class (`refused`, `truncated`, `empty`).
    """

    out: Path
    questions: int
    tallies: tuple[Tally, ...]
    unusable: dict[str, Counter[str]]

    @property
    def left(self) -> int:
        """Cells that a further run would ask: never answered, or failed without a reply."""
        return sum(tally.left + tally.failed.total() for tally in self.tallies)

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "out": str(self.out),
            "questions": self.questions,
            "left": self.left,
            "teachers": [
                {
                    "teacher": tally.teacher,
                    "cells": tally.total,
                    "reused": tally.reused,
                    "answered": tally.answered,
                    "failed": dict(tally.failed),
                    "unusable": dict(self.unusable[tally.teacher]),
                    "left": tally.left,
                    "prompt_tokens": tally.prompt_tokens,
                    "completion_tokens": tally.completion_tokens,
                    "cost_usd": None if tally.cost_unknown else round(tally.cost_usd, 6),
                    "stopped": tally.stopped,
                }
                for tally in self.tallies
            ],
        }


def generate_panel(
    source: str,
    *,
    out: Path,
    teachers: Sequence[Teacher],
    options: Generate,
    columns: Mapping[str, str] | None = None,
    retry_failed: Collection[str] = (),
) -> Summary:
    """Ask every teacher every question of a source, and write the panel; resumes by itself.

    Args:
        source: see `questions.load_questions`.
        out: panel folder, new or one to go on with.
        teachers: whom to ask.
        options: how.
        columns: our column name to the source's own, where they differ.
        retry_failed: classes of paid failures (`refused`, `truncated`, `empty`) to ask again.

    Raises:
        KpError: bad input, an unreachable teacher, a store that cannot be written; one message each.
    """
    if unknown := [name for name in retry_failed if name not in ERROR_CLASSES]:
        raise ConfigError(f"--retry-failed {unknown[0]}: no such class; there are {', '.join(ERROR_CLASSES)}")
    everything = load_questions(source, columns=columns)
    table = select_questions(everything, split=options.split, limit=options.limit, place=source)
    with ExitStack() as stack:
        teachers = _known(teachers or _practice_teachers(source))
        base = _practice_base(teachers, stack)
        endpoints = {t.name: resolve_endpoint(t, options.transport, practice_base=base) for t in teachers}
        panel_questions = check_out(out, table)
        pool = example_pool(out, everything) if options.examples else None
        plan = _plan(table, pool, teachers, endpoints, options)
        check_teachers(out, plan)
        run = _Run(plan, pool, out, options, retry_failed)
        tallies = asyncio.run(run.ask(panel_questions))
    return run.summary(tallies)


class _Run:
    def __init__(
        self, plan: Plan, pool: pa.Table | None, out: Path, options: Generate, retry_failed: Collection[str]
    ) -> None:
        self._plan, self._pool, self._out = plan, pool, out
        self._options, self._retry_failed = options, retry_failed
        self._responses: list[Response] = []

    async def ask(self, panel_questions: pa.Table) -> list[Tally]:
        plan = self._plan
        carriers: dict[str, Carrier] = {}
        try:
            for teacher in plan.teachers:
                carriers[teacher.name] = make_carrier(teacher, plan.endpoints[teacher.name])
            await check_all(carriers)
            # Nothing is written before every teacher has been found.
            with _locked(self._out):
                return await self._ask_and_export(carriers, panel_questions)
        finally:
            for carrier in carriers.values():
                await carrier.close()

    async def _ask_and_export(self, carriers: dict[str, Carrier], panel_questions: pa.Table) -> list[Tally]:
        options = self._options
        store = Store.of_folder(self._out, options.store)
        try:
            begin_panel(self._plan, self._out, panel_questions, self._pool)
            limits = Limits(options.concurrency, options.retries, options.timeout_s)
            tallies = [Tally(teacher.name, self._plan.count()) for teacher in self._plan.teachers]
            async with live_view(tallies):
                await ask_all(self._plan, carriers, store, limits, tallies, retry_failed=self._retry_failed)
            self._responses = export_panel(self._plan, store, self._out)
            return tallies
        finally:
            store.close()

    def summary(self, tallies: Sequence[Tally]) -> Summary:
        unusable: dict[str, Counter[str]] = {tally.teacher: Counter() for tally in tallies}
        for response in self._responses:
            if response.error in ("refused", "truncated", "empty"):
                unusable[response.teacher][response.error] += 1
        return Summary(self._out, len(self._plan.questions), tuple(tallies), unusable)


def _plan(
    table: pa.Table,
    pool: pa.Table | None,
    teachers: Sequence[Teacher],
    endpoints: dict[str, Endpoint],
    options: Generate,
) -> Plan:
    questions = tuple(questions_of(table))
    modes = _MODES[options.mode]
    unlabelled = sum(question.answer is None for question in questions)
    if "teacher_forced" in modes and 0 < unlabelled < len(questions):
        say(f"{unlabelled} of {len(questions)} questions have no gold answer: those are not asked teacher-forced")
    return Plan(
        questions=questions,
        teachers=tuple(teachers),
        endpoints=endpoints,
        modes=modes,
        samples=options.samples,
        examples=options.examples,
        seed=options.seed,
        pool=tuple(questions_of(pool)) if pool is not None else (),
        example_rationales=rationales_of(pool),
    )


def _practice_teachers(source: str) -> tuple[Teacher, ...]:
    if not source.startswith("practice:"):
        raise ConfigError("no teacher; give --teacher NAME=MODEL (repeatable), or a kp.yaml with --config")
    from kp_data.practice import TEACHERS

    return tuple(Teacher(name=name, model=PRACTICE_PREFIX + name) for name in TEACHERS)


def _known(teachers: Sequence[Teacher]) -> tuple[Teacher, ...]:
    """Teachers, after a look whether the practice ones exist; `practice/all` stands for all of them."""
    if not any(teacher.model.startswith(PRACTICE_PREFIX) for teacher in teachers):
        return tuple(teachers)
    from kp_data.practice import TEACHERS

    known: list[Teacher] = []
    for teacher in teachers:
        name = teacher.model.removeprefix(PRACTICE_PREFIX)
        if teacher.model == PRACTICE_PREFIX + "all":
            known += [Teacher(name=each, model=PRACTICE_PREFIX + each) for each in TEACHERS]
        elif teacher.model.startswith(PRACTICE_PREFIX) and teacher.api_base is None and name not in TEACHERS:
            raise TeacherError(
                f"no practice teacher {name!r}; there are {', '.join(TEACHERS)}", place=f"teacher {teacher.name}"
            )
        else:
            known.append(teacher)
    names = [teacher.name for teacher in known]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"two teachers are called {twice[0]!r}; names must differ")
    return tuple(known)


def _practice_base(teachers: Sequence[Teacher], stack: ExitStack) -> str | None:
    """The URL of a practice server, started here and stopped with the run, where a teacher needs one."""
    if not any(teacher.model.startswith(PRACTICE_PREFIX) and teacher.api_base is None for teacher in teachers):
        return None
    from kp_data.practice import practice_server

    return stack.enter_context(practice_server())


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Only one run at a time fills a panel folder: two would pay for the same cells."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / ".lock")
        lock.acquire(timeout=0)
    except Timeout as error:
        raise DataError("another run is filling this panel; wait for it, or choose another --out", place=out) from error
    except OSError as error:
        raise DataError(f"cannot be written ({error.strerror}); choose another --out", place=out) from error
    try:
        yield
    finally:
        lock.release()
