"""One of several workers on one plan, each in a process of its own, perhaps on another machine.

Every worker asks the whole plan and begins at a place of its own: leases keep a cell from being asked twice, so the
work divides itself, and what a lost worker leaves the others find on their way. Nothing here knows what started it.
"""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import pyarrow as pa
from sqlalchemy import make_url

from kp_data.console import set_quiet
from kp_data.errors import ConfigError
from kp_data.generate.account import Account
from kp_data.generate.engine import Budget, ask_all, check_all
from kp_data.generate.plan import Plan
from kp_data.generate.stopping import Stop
from kp_data.generate.tally import AccountReading, Limits, Tally
from kp_data.store import Store
from kp_data.tables import Questions
from kp_data.teachers.prompts import PROMPT_VERSION
from kp_data.teachers.transport import Carrier, Endpoint, keep_secret, make_carrier

LOST: Final = "every worker was lost"
"""Why a teacher is asked no further whose workers are all gone."""
_SUMS: Final = (
    "in_flight",
    "retrying",
    "unfunded",
    "at_provider",
    "prompt_tokens",
    "completion_tokens",
    "cost_usd",
    "cost_unknown",
)


@dataclass(frozen=True)
class Task:
    """What all workers do; nothing secret.

    Attributes:
        plan: the cells, without endpoints.
        table: of the plan's questions.
        out: panel folder, absolute: where the store is, unless `Access` names another.
        limits: of all workers together.
        retry_failed: see `ask_all`.
        budget_usd: hard limit of what the store's cells may cost, None: none.
    """

    plan: Plan
    table: pa.Table
    out: Path
    limits: Limits
    retry_failed: frozenset[str] = frozenset()
    budget_usd: float | None = None


@dataclass(frozen=True)
class Access:
    """What a worker must not show to anybody.

    Attributes:
        endpoints: by teacher name, with their keys.
        store_url: of the cell store, perhaps with a password; None: SQLite in the panel folder.
    """

    endpoints: dict[str, Endpoint] = field(repr=False)
    store_url: str | None = field(repr=False, default=None)


@dataclass(frozen=True)
class About:
    """Which program a worker is: another version would send other prompts, and keep them under other keys."""

    version: str
    prompt_version: str
    host: str

    @classmethod
    def this_process(cls) -> About:
        """Of the process that asks."""
        return cls(importlib.metadata.version("knowledge-purification"), str(PROMPT_VERSION), platform.node())


@dataclass(frozen=True)
class Sight:
    """Where a worker stood at one moment.

    Attributes:
        tallies: one a teacher, in the plan's order.
        now: the time there, on its own monotonic clock.
        budget_left_usd: as it last saw it.
    """

    tallies: tuple[Tally, ...]
    now: float
    budget_left_usd: float | None = None

    def here(self) -> Sight:
        """The same with times of this process's clock."""
        now = time.monotonic()
        ahead = now - self.now
        tallies = tuple(
            replace(tally, retry_at=None if tally.retry_at is None else tally.retry_at + ahead)
            for tally in self.tallies
        )
        return replace(self, tallies=tallies, now=now)


def task_of(plan: Plan, table: pa.Table, out: Path, limits: Limits, *, store_url: str | None) -> tuple[Task, Access]:
    """A plan as workers get it: what is secret apart from the rest, and every path absolute.

    Raises:
        ConfigError: the store is in the memory of one process.
    """
    if store_url is not None and (url := make_url(store_url)).get_backend_name() == "sqlite":
        if url.database in (None, "", ":memory:"):
            raise ConfigError(f"--store {store_url}: workers need a file or a server")
        store_url = str(url.set(database=str(Path(url.database or "").resolve())))
    return Task(replace(plan, endpoints={}), table, out.resolve(), limits), Access(plan.endpoints, store_url)


class Worker:
    """What the process of a worker holds."""

    def __init__(self) -> None:
        self._share = 1.0
        self._stop = Stop()
        self._tallies: tuple[Tally, ...] = ()
        self._budget: Budget | None = None
        self._carriers: dict[str, Carrier] = {}

    async def about(self) -> About:
        """Which program this is, and where."""
        return About.this_process()

    async def begin(self, task: Task, access: Access, turn: int, of: int) -> None:
        """Get ready to ask, and look whether every teacher and the store can be reached from here.

        Args:
            task: for all workers.
            access: to teachers and store.
            turn: this worker's place among them, from 0.
            of: how many workers there are.

        Raises:
            TeacherError: a teacher cannot be asked from here.
            StoreError: the store cannot be opened from here.
        """
        set_quiet(True)
        for endpoint in access.endpoints.values():
            if endpoint.api_key is not None:
                keep_secret(endpoint.api_key)
        self._task, self._turn, self._share = task, turn, 1 / of
        self._plan = turned(replace(task.plan, endpoints=access.endpoints), task.table, turn=turn, of=of)
        self._tallies = tuple(Tally(teacher.name, task.plan.count(teacher)) for teacher in task.plan.teachers)
        self._budget = None if task.budget_usd is None else Budget(task.budget_usd)
        for teacher in self._plan.teachers:
            self._carriers[teacher.name] = make_carrier(teacher, access.endpoints[teacher.name])
        try:
            await check_all(self._carriers)
            self._store = Store.of_folder(task.out, access.store_url)
        except BaseException:
            await self._leave()
            raise

    async def ask(self) -> Sight:
        """Ask until nothing is left or somebody says stop; gives where it stands then.

        Raises:
            StoreError: the store cannot be read or written.
        """
        try:
            await ask_all(
                self._plan,
                self._carriers,
                self._store,
                replace(self._task.limits, share=self._share, turn=self._turn),
                self._tallies,
                retry_failed=self._task.retry_failed,
                budget=self._budget,
                stop=self._stop,
            )
        finally:
            await self._leave()
            self._store.close()
        return self._sight()

    async def look(self) -> Sight:
        """Where it stands."""
        return self._sight()

    async def set_share(self, share: float) -> None:
        """The part of every limit that is this worker's from now on."""
        self._share = share
        for tally in self._tallies:
            if isinstance(tally.account, Account):
                tally.account.set_share(share)

    async def stop(self, now: bool) -> None:
        """Start no further call, and with `now` drop those in flight."""
        self._stop.asked.set()
        if now:
            self._stop.now.set()

    async def _leave(self) -> None:
        for carrier in self._carriers.values():
            await carrier.close()

    def _sight(self) -> Sight:
        tallies = tuple(replace(tally, account=AccountReading.of(tally.account)) for tally in self._tallies)
        return Sight(tallies, time.monotonic(), self._budget.left_usd if self._budget is not None else None)


def turned(plan: Plan, table: pa.Table, *, turn: int, of: int) -> Plan:
    """A plan whose questions begin at another place, and go round; the cells are the same.

    Args:
        plan: of all workers.
        table: of its questions; none of it is copied.
        turn: place of a worker among all, from 0.
        of: how many there are.
    """
    start = table.num_rows * turn // of
    routed = None if plan.routed is None else [*plan.routed[start:], *plan.routed[:start]]
    return replace(
        plan, questions=Questions(pa.concat_tables([table.slice(start), table.slice(0, start)])), routed=routed
    )


def merge(tally: Tally, parts: Sequence[Tally], *, beside: Sequence[Tally] = ()) -> None:
    """Bring what is known of a teacher up to date with what each worker knows of it.

    What other workers have answered a worker counts as known before. So the cells that are done are at least those
    that some worker knows to be, and at least those that all have brought; where a run goes on with a panel, this
    counts too few until one worker has seen all cells.

    Args:
        tally: of the whole run.
        parts: one a worker; of those that have ended too, at rest.
        beside: of those that ask nothing and bring in what batch jobs of earlier runs have answered.
    """
    reasons = [part.stopped for part in parts if part.stopped is not None]
    # One worker that goes on is enough; that others are lost says less than why the rest stopped.
    tally.stopped = min(reasons, key=LOST.__eq__) if reasons and len(reasons) == len(parts) else None
    parts = [*parts, *beside]
    tally.answered = sum(part.answered for part in parts)
    tally.failed = sum((part.failed for part in parts), Counter[str]())
    tally.reused = max(0, *(part.done for part in parts)) - tally.answered - tally.failed.total()
    tally.reused = max(0, tally.reused)
    for name in _SUMS:
        setattr(tally, name, sum(getattr(part, name) for part in parts))
    tally.ignored = sum((part.ignored for part in parts), Counter[str]())
    for part in parts:
        tally.messages.update(part.messages)
    first = min(
        (part for part in parts if part.retry_at is not None), key=lambda part: part.retry_at or 0, default=None
    )
    tally.retry_at, tally.retry_why = (None, "") if first is None else (first.retry_at, first.retry_why)
    # What one worker has in hand is elsewhere for the next: only while none asks is anything with another run.
    tally.elsewhere = 0 if tally.in_flight or tally.retrying else min((part.elsewhere for part in parts), default=0)
    tally.account = AccountReading.sum_of([part.account for part in parts if part.account is not None])


def at_rest(tally: Tally, *, lost: bool = False) -> Tally:
    """What stays of a worker's tally when it has ended, or is lost: nothing is in its hands any more."""
    stopped = LOST if lost else tally.stopped
    return replace(
        tally,
        stopped=stopped,
        in_flight=0,
        retrying=0,
        retry_at=None,
        retry_why="",
        elsewhere=0,
        unfunded=0,
        account=None,
    )
