"""One run of `kp-data generate`, from a source of questions to a panel folder."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from filelock import FileLock, Timeout

from kp_data.config import Generate, Teacher
from kp_data.console import say
from kp_data.errors import ConfigError, DataError
from kp_data.generate.cluster import how_many, joined_cluster
from kp_data.generate.crew import ask_with_workers
from kp_data.generate.engine import ask_all, check_all
from kp_data.generate.estimate import TeacherEstimate, estimate_plan, store_to_read
from kp_data.generate.export import begin_panel, check_out, check_teachers, export_panel
from kp_data.generate.prepare import Job, Route, known_teachers, practice_base_of, prepare
from kp_data.generate.progress import live_view
from kp_data.generate.reading import CONTENT_ERRORS
from kp_data.generate.stopping import Stop
from kp_data.generate.tally import Limits, Tally
from kp_data.generate.worker import task_of
from kp_data.questions import load_questions
from kp_data.schema import ERROR_CLASSES, Response
from kp_data.store import Store
from kp_data.store.jobs import Jobs
from kp_data.teachers.batches import BatchClient, batch_kind, make_batch_client
from kp_data.teachers.transport import Carrier, make_carrier

_LOCK_S: Final = 300.0


@dataclass(frozen=True)
class Summary:
    """How a run ended.

    Attributes:
        out: panel folder.
        questions: number of questions asked about.
        tallies: one a teacher; failed calls of this run, by class.
        unusable: per teacher, replies that hold no rationale, by class (`refused`, `truncated`, `empty`).
        calls_saved: share of the calls that asking every teacher would take, which a router made needless.
    """

    out: Path
    questions: int
    tallies: tuple[Tally, ...]
    unusable: dict[str, Counter[str]]
    calls_saved: float = 0.0

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
            "calls_saved": round(self.calls_saved, 6),
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
                    "ignored": dict(tally.ignored),
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
    route: Route | None = None,
    identities: Mapping[str, str] = MappingProxyType({}),
) -> Summary:
    """Ask every teacher every question of a source, and write the panel; resumes by itself.

    Several runs may fill one panel at the same time: none asks a cell that another is asking.

    Args:
        source: see `questions.load_questions`.
        out: panel folder, new or one to go on with.
        teachers: whom to ask.
        options: how.
        columns: our column name to the source's own, where they differ.
        retry_failed: classes of paid failures (`refused`, `truncated`, `empty`) to ask again.
        route: chooses the one teacher that each question is asked of; None: all are asked.
        identities: teacher name to what tells its model from all others, for models whose address does not: it stands
            in the keys of cells instead of URL and model name.

    Raises:
        KpError: bad input, an unreachable teacher, a store that cannot be written; one message each.
        KeyboardInterrupt: a person ended the run; what was done is saved.
    """
    _check_classes(retry_failed)
    questions = load_questions(source, columns=columns)
    with ExitStack() as stack:
        teachers = known_teachers(source, teachers)
        base = practice_base_of(teachers, stack)
        job = prepare(source, questions, out, teachers, options, route, base, identities)
        workers = _workers(job, stack, practice=base is not None) if options.engine == "ray" else 0
        run = _Run(job, retry_failed, workers)
        tallies = asyncio.run(run.ask())
        return run.summary(tallies)


def estimate_panel(
    source: str,
    *,
    out: Path,
    teachers: Sequence[Teacher],
    options: Generate,
    columns: Mapping[str, str] | None = None,
    retry_failed: Collection[str] = (),
    route: Route | None = None,
) -> list[TeacherEstimate]:
    """What `generate_panel` with the same arguments would ask, and what that would cost; nothing is asked or written.

    Raises:
        KpError: bad input, as for `generate_panel`.
    """
    _check_classes(retry_failed)
    questions = load_questions(source, columns=columns)
    teachers = known_teachers(source, teachers)
    job = prepare(source, questions, out, teachers, options, route, practice_base="http://localhost")
    store = store_to_read(out, options.store)
    try:
        return estimate_plan(job.plan, store, retry_failed=retry_failed)
    finally:
        if store is not None:
            store.close()


class _Run:
    def __init__(self, job: Job, retry_failed: Collection[str], workers: int = 0) -> None:
        self._job, self._retry_failed, self._workers = job, retry_failed, workers
        self._carriers: dict[str, Carrier] = {}
        self._batches: dict[str, BatchClient] = {}
        self._followed: dict[str, BatchClient] = {}
        self._unusable: dict[str, Counter[str]] = {teacher.name: Counter() for teacher in job.plan.teachers}
        self._settled: Counter[str] = Counter()

    async def ask(self) -> list[Tally]:
        plan = self._job.plan
        try:
            for teacher in plan.teachers:
                endpoint = plan.endpoints[teacher.name]
                if self._job.options.batch and batch_kind(teacher, endpoint) is not None:
                    self._batches[teacher.name] = make_batch_client(teacher, endpoint)
                else:
                    self._carriers[teacher.name] = make_carrier(teacher, endpoint)
            if self._job.options.batch and self._carriers:
                say(
                    f"--batch: {', '.join(self._carriers)} asked call by call; behind a URL, `batch: openai` or "
                    "`batch: anthropic` in kp.yaml says that there is a batch API"
                )
            await check_all({**self._carriers, **self._batches})
            # Nothing is written before every teacher has been found.
            return await self._ask_and_export()
        finally:
            for carrier in self._carriers.values():
                await carrier.close()
            for client in (*self._batches.values(), *self._followed.values()):
                await client.close()

    async def _ask_and_export(self) -> list[Tally]:
        job = self._job
        with _locked(job.out):
            # Once more, now that nobody else writes: another run may have begun the panel meanwhile.
            questions = check_out(job.out, job.table)
            check_teachers(job.out, job.plan)
            begin_panel(job.plan, job.out, questions, job.pool)
        store = Store.of_folder(job.out, job.options.store)
        try:
            self._follow_jobs(store)
            tallies = [Tally(teacher.name, job.plan.count(teacher)) for teacher in job.plan.teachers]
            stop = await self._ask(store, tallies)
            say("writing the panel")
            with _locked(job.out):
                export_panel(job.plan, store, job.out, see=self._see)
            if self._workers:
                self._count_reused(tallies)
        finally:
            store.close()
        if stop.asked.is_set() and any(tally.left for tally in tallies):
            raise KeyboardInterrupt
        return tallies

    async def _ask(self, store: Store, tallies: Sequence[Tally]) -> Stop:
        job, options, stop = self._job, self._job.options, Stop()
        limits = Limits(options.concurrency, options.retries, options.timeout_s)
        budget = self._job.budget
        async with live_view(tallies, stop=stop, budget_left_usd=lambda: budget.left_usd if budget else None):
            how: dict[str, Any] = {
                "budget": budget,
                "stop": stop,
                "batches": self._batches,
                "followed": self._followed,
            }
            if self._workers:
                task, access = task_of(job.plan, job.table, job.out, limits, store_url=options.store)
                task = replace(task, retry_failed=frozenset(self._retry_failed), budget_usd=options.budget)
                await ask_with_workers(self._workers, task, access, store, tallies, **how)
            else:
                how["retry_failed"] = self._retry_failed
                await ask_all(job.plan, self._carriers, store, limits, tallies, **how)
        return stop

    def _count_reused(self, tallies: Sequence[Tally]) -> None:
        """Workers count as known what another has answered: after the export it is known for sure."""
        for tally in tallies:
            tally.reused = max(0, self._settled[tally.teacher] - tally.answered)

    def _follow_jobs(self, store: Store) -> None:
        """Batch jobs that an earlier run left at a provider are fetched, also when this one hands in none."""
        waiting = {job.endpoint for job in Jobs(store).open_jobs()}
        for teacher in self._job.plan.teachers:
            endpoint = self._job.plan.endpoints[teacher.name]
            has_api = teacher.name in self._carriers and batch_kind(teacher, endpoint) is not None
            if has_api and endpoint.identity in waiting:
                self._followed[teacher.name] = make_batch_client(teacher, endpoint)

    def _see(self, response: Response) -> None:
        self._settled[response.teacher] += response.error is None or response.error in CONTENT_ERRORS
        if response.error in CONTENT_ERRORS:
            self._unusable[response.teacher][response.error] += 1

    def summary(self, tallies: Sequence[Tally]) -> Summary:
        plan = self._job.plan
        saved = 0.0 if plan.routed is None else 1 - 1 / len(plan.teachers)
        return Summary(self._job.out, len(plan.questions), tuple(tallies), self._unusable, saved)


def _workers(job: Job, stack: ExitStack, *, practice: bool) -> int:
    """How many workers a Ray cluster is to have for a run; this process is part of the cluster as long as the stack is.

    Raises:
        ConfigError: there is no such cluster, or its nodes do not reach what they need.
    """
    cluster = stack.enter_context(joined_cluster(job.options.workers))
    cluster.check_reach(store_url=job.options.store, practice=practice)
    ceiling = min(teacher.concurrency or job.options.concurrency for teacher in job.plan.teachers)
    return how_many(cluster.nodes, job.options.workers, at_most=min(ceiling, len(job.plan.questions)))


def _check_classes(retry_failed: Collection[str]) -> None:
    if unknown := [name for name in retry_failed if name not in ERROR_CLASSES]:
        raise ConfigError(f"--retry-failed {unknown[0]}: no such class; there are {', '.join(ERROR_CLASSES)}")


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Only one run at a time writes the tables of a panel folder; cells have their own leases.

    Raises:
        DataError: the folder cannot be written, or another run has held it for minutes.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / ".lock")
        lock.acquire(timeout=_LOCK_S)
    except Timeout as error:
        raise DataError(
            "another run has been writing this panel for minutes; run again when it is done", place=out
        ) from error
    except OSError as error:
        raise DataError(f"cannot be written ({error.strerror}); choose another --out", place=out) from error
    try:
        yield
    finally:
        lock.release()
