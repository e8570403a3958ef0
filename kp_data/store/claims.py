"""Claims: which cells a process is asking, and the money that its calls in flight may cost.

Several processes may fill one panel: a cell belongs to whoever holds its lease, so none is asked twice. A process shows
that it lives by moving its expiry on; on the same machine the process itself is looked for, so that a clock that jumps
or a laptop that sleeps takes nothing from it. Leases of the dead go back, and what they had reserved counts as spent,
because nobody can know whether those calls were billed.

Money is whole billionths of a dollar: sums are exact, so a budget is kept to the last digit.
"""

from __future__ import annotations

import math
import os
import platform
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from kp_data.store.cells import Store, StoredCell, states_of, write_cells
from kp_data.store.database import LEASES, LEDGER, OWNERS

LEASE_S: Final = 60.0
"""How long the leases of a process on another machine hold after its last sign of life."""
BEAT_S: Final = 15.0
JOB_PREFIX: Final = "job:"
"""Owners that are batch jobs at a provider: they live as long as the job does, whatever becomes of the process."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a call.

    Attributes:
        cell: to store.
        spent: what it cost, in billionths of a dollar; None where nobody said: then all that was reserved.
    """

    cell: StoredCell
    spent: int | None


@dataclass(frozen=True, slots=True)
class Taken:
    """What came of asking for cells.

    Attributes:
        granted: leased to this process.
        held: keys of `granted` that the store holds by now, to their failure class; None for a reply.
        elsewhere: leased to another process.
    """

    granted: tuple[str, ...]
    held: dict[str, str | None]
    elsewhere: frozenset[str]


@dataclass(frozen=True)
class Work:
    """What one transaction is to do.

    Attributes:
        outcomes: cells to store; their leases end.
        charges: cells whose call may have been billed although no reply came: what was reserved is spent.
        refunds: cells whose call was surely not billed: what was reserved is free again.
        returns: cells that will not be asked after all: their leases end.
        wanted: key to what its next call may cost at most; granted in this order while the budget lasts.
    """

    outcomes: Sequence[Outcome] = ()
    charges: Collection[str] = ()
    refunds: Collection[str] = ()
    returns: Collection[str] = ()
    wanted: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Done:
    """What came of a transaction.

    Attributes:
        granted: the keys of `Work.wanted` that may be called now.
        committed: what the store's cells have cost and may yet cost, in billionths of a dollar.
    """

    granted: frozenset[str]
    committed: int


def to_nano(usd: float) -> int:
    """US dollars in billionths, rounded up: what is reserved is never too little.

    >>> to_nano(0.15e-6)
    150
    """
    return math.ceil(usd * 1e9 - 1e-6)


class Claims:
    """What one process has claimed of a store.

    Args:
        store: that is worked on.
        budget: what the store's cells may cost in all, over every run, in billionths of a dollar; None: no limit.
    """

    def __init__(self, store: Store, *, budget: int | None = None) -> None:
        self.owner = uuid.uuid4().hex
        self._database, self._budget = store.database, budget
        self._host, self._process = _this_host(), _process_mark(os.getpid()) or str(os.getpid())
        self._database.write(self._join)
        self.free_the_dead()

    def take(self, keys: Sequence[str]) -> Taken:
        """Lease those of these cells that nobody has leased."""
        return self._database.write(lambda connection: self._take(connection, keys))

    def commit(self, work: Work) -> Done:
        """Do all of this in one transaction."""
        return self._database.write(lambda connection: self._commit(connection, work))

    def beat(self) -> bool:
        """Show that this process lives; False when another has taken its cells, so that it must stop asking."""
        alive = self._database.write(self._prolong)
        self.free_the_dead()
        return alive

    def free_the_dead(self) -> None:
        """Take the leases from processes that ended without returning them."""
        owners = self._database.read(lambda connection: connection.execute(sa.select(OWNERS)).all())
        now = self._database.read(self._database.now)
        for row in owners:
            if row.owner != self.owner and not self._lives(row.host, row.process, row.expires_at, now):
                self._database.write(partial(self._retire, owner=row.owner))

    def close(self) -> None:
        """Return every lease; money still reserved is counted as spent."""
        self._database.write(lambda connection: self._retire(connection, self.owner))

    def _join(self, connection: sa.Connection) -> None:
        row = {
            "owner": self.owner,
            "host": self._host,
            "process": self._process,
            "expires_at": self._database.now(connection) + LEASE_S,
        }
        connection.execute(self._database.insert(OWNERS).on_conflict_do_nothing(), row)

    def _prolong(self, connection: sa.Connection) -> bool:
        until = self._database.now(connection) + LEASE_S
        mine = sa.update(OWNERS).where(OWNERS.c.owner == self.owner).values(expires_at=until)
        return bool(connection.execute(mine).rowcount)

    def _lives(self, host: str, process: str, expires_at: float, now: float) -> bool:
        if host == self._host:
            return _process_mark(int(process.partition("@")[0])) == process
        return expires_at > now

    def _retire(self, connection: sa.Connection, owner: str) -> None:
        self._ledger(connection)
        # Whoever deletes the owner frees its leases: two processes never free them both.
        if not connection.execute(sa.delete(OWNERS).where(OWNERS.c.owner == owner)).rowcount:
            return
        theirs = LEASES.c.owner == owner
        reserved = connection.execute(sa.select(sa.func.sum(LEASES.c.reserved)).where(theirs)).scalar() or 0
        connection.execute(sa.delete(LEASES).where(theirs))
        self._move(connection, spent=int(reserved), reserved=-int(reserved))

    def _take(self, connection: sa.Connection, keys: Sequence[str]) -> Taken:
        # In the order of the keys: two processes that want the same ones then never wait for each other in a circle.
        rows = [{"key": key, "owner": self.owner, "reserved": 0} for key in sorted(set(keys))]
        connection.execute(self._database.insert(LEASES).on_conflict_do_nothing(), rows)
        query = sa.select(LEASES.c.key, LEASES.c.owner).where(self._database.among(LEASES.c.key, keys))
        owner_of = dict(connection.execute(query).all())
        granted = tuple(key for key in dict.fromkeys(keys) if owner_of.get(key) == self.owner)
        # Read after the leases are held: whoever asked before has stored the outcome by then.
        held = states_of(self._database, connection, granted)
        elsewhere = frozenset(key for key in keys if owner_of.get(key) != self.owner)
        return Taken(granted, held, elsewhere)

    def _commit(self, connection: sa.Connection, work: Work) -> Done:
        committed = self._ledger(connection)
        ended = [outcome.cell.key for outcome in work.outcomes]
        held = self._reserved(connection, [*work.charges, *work.refunds, *work.wanted])
        write_cells(self._database, connection, (outcome.cell for outcome in work.outcomes))
        held |= self._end(connection, [*ended, *work.returns])
        self._set_reserved(connection, dict.fromkeys([*work.charges, *work.refunds], 0))
        # A lease that is gone has been settled already: by this very work before the connection broke, or as a dead's.
        spent = sum(held[key] for key in work.charges if key in held) + sum(
            held[outcome.cell.key] if outcome.spent is None else outcome.spent
            for outcome in work.outcomes
            if outcome.cell.key in held
        )
        freed = sum(held[key] for key in {*ended, *work.charges, *work.refunds, *work.wanted} if key in held)
        committed += spent - freed
        granted = self._grant(committed, work.wanted, held)
        self._set_reserved(connection, granted)
        reserved = sum(granted.values())
        self._move(connection, spent=spent, reserved=reserved - freed)
        return Done(frozenset(granted), committed + reserved)

    def _ledger(self, connection: sa.Connection) -> int:
        """What is spent or reserved, locked: every transaction that moves money takes this lock first."""
        row = connection.execute(sa.select(LEDGER.c.spent, LEDGER.c.reserved).with_for_update()).one()
        return int(row.spent) + int(row.reserved)

    def _grant(self, committed: int, wanted: Mapping[str, int], held: Mapping[str, int]) -> dict[str, int]:
        granted: dict[str, int] = {}
        for key, amount in wanted.items():
            if key in held and (self._budget is None or committed + amount <= self._budget):
                granted[key] = amount
                committed += amount
        return granted

    def _mine(self, keys: Sequence[str]) -> sa.ColumnElement[bool]:
        return sa.and_(self._database.among(LEASES.c.key, keys), LEASES.c.owner == self.owner)

    def _reserved(self, connection: sa.Connection, keys: Sequence[str]) -> dict[str, int]:
        """What is reserved for each of these cells, as far as this process holds their leases."""
        if not keys:
            return {}
        rows = connection.execute(sa.select(LEASES.c.key, LEASES.c.reserved).where(self._mine(keys)))
        return dict(rows.all())

    def _set_reserved(self, connection: sa.Connection, amounts: Mapping[str, int]) -> None:
        if not amounts:
            return
        mine = sa.and_(LEASES.c.key == sa.bindparam("of"), LEASES.c.owner == self.owner)
        change = sa.update(LEASES).where(mine).values(reserved=sa.bindparam("amount"))
        connection.execute(change, [{"of": key, "amount": amount} for key, amount in amounts.items()])

    def _end(self, connection: sa.Connection, keys: Sequence[str]) -> dict[str, int]:
        """End these leases; gives what was reserved for each that this process held."""
        if not keys:
            return {}
        rows = connection.execute(sa.delete(LEASES).where(self._mine(keys)).returning(LEASES.c.key, LEASES.c.reserved))
        return dict(rows.all())

    def _move(self, connection: sa.Connection, *, spent: int, reserved: int) -> None:
        if spent or reserved:
            connection.execute(
                sa.update(LEDGER).values(spent=LEDGER.c.spent + spent, reserved=LEDGER.c.reserved + reserved)
            )


def _this_host() -> str:
    """What tells this machine, its present run and its process numbers from all others."""
    return "|".join([platform.node(), _text(Path("/proc/sys/kernel/random/boot_id")), _namespace()])


def _process_mark(pid: int) -> str | None:
    """`PID@START` of a process that runs, None where none does; the start tells it from a later one of that number."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return None if Path("/proc/self/stat").exists() else _mark_elsewhere(pid)
    # The name of the program stands in parentheses and may hold anything; the start, in ticks since the machine's own,
    # is the twentieth field after it.
    state, *fields = stat.rpartition(")")[2].split()
    return None if state == "Z" else f"{pid}@{fields[18]}"


def _mark_elsewhere(pid: int) -> str | None:
    import psutil

    try:
        return f"{pid}@{psutil.Process(pid).create_time():.2f}"
    except psutil.NoSuchProcess:
        return None


def _namespace() -> str:
    path = Path("/proc/self/ns/pid")
    return str(path.readlink()) if path.is_symlink() else ""


def _text(path: Path) -> str:
    return path.read_text().strip() if path.is_file() else ""
