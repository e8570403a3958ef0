"""The steps of a run as a process computes them: cut, laid out ahead in a thread, and counted on the host.

Axes: K tasks. What is counted here needs no device, so that the loop never waits for one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils.data import Dataset

from kp_train.batches import Example, Item, cut_step, plan_steps
from kp_train.losses import Reduction
from kp_train.ranks import Ranks
from kp_train.schedule import Schedule
from kp_train.students.student import Student

AHEAD: Final = 2
"""Steps laid out before they are needed."""


@dataclass(frozen=True, slots=True)
class Step:
    """One optimiser step of one process.

    Attributes:
        batches: its micro-batches, on the host.
        count_K: (K,) float32, units of each task in the whole step, on all ranks.
        learned: label tokens of the whole step.
        used: positions of this process that hold a token.
        computed: positions of this process, padding included.
        flops: estimate of this process's floating-point operations.
    """

    batches: tuple[dict[str, Tensor], ...]
    count_K: Tensor
    learned: int
    used: int
    computed: int
    flops: float


class Steps(Dataset[Step]):
    """Every step of a run, in order."""

    def __init__(
        self,
        student: Student,
        items: Sequence[Sequence[Item]],
        *,
        num_tasks: int,
        schedule: Schedule,
        ranks: Ranks,
    ) -> None:
        """See `kp_train.trainer.train` for what is given."""
        self._student, self._items, self._ranks = student, items, ranks
        self._num_tasks, self._schedule = num_tasks, schedule
        self._packed = schedule.pack and student.packs
        self._plan = plan_steps(
            [max(example.length for example in wordings[0]) for wordings in items],
            steps=schedule.steps,
            batch=schedule.recipe.batch,
            seed=schedule.seed,
        )

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, number: int) -> Step:
        rows = [self._items[row][visit % len(self._items[row])] for row, visit in self._plan[number]]
        cut = cut_step(
            rows,
            tokens_of=self._student.tokens_of,
            packed=self._packed,
            ranks=self._ranks.size,
            parts=self._schedule.accumulate,
            limit=self._schedule.batch_tokens,
        )
        batches = tuple(self._lay_out(part) for part in cut[self._ranks.rank])
        positions = [self._student.positions(batch) for batch in batches]
        examples = [example for row in rows for example in row]
        return Step(
            batches,
            # All ranks know the whole step, so counts need not be exchanged.
            count_of(examples, num_tasks=self._num_tasks, reduction=self._schedule.reduction),
            learned=sum(len(example.label) for example in examples),
            used=sum(used for used, _ in positions),
            computed=sum(computed for _, computed in positions),
            flops=sum(self._student.training_flops(batch) for batch in batches),
        )

    def ahead(self, first: int) -> Iterator[Step]:
        """The steps from `first` on; while one is computed, the next are laid out in a thread."""
        waiting: deque[Future[Step]] = deque()
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="kp-steps") as worker:
            for number in range(first, len(self)):
                waiting.append(worker.submit(self.__getitem__, number))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _lay_out(self, part: Sequence[Item]) -> dict[str, Tensor]:
        batch = self._student.collate(part, packed=self._packed)
        return {name: tensor.pin_memory() for name, tensor in batch.items()} if torch.cuda.is_available() else batch


def count_of(examples: Sequence[Example], *, num_tasks: int, reduction: Reduction) -> Tensor:
    """(K,) float32, units of each task: what `kp_train.losses.count_units` counts, from the examples themselves."""
    counts: list[Any] = [0] * num_tasks
    for example in examples:
        counts[example.task] += len(example.label) if reduction == "token-mean" else 1
    return torch.tensor(counts, dtype=torch.float32)
