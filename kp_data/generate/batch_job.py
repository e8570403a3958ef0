"""One batch job: handed in, looked for where that is in doubt, followed until it ends, its rows stored one by one."""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

from kp_data.config import Teacher
from kp_data.console import say
from kp_data.errors import StoreError
from kp_data.generate.clerk import Clerk, count
from kp_data.generate.tally import Tally
from kp_data.store import Claims, Outcome, StoredCell, to_nano
from kp_data.store.jobs import LOST, UNSENT, Job, JobCell, Jobs
from kp_data.teachers.batches import BatchClient, JobUnknown, Look, Row, SubmissionUnclear, Trace, Wanted
from kp_data.teachers.transport import PRACTICE_PREFIX, CallFailed, Reply

_GROWTH: Final = 1.5
_NUMBER: Final = re.compile(r"[0-9]{1,9}")
_RESULTS_KEPT_S: Final = 30 * 24 * 3600.0
"""Longer than providers keep results: what is not there after so long can be waited for in vain only."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BatchSettings:
    """How batch jobs are made and followed.

    Attributes:
        requests: in one job at most; the provider's own limit holds as well.
        rounds: jobs that a cell may be in, one after another, before it is left to the next run.
        first_look_s: until a job is looked at for the first time, in seconds; later looks come ever more rarely.
        longest_look_s: between two looks at most.
        settle_s: how long after a submission without an answer a provider that shows no such job is believed.
        patience_s: without any answer of the provider, after which its teacher is given up for this run.
        retries: of a submission, after the first.
        group: rows stored in one transaction.
        forget_lost: open the cells again of jobs that the provider does not know, which may pay for them twice.
    """

    requests: int = 50_000
    rounds: int = 3
    first_look_s: float = 5.0
    longest_look_s: float = 60.0
    settle_s: float = 60.0
    patience_s: float = 600.0
    retries: int = 6
    group: int = 256
    forget_lost: bool = False


@dataclass
class Office:
    """What the jobs of one teacher share in a run.

    Attributes:
        teacher: whose cells they are.
        endpoint: `Endpoint.identity` of it.
        refused: keys of cells that the provider refused for good, not to be asked again in this run.
        failed: keys of cells that failed in this run, to the class that was counted.
        reopened: cells that came back from ended jobs without an outcome to keep.
        progressed: whether another round has any sense: some job brought an answer, or was not of this run.
        message: why the last job failed as a whole.
        ending: set when nothing more is to be done in this run.
    """

    teacher: Teacher
    endpoint: str
    client: BatchClient
    clerk: Clerk
    claims: Claims
    jobs: Jobs
    tally: Tally
    settings: BatchSettings
    refused: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    reopened: int = 0
    progressed: bool = False
    message: str | None = None
    ending: asyncio.Event = field(default_factory=asyncio.Event)

    async def pause(self, seconds: float) -> bool:
        """Wait; True when the run is ending, at once."""
        try:
            await asyncio.wait_for(self.ending.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def halt(self, why: str) -> None:
        """Do nothing more for this teacher in this run; its jobs stay where they are."""
        self.tally.stopped = self.tally.stopped or why
        self.ending.set()

    async def do(self, work: Callable[[], T]) -> T:
        """Something that reads or writes the store, on its thread."""
        return await self.clerk.do(work)

    def count(self, cell: StoredCell, *, is_new: bool) -> None:
        """Add an outcome to what is shown; of a job of an earlier run only what it cost, its cell is counted later."""
        tally = self.tally
        if (before := self.failed.pop(cell.key, None)) is not None:
            tally.failed -= Counter([before])
        if is_new:
            count(cell, tally)
        elif cell.error is None:
            tally.prompt_tokens += cell.prompt_tokens or 0
            tally.completion_tokens += cell.completion_tokens or 0
            tally.cost_usd += cell.cost_usd or 0.0
            tally.cost_unknown += cell.cost_usd is None
        if cell.error is not None and is_new:
            self.failed[cell.key] = cell.error


class JobRun:
    """One job, from wherever it stands to its end.

    Args:
        office: of its teacher.
        job: an open one.
        is_new: whether this run made it.
    """

    def __init__(self, office: Office, job: Job, *, is_new: bool) -> None:
        self._office, self._job, self._is_new = office, job, is_new
        self._answered, self._refused = bytearray(job.requests), bytearray(job.requests)
        self._heard_at = time.monotonic()
        self._waits = self._growing()

    async def submit(self, requests: Path) -> bool:
        """Hand the job in; False where it was not taken, or where the run is ending before that is known.

        Raises:
            StoreError: the store cannot be written, or the job is another process's by now.
        """
        office, job = self._office, self._job
        for tries in itertools.count():
            if not await office.do(lambda: office.jobs.sending(job.id, office.claims.owner)):
                raise StoreError("another process took over a batch job of this run; run again to go on")
            try:
                return await self._adopt(await office.client.submit(job.id, requests))
            except SubmissionUnclear:
                found = await self._trace()
                if found is not None:
                    return await self._adopt(found)
                if office.ending.is_set():
                    return False
                if tries >= office.settings.retries:
                    return await self._give_up("bad_response: batch jobs do not reach the provider")
            except CallFailed as failure:
                if not failure.retryable or tries >= office.settings.retries:
                    return await self._give_up(f"{failure.error}: {failure}")
                if await self._wait_after(failure):
                    await self._close(UNSENT)
                    return False
        return False

    async def follow(self) -> None:
        """Wait until the job has ended, here or in another process, and keep what it brought; or until the run ends.

        Raises:
            StoreError: the store cannot be read or written.
        """
        office = self._office
        office.tally.at_provider += self._job.requests
        try:
            while not office.ending.is_set() and await self._is_open():
                if not await office.do(lambda: office.jobs.take(self._job.id, office.claims.owner)):
                    await office.pause(next(self._waits))
                elif self._job.provider_id is None:
                    await self._recover()
                else:
                    await self._step(self._job.provider_id)
        finally:
            office.tally.at_provider -= self._job.requests

    async def _is_open(self) -> bool:
        job = await self._office.do(lambda: self._office.jobs.get(self._job.id))
        self._job = job or self._job
        return job is not None and job.is_open

    async def _recover(self) -> None:
        """A job that may have been handed in by a process that did not live to see it."""
        if (found := await self._trace()) is not None:
            await self._adopt(found)
        elif not self._office.ending.is_set():
            self._office.progressed = True
            await self._close(UNSENT)

    async def _step(self, provider_id: str) -> None:
        """One look at a job, and all of its rows when it has ended."""
        office = self._office
        try:
            look = await office.client.look(provider_id)
            self._heard_at = time.monotonic()
            if look.end is None:
                await self._note(f"{look.done:,} of {look.total:,} requests done")
                await office.pause(next(self._waits))
            elif await self._collect(look):
                await self._end(look)
        except JobUnknown:
            await self._lose(provider_id)
        except CallFailed as failure:
            await self._wait_after(failure)

    async def _note(self, message: str) -> None:
        if message != self._job.message:
            await self._office.do(lambda: self._office.jobs.note(self._job.id, message))

    async def _trace(self) -> str | None:
        """The provider's id of the job; None when it surely has none, or when the run is ending."""
        office, job = self._office, self._job
        # From now, not from when it was sent: that may have taken long, and no clock but this one is to be trusted.
        began = time.monotonic()
        while not office.ending.is_set():
            known = await office.do(office.jobs.provider_ids)
            wanted = Wanted(job.id, job.requests, job.created_at.timestamp(), known)
            settled = time.monotonic() - began >= office.settings.settle_s
            try:
                found = await office.client.find(wanted)
                self._heard_at = time.monotonic()
                if isinstance(found, str):
                    return found
                if found is Trace.ABSENT and settled:
                    return None
                await office.pause(min(next(self._waits), office.settings.settle_s or 1.0))
            except CallFailed as failure:
                await self._wait_after(failure)
        return None

    async def _give_up(self, why: str) -> bool:
        await self._close(UNSENT, why)
        self._office.halt(why)
        return False

    async def _adopt(self, provider_id: str) -> bool:
        await self._office.do(lambda: self._office.jobs.submitted(self._job.id, provider_id))
        return True

    async def _collect(self, look: Look) -> bool:
        """Store the rows, as they come; False where the run ends in the middle, and the next one does it again."""
        async with aclosing(_groups(self._office.client.rows(look), self._office.settings.group)) as groups:
            async for rows in groups:
                if self._office.ending.is_set():
                    return False
                await self._store(rows)
                self._heard_at = time.monotonic()
        return True

    async def _store(self, rows: Sequence[Row]) -> None:
        office, job = self._office, self._job
        outcomes = self._numbered(rows)
        cells = await office.do(lambda: office.jobs.cells(job.id, outcomes.keys()))
        stored = {n: _outcome(cells[n], outcome) for n, outcome in outcomes.items() if n in cells}
        failures = [one.cell.key for one in stored.values() if one.cell.error is not None]
        states = await office.do(lambda: office.clerk.store.states(failures)) if failures else {}
        # A reply is never written over by a failure, wherever it came from.
        kept = {
            n: one for n, one in stored.items() if one.cell.error is None or states.get(one.cell.key, "") is not None
        }
        await office.do(lambda: office.jobs.store_outcomes(job.id, list(kept.values())))
        for n, one in kept.items():
            self._answered[n] = one.cell.error is None
            self._refused[n] = not self._answered[n] and not _is_retryable(outcomes[n])
            if self._refused[n]:
                office.refused.add(one.cell.key)
            office.count(one.cell, is_new=self._is_new)

    def _numbered(self, rows: Sequence[Row]) -> Mapping[int, Reply | CallFailed]:
        """What is new in some rows, by the number of the request; rows of strangers are passed over."""
        found: dict[int, Reply | CallFailed] = {}
        for row in rows:
            job, _, digits = row.custom_id.partition("-")
            n = int(digits) if _NUMBER.fullmatch(digits) else self._job.requests
            if job != self._job.id or n >= self._job.requests or row.outcome is None or self._answered[n]:
                continue
            if isinstance(row.outcome, CallFailed) and row.outcome.fatal:
                self._office.message = f"{row.outcome.error}: {row.outcome}"
            elif isinstance(row.outcome, Reply) or (n not in found and not self._refused[n]):
                found[n] = row.outcome
        return found

    async def _end(self, look: Look) -> None:
        office, answered = self._office, sum(self._answered)
        # The cells of an earlier run's job have not been asked in this one yet, whatever became of it.
        office.progressed = office.progressed or answered > 0 or not self._is_new
        office.message = look.message or office.message
        await self._close(look.end or "completed", look.message)
        rest = self._job.requests - answered
        if look.end != "completed" or rest:
            why = f" ({look.message})" if look.message else ""
            say(f"{office.teacher.name}: batch job {look.end}{why}: {answered} of {self._job.requests} cells answered")

    async def _lose(self, provider_id: str) -> None:
        """The provider does not know the job. Only where that is the end of it are its cells open again."""
        office, job = self._office, self._job
        # The practice server of an earlier run has gone, and its jobs with it.
        was_practice = office.teacher.model.startswith(PRACTICE_PREFIX) and office.teacher.api_base is None
        is_old = time.time() - job.created_at.timestamp() > _RESULTS_KEPT_S
        if not (was_practice or is_old or office.settings.forget_lost):
            office.halt(
                f"the provider knows no batch job {provider_id} for this key, and it may have been paid for; use the "
                f"key it was handed in with (after 30 days its {job.requests} cells are asked anew)"
            )
            return
        office.progressed = True
        await self._close(LOST, "the provider does not know it")

    async def _close(self, state: str, message: str | None = None) -> None:
        await self._office.do(lambda: self._office.jobs.finish(self._job.id, state, message))
        self._office.reopened += self._job.requests - sum(self._answered) - sum(self._refused)

    async def _wait_after(self, failure: CallFailed) -> bool:
        """Wait before the next call; gives the teacher up where every call would fail, or none has come through for
        long. True when the run is ending."""
        office = self._office
        silent_s = time.monotonic() - self._heard_at
        if failure.fatal or not failure.retryable:
            office.halt(f"{failure.error}: {failure}")
        elif silent_s > office.settings.patience_s:
            office.halt(f"no answer about its batch jobs for {office.settings.patience_s / 60:.0f} minutes: {failure}")
        wait_s = min(max(next(self._waits), failure.retry_after_s or 0.0), office.settings.patience_s)
        return await office.pause(wait_s)

    def _growing(self) -> itertools.accumulate[float]:
        settings = self._office.settings
        return itertools.accumulate(
            itertools.repeat(settings.first_look_s), lambda wait_s, _: min(wait_s * _GROWTH, settings.longest_look_s)
        )


async def _groups(rows: AsyncGenerator[Row, None], size: int) -> AsyncGenerator[list[Row], None]:
    group: list[Row] = []
    async with aclosing(rows):
        async for row in rows:
            group.append(row)
            if len(group) >= size:
                yield group
                group = []
    if group:
        yield group


def _is_retryable(outcome: Reply | CallFailed) -> bool:
    return isinstance(outcome, CallFailed) and outcome.retryable


def _outcome(cell: JobCell, outcome: Reply | CallFailed) -> Outcome:
    now = datetime.now(UTC)
    if isinstance(outcome, CallFailed):
        failed = StoredCell(cell.key, cell.request, 1, now, error=outcome.error, message=str(outcome))
        return Outcome(failed, None if outcome.may_be_billed else 0)
    stored = StoredCell(
        key=cell.key,
        request=cell.request,
        attempts=1,
        created_at=now,
        reply=outcome.text,
        reasoning=outcome.reasoning,
        model=outcome.model,
        finish_reason=outcome.finish_reason,
        prompt_tokens=outcome.prompt_tokens,
        completion_tokens=outcome.completion_tokens,
        cost_usd=outcome.cost_usd,
        logprob=outcome.logprob,
    )
    return Outcome(stored, None if outcome.cost_usd is None else to_nano(outcome.cost_usd))
