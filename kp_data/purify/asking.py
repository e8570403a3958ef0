"""Asking one model many things, as `generate` does: durable, paid once, retried, limited; the one seam to its engine.

Answers are cells of the panel's own store. A key is a hash of everything that can change an answer, so cells of
several purifications lie beside those of the teachers without meeting them, one folder holds all that was paid for,
one budget covers it, and a run that was killed, or a second one into another folder, finds what the first has paid.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kp_data.errors import ConfigError, DataError, TeacherError
from kp_data.purify.protocol import Progress, quiet
from kp_data.schema import Question

if TYPE_CHECKING:
    from kp_data.config import Generate, Teacher
    from kp_data.generate.plan import Cell, Plan
    from kp_data.generate.tally import Tally
    from kp_data.store import Store, StoredCell
    from kp_data.teachers.prompts import Message
    from kp_data.teachers.transport import Endpoint

_REPORT_EVERY_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Ask:
    """One thing to be asked about a question."""

    question: Question
    messages: list[Message]


@dataclass
class Bill:
    """What the answers that a run rests on have cost, whether this run paid for them or an earlier one.

    Attributes:
        calls: answers.
        calls_now: those that were asked for in this run.
        attempts: tries that they took.
        prompt_tokens, completion_tokens: as the endpoint counted.
        cost_usd: in US dollars.
        cost_unknown: answers whose price is not known.
        latency_s: seconds of all calls together.
    """

    calls: int = 0
    calls_now: int = 0
    attempts: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    cost_unknown: int = 0
    latency_s: float = 0.0

    def add(self, cell: StoredCell) -> None:
        """One more answer."""
        self.calls += 1
        self.attempts += cell.attempts
        self.prompt_tokens += cell.prompt_tokens or 0
        self.completion_tokens += cell.completion_tokens or 0
        self.cost_usd += cell.cost_usd or 0.0
        self.cost_unknown += cell.cost_usd is None
        self.latency_s += cell.latency_s or 0.0

    def as_facts(self) -> dict[str, Any]:
        """For report.json; a cost that is not wholly known is null."""
        return {
            "calls": self.calls,
            "calls_now": self.calls_now,
            "attempts": self.attempts,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cost_usd": None if self.cost_unknown else round(self.cost_usd, 6),
            "seconds_per_call": round(self.latency_s / self.calls, 4) if self.calls else None,
        }


@dataclass
class Asker:
    """One model, asked through the engine, with the store of a panel behind it.

    Attributes:
        teacher: the model, as configured.
        task, version: of the prompt; they go into the keys, so that two tasks never share an answer.
        bill: what the answers given so far have cost.
    """

    teacher: Teacher
    task: str
    version: int
    _endpoint: Endpoint
    _store: Store
    _asking: Generate
    bill: Bill = field(default_factory=Bill)

    @property
    def identity(self) -> str:
        """Who is asked, in words that hold over runs."""
        return self._endpoint.identity

    def ask(self, asks: Sequence[Ask], *, stage: str, progress: Progress = quiet) -> list[StoredCell | None]:
        """What came of each of them: from the store where it is known, from the model where it is not.

        A cell with an error stands for a call that brought nothing, also after its retries; a further run makes it
        again. None stands for one that was never made.

        Raises:
            TeacherError: the model cannot be reached, or refuses every call; what was answered is saved.
            StoreError: the store cannot be read or written.
        """
        cells = [self._cell(ask) for ask in asks]
        keys = [cell.key for cell in cells]
        known = self._store.states(keys)
        missing = list({cell.key: cell for cell in cells if known.get(cell.key, "") is not None}.values())
        if missing:
            self._pay(missing, stage, progress)
        found = self._store.get(keys)
        for cell in found.values():
            if cell.error is None:
                self.bill.add(cell)
        return [found.get(key) for key in keys]

    def _pay(self, missing: list[Cell], stage: str, progress: Progress) -> None:
        from kp_data.generate.tally import Tally

        tally = Tally(self.teacher.name, len(missing))
        asyncio.run(self._ask(missing, tally, lambda: progress(stage, tally.done, tally.total)))
        self.bill.calls_now += tally.answered
        if tally.stopped is not None:
            raise TeacherError(
                f"{tally.stopped}; {tally.answered} answers are saved: mend this, then run the same command again",
                place=f"model {self.teacher.name}",
            )

    async def _ask(self, missing: list[Cell], tally: Tally, report: Callable[[], None]) -> None:
        from kp_data.generate.engine import Budget, ask_all, check_all
        from kp_data.generate.tally import Limits
        from kp_data.teachers.transport import make_carrier

        name, asking = self.teacher.name, self._asking
        carriers = {name: make_carrier(self.teacher, self._endpoint)}
        watch = asyncio.create_task(_every(_REPORT_EVERY_S, report))
        try:
            await check_all(carriers)
            limits = Limits(asking.concurrency, asking.retries, asking.timeout_s)
            budget = None if asking.budget is None else Budget(asking.budget)
            await ask_all(
                _plan(self.teacher, self._endpoint, missing), carriers, self._store, limits, [tally], budget=budget
            )
        finally:
            watch.cancel()
            await carriers[name].close()
            report()

    def _cell(self, ask: Ask) -> Cell:
        from kp_data.generate.plan import Cell
        from kp_data.store import cell_key
        from kp_data.teachers.transport import parameters_of

        parameters = parameters_of(self.teacher, sample=0)
        request = {
            "endpoint": self._endpoint.identity,
            "parameters": parameters,
            "prompt_version": self.version,
            "task": self.task,
        }
        key = cell_key({**request, "messages": ask.messages})
        digest = hashlib.sha256(json.dumps(ask.messages, ensure_ascii=False).encode()).hexdigest()
        shown = json.dumps({**request, "messages_sha256": digest}, sort_keys=True)
        return Cell(ask.question, self.teacher.name, "blind", 0, key, shown, ask.messages, parameters)


@contextmanager
def asker_of(teacher: Teacher, panel: Path | None, *, task: str, version: int, asking: Generate) -> Iterator[Asker]:
    """An asker for as long as the block lasts; starts a practice server where the model is one of its programs.

    Several may ask about one panel at the same time: the store's leases see to it that none asks what another does.

    Args:
        teacher: whom to ask.
        panel: folder of the panel, whose store keeps the answers.
        task, version: see `Asker`.
        asking: how: transport, store URL, concurrency, retries, timeout, budget.

    Raises:
        DataError: the panel was never on disk.
        TeacherError, ConfigError: the model cannot be addressed, or there is a budget and its price is not known.
        StoreError: the store cannot be opened.
    """
    from kp_data.store import Store
    from kp_data.teachers.prices import ceiling_of
    from kp_data.teachers.transport import PRACTICE_PREFIX, resolve_endpoint

    if panel is None:
        raise DataError("this panel was never on disk; write it as a panel folder and read it with Panel.read")
    with ExitStack() as stack:
        base = None
        if teacher.model.startswith(PRACTICE_PREFIX) and teacher.api_base is None:
            from kp_data.practice import practice_server

            base = stack.enter_context(practice_server())
        endpoint = resolve_endpoint(teacher, asking.transport, practice_base=base)
        if asking.budget is not None and ceiling_of(teacher) is None:
            raise ConfigError(
                "there is a budget, and the price of this model is not known; give it in kp.yaml "
                "(price: {input: …, output: …}, US dollars per million tokens), or leave out the budget",
                place=f"model {teacher.name}",
            )
        store = Store.of_folder(panel, asking.store)
        stack.callback(store.close)
        yield Asker(teacher, task, version, endpoint, store, asking)


def _plan(teacher: Teacher, endpoint: Endpoint, cells: list[Cell]) -> Plan:
    """Cells that exist already, in the shape that the engine asks."""
    from kp_data.generate.plan import Plan

    class GivenCells(Plan):
        def cells(self, teacher: Teacher) -> Iterator[Cell]:
            return iter(cells)

        def count(self, teacher: Teacher) -> int:
            return len(cells)

    return GivenCells(questions=(), teachers=(teacher,), endpoints={teacher.name: endpoint}, modes=("blind",))


async def _every(seconds: float, report: Callable[[], None]) -> None:
    while True:
        report()
        await asyncio.sleep(seconds)
