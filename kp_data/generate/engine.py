"""The engine: a desk an account, a lane a teacher, retries that hold no slot, one clerk committing in groups.

A call counts as done when its transaction is on disk; SIGKILL loses only calls in flight. A slow or failing teacher
never holds up another. With a budget, money is reserved before a call goes out and settled when it comes back.
"""

from __future__ import annotations

import asyncio
import gc
import math
import sys
import time
from collections import deque
from collections.abc import Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from kp_data.config import Teacher
from kp_data.errors import TeacherError
from kp_data.generate.account import Account
from kp_data.generate.batch import NoBlocks, run_batches
from kp_data.generate.clerk import Clerk, clerk_of
from kp_data.generate.estimate import most_tokens
from kp_data.generate.feed import Feed
from kp_data.generate.lane import Attempt, Lane
from kp_data.generate.plan import Cell, Plan
from kp_data.generate.stopping import Stop, wait_out
from kp_data.generate.tally import Limits, Tally
from kp_data.store import Outcome, Store, StoredCell, to_nano
from kp_data.teachers.batches import BatchClient
from kp_data.teachers.prices import ceiling_of, cost_usd
from kp_data.teachers.transport import Call, CallFailed, Carrier, Endpoint, Reply

_OPEN_FILES: Final = 65_536
_GRACE_S: Final = 30.0
"""How long calls in flight may still come back after a stop was asked for."""


@dataclass(slots=True)
class Budget:
    """What a store's cells may cost in all, over every run.

    Attributes:
        usd: US dollars.
        left_usd: what may still be reserved, None before it is known.
    """

    usd: float
    left_usd: float | None = None


class _Desk:
    """One account and the teachers behind it, asked in turn so that none of them waits for another."""

    def __init__(self, account: Account, clerk: Clerk, limits: Limits, budget: Budget | None, stop: Stop) -> None:
        self.account = account
        self._clerk, self._limits, self._budget, self._stop = clerk, limits, budget, stop
        self._lanes: deque[Lane] = deque()
        self._calls: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()

    def add(self, lane: Lane) -> None:
        """One more teacher."""
        lane.tally.account = self.account
        self._lanes.append(lane)

    async def run(self) -> None:
        """Ask until nothing is left; calls in flight are cancelled with it.

        Raises:
            StoreError: the store cannot be read or written.
        """
        fillers = [asyncio.create_task(lane.fill(self._changed, self._limits.patience_s)) for lane in self._lanes]
        for filler in fillers:
            # One that fails must be noticed although nothing else happens.
            filler.add_done_callback(lambda _: self._changed.set())
        ending = asyncio.create_task(self._wake_at_stop())
        try:
            while not self._stop.asked.is_set():
                self._changed.clear()
                for filler in fillers:
                    if filler.done():
                        filler.result()
                self._start_calls()
                if not self._calls and all(lane.is_done() for lane in self._lanes):
                    return
                self._give_up_if_dead()
                await self._wait()
            await wait_out(self._calls, self._stop, grace_s=_GRACE_S)
        finally:
            for task in (*self._calls, *fillers, ending):
                task.cancel()
            await asyncio.gather(*self._calls, *fillers, ending, return_exceptions=True)

    def _start_calls(self) -> None:
        account = self.account
        while self._has_room() and account.paused_s == 0 and (found := self._next()) is not None:
            lane, attempt = found
            call = asyncio.create_task(self._call(lane, attempt))
            self._calls.add(call)
            call.add_done_callback(self._ended)
            # The task has not run yet, but its place is taken.
            lane.tally.in_flight += 1
            attempt.started = account.start(attempt.cell.expected_tokens)

    def _has_room(self) -> bool:
        # Calls whose outcome is not on disk yet count too: a kill never loses more calls than may be in flight.
        return self.account.has_room() and len(self._calls) < self.account.most

    def _next(self) -> tuple[Lane, Attempt] | None:
        now = time.monotonic()
        for _ in range(len(self._lanes)):
            lane = self._lanes[0]
            self._lanes.rotate(-1)
            if (attempt := lane.take(now)) is not None:
                return lane, attempt
        return None

    async def _wait(self) -> None:
        """Until a call ends, cells come, a pause is over, or a retry is due."""
        timeout_s = math.inf
        if self._has_room():
            pause_s = self.account.paused_s
            now = time.monotonic()
            timeout_s = pause_s if pause_s else min(lane.ready_in_s(now) for lane in self._lanes)
        # A timer that sets the event, and not `wait_for`: this happens once a call, and a task a time would be dear.
        alarm = None
        if timeout_s != math.inf:
            alarm = asyncio.get_running_loop().call_later(max(timeout_s, 0.001), self._changed.set)
        await self._changed.wait()
        if alarm is not None:
            alarm.cancel()

    async def _wake_at_stop(self) -> None:
        await self._stop.asked.wait()
        self._changed.set()

    def _ended(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        self._changed.set()

    def _give_up_if_dead(self) -> None:
        if self.account.silent_s > self._limits.patience_s:
            for lane in self._lanes:
                self._close(lane, f"no answer for {self._limits.patience_s / 60:.0f} minutes")

    def _close(self, lane: Lane, why: str) -> None:
        """Ask a teacher no further; its open cells go back, for another run or another name of the same model."""
        lane.tally.stopped = lane.tally.stopped or why
        self._clerk.give_back(lane.drop())

    async def _call(self, lane: Lane, attempt: Attempt) -> None:
        cell = attempt.cell
        try:
            if not await self._may_spend(lane, cell):
                self.account.answer_without_use()
                lane.put_back(attempt)
                self._close(lane, "the budget is used up")
                return
            asked_at = time.monotonic()
            timeout_s = lane.teacher.timeout_s or self._limits.timeout_s
            reply = await lane.carrier.ask(Call(cell.messages, cell.parameters, timeout_s))
        except CallFailed as failure:
            self._note(attempt, failure)
            await self._after_failure(lane, attempt, failure)
        except asyncio.CancelledError:
            self.account.answer_without_use()
            self._clerk.charge(cell.key)
            raise
        else:
            self.account.succeed()
            if reply.limits is not None:
                self.account.learn(reply.limits)
            lane.tally.ignored.update(reply.ignored)
            latency_s = time.monotonic() - asked_at
            await self._clerk.record(_answered(cell, reply, attempt.tries + 1, latency_s), lane.tally)
        finally:
            lane.tally.in_flight -= 1

    async def _may_spend(self, lane: Lane, cell: Cell) -> bool:
        if self._budget is None:
            return True
        most = most_nano(lane.teacher, cell)
        lane.tally.unfunded += 1
        try:
            granted = await self._clerk.reserve(cell.key, most)
        finally:
            lane.tally.unfunded -= 1
        self._budget.left_usd = self._budget.usd - self._clerk.committed / 1e9
        return granted

    async def _after_failure(self, lane: Lane, attempt: Attempt, failure: CallFailed) -> None:
        if not failure.fatal and not lane.may_retry(attempt, failure, self._limits.retries):
            await self._clerk.record(_failed(attempt, failure), lane.tally)
            return
        settle = self._clerk.charge if failure.may_be_billed else self._clerk.refund
        settle(attempt.cell.key)
        lane.retry_later(attempt, failure)
        if failure.fatal:
            # Every further call would fail alike: stop this teacher, keep the cell open.
            self._close(lane, f"{failure.error}: {failure}")

    def _note(self, attempt: Attempt, failure: CallFailed) -> None:
        """What a failure says about the account."""
        if failure.overloaded:
            self.account.refuse(attempt.started, failure.retry_after_s)
        elif failure.retryable:
            self.account.fail()
        else:
            self.account.answer_without_use()
        if failure.limits is not None:
            self.account.learn(failure.limits)


async def ask_all(
    plan: Plan,
    carriers: dict[str, Carrier],
    store: Store,
    limits: Limits,
    tallies: Sequence[Tally],
    *,
    retry_failed: Collection[str] = (),
    budget: Budget | None = None,
    stop: Stop | None = None,
    batches: Mapping[str, BatchClient] = MappingProxyType({}),
    followed: Mapping[str, BatchClient] = MappingProxyType({}),
) -> None:
    """Ask every cell of a plan that the store does not hold yet and no other run is asking.

    Args:
        plan: the cells.
        carriers: by teacher name, checked to be reachable; a teacher without one is asked no single call.
        store: where outcomes go.
        limits: see there.
        tallies: one a teacher, in the plan's order; kept up to date while the run goes on.
        retry_failed: classes of paid failures to ask again; failed calls without a reply are always asked again.
        budget: hard limit of what the store's cells may cost, None: none.
        stop: by which a person ends the run.
        batches: by teacher name, clients of those that are asked through their provider's batch API.
        followed: the same of those that are asked call by call, and have jobs there from an earlier run.

    Raises:
        StoreError: an outcome could not be written; what was written stays.
    """
    stop = stop or Stop()
    async with clerk_of(store, budget=None if budget is None else math.floor(budget.usd * 1e9 + 1e-6)) as clerk:
        desks: dict[str, _Desk] = {}
        workers = []
        for teacher, tally in zip(plan.teachers, tallies, strict=True):
            feed = partial(Feed, plan, teacher, clerk, tally, retry_failed)
            client = batches.get(teacher.name) or followed.get(teacher.name)
            if client is not None:
                others = [one.name for one in plan.teachers if one is not teacher]
                workers.append(
                    run_batches(
                        feed if teacher.name in batches else NoBlocks,
                        teacher=teacher,
                        endpoint=plan.endpoints[teacher.name],
                        client=client,
                        clerk=clerk,
                        claims=clerk.claims,
                        tally=tally,
                        reserve=None if budget is None else partial(most_nano, teacher, batch=True),
                        stop=stop.asked,
                        others=others,
                    )
                )
            if teacher.name not in carriers:
                continue
            name = account_of(teacher, plan.endpoints[teacher.name])
            if name not in desks:
                desks[name] = _Desk(_account(plan, name, limits), clerk, limits, budget, stop)
            desks[name].add(Lane(teacher, carriers[teacher.name], feed(), tally))
        with _room_for_many_calls():
            await _run(clerk, [*workers, *(desk.run() for desk in desks.values())])


@contextmanager
def _room_for_many_calls() -> Iterator[None]:
    """What thousands of calls at once need: open files, and a garbage collector that keeps out of the way.

    Calls leave little that is not freed at once, and much that lives: measured, a quarter of the CPU time a call went
    into looking through it again and again.
    """
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
        if soft < wanted:
            # Some systems name a limit that they do not grant.
            with suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


async def _run(clerk: Clerk, work: Sequence[Coroutine[Any, Any, None]]) -> None:
    guards = [asyncio.create_task(clerk.run()), asyncio.create_task(clerk.beat())]
    workers = [asyncio.create_task(one) for one in work]
    try:
        await _all_or_first_error(guards, workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        clerk.close()
        guards[1].cancel()
        await guards[0]


def most_nano(teacher: Teacher, cell: Cell, *, batch: bool = False) -> int:
    """What a call may cost at most, in billionths of a dollar; the teacher's price must be known."""
    read, wrote = most_tokens(cell.messages, int(cell.parameters["max_tokens"]))
    ceiling = ceiling_of(teacher, prompt_tokens=read, batch=batch)
    assert ceiling is not None
    return to_nano(cost_usd(ceiling, read, wrote))


async def _all_or_first_error(guards: Sequence[asyncio.Task[Any]], workers: Sequence[asyncio.Task[Any]]) -> None:
    """Wait for all workers; a guard that ends, or a worker that fails, ends the wait with its error."""
    pending = set(workers)
    while pending:
        done, rest = await asyncio.wait({*pending, *guards}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        pending = rest - set(guards)


def account_of(teacher: Teacher, endpoint: Endpoint) -> str:
    """What teachers share when they share a rate limit, whatever they are called: the endpoint and the key, or at a
    named provider the model and the key, because limits there are the model's."""
    where = teacher.model if teacher.api_base is None and endpoint.identity.startswith("|") else endpoint.api_base
    return f"{where}|{teacher.api_key_env or ''}"


def _account(plan: Plan, name: str, limits: Limits) -> Account:
    """The account of a name; of limits that its teachers name, the lowest holds."""
    teachers = [teacher for teacher in plan.teachers if account_of(teacher, plan.endpoints[teacher.name]) == name]
    rpm = min((teacher.rpm for teacher in teachers if teacher.rpm), default=None)
    tpm = min((teacher.tpm for teacher in teachers if teacher.tpm), default=None)
    # What a call takes is not known before the first: half of what it may write is a fair guess.
    tokens = max(teacher.max_tokens for teacher in teachers) // 2
    gap_s = max(60.0 / rpm if rpm else 0.0, 60.0 * tokens / tpm if tpm else 0.0)
    return Account(
        ceiling=min(teacher.concurrency or limits.concurrency for teacher in teachers),
        rpm=rpm,
        tpm=tpm,
        share=limits.share,
        first_s=limits.turn * gap_s,
    )


async def check_all(carriers: Mapping[str, Carrier | BatchClient]) -> None:
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


def _answered(cell: Cell, reply: Reply, attempts: int, latency_s: float) -> Outcome:
    stored = StoredCell(
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
    return Outcome(stored, None if reply.cost_usd is None else to_nano(reply.cost_usd))


def _failed(attempt: Attempt, failure: CallFailed) -> Outcome:
    cell = attempt.cell
    stored = StoredCell(
        key=cell.key,
        request=cell.request,
        attempts=attempt.tries + 1,
        created_at=datetime.now(UTC),
        error=failure.error,
        message=str(failure),
    )
    return Outcome(stored, None if failure.may_be_billed else 0)
