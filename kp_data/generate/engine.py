"""The engine: a desk an account, a lane a teacher, retries that hold no slot, one writer committing in groups.

A call counts as done when its transaction is on disk; SIGKILL loses only calls in flight. A slow or failing teacher
never holds up another.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import random
import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from kp_data.config import Teacher
from kp_data.errors import TeacherError
from kp_data.generate.account import Account
from kp_data.generate.plan import Cell, Plan
from kp_data.generate.reading import CONTENT_ERRORS, read_cell
from kp_data.generate.tally import Limits, Tally
from kp_data.store import Store, StoredCell
from kp_data.teachers.transport import Call, CallFailed, Carrier, Endpoint, Reply

_LOOKAHEAD: Final = 256
_GROUP: Final = 256
_FIRST_BACKOFF_S: Final = 0.5
_LONGEST_BACKOFF_S: Final = 60.0
_PATIENCE_FACTOR: Final = 4


@dataclass(order=True, slots=True)
class _Attempt:
    ready_at: float
    order: int
    cell: Cell = field(compare=False)
    tries: int = field(compare=False, default=0)
    started: float = field(compare=False, default=0.0)


_Outcomes = asyncio.Queue[tuple[StoredCell, Tally] | None]


class _Lane:
    """The cells of one teacher: those still to come, and those that wait to be tried again."""

    def __init__(self, teacher: Teacher, carrier: Carrier, cells: Iterator[Cell], tally: Tally, limits: Limits) -> None:
        self.teacher, self.carrier, self.tally, self.limits = teacher, carrier, tally, limits
        self._cells = cells
        self._order = itertools.count()
        self._waiting: list[_Attempt] = []
        self._exhausted = False
        self._random = random.Random(teacher.name)

    def take(self, now: float) -> _Attempt | None:
        """The next attempt whose time has come, None where there is none now."""
        if self.tally.stopped is not None:
            return None
        if self._waiting and self._waiting[0].ready_at <= now:
            attempt = heapq.heappop(self._waiting)
            self.tally.retrying = len(self._waiting)
            return attempt
        cell = None if self._exhausted else next(self._cells, None)
        self._exhausted = cell is None
        return None if cell is None else _Attempt(now, next(self._order), cell)

    def is_done(self) -> bool:
        """Whether nothing is left to try; calls in flight may still come back."""
        return self.tally.stopped is not None or (self._exhausted and not self._waiting)

    def ready_in_s(self, now: float) -> float:
        """Seconds until the first waiting attempt may be tried; infinity without one."""
        waiting = self._waiting and self.tally.stopped is None
        return self._waiting[0].ready_at - now if waiting else math.inf

    def may_retry(self, attempt: _Attempt, failure: CallFailed) -> bool:
        """Whether a failed attempt is tried again. Being told to wait is hardly a failure."""
        allowed = self.limits.retries * (_PATIENCE_FACTOR if failure.overloaded else 1)
        return failure.retryable and attempt.tries < allowed

    def retry_later(self, attempt: _Attempt, failure: CallFailed) -> None:
        """Put an attempt back; where the server named a time, not before it."""
        backoff = min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2**attempt.tries) * (0.5 + self._random.random())
        wait_s = max(backoff, failure.retry_after_s or 0.0)
        again = _Attempt(time.monotonic() + wait_s, next(self._order), attempt.cell, attempt.tries + 1)
        heapq.heappush(self._waiting, again)
        self.tally.retrying = len(self._waiting)


class _Desk:
    """One account and the teachers behind it, asked in turn so that none of them waits for another."""

    def __init__(self, account: Account, outcomes: _Outcomes, patience_s: float) -> None:
        self.account = account
        self._outcomes, self._patience_s = outcomes, patience_s
        self._lanes: deque[_Lane] = deque()
        self._calls: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()

    def add(self, lane: _Lane) -> None:
        """One more teacher."""
        self._lanes.append(lane)

    async def run(self) -> None:
        """Ask until nothing is left; calls in flight are cancelled with it."""
        try:
            while True:
                self._changed.clear()
                self._start_calls()
                if not self._calls and all(lane.is_done() for lane in self._lanes):
                    return
                self._give_up_if_dead()
                await self._wait()
        finally:
            for call in self._calls:
                call.cancel()
            await asyncio.gather(*self._calls, return_exceptions=True)

    def _start_calls(self) -> None:
        account = self.account
        while account.has_room() and account.paused_s == 0 and (found := self._next()) is not None:
            lane, attempt = found
            call = asyncio.create_task(self._call(lane, attempt))
            self._calls.add(call)
            call.add_done_callback(self._ended)
            # The task has not run yet, but its place is taken.
            lane.tally.in_flight += 1
            attempt.started = account.start(attempt.cell.expected_tokens)

    def _next(self) -> tuple[_Lane, _Attempt] | None:
        now = time.monotonic()
        for _ in range(len(self._lanes)):
            lane = self._lanes[0]
            self._lanes.rotate(-1)
            if (attempt := lane.take(now)) is not None:
                return lane, attempt
        return None

    async def _wait(self) -> None:
        """Until a call ends, a pause is over, or a retry is due."""
        timeout_s = math.inf
        if self.account.has_room():
            pause_s = self.account.paused_s
            now = time.monotonic()
            timeout_s = pause_s if pause_s else min(lane.ready_in_s(now) for lane in self._lanes)
        try:
            await asyncio.wait_for(self._changed.wait(), None if timeout_s == math.inf else max(timeout_s, 0.001))
        except TimeoutError:
            return

    def _ended(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        self._changed.set()

    def _give_up_if_dead(self) -> None:
        if self.account.silent_s > self._patience_s:
            for lane in self._lanes:
                lane.tally.stopped = lane.tally.stopped or f"no answer for {self._patience_s / 60:.0f} minutes"

    async def _call(self, lane: _Lane, attempt: _Attempt) -> None:
        cell = attempt.cell
        timeout_s = lane.teacher.timeout_s or lane.limits.timeout_s
        try:
            reply = await lane.carrier.ask(Call(cell.messages, cell.parameters, timeout_s))
        except CallFailed as failure:
            self._note(attempt, failure)
            if failure.fatal:
                # Every further call would fail alike: stop this teacher, keep the cell open.
                lane.tally.stopped = f"{failure.error}: {failure}"
            elif lane.may_retry(attempt, failure):
                lane.retry_later(attempt, failure)
            else:
                await self._outcomes.put((_failed(cell, failure, attempt.tries + 1), lane.tally))
        except asyncio.CancelledError:
            self.account.answer_without_use()
            raise
        else:
            self.account.succeed()
            latency_s = self.account.clock() - attempt.started
            await self._outcomes.put((_answered(cell, reply, attempt.tries + 1, latency_s), lane.tally))
        finally:
            lane.tally.in_flight -= 1

    def _note(self, attempt: _Attempt, failure: CallFailed) -> None:
        """What a failure says about the account."""
        if failure.overloaded:
            self.account.refuse(attempt.started, failure.retry_after_s)
        elif failure.retryable:
            self.account.fail()
        else:
            self.account.answer_without_use()


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
    outcomes: _Outcomes = asyncio.Queue(maxsize=4 * _GROUP)
    desks: dict[str, _Desk] = {}
    # Two questions in the same words, or two names of one model, are one cell: asked once.
    asked: set[str] = set()
    for teacher, tally in zip(plan.teachers, tallies, strict=True):
        name = account_of(teacher, plan.endpoints[teacher.name])
        if name not in desks:
            desks[name] = _Desk(_account(plan, name, limits), outcomes, limits.patience_s)
        cells = _missing(plan, teacher, store, tally, retry_failed, asked)
        desks[name].add(_Lane(teacher, carriers[teacher.name], cells, tally, limits))
    writer = asyncio.create_task(_write(outcomes, store))
    workers = [asyncio.create_task(desk.run()) for desk in desks.values()]
    try:
        await _all_or_first_error([writer], workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        if not writer.done():
            await outcomes.put(None)
        await writer


def account_of(teacher: Teacher, endpoint: Endpoint) -> str:
    """What teachers share when they share a rate limit: the endpoint, or the provider, and the key."""
    where = endpoint.api_base or endpoint.model.partition("/")[0]
    return f"{where}|{teacher.api_key_env or ''}"


def _account(plan: Plan, name: str, limits: Limits) -> Account:
    """The account of a name; of limits that its teachers name, the lowest holds."""
    teachers = [teacher for teacher in plan.teachers if account_of(teacher, plan.endpoints[teacher.name]) == name]
    return Account(
        ceiling=min(teacher.concurrency or limits.concurrency for teacher in teachers),
        rpm=min((teacher.rpm for teacher in teachers if teacher.rpm), default=None),
        tpm=min((teacher.tpm for teacher in teachers if teacher.tpm), default=None),
    )


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


async def _write(outcomes: _Outcomes, store: Store) -> None:
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


def _missing(
    plan: Plan, teacher: Teacher, store: Store, tally: Tally, retry_failed: Collection[str], asked: set[str]
) -> Iterator[Cell]:
    """The cells still to be asked, looked up in the store a few hundred at a time."""
    cells = plan.cells(teacher)
    while chunk := list(itertools.islice(cells, _LOOKAHEAD)):
        keys = [cell.key for cell in chunk]
        known = store.get(keys) if set(retry_failed) & set(CONTENT_ERRORS) else store.states(keys)
        for cell in chunk:
            held = known.get(cell.key, "")
            if _is_settled(held, cell, retry_failed) or cell.key in asked:
                tally.reused += 1
            else:
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
        tally.messages[cell.error] = cell.message or ""
        return
    tally.answered += 1
    tally.prompt_tokens += cell.prompt_tokens or 0
    tally.completion_tokens += cell.completion_tokens or 0
    tally.cost_usd += cell.cost_usd or 0.0
    tally.cost_unknown += cell.cost_usd is None
