"""Which cells of a teacher this run is to ask: those that the store lacks and that no other run is asking.

Looked up and claimed a few hundred at a time, on the store's thread, ahead of the calls: a plan of a million cells
takes no more memory than one of a thousand.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Final

from kp_data.config import Teacher
from kp_data.generate.clerk import Clerk
from kp_data.generate.plan import Cell, Plan
from kp_data.generate.reading import CONTENT_ERRORS, read_cell
from kp_data.generate.tally import Tally
from kp_data.store import Store, StoredCell

_FIRST_LOOK_S: Final = 0.2
_LATER_LOOK_S: Final = 5.0


class Feed:
    """The cells of one teacher that are still to be asked."""

    def __init__(
        self, plan: Plan, teacher: Teacher, clerk: Clerk, tally: Tally, retry_failed: Collection[str] = ()
    ) -> None:
        self._cells: Iterator[Cell] = plan.cells(teacher)
        self._clerk, self._tally, self._retry_failed = clerk, tally, frozenset(retry_failed)
        self._began = datetime.now(UTC)
        self._elsewhere: list[Cell] = []

    async def next_block(self, size: int, patience_s: float) -> list[Cell] | None:
        """Cells that are now claimed for this run; None when there are no more.

        Cells that another run is asking, or another teacher of this run that is the same model, come last: they are
        waited for, and are asked here only if the other did not bring them to an end.

        Args:
            size: cells to look at, more or less.
            patience_s: seconds without any change after which those are left alone.

        Raises:
            StoreError: the store cannot be read or written.
        """
        while (claimed := await self._clerk.do(partial(self._claim, size))) is not None:
            if claimed:
                return claimed
        return await self._wait_for_others(patience_s)

    async def _wait_for_others(self, patience_s: float) -> list[Cell] | None:
        pause_s, waited_s = _FIRST_LOOK_S, 0.0
        while self._elsewhere and waited_s < patience_s:
            await asyncio.sleep(pause_s)
            before = len(self._elsewhere)
            if claimed := await self._clerk.do(self._claim_again):
                return claimed
            waited_s = 0.0 if len(self._elsewhere) < before else waited_s + pause_s
            pause_s = min(2 * pause_s, _LATER_LOOK_S)
        return None

    def _claim(self, size: int) -> list[Cell] | None:
        cells = list(itertools.islice(self._cells, size))
        return self._claim_of(cells) if cells else None

    def _claim_again(self) -> list[Cell]:
        cells, self._elsewhere = self._elsewhere, []
        return self._claim_of([cell for cell in cells if not self._has_ended(cell)])

    def _claim_of(self, cells: list[Cell]) -> list[Cell]:
        """Those of these cells that are to be asked, claimed."""
        missing: dict[str, Cell] = {}
        known = self._look_up([cell.key for cell in cells])
        for cell in cells:
            if self._is_settled(known.get(cell.key, ""), cell):
                self._tally.reused += 1
            elif cell.key in self._clerk.active or cell.key in missing:
                self._elsewhere.append(cell)
            else:
                missing[cell.key] = cell
        claimed = self._take(missing) if missing else []
        self._tally.elsewhere = len(self._elsewhere)
        return claimed

    def _take(self, missing: dict[str, Cell]) -> list[Cell]:
        taken = self._clerk.take(list(missing))
        self._elsewhere += [missing[key] for key in missing if key in taken.elsewhere]
        # Stored by another run between the look and the claim.
        settled = frozenset(key for key in taken.granted if key in taken.held and self._has_ended(missing[key]))
        self._clerk.active.update(taken.granted)
        self._clerk.give_back(settled)
        return [missing[key] for key in taken.granted if key not in settled]

    def _look_up(self, keys: list[str]) -> dict[str, StoredCell] | dict[str, str | None]:
        store: Store = self._clerk.store
        # The reply is needed only to tell whether its content is of a class to be asked again.
        return store.get(keys) if self._retry_failed & set(CONTENT_ERRORS) else store.states(keys)

    def _has_ended(self, cell: Cell) -> bool:
        """Whether a cell needs no call of this run; one that somebody asked since it began is not asked a second time,
        whatever came of it."""
        stored = self._clerk.store.get([cell.key]).get(cell.key)
        if stored is None or not (self._is_settled(stored, cell) or _at(stored) >= self._began):
            return False
        self._tally.reused += 1
        return True

    def _is_settled(self, held: StoredCell | str | None, cell: Cell) -> bool:
        """Whether what the store holds of a cell stands: a class of failure is a text, a reply is None or the cell."""
        if isinstance(held, StoredCell):
            response = read_cell(held, cell.question, teacher=cell.teacher, mode=cell.mode, sample=cell.sample)
            return held.error is None and response.error not in self._retry_failed
        # "" is not there; any other text is a call that brought no reply, and is asked again.
        return held is None or (held in CONTENT_ERRORS and held not in self._retry_failed)


def _at(cell: StoredCell) -> datetime:
    return cell.created_at if cell.created_at.tzinfo else cell.created_at.replace(tzinfo=UTC)
