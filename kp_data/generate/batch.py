"""Teachers whose provider has a batch API: their missing cells go in as jobs, at half the price.

A round hands in what is missing and waits for all jobs; what came back without an answer is asked again in the next
round, a few times. Jobs of earlier runs are followed as if this run had made them. A run that ends before its jobs
leaves them at the provider, and the next one picks them up.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from kp_data.config import Teacher
from kp_data.console import say
from kp_data.errors import DataError, StoreError
from kp_data.generate.batch_job import BatchSettings, JobRun, Office
from kp_data.generate.clerk import Clerk
from kp_data.generate.plan import Cell
from kp_data.generate.tally import Tally
from kp_data.store import Claims, Work
from kp_data.store.jobs import JobCell, Jobs, describe_jobs, new_job_id
from kp_data.teachers.batches import BatchClient, Shape
from kp_data.teachers.transport import Endpoint

__all__ = ["BatchSettings", "Blocks", "NoBlocks", "run_batches"]

_DEFAULT: Final = BatchSettings()
_BLOCK: Final = 256
_LOOK_AGAIN_S: Final = 0.01
"""Patience with which cells in somebody's hands are looked at once more, and not waited for."""


class Blocks(Protocol):
    """Cells to ask, claimed for this run as they come; see `feed.Feed`."""

    async def next_block(self, size: int, patience_s: float) -> list[Cell] | None:
        """Some more; None when there are none now."""


class NoBlocks:
    """No cells: for a run that hands nothing in, and still follows the jobs that earlier ones have left."""

    async def next_block(self, size: int, patience_s: float) -> list[Cell] | None:
        """See `Blocks`."""
        return None


async def run_batches(
    cells: Callable[[], Blocks],
    *,
    teacher: Teacher,
    endpoint: Endpoint,
    client: BatchClient,
    clerk: Clerk,
    claims: Claims,
    tally: Tally,
    settings: BatchSettings = _DEFAULT,
    reserve: Callable[[Cell], int] | None = None,
    stop: asyncio.Event | None = None,
    others: Collection[str] = (),
) -> None:
    """Ask a teacher's missing cells in batch jobs, and follow those that earlier runs have left.

    Args:
        cells: a new pass over the cells to ask; one is made for each round.
        teacher: whom.
        endpoint: as resolved for its single calls.
        client: of its batch API.
        clerk: of this run.
        claims: of this run, the same that the clerk works with.
        tally: kept up to date.
        settings: see there.
        reserve: what a cell may cost at most, in billionths of a dollar; None: nothing is reserved.
        stop: set when no more is to be handed in or waited for.
        others: names of the other teachers of this run, whose jobs are theirs to follow.

    Raises:
        StoreError: the store cannot be read or written.
        DataError: requests cannot be written to the folder for temporary files.
    """
    jobs = await clerk.do(lambda: Jobs(clerk.store))
    office = Office(teacher, endpoint.identity, client, clerk, claims, jobs, tally, settings)
    run = _Run(office, cells, reserve, frozenset(others))
    watcher = asyncio.create_task(_end_with(stop, office.ending))
    try:
        async with asyncio.TaskGroup() as group:
            await run.rounds(group)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    finally:
        watcher.cancel()
        open_jobs = await clerk.do(lambda: jobs.open_jobs(endpoint.identity))
        if left := describe_jobs([job for job in open_jobs if run.is_ours(job.teacher)]):
            say(f"{teacher.name}: {left}; run again to fetch them")


class _Run:
    def __init__(
        self,
        office: Office,
        cells: Callable[[], Blocks],
        reserve: Callable[[Cell], int] | None,
        others: frozenset[str],
    ) -> None:
        self._office, self._cells, self._reserve, self._others = office, cells, reserve, others
        self._following: set[asyncio.Task[None]] = set()
        self._is_poor = False

    def is_ours(self, teacher: str) -> bool:
        """Whether a job of that teacher's name is followed here: a name that no run has any more counts too."""
        return teacher not in self._others

    async def rounds(self, group: asyncio.TaskGroup) -> None:
        """Everything, to its end or the run's."""
        office = self._office
        for job in await office.do(lambda: office.jobs.open_jobs(office.endpoint)):
            if self.is_ours(job.teacher):
                self._follow(group, JobRun(office, job, is_new=False))
        first = self._cells()
        await self._hand_in_all(group, self._blocks(first, 0.0))
        await self._all_ended()
        for _ in range(1, office.settings.rounds):
            if not self._goes_on():
                break
            office.reopened, office.progressed, self._is_poor = 0, False, False
            await self._hand_in_all(group, self._blocks(first, _LOOK_AGAIN_S))
            await self._hand_in_all(group, self._second_pass())
            await self._all_ended()
        self._say_why(office.message if office.reopened else None)
        # Counts what is settled by now, and leaves the rest to others.
        async for block in self._blocks(first, _LOOK_AGAIN_S):
            await self._return([cell.key for cell in block])

    def _goes_on(self) -> bool:
        """Whether another round may bring more than the last. Ended jobs give back money that they did not need."""
        office = self._office
        return (office.reopened > 0 or self._is_poor) and office.progressed and not office.ending.is_set()

    def _say_why(self, message: str | None) -> None:
        """Why cells are left, where waiting does not help."""
        tally = self._office.tally
        if not self._office.ending.is_set():
            tally.stopped = tally.stopped or ("the budget is used up" if self._is_poor else message)

    async def _blocks(self, cells: Blocks, patience_s: float) -> AsyncGenerator[list[Cell], None]:
        while (block := await cells.next_block(_BLOCK, patience_s)) is not None:
            yield block

    async def _second_pass(self) -> AsyncGenerator[list[Cell], None]:
        """Every cell once more: those that came back open. What is settled was counted the first time."""
        tally = self._office.tally
        reused, elsewhere = tally.reused, tally.elsewhere
        try:
            async with aclosing(self._blocks(self._cells(), 0.0)) as blocks:
                async for block in blocks:
                    yield block
        finally:
            tally.reused, tally.elsewhere = reused, elsewhere

    async def _hand_in_all(self, group: asyncio.TaskGroup, blocks: AsyncGenerator[list[Cell], None]) -> None:
        ending = self._office.ending
        bundle = self._new_bundle()
        try:
            async with aclosing(blocks):
                async for block in blocks:
                    for cell in await self._affordable(block):
                        if not bundle.has_room(self._line(bundle, cell)) and not ending.is_set():
                            await self._hand_in(group, bundle)
                            bundle = self._new_bundle()
                        bundle.add(cell, self._line(bundle, cell))
                    if self._is_poor or ending.is_set():
                        break
            if bundle.cells and not ending.is_set():
                await self._hand_in(group, bundle)
        finally:
            await self._return([cell.key for cell in bundle.cells])
            bundle.close()

    def _new_bundle(self) -> _Bundle:
        return _Bundle(self._office.client.shape, self._office.settings.requests)

    def _line(self, bundle: _Bundle, cell: Cell) -> bytes:
        return self._office.client.request(bundle.next_id(), cell.messages, cell.parameters)

    async def _affordable(self, block: Sequence[Cell]) -> list[Cell]:
        """Those of some cells that are to be asked and whose money is set aside; the others go back."""
        office = self._office
        asked = [cell for cell in block if cell.key not in office.refused]
        await self._return([cell.key for cell in block if cell.key in office.refused])
        if self._reserve is None or not asked:
            return asked
        wanted = {cell.key: self._reserve(cell) for cell in asked}
        done = await office.do(lambda: office.claims.commit(Work(wanted=wanted)))
        granted = done.granted
        await self._return([key for key in wanted if key not in granted])
        self._is_poor = len(granted) < len(asked)
        return [cell for cell in asked if cell.key in granted]

    async def _hand_in(self, group: asyncio.TaskGroup, bundle: _Bundle) -> None:
        """One job: on record first, then at the provider, then followed."""
        office = self._office
        bundle.finish()
        job = await office.do(
            lambda: office.jobs.begin(
                bundle.job,
                bundle.cells,
                teacher=office.teacher.name,
                endpoint=office.endpoint,
                owner=office.claims.owner,
            )
        )
        if job is None:
            raise StoreError("another process took over cells of this run; run again to go on")
        office.clerk.active.difference_update(cell.key for cell in bundle.cells)
        bundle.cells = []
        try:
            run = JobRun(office, job, is_new=True)
            if await run.submit(bundle.path):
                self._follow(group, run)
        finally:
            bundle.close()

    async def _return(self, keys: Sequence[str]) -> None:
        """Give up claims of cells that are not asked, and the money set aside for them."""
        if keys:
            work = Work(refunds=keys, returns=keys)
            await self._office.do(lambda: self._office.claims.commit(work))
            self._office.clerk.active.difference_update(keys)

    def _follow(self, group: asyncio.TaskGroup, run: JobRun) -> None:
        task = group.create_task(run.follow())
        self._following.add(task)
        task.add_done_callback(self._following.discard)

    async def _all_ended(self) -> None:
        while self._following:
            await asyncio.wait(self._following)


class _Bundle:
    """The requests of one job, in a file of their own until they are handed in: a job may have 256 MB of them."""

    def __init__(self, shape: Shape, requests: int) -> None:
        self.job = new_job_id()
        self.cells: list[JobCell] = []
        self._shape, self._most = shape, min(requests, shape.most_requests)
        self._size = len(shape.after)
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._file: BinaryIO | None = None

    @property
    def path(self) -> Path:
        """The file."""
        assert self._folder is not None
        return Path(self._folder.name) / "requests"

    def next_id(self) -> str:
        """Id of the request that is added next."""
        return f"{self.job}-{len(self.cells)}"

    def has_room(self, line: bytes) -> bool:
        """Whether one more request fits in; the first always does."""
        fits = self._size + len(self._shape.between) + len(line) <= self._shape.most_bytes
        return not self.cells or (fits and len(self.cells) < self._most)

    def add(self, cell: Cell, line: bytes) -> None:
        """One more request."""
        written = (self._shape.between if self.cells else self._shape.before) + line
        self._write(written)
        self._size += len(written)
        self.cells.append(JobCell(cell.key, cell.request))

    def finish(self) -> None:
        """Write the end; the file is complete then."""
        self._write(self._shape.after)
        with _writing():
            self.close_file()

    def close(self) -> None:
        """Remove the file."""
        with suppress(OSError):
            self.close_file()
        if self._folder is not None:
            self._folder.cleanup()

    def close_file(self) -> None:
        """Bring everything to the file."""
        if self._file is not None:
            self._file.close()

    def _write(self, data: bytes) -> None:
        with _writing():
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="kp-batch-")
            if self._file is None:
                self._file = self.path.open("wb")
            self._file.write(data)


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"requests of a batch job cannot be written ({error.strerror}); free space, or set TMPDIR",
            place=tempfile.gettempdir(),
        ) from error


async def _end_with(stop: asyncio.Event | None, ending: asyncio.Event) -> None:
    if stop is not None:
        await stop.wait()
        ending.set()
