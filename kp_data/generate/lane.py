"""The cells of one teacher on their way: those that came from the feed, and those that wait to be tried again."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import random
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from kp_data.config import Teacher
from kp_data.generate.feed import Feed
from kp_data.generate.plan import Cell
from kp_data.generate.tally import Tally
from kp_data.teachers.transport import CallFailed, Carrier

_LEAST_BLOCK: Final = 16
_LARGEST_BLOCK: Final = 512
_FIRST_BACKOFF_S: Final = 0.5
_LONGEST_BACKOFF_S: Final = 60.0
_PATIENCE_FACTOR: Final = 4


@dataclass(order=True, slots=True)
class Attempt:
    """One try of one cell; ordered by when its time comes."""

    ready_at: float
    order: int
    cell: Cell = field(compare=False)
    tries: int = field(compare=False, default=0)
    started: float = field(compare=False, default=0.0)


class Lane:
    """What is left to ask of one teacher."""

    def __init__(self, teacher: Teacher, carrier: Carrier, feed: Feed, tally: Tally) -> None:
        self.teacher, self.carrier, self.tally = teacher, carrier, tally
        self._feed = feed
        self._order = itertools.count()
        self._fresh: deque[Cell] = deque()
        self._waiting: list[Attempt] = []
        self._exhausted = False
        self._hungry = asyncio.Event()
        self._random = random.Random(teacher.name)

    async def fill(self, changed: asyncio.Event, patience_s: float) -> None:
        """Keep cells at hand until the feed has no more.

        Args:
            changed: set whenever cells have come, and at the end.
            patience_s: see `Feed.next_block`.

        Raises:
            StoreError: the store cannot be read or written.
        """
        while (block := await self._feed.next_block(self._appetite(), patience_s)) is not None:
            self._fresh.extend(block)
            self._hungry.clear()
            changed.set()
            if len(self._fresh) >= self._appetite():
                await self._hungry.wait()
        self._exhausted = True
        changed.set()

    def take(self, now: float) -> Attempt | None:
        """The next attempt whose time has come, None where there is none now."""
        if self.tally.stopped is not None:
            return None
        if self._waiting and self._waiting[0].ready_at <= now:
            attempt = heapq.heappop(self._waiting)
            self._tell()
            return attempt
        if not self._fresh:
            return None
        cell = self._fresh.popleft()
        if len(self._fresh) < self._appetite():
            self._hungry.set()
        return Attempt(now, next(self._order), cell)

    def is_done(self) -> bool:
        """Whether nothing is left to try; calls in flight may still come back."""
        return self.tally.stopped is not None or (self._exhausted and not self._waiting and not self._fresh)

    def ready_in_s(self, now: float) -> float:
        """Seconds until the first waiting attempt may be tried; infinity without one."""
        waiting = self._waiting and self.tally.stopped is None
        return self._waiting[0].ready_at - now if waiting else math.inf

    def may_retry(self, attempt: Attempt, failure: CallFailed, retries: int) -> bool:
        """Whether a failed attempt is tried again. Being told to wait is hardly a failure."""
        allowed = retries * (_PATIENCE_FACTOR if failure.overloaded else 1)
        return failure.retryable and attempt.tries < allowed

    def retry_later(self, attempt: Attempt, failure: CallFailed) -> None:
        """Put an attempt back; where the server named a time, not before it."""
        backoff = min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2**attempt.tries) * (0.5 + self._random.random())
        wait_s = max(backoff, failure.retry_after_s or 0.0)
        again = Attempt(time.monotonic() + wait_s, next(self._order), attempt.cell, attempt.tries + 1)
        self.tally.retry_why = failure.error
        self.put_back(again)

    def put_back(self, attempt: Attempt) -> None:
        """An attempt that has not been made."""
        heapq.heappush(self._waiting, attempt)
        self._tell()

    def drop(self) -> list[str]:
        """Forget everything that is not in flight; gives the keys of those cells."""
        keys = [cell.key for cell in self._fresh] + [attempt.cell.key for attempt in self._waiting]
        self._fresh.clear()
        self._waiting.clear()
        self._tell()
        return keys

    def _appetite(self) -> int:
        """Cells to have at hand: what can be asked soon, and no more, because another run may want the rest."""
        limit = self.tally.account.limit if self.tally.account is not None else 0.0
        return min(max(_LEAST_BLOCK, 2 * math.floor(limit)), _LARGEST_BLOCK)

    def _tell(self) -> None:
        self.tally.retrying = len(self._waiting)
        self.tally.retry_at = self._waiting[0].ready_at if self._waiting else None
