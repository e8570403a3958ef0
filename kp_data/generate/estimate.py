"""What asking will take, before anything is asked: tokens and money, as expected and at most.

Nothing is asked and nothing is written. Cells are looked at one by one, so a million of them need no more memory than
a thousand, but for a few bytes of a key each.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import sqlalchemy as sa

from kp_data.config import Price, Teacher
from kp_data.generate.plan import Cell, Plan
from kp_data.generate.reading import CONTENT_ERRORS, read_cell
from kp_data.schema import Mode
from kp_data.store import Store, StoredCell
from kp_data.teachers.prices import ceiling_of, cost_usd, price_of, source_of_price
from kp_data.teachers.prompts import Message
from kp_data.teachers.transport import parameters_of

Basis = Literal["measured", "guess", "measured and guess"]

LEAST_MEASURED: Final = 20
"""So many answers of a teacher in a mode, and their mean counts instead of a guess."""
MOST_MEASURED: Final = 1_000
"""Answers read for a mean; more would not change it."""
TEMPLATE_TOKENS_A_CALL: Final = 256
TEMPLATE_TOKENS_A_MESSAGE: Final = 16
"""Room for what a server's chat template puts around messages (roles, a system text of its own)."""
_CHUNK: Final = 256


def expected_tokens(messages: Sequence[Message], max_tokens: int) -> tuple[int, int]:
    """About how many tokens a call will read and write, without a tokenizer.

    English text has about four characters a token. Other scripts take two to four bytes a character and are cut finer;
    three bytes a token is between what older and newer vocabularies make of them. Measured against cl100k_base and
    o200k_base: 0.96 of the truth for English questions, 0.8 to 2.6 for other scripts, a third for formulas. Of what may
    be written, half. Own.

    Args:
        messages: of the call.
        max_tokens: that may be written.

    Returns: prompt tokens, completion tokens.
    """
    read = 0.0
    for message in messages:
        text = message["content"]
        if text.isascii():
            read += len(text) / 4
        else:
            ascii_bytes = len(text.encode("ascii", "ignore"))
            read += ascii_bytes / 4 + (_num_bytes(text) - ascii_bytes) / 3
    return int(read) + 1, max(1, max_tokens // 2)


def most_tokens(messages: Sequence[Message], max_tokens: int) -> tuple[int, int]:
    """How many tokens a call can read and write at most.

    A byte-level vocabulary never makes more tokens of a text than it has bytes in UTF-8; the chat template comes on
    top. Servers write no more than `max_tokens`, reasoning included.

    Args:
        messages: of the call.
        max_tokens: that may be written.

    Returns: prompt tokens, completion tokens.
    """
    read = sum(_num_bytes(message["content"]) for message in messages)
    return read + TEMPLATE_TOKENS_A_CALL + TEMPLATE_TOKENS_A_MESSAGE * len(messages), max_tokens


@dataclass(frozen=True, slots=True)
class TeacherEstimate:
    """What asking one teacher will take.

    Attributes:
        teacher: name.
        cells: cells of the plan.
        held: of those, how many need no call: answered before, or the same as another cell of the plan.
        to_ask: how many calls are to be made.
        prompt_tokens, completion_tokens: of these calls, as expected.
        most_prompt_tokens, most_completion_tokens: of these calls, at most.
        basis: `measured` where means of this teacher's answers stand behind the expectation, `guess` where the length
            of the prompts does, or both, each for some modes.
        price: in US dollars per million tokens; None: not known.
        price_source: where the price comes from; None: it is not known.
        cost_usd: as expected, None: the price is not known.
        most_usd: at most, with no call made twice; None: the price is not known.
    """

    teacher: str
    cells: int
    held: int
    to_ask: int
    prompt_tokens: int
    completion_tokens: int
    most_prompt_tokens: int
    most_completion_tokens: int
    basis: Basis
    price: Price | None
    price_source: str | None
    cost_usd: float | None
    most_usd: float | None

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        rounded = {
            name: None if (usd := getattr(self, name)) is None else round(usd, 6) for name in ("cost_usd", "most_usd")
        }
        return {**asdict(self), **rounded, "price": self.price.model_dump() if self.price is not None else None}


def estimate_plan(
    plan: Plan, store: Store | None = None, *, retry_failed: Collection[str] = ()
) -> list[TeacherEstimate]:
    """What asking the open cells of a plan will take, for each teacher in the plan's order.

    Args:
        plan: the cells.
        store: what was answered before; None: nothing. It is only read.
        retry_failed: classes of paid failures that will be asked again.

    Raises:
        StoreError: the store cannot be read.
    """
    first_with: dict[tuple[str, str], str] = {}
    estimates = []
    for teacher in plan.teachers:
        # Two names of one model have the same cells: only the first is asked.
        what = (plan.endpoints[teacher.name].identity, str(parameters_of(teacher, sample=0)))
        is_twin = first_with.setdefault(what, teacher.name) != teacher.name
        estimates.append(_estimate(plan, teacher, store, retry_failed, is_twin=is_twin))
    return estimates


def store_to_read(folder: Path, url: str | None) -> Store | None:
    """The store of a panel folder if there is one already; none is made.

    Args:
        folder: panel folder, which need not exist.
        url: where the cells are, when not in the folder.

    Raises:
        StoreError: it is there and cannot be opened.
    """
    if url is None:
        return Store.of_folder(folder) if (folder / "cells.sqlite").is_file() else None
    try:
        parts = sa.engine.make_url(url)
    except sa.exc.ArgumentError:
        return Store(url)  # says what is wrong with it
    is_new_file = parts.get_backend_name() == "sqlite" and not Path(parts.database or "").is_file()
    return None if is_new_file else Store(url)


@dataclass
class _Sums:
    """What the cells of one mode come to."""

    to_ask: int = 0
    guessed_prompt: int = 0
    guessed_completion: int = 0
    most_prompt: int = 0
    most_completion: int = 0
    most_usd: float = 0.0
    measured: int = 0
    measured_prompt: int = 0
    measured_completion: int = 0
    measured_guess: int = 0

    @property
    def is_measured(self) -> bool:
        return self.measured >= LEAST_MEASURED

    @property
    def prompt(self) -> float:
        """Expected prompt tokens: the guess, corrected by how far it was off where the truth is known."""
        if not self.is_measured:
            return self.guessed_prompt
        return self.guessed_prompt * self.measured_prompt / self.measured_guess

    @property
    def completion(self) -> float:
        """Expected completion tokens."""
        if not self.is_measured:
            return self.guessed_completion
        return self.to_ask * self.measured_completion / self.measured


@dataclass
class _Count:
    teacher: Teacher
    modes: Mapping[Mode, _Sums]
    cells: int = 0
    seen: set[int] = field(default_factory=set)

    def is_new(self, cell: Cell) -> bool:
        """Whether no earlier cell is the same: two questions in the same words are asked once."""
        # Sixteen hex digits of the key: a few bytes a cell, and no two alike among millions.
        short, before = int(cell.key[:16], 16), len(self.seen)
        self.seen.add(short)
        return len(self.seen) > before

    def ask(self, cell: Cell) -> None:
        sums, max_tokens = self.modes[cell.mode], int(cell.parameters["max_tokens"])
        read, wrote = expected_tokens(cell.messages, max_tokens)
        most_read, most_wrote = most_tokens(cell.messages, max_tokens)
        sums.to_ask += 1
        sums.guessed_prompt += read
        sums.guessed_completion += wrote
        sums.most_prompt += most_read
        sums.most_completion += most_wrote
        if (ceiling := ceiling_of(self.teacher, prompt_tokens=most_read)) is not None:
            sums.most_usd += cost_usd(ceiling, most_read, most_wrote)

    def measure(self, cell: Cell, stored: StoredCell) -> None:
        if stored.prompt_tokens is None or stored.completion_tokens is None:
            return
        sums = self.modes[cell.mode]
        sums.measured += 1
        sums.measured_prompt += stored.prompt_tokens
        sums.measured_completion += stored.completion_tokens
        sums.measured_guess += expected_tokens(cell.messages, int(cell.parameters["max_tokens"]))[0]


def _estimate(
    plan: Plan, teacher: Teacher, store: Store | None, retry_failed: Collection[str], *, is_twin: bool
) -> TeacherEstimate:
    count = _Count(teacher, {mode: _Sums() for mode in plan.modes})
    for cells in _chunks(plan.cells(teacher)):
        states = store.states([cell.key for cell in cells]) if store is not None else {}
        read = _to_read(cells, states, count, retry_failed)
        held = store.get(read) if store is not None and read else {}
        for cell in cells:
            count.cells += 1
            stored = held.get(cell.key)
            if stored is not None and stored.error is None:
                count.measure(cell, stored)
            if count.is_new(cell) and not is_twin and not _is_settled(cell, states, stored, retry_failed):
                count.ask(cell)
    return _result(count)


def _chunks(cells: Iterator[Cell]) -> Iterator[list[Cell]]:
    while chunk := list(itertools.islice(cells, _CHUNK)):
        yield chunk


def _to_read(
    cells: Sequence[Cell], states: Mapping[str, str | None], count: _Count, retry_failed: Collection[str]
) -> list[str]:
    """Keys of replies that have to be looked at: for a mean, or because some failures show in the text alone."""
    rereads = bool(set(retry_failed) & set(CONTENT_ERRORS))
    return [
        cell.key
        for cell in cells
        if states.get(cell.key, "") is None and (rereads or count.modes[cell.mode].measured < MOST_MEASURED)
    ]


def _is_settled(
    cell: Cell, states: Mapping[str, str | None], stored: StoredCell | None, retry_failed: Collection[str]
) -> bool:
    """Whether what the store holds of a cell stands, so that it is not asked again."""
    state = states.get(cell.key, "")
    if state is not None:
        # "" is not there; any other class but these is a call that brought no reply.
        return state in CONTENT_ERRORS and state not in retry_failed
    if stored is None or not retry_failed:
        return True
    error = read_cell(stored, cell.question, teacher=cell.teacher, mode=cell.mode, sample=cell.sample).error
    return error not in retry_failed


def _result(count: _Count) -> TeacherEstimate:
    asked = [sums for sums in count.modes.values() if sums.to_ask]
    to_ask = sum(sums.to_ask for sums in asked)
    prompt, completion = sum(sums.prompt for sums in asked), sum(sums.completion for sums in asked)
    price = price_of(count.teacher, prompt_tokens=round(prompt / to_ask) if to_ask else 0)
    return TeacherEstimate(
        teacher=count.teacher.name,
        cells=count.cells,
        held=count.cells - to_ask,
        to_ask=to_ask,
        prompt_tokens=round(prompt),
        completion_tokens=round(completion),
        most_prompt_tokens=sum(sums.most_prompt for sums in asked),
        most_completion_tokens=sum(sums.most_completion for sums in asked),
        basis=_basis(asked),
        price=price,
        price_source=source_of_price(count.teacher),
        cost_usd=None if price is None else cost_usd(price, prompt, completion, calls=to_ask),
        most_usd=None if price is None else sum(sums.most_usd for sums in asked),
    )


def _basis(asked: Sequence[_Sums]) -> Basis:
    kinds = {sums.is_measured for sums in asked}
    if kinds == {True}:
        return "measured"
    return "measured and guess" if True in kinds else "guess"


def _num_bytes(text: str) -> int:
    # Half a character, which a cut string may hold, is sent as six ASCII characters at most.
    return len(text) if text.isascii() else len(text.encode("utf-8", "namereplace"))
