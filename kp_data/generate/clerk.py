"""The clerk: everything a run has to do with its store, on one thread, in as few transactions as there can be.

While one transaction is being written to disk, whatever else comes is gathered for the next: the more there is to do,
the larger the groups and the cheaper each cell. Nothing here blocks the event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, TypeVar

from kp_data.errors import StoreError
from kp_data.generate.tally import Tally
from kp_data.store import BEAT_S, Claims, Outcome, Store, StoredCell, Taken, Work

_GROUP: Final = 512

T = TypeVar("T")


@dataclass
class _Pending:
    """What the next transaction will do."""

    outcomes: deque[tuple[Outcome, Tally, asyncio.Future[None]]] = field(default_factory=deque)
    charges: set[str] = field(default_factory=set)
    refunds: set[str] = field(default_factory=set)
    returns: set[str] = field(default_factory=set)

    def is_empty(self) -> bool:
        return not (self.outcomes or self.charges or self.refunds or self.returns)


@dataclass(frozen=True, slots=True)
class _Wish:
    key: str
    amount: int
    granted: asyncio.Future[bool]


class Clerk:
    """One run's dealings with its store. Open it with `clerk_of`.

    Attributes:
        claims: of this run; to be used within `do` only.
        active: keys of the cells that this run holds: claimed, and neither stored nor returned yet.
        committed: what the store's cells have cost and may yet cost, in billionths of a dollar; 0 before the first
            transaction.
    """

    def __init__(self, store: Store, claims: Claims, thread: ThreadPoolExecutor) -> None:
        self.store = store
        self.active: set[str] = set()
        self.committed = 0
        self.claims, self._thread, self._loop = claims, thread, asyncio.get_running_loop()
        self._pending = _Pending()
        self._wishes: deque[_Wish] = deque()
        self._reserved: set[str] = set()
        self._awake = asyncio.Event()
        self._closing = False

    async def do(self, work: Callable[[], T]) -> T:
        """Something that reads or writes the store, on its thread."""
        return await self._loop.run_in_executor(self._thread, work)

    def take(self, keys: Sequence[str]) -> Taken:
        """See `Claims.take`; on the store's thread, within `do`."""
        return self.claims.take(keys)

    async def reserve(self, key: str, amount: int) -> bool:
        """Whether a call that may cost so much can go out.

        Waits while calls in flight hold money that they may yet give back. Args: amount: billionths of a dollar.
        """
        wish = _Wish(key, amount, self._loop.create_future())
        self._wishes.append(wish)
        self._awake.set()
        return await wish.granted

    async def record(self, outcome: Outcome, tally: Tally) -> None:
        """Store an outcome; returns when it is on disk and counted. A kill before that loses the call."""
        written: asyncio.Future[None] = self._loop.create_future()
        self._pending.outcomes.append((outcome, tally, written))
        self._awake.set()
        await written

    def charge(self, key: str) -> None:
        """A call brought no reply and may have been billed: what was reserved for it is spent."""
        self._note(self._pending.charges, key)

    def refund(self, key: str) -> None:
        """A call brought no reply and was surely not billed."""
        self._note(self._pending.refunds, key)

    def give_back(self, keys: Iterable[str]) -> None:
        """Cells that this run will not ask after all; from any thread."""
        self._loop.call_soon_threadsafe(self._return, tuple(keys))

    async def run(self) -> None:
        """Write until told to close, then until nothing is left.

        Raises:
            StoreError: the store cannot be written, or another process has taken this one's cells.
        """
        while not (self._closing and self._pending.is_empty() and not self._wishes):
            await self._awake.wait()
            self._awake.clear()
            await self._write_group()

    async def beat(self) -> None:
        """Show now and then that this process lives.

        Raises:
            StoreError: others took it for dead.
        """
        while True:
            await asyncio.sleep(BEAT_S)
            if not await self.do(self.claims.beat):
                raise StoreError(
                    "this run gave no sign of life for so long that another took over its cells; run again to go on"
                )

    def close(self) -> None:
        """Let `run` end when all is written; whoever still waits for money gets none."""
        self._closing = True
        for wish in self._wishes:
            _resolve(wish, False)
        self._wishes.clear()
        self._awake.set()

    def _return(self, keys: Sequence[str]) -> None:
        if keys:
            self._pending.returns.update(keys)
            self._awake.set()

    def _note(self, where: set[str], key: str) -> None:
        if key in self._reserved:
            where.add(key)
            self._awake.set()

    async def _write_group(self) -> None:
        pending = self._pending
        if pending.is_empty() and not self._wishes:
            return
        group = [pending.outcomes.popleft() for _ in range(min(_GROUP, len(pending.outcomes)))]
        wishes = list(self._wishes)
        self._wishes.clear()
        if pending.outcomes:
            self._awake.set()
        self._pending = _Pending(outcomes=pending.outcomes)
        work = Work(
            [outcome for outcome, _, _ in group],
            pending.charges,
            pending.refunds,
            pending.returns,
            {wish.key: wish.amount for wish in wishes},
        )
        done = await self.do(lambda: self.claims.commit(work))
        self.committed = done.committed
        ended = {outcome.cell.key for outcome, _, _ in group}
        self._reserved -= ended | pending.charges | pending.refunds
        self.active -= ended | pending.returns
        for outcome, tally, written in group:
            count(outcome.cell, tally)
            if not written.done():
                written.set_result(None)
        self._answer(wishes, done.granted)

    def _answer(self, wishes: Sequence[_Wish], granted: frozenset[str]) -> None:
        """Tell who may call; who may not waits for money to come back, as long as some can."""
        self._reserved |= granted
        for wish in wishes:
            if wish.key in granted:
                if not _resolve(wish, True):
                    # Its call was cancelled meanwhile, and never went out.
                    self.refund(wish.key)
            elif self._reserved and not self._closing:
                self._wishes.append(wish)
            else:
                _resolve(wish, False)


@asynccontextmanager
async def clerk_of(store: Store, *, budget: int | None = None) -> AsyncIterator[Clerk]:
    """A clerk at work; when the block ends all is written, and every lease returned.

    Args:
        store: of the run.
        budget: see `Claims`.

    Raises:
        StoreError: from the block's own waits (see `asyncio.TaskGroup`), or from the last transaction.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="store")
    loop = asyncio.get_running_loop()
    try:
        claims = await loop.run_in_executor(thread, lambda: Claims(store, budget=budget))
        try:
            yield Clerk(store, claims, thread)
        finally:
            await loop.run_in_executor(thread, claims.close)
    finally:
        thread.shutdown()


def count(cell: StoredCell, tally: Tally) -> None:
    """Add a stored outcome to what is shown."""
    if cell.error is not None:
        tally.failed[cell.error] += 1
        tally.messages[cell.error] = cell.message or ""
        return
    tally.answered += 1
    tally.prompt_tokens += cell.prompt_tokens or 0
    tally.completion_tokens += cell.completion_tokens or 0
    tally.cost_usd += cell.cost_usd or 0.0
    tally.cost_unknown += cell.cost_usd is None


def _resolve(wish: _Wish, granted: bool) -> bool:
    """Answer a wish; False where nobody waits any more."""
    if wish.granted.done():
        return False
    wish.granted.set_result(granted)
    return True
