"""The engine: one lane a teacher, bounded calls in flight, retries that hold no slot, one writer committing in groups.

A call counts as done when its transaction is on disk; SIGKILL loses only calls in flight. A slow or failing teacher
never holds up another.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from kp_data.config import Teacher
from kp_data.errors import TeacherError
from kp_data.generate.plan import Cell, Plan
from kp_data.generate.reading import CONTENT_ERRORS, read_cell
from kp_data.store import Store, StoredCell
from kp_data.teachers.transport import Call, CallFailed, Carrier, Reply

_LOOKAHEAD: Final = 256
_GROUP: Final = 256
_FIRST_BACKOFF_S: Final = 0.5
_LONGEST_BACKOFF_S: Final = 60.0


@dataclass
class Tally:
    """Where one teacher stands; what the live view and the summary show."""

    teacher: str
    total: int
    reused: int = 0
    answered: int = 0
    in_flight: int = 0
    retrying: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    cost_unknown: int = 0
    stopped: str | None = None
    """Why this teacher is asked no further, None while it is."""

    @property
    def done(self) -> int:
        """Cells with a durable outcome."""
        return self.reused + self.answered + self.failed.total()

    @property
    def left(self) -> int:
        """Cells without an outcome."""
        return self.total - self.done


@dataclass(frozen=True, slots=True)
class Limits:
    """How hard teachers are asked: calls in flight a teacher, tries after the first, seconds a call."""

    concurrency: int
    retries: int
    timeout_s: float


@dataclass(order=True, slots=True)
class _Attempt:
    ready_at: float
    order: int
    cell: Cell = field(compare=False)
    tries: int = field(compare=False, default=0)


class _Lane:
    """The calls of one teacher."""

    def __init__(self, teacher: Teacher, carrier: Carrier, cells: Iterator[Cell], tally: Tally, limits: Limits) -> None:
        self.teacher, self.carrier, self.tally, self.limits = teacher, carrier, tally, limits
        self._cells = cells
        self._order = itertools.count()
        self._waiting: list[_Attempt] = []
        self._resume_at = 0.0
        self._gap_s = 60.0 / teacher.rpm if teacher.rpm else 0.0
        self._changed = asyncio.Event()
        self._random = random.Random(teacher.name)

    async def next(self) -> _Attempt | None:
        """The next attempt whose time has come; None when nothing is left or the lane is stopped."""
        while self.tally.stopped is None:
            now = time.monotonic()
            if now < self._resume_at:
                await self._wait(self._resume_at - now)
                continue
            attempt = self._take(now)
            if attempt is not None:
                self._resume_at = max(self._resume_at, now + self._gap_s) if self._gap_s else self._resume_at
                self.tally.in_flight += 1
                return attempt
            if self._waiting:
                await self._wait(self._waiting[0].ready_at - now)
            elif self.tally.in_flight:
                await self._wait(None)
            else:
                return None
        return None

    def finish(self) -> None:
        """A call has ended, whatever its outcome."""
        self.tally.in_flight -= 1
        self.wake()

    def wake(self) -> None:
        """Let waiting workers look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    def retry_later(self, attempt: _Attempt, failure: CallFailed) -> None:
        """Put an attempt back; a server that names a time is not asked anything before it."""
        backoff = min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2**attempt.tries) * (0.5 + self._random.random())
        wait_s = max(backoff, failure.retry_after_s or 0.0)
        now = time.monotonic()
        if failure.retry_after_s is not None:
            self._resume_at = max(self._resume_at, now + failure.retry_after_s)
        again = _Attempt(now + wait_s, next(self._order), attempt.cell, attempt.tries + 1)
        heapq.heappush(self._waiting, again)
        self.tally.retrying = len(self._waiting)

    def _take(self, now: float) -> _Attempt | None:
        if self._waiting and self._waiting[0].ready_at <= now:
            attempt = heapq.heappop(self._waiting)
            self.tally.retrying = len(self._waiting)
            return attempt
        cell = next(self._cells, None)
        return None if cell is None else _Attempt(now, next(self._order), cell)

    async def _wait(self, timeout_s: float | None) -> None:
        changed = self._changed
        try:
            await asyncio.wait_for(changed.wait(), timeout_s)
        except TimeoutError:
            return


async def ask_all(
    plan: Plan,
    carriers: dict[str, Carrier],
    store: Store,
    limits: Limits,
    tallies: Sequence[Tally],
    *,
    retry_failed: Collection[str] = (),
) -> None:
    """Ask every cell of a plan that the store does not hold yet.

    Args:
        plan: the cells.
        carriers: by teacher name, checked to be reachable.
        store: where outcomes go.
        limits: see there.
        tallies: one a teacher, in the plan's order; kept up to date while the run goes on.
        retry_failed: classes of paid failures to ask again; failed calls without a reply are always asked again.

    Raises:
        StoreError: an outcome could not be written; what was written stays.
    """
    outcomes: asyncio.Queue[tuple[StoredCell, Tally] | None] = asyncio.Queue(maxsize=4 * _GROUP)
    writer = asyncio.create_task(_write(outcomes, store))
    workers = []
    for teacher, tally in zip(plan.teachers, tallies, strict=True):
        cells = _missing(plan, teacher, store, tally, retry_failed)
        lane = _Lane(teacher, carriers[teacher.name], cells, tally, limits)
        width = min(teacher.concurrency or limits.concurrency, max(1, tally.total))
        workers += [asyncio.create_task(_work(lane, outcomes)) for _ in range(width)]
    try:
        await _all_or_first_error([writer], workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        if not writer.done():
            await outcomes.put(None)
        await writer


async def check_all(carriers: dict[str, Carrier]) -> None:
    """Whether every teacher can be reached, all at once.

    Raises:
        TeacherError: some cannot; names each of them.
    """
    results = await asyncio.gather(*(carrier.check() for carrier in carriers.values()), return_exceptions=True)
    problems = [result for result in results if isinstance(result, BaseException)]
    for problem in problems:
        if not isinstance(problem, TeacherError):
            raise problem
    if problems:
        raise TeacherError("\n".join(str(problem) for problem in problems))


async def _work(lane: _Lane, outcomes: asyncio.Queue[tuple[StoredCell, Tally] | None]) -> None:
    timeout_s = lane.teacher.timeout_s or lane.limits.timeout_s
    while (attempt := await lane.next()) is not None:
        cell, started = attempt.cell, time.monotonic()
        try:
            reply = await lane.carrier.ask(Call(cell.messages, cell.parameters, timeout_s))
            await outcomes.put((_answered(cell, reply, attempt.tries + 1, time.monotonic() - started), lane.tally))
        except CallFailed as failure:
            if failure.fatal:
                # Every further call would fail alike: stop this teacher, keep the cell open.
                lane.tally.stopped = f"{failure.error}: {failure}"
            elif failure.retryable and attempt.tries < lane.limits.retries:
                lane.retry_later(attempt, failure)
            else:
                await outcomes.put((_failed(cell, failure, attempt.tries + 1), lane.tally))
        finally:
            lane.finish()


async def _write(outcomes: asyncio.Queue[tuple[StoredCell, Tally] | None], store: Store) -> None:
    """Commit outcomes in groups: as many as have come while the last group was being written."""
    more = True
    while more:
        group = [await outcomes.get()]
        while len(group) < _GROUP and not outcomes.empty():
            group.append(outcomes.get_nowait())
        more = None not in group
        kept = [outcome for outcome in group if outcome is not None]
        await asyncio.to_thread(store.put, [cell for cell, _ in kept])
        for cell, tally in kept:
            _count(cell, tally)


async def _all_or_first_error(guards: list[asyncio.Task[None]], workers: list[asyncio.Task[None]]) -> None:
    """Wait for all workers; a guard that ends, or a worker that fails, ends the wait with its error."""
    pending: set[asyncio.Task[None]] = set(workers)
    while pending:
        done, rest = await asyncio.wait({*pending, *guards}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        pending = rest - set(guards)


def _missing(plan: Plan, teacher: Teacher, store: Store, tally: Tally, retry_failed: Collection[str]) -> Iterator[Cell]:
    """The cells still to be asked, looked up in the store a few hundred at a time."""
    cells = plan.cells(teacher)
    asked: set[str] = set()
    while chunk := list(itertools.islice(cells, _LOOKAHEAD)):
        keys = [cell.key for cell in chunk]
        known = store.get(keys) if set(retry_failed) & set(CONTENT_ERRORS) else store.states(keys)
        for cell in chunk:
            held = known.get(cell.key, "")
            if _is_settled(held, cell, retry_failed) or cell.key in asked:
                tally.reused += 1
            else:
                # Two questions in the same words are one cell: asked once.
                asked.add(cell.key)
                yield cell


def _is_settled(held: StoredCell | str | None, cell: Cell, retry_failed: Collection[str]) -> bool:
    """Whether what the store holds of a cell stands: a class of failure is a text, a reply is None or the cell."""
    if isinstance(held, StoredCell):
        response = read_cell(held, cell.question, teacher=cell.teacher, mode=cell.mode, sample=cell.sample)
        return held.error is None and response.error not in retry_failed
    # "" is not there; any other text is a call that brought no reply, and is asked again.
    return held is None or (held in CONTENT_ERRORS and held not in retry_failed)


def _answered(cell: Cell, reply: Reply, attempts: int, latency_s: float) -> StoredCell:
    return StoredCell(
        key=cell.key,
        request=cell.request,
        attempts=attempts,
        created_at=datetime.now(UTC),
        reply=reply.text,
        reasoning=reply.reasoning,
        model=reply.model,
        finish_reason=reply.finish_reason,
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens,
        cost_usd=reply.cost_usd,
        latency_s=latency_s,
        logprob=reply.logprob,
    )


def _failed(cell: Cell, failure: CallFailed, attempts: int) -> StoredCell:
    now = datetime.now(UTC)
    return StoredCell(cell.key, cell.request, attempts, now, error=failure.error, message=str(failure))


def _count(cell: StoredCell, tally: Tally) -> None:
    if cell.error is not None:
        tally.failed[cell.error] += 1
        return
    tally.answered += 1
    tally.prompt_tokens += cell.prompt_tokens or 0
    tally.completion_tokens += cell.completion_tokens or 0
    tally.cost_usd += cell.cost_usd or 0.0
    tally.cost_unknown += cell.cost_usd is None
