"""Batch jobs at providers, and the cells in them: durable before anything is paid for.

A job, its cells and the move of their leases from the process to the job are one transaction, made before the provider
hears of them: a process that dies at any point leaves a trace that the next one follows, and nobody else asks those
cells meanwhile. A job is handled by one living process at a time; see `claims` for who lives.

    submitting ──▶ running ──▶ completed | expired | cancelled | failed
         └───────▶ unsent         └──▶ lost
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import sqlalchemy as sa

from kp_data.store.cells import Store, in_blocks
from kp_data.store.claims import JOB_PREFIX, Claims, Outcome, Work
from kp_data.store.database import LEASES, METADATA, OWNERS, Database

SUBMITTING: Final = "submitting"
RUNNING: Final = "running"
OPEN_STATES: Final = (SUBMITTING, RUNNING)
UNSENT: Final = "unsent"
"""The provider never got it; its cells are open again."""
LOST: Final = "lost"
"""The provider no longer knows it; its cells are open again."""

JOBS: Final = sa.Table(
    "jobs",
    METADATA,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("teacher", sa.String(64), nullable=False),
    sa.Column("endpoint", sa.Text, nullable=False),
    sa.Column("provider_id", sa.Text),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("requests", sa.Integer, nullable=False),
    sa.Column("message", sa.Text),
    sa.Column("owner", sa.String(64)),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
)
"""`owner` is the process that handles the job, null when none does."""
# `request` stands beside the key so that a paid answer can be stored even when the plan no longer wants it.
JOB_CELLS: Final = sa.Table(
    "job_cells",
    METADATA,
    sa.Column("job_id", sa.String(32), sa.ForeignKey("jobs.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("key", sa.String(64), nullable=False),
    sa.Column("request", sa.Text, nullable=False),
)
_BLOCK: Final = 500


@dataclass(frozen=True, slots=True)
class Job:
    """One batch job.

    Attributes:
        id: ours, 32 hex digits; what the provider is told too.
        teacher: whose cells it holds.
        endpoint: `Endpoint.identity` of that teacher.
        provider_id: the provider's id, None while it is not known whether the provider has the job.
        state: see the module.
        requests: cells in it when it was made.
        message: last word about it, None without one.
        created_at, updated_at: the latter is also when it was last sent.
    """

    id: str
    teacher: str
    endpoint: str
    provider_id: str | None
    state: str
    requests: int
    message: str | None
    created_at: datetime
    updated_at: datetime

    @property
    def is_open(self) -> bool:
        """Whether its cells are still the provider's."""
        return self.state in OPEN_STATES


@dataclass(frozen=True, slots=True)
class JobCell:
    """One cell of a job, as `StoredCell` has it."""

    key: str
    request: str


class Jobs:
    """The jobs of a store."""

    def __init__(self, store: Store) -> None:
        self._database = store.database
        # Also for a store that was opened before this module was loaded.
        self._database.write(lambda connection: METADATA.create_all(connection, tables=[JOBS, JOB_CELLS]))

    def begin(self, job_id: str, cells: Sequence[JobCell], *, teacher: str, endpoint: str, owner: str) -> Job | None:
        """A new job in state `submitting`, handled by its maker; durable, its cells' leases with it, when it returns.

        Args:
            job_id: from `new_job_id`.
            cells: in the order of the requests: the position is the number in a request's id.
            teacher: name.
            endpoint: `Endpoint.identity`.
            owner: `Claims.owner` of the process, which holds the leases of all of these cells.

        Returns: the job; None where some lease is no longer the owner's: nothing was written then.

        Raises:
            StoreError: it cannot be written; nothing was.
        """
        now = datetime.now(UTC)
        job = Job(job_id, teacher, endpoint, None, SUBMITTING, len(cells), None, now, now)
        row = {**{name: getattr(job, name) for name in job.__slots__}, "owner": owner}
        numbered = [{"job_id": job.id, "number": n, "key": c.key, "request": c.request} for n, c in enumerate(cells)]

        def work(connection: sa.Connection) -> None:
            if connection.execute(sa.select(JOBS.c.id).where(JOBS.c.id == job.id)).scalar() is not None:
                return
            _hand_over(connection, [cell.key for cell in cells], owner, job.id)
            connection.execute(sa.insert(JOBS), row)
            connection.execute(sa.insert(JOB_CELLS), numbered)

        try:
            self._database.write(work)
        except _LeasesGone:
            return None
        return job

    def take(self, job_id: str, owner: str) -> bool:
        """Become the one who handles an open job; False where another living process is, or the job is settled."""
        dead = sa.not_(sa.exists().where(OWNERS.c.owner == JOBS.c.owner))
        return self._change(job_id, sa.or_(JOBS.c.owner.is_(None), JOBS.c.owner == owner, dead), owner=owner)

    def sending(self, job_id: str, owner: str) -> bool:
        """Note that a job is being sent now; False where it is another's by now, so that it must not be sent."""
        lives = sa.exists().where(OWNERS.c.owner == owner)
        return self._change(job_id, sa.and_(JOBS.c.owner == owner, lives), updated_at=datetime.now(UTC))

    def submitted(self, job_id: str, provider_id: str) -> None:
        """Keep the provider's id; from now on the job is followed by it."""
        self._change(job_id, sa.true(), provider_id=provider_id, state=RUNNING, updated_at=datetime.now(UTC))

    def note(self, job_id: str, message: str) -> None:
        """Keep the last word about an open job."""
        self._change(job_id, sa.true(), message=message)

    def store_outcomes(self, job_id: str, outcomes: Sequence[Outcome]) -> None:
        """Store what came of some of a job's cells; the same outcome may come again.

        Raises:
            StoreError: it cannot be written; nothing was.
        """
        _JobClaims(job_id, self._database).commit(Work(outcomes=outcomes))

    def finish(self, job_id: str, state: str, message: str | None = None) -> None:
        """Close a job. Whatever of its cells has no outcome is open to all again, and its money free.

        Args:
            job_id: a job; one that is closed stays as it is.
            state: `completed`, `expired`, `cancelled`, `failed`, `UNSENT` or `LOST`.
            message: why, None without a reason.
        """
        claims = _JobClaims(job_id, self._database)
        for keys in self._keys(job_id):
            claims.commit(Work(refunds=keys, returns=keys))

        def work(connection: sa.Connection) -> None:
            mine = sa.and_(JOBS.c.id == job_id, JOBS.c.state.in_(OPEN_STATES))
            values = {"state": state, "message": message, "updated_at": datetime.now(UTC), "owner": None}
            connection.execute(sa.update(JOBS).where(mine).values(**values))
            connection.execute(sa.delete(JOB_CELLS).where(JOB_CELLS.c.job_id == job_id))

        self._database.write(work)

    def get(self, job_id: str) -> Job | None:
        """One job, None where there is none of that id."""
        return next(iter(self._select(JOBS.c.id == job_id)), None)

    def open_jobs(self, endpoint: str | None = None) -> list[Job]:
        """The jobs that are not settled, oldest first; of one endpoint, or all."""
        of_endpoint = sa.true() if endpoint is None else JOBS.c.endpoint == endpoint
        return self._select(sa.and_(JOBS.c.state.in_(OPEN_STATES), of_endpoint))

    def provider_ids(self) -> frozenset[str]:
        """Every id by which a provider knows a job of this store."""
        query = sa.select(JOBS.c.provider_id).where(JOBS.c.provider_id.is_not(None))
        return self._database.read(lambda connection: frozenset(connection.execute(query).scalars()))

    def cells(self, job_id: str, numbers: Collection[int]) -> dict[int, JobCell]:
        """Cells of a job by their numbers; those that are not there are left out."""
        some = sa.and_(JOB_CELLS.c.job_id == job_id, JOB_CELLS.c.number.in_(list(numbers)))
        rows = self._database.read(lambda connection: connection.execute(sa.select(JOB_CELLS).where(some)).all())
        return {row.number: JobCell(row.key, row.request) for row in rows}

    def _keys(self, job_id: str) -> Iterator[list[str]]:
        """The keys of a job's cells, some hundred at a time."""
        last = -1
        while rows := self._block(job_id, last):
            last = rows[-1][0]
            yield [key for _, key in rows]

    def _block(self, job_id: str, last: int) -> list[tuple[int, str]]:
        after = sa.and_(JOB_CELLS.c.job_id == job_id, JOB_CELLS.c.number > last)
        query = sa.select(JOB_CELLS.c.number, JOB_CELLS.c.key).where(after).order_by(JOB_CELLS.c.number).limit(_BLOCK)
        rows = self._database.read(lambda connection: connection.execute(query).all())
        return [(row.number, row.key) for row in rows]

    def _select(self, condition: sa.ColumnElement[bool]) -> list[Job]:
        columns = [JOBS.c[name] for name in Job.__slots__]
        query = sa.select(*columns).where(condition).order_by(JOBS.c.created_at, JOBS.c.id)
        rows = self._database.read(lambda connection: connection.execute(query).mappings().all())
        return [Job(**_in_utc(row)) for row in rows]

    def _change(self, job_id: str, condition: sa.ColumnElement[bool], **values: Any) -> bool:
        which = sa.and_(JOBS.c.id == job_id, JOBS.c.state.in_(OPEN_STATES), condition)
        change = sa.update(JOBS).where(which).values(**values)
        return self._database.write(lambda connection: connection.execute(change).rowcount == 1)


class _JobClaims(Claims):
    """The claims of a job: whoever handles it settles its cells in its name, with the same exact money."""

    def __init__(self, job_id: str, database: Database) -> None:
        # Joins no list of the living: a job's leases end with the job, whatever becomes of a process.
        self.owner, self._database, self._budget = JOB_PREFIX + job_id, database, None


def new_job_id() -> str:
    """An id that no other job has: 32 hex digits."""
    return uuid.uuid4().hex


def describe_jobs(jobs: Sequence[Job]) -> str:
    """Open jobs in one phrase, "" without any.

    >>> since = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)
    >>> describe_jobs([Job("0" * 32, "gpt", "|openai/gpt", "batch_1", RUNNING, 1200, None, since, since)])
    '1,200 cells in 1 batch job at the provider since 2026-03-01 09:30 UTC'
    """
    if not jobs:
        return ""
    cells = sum(job.requests for job in jobs)
    since = min(job.created_at for job in jobs).astimezone(UTC)
    counted = f"{len(jobs):,} batch job{'' if len(jobs) == 1 else 's'}"
    return f"{cells:,} cell{'' if cells == 1 else 's'} in {counted} at the provider since {since:%Y-%m-%d %H:%M} UTC"


class _LeasesGone(Exception):
    """Some cell is no longer its maker's: the job must not be made."""


def _hand_over(connection: sa.Connection, keys: Sequence[str], owner: str, job_id: str) -> None:
    moved = 0
    for some in in_blocks(keys):
        mine = sa.and_(LEASES.c.key.in_(some), LEASES.c.owner == owner)
        moved += connection.execute(sa.update(LEASES).where(mine).values(owner=JOB_PREFIX + job_id)).rowcount
    if moved != len(keys):
        raise _LeasesGone


def _in_utc(row: Mapping[Any, Any]) -> dict[str, Any]:
    """SQLite forgets time zones; every time was written in UTC."""
    times = {name: row[name] for name in ("created_at", "updated_at")}
    return {**row, **{name: at if at.tzinfo else at.replace(tzinfo=UTC) for name, at in times.items()}}
