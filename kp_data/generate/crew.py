"""The workers of one run on a cluster, seen from the run: started, followed, told to stop, and missed when lost."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

from kp_data.console import say
from kp_data.errors import ConfigError, KpError
from kp_data.generate.cluster import reason_of
from kp_data.generate.engine import Budget, ask_all
from kp_data.generate.stopping import Stop
from kp_data.generate.tally import Tally
from kp_data.generate.worker import About, Access, Sight, Task, Worker, at_rest, merge
from kp_data.store import Store
from kp_data.teachers.batches import BatchClient

_LOOK_S: Final = 0.5
_START_S: Final = 120.0
_TELL_S: Final = 5.0


async def ask_with_workers(
    size: int,
    task: Task,
    access: Access,
    store: Store,
    tallies: Sequence[Tally],
    *,
    stop: Stop,
    budget: Budget | None = None,
    batches: Mapping[str, BatchClient] = MappingProxyType({}),
    followed: Mapping[str, BatchClient] = MappingProxyType({}),
) -> None:
    """`ask_all` by workers of the cluster that this process is part of; batch jobs are handed in and fetched from here.

    Args:
        size: number of workers.
        task: the whole plan, and how it is asked.
        access: to teachers and store.
        store: the same, opened here.
        tallies: one a teacher, in the plan's order; kept up to date while the run goes on.
        stop, budget, batches, followed: see `ask_all`.

    Raises:
        ConfigError: no worker can be started, or one is of another version.
        TeacherError: a teacher cannot be reached from a worker.
        StoreError: an outcome could not be written; what was written stays.
    """
    plan = task.plan
    called = [index for index, teacher in enumerate(plan.teachers) if teacher.name not in batches]
    online = replace(task, plan=replace(plan, teachers=tuple(plan.teachers[index] for index in called)))
    here = [tally if tally.teacher in batches else Tally(tally.teacher, tally.total) for tally in tallies]
    beside = {tally.teacher: tally for tally in here if tally.teacher in followed}
    crew = Crew(size, [tallies[index] for index in called], stop, budget=budget, beside=beside)
    work = [crew.ask(online, access)] if called else []
    if batches or followed:
        whole = replace(plan, endpoints=access.endpoints)
        options: dict[str, Any] = {"retry_failed": task.retry_failed, "budget": budget, "stop": stop}
        work.append(ask_all(whole, {}, store, task.limits, here, batches=batches, followed=followed, **options))
    try:
        async with asyncio.TaskGroup() as group:
            for one in work:
                group.create_task(one)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


class Crew:
    """The workers of one run, and what is known of each."""

    def __init__(
        self,
        size: int,
        tallies: Sequence[Tally],
        stop: Stop,
        *,
        budget: Budget | None = None,
        beside: Mapping[str, Tally] = MappingProxyType({}),
    ) -> None:
        self._size, self._tallies, self._stop, self._budget, self._beside = size, tallies, stop, budget, beside
        self._hands: list[_Hand] = []
        self._is_done = False

    async def ask(self, task: Task, access: Access) -> None:
        """Start the workers and follow them until none has anything left to do.

        Args:
            task: of all of them.
            access: to teachers and store.

        Raises:
            ConfigError: no worker can be started, or one is of another version.
            TeacherError: a teacher cannot be reached from a worker.
            StoreError: the store cannot be reached from a worker, or no worker could go on with it.
        """
        stopping = asyncio.create_task(self._pass_on_stop())
        try:
            if await self._until_stop(self._start(task, access)):
                await asyncio.gather(*(self._follow(hand) for hand in self._hands))
                self._raise_if_all_failed()
        finally:
            stopping.cancel()
            for hand in self._hands:
                hand.end()

    async def _until_stop(self, work: Coroutine[Any, Any, None]) -> bool:
        """Whether something came to its end before a person ended the run."""
        working, asked = asyncio.create_task(work), asyncio.create_task(self._stop.asked.wait())
        try:
            await asyncio.wait({working, asked}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                return False
            working.result()
            return True
        finally:
            working.cancel()
            asked.cancel()
            await asyncio.gather(working, asked, return_exceptions=True)

    async def _start(self, task: Task, access: Access) -> None:
        import ray

        self._hands = [_Hand.start() for _ in range(self._size)]
        self._keep([hand for hand, trouble in await self._ask_about() if trouble is None])
        shared = ray.put(task)
        of = len(self._hands)
        begun = [hand.call("begin", shared, access, turn, of) for turn, hand in enumerate(self._hands)]
        results = await asyncio.gather(*begun, return_exceptions=True)
        for hand, result in zip(self._hands, results, strict=True):
            if isinstance(result, BaseException):
                hand.note_end(result)
        if troubles := [(hand, hand.trouble) for hand in self._hands if hand.trouble is not None]:
            hand, trouble = troubles[0]
            raise _placed(trouble, hand.place)
        await self._share_out()

    async def _ask_about(self) -> list[tuple[_Hand, str | None]]:
        """Every worker that was started, and why it is of no use, None where it is."""
        asked = [asyncio.create_task(hand.call("about")) for hand in self._hands]
        done, late = await asyncio.wait(asked, timeout=_START_S)
        for one in late:
            one.cancel()
        errors = [one.exception() if one in done else None for one in asked]
        found: list[tuple[_Hand, str | None]] = []
        for hand, one, error in zip(self._hands, asked, errors, strict=True):
            if one not in done:
                found.append((hand, f"no CPU was free for it within {_START_S:.0f} seconds"))
            elif error is not None:
                found.append((hand, f"it did not start ({reason_of(error)}); is this version installed on every node?"))
            else:
                hand.place = _checked(one.result())
                found.append((hand, None))
        reasons = [trouble for _, trouble in found if trouble is not None]
        if len(reasons) == len(found):
            raise ConfigError(f"no worker could be started: {reasons[0]}")
        if reasons:
            say(f"{len(found) - len(reasons)} of {len(found)} workers started: {reasons[0]}")
        return found

    def _keep(self, hands: list[_Hand]) -> None:
        for hand in self._hands:
            if hand not in hands:
                hand.end()
        self._hands = hands

    async def _follow(self, hand: _Hand) -> None:
        """One worker to its end; what it tells on the way is brought to the tallies."""
        asking = asyncio.create_task(hand.call("ask"))
        looking = asyncio.create_task(self._look_at(hand))
        try:
            hand.sight = (await asking).here()
            hand.note_end(None)
        except Exception as error:
            hand.note_end(error)
            if not self._is_done:
                goes_on = any(one.is_working for one in self._hands)
                say(f"worker {hand.place}: {reason_of(error)}; {'the others go on' if goes_on else 'none is left'}")
        finally:
            asking.cancel()
            looking.cancel()
        self._merge()
        await self._share_out()

    async def _look_at(self, hand: _Hand) -> None:
        from ray.exceptions import RayError

        while True:
            await asyncio.sleep(_LOOK_S)
            # A worker that does not answer now may answer the next time; that it is lost its `ask` tells.
            with suppress(RayError):
                hand.sight = (await hand.call("look")).here()
            self._merge()
            await self._end_if_done()

    def _merge(self) -> None:
        for index, tally in enumerate(self._tallies):
            parts = [hand.part(index, tally) for hand in self._hands]
            merge(tally, parts, beside=[self._beside[tally.teacher]] if tally.teacher in self._beside else ())
        left = [hand.sight.budget_left_usd for hand in self._hands if hand.sight is not None]
        if self._budget is not None and (known := [usd for usd in left if usd is not None]):
            self._budget.left_usd = min(known)

    async def _end_if_done(self) -> None:
        """Spare the workers the way past the cells of the others when all are done."""
        if not self._is_done and all(tally.left <= 0 for tally in self._tallies):
            self._is_done = True
            await self._tell_all("stop", False)

    async def _share_out(self) -> None:
        """Divide the limits among those that still work."""
        if working := [hand for hand in self._hands if hand.is_working]:
            await self._tell_all("set_share", 1 / len(working))

    async def _pass_on_stop(self) -> None:
        await self._stop.asked.wait()
        await self._tell_all("stop", False)
        await self._stop.now.wait()
        await self._tell_all("stop", True)

    async def _tell_all(self, what: str, *how: Any) -> None:
        told = [asyncio.create_task(hand.call(what, *how)) for hand in self._hands if hand.is_working]
        if told:
            # One that does not answer must not keep the others, or a person, waiting.
            await asyncio.wait(told, timeout=_TELL_S)
            for one in told:
                one.cancel()
            await asyncio.gather(*told, return_exceptions=True)

    def _raise_if_all_failed(self) -> None:
        """Raise what the last workers ended with, unless they were merely lost: then what is left is left."""
        troubles = [hand.trouble for hand in self._hands]
        if all(trouble is not None for trouble in troubles):
            for hand, trouble in zip(self._hands, troubles, strict=True):
                if trouble is not None and not _is_loss(trouble):
                    raise _placed(trouble, hand.place)


class _Hand:
    """One worker, seen from here.

    Attributes:
        place: where it is, in words.
        sight: what it last told.
        is_working: whether it may still do something.
        trouble: what it ended with, None where it did well.
    """

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self.place = "on an unknown node"
        self.sight: Sight | None = None
        self.is_working = True
        self.trouble: BaseException | None = None

    @classmethod
    def start(cls) -> _Hand:
        """Have a worker started; does not wait for it."""
        import ray

        # A worker that is lost is not started again: its cells are asked by the others, its leases run out.
        options = {"num_cpus": 1, "max_restarts": 0, "max_task_retries": 0, "scheduling_strategy": "SPREAD"}
        return cls(ray.remote(Worker).options(**options).remote())

    async def call(self, method: str, *arguments: Any) -> Any:
        """One method of the worker; raises what it raises, or what Ray says of its loss."""
        from ray.exceptions import RayTaskError

        try:
            return await getattr(self._actor, method).remote(*arguments)
        except RayTaskError as error:
            # The error itself, and not as Ray dresses it up.
            raise (error.cause if isinstance(error.cause, Exception) else error) from None

    def note_end(self, trouble: BaseException | None) -> None:
        """It has ended, well or not."""
        self.is_working, self.trouble = False, trouble
        if trouble is not None:
            self.end()

    def end(self) -> None:
        """Free its process and its CPU."""
        import ray

        self.is_working = False
        with suppress(Exception):
            ray.kill(self._actor, no_restart=True)

    def part(self, index: int, tally: Tally) -> Tally:
        """What it knows of one teacher."""
        part = self.sight.tallies[index] if self.sight is not None else Tally(tally.teacher, tally.total)
        return part if self.is_working else at_rest(part, lost=self.trouble is not None)


def _is_loss(trouble: BaseException) -> bool:
    from ray.exceptions import RayError

    return isinstance(trouble, RayError)


def _placed(trouble: BaseException, place: str) -> BaseException:
    """An error of a worker that says where it was."""
    if isinstance(trouble, KpError):
        # What the environment holds here is not in that of a node; a key that a teacher names is handed over.
        hint = "; or name the variable in api_key_env" if "not set" in str(trouble) else ""
        return type(trouble)(f"{trouble}{hint}", place=f"worker {place}")
    if _is_loss(trouble):
        return ConfigError(f"worker {place}: {reason_of(trouble)} before anything was asked; run again")
    return trouble


def _checked(about: About) -> str:
    """Where a worker is.

    Raises:
        ConfigError: it is of another version than this process.
    """
    here = About.this_process()
    if replace(about, host=here.host) != here:
        raise ConfigError(
            f"the worker on {about.host} is knowledge-purification {about.version}, this is {here.version}; "
            "install the same version on every node"
        )
    return f"on {about.host}"
