"""Which rows make a step, and how a step is cut into micro-batches; all of it known before a run starts.

A run's order is a function of the seed alone: `plan_steps` lists the rows of every step, so a run that was killed goes
on with exactly the steps that were still to come. How a step is cut (`cut_step`) never changes its gradient, because
the loss is normalised over the whole step; it changes memory and speed.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from torch import Tensor

MAX_INPUT_TOKENS: Final = 512
MAX_TARGET_TOKENS: Final = 256
WINDOW_BATCHES: Final = 8
"""Rows are sorted by length within a window of this many batches: short waits for short, and order stays random."""

ANSWERED_AT_ONCE: Final = 32
"""Questions that a student scores or answers together."""

IGNORED: Final = -100
"""The label of a position that is not learned, as PyTorch's cross-entropy has it."""


@dataclass(frozen=True, slots=True)
class Example:
    """One target, tokenised.

    Attributes:
        inputs: what the student reads: one sequence, or one for each choice.
        label: what it should write, as tokens; for a scorer of choices, the index of the right one alone.
        task: number of the target's task.
        weight: factor of the target in the loss.
        second: where the second text of each input begins; empty for students that read one text.
        apart: rationales of the student's store that this question must not meet; empty without a store.
    """

    inputs: tuple[tuple[int, ...], ...]
    label: tuple[int, ...]
    task: int
    weight: float
    second: tuple[int, ...] = ()
    apart: tuple[int, ...] = ()

    @property
    def length(self) -> int:
        """Tokens of its longest sequence, which is what padding depends on."""
        return max(len(self.label), *(len(tokens) for tokens in self.inputs))


Item = tuple[Example, ...]
"""Targets of one row that stand side by side in a micro-batch: all of them, or those that read the same."""

Visit = tuple[int, int]
"""A row, and the how-manieth time it comes; a row with several wordings shows another each time."""


def plan_steps(lengths: Sequence[int], *, steps: int, batch: int, seed: int) -> list[tuple[Visit, ...]]:
    """The rows of every step of a run.

    Every row comes once an epoch; an epoch's leftover rows open the next one, so that no step is short.

    Args:
        lengths: tokens of each row, for bucketing.
        steps: optimiser steps.
        batch: rows a step.
        seed: of the order.

    Returns: `steps` tuples of (row, visit), both from 0.
    """
    return [tuple(rows) for rows in itertools.islice(_batches(lengths, batch, seed), steps)]


def cut_step(
    rows: Sequence[Item],
    *,
    tokens_of: Callable[[Example], int],
    packed: bool,
    ranks: int = 1,
    parts: int = 1,
    limit: int | None = None,
) -> list[list[list[Item]]]:
    """A step's targets in micro-batches of like size, the same number of them for each rank.

    Targets of a row may come apart, except those that read the same input, which students encode once.

    Args:
        rows: all targets of each row.
        tokens_of: positions that a target costs.
        packed: whether a micro-batch costs the sum of its targets, or a rectangle around them.
        ranks: processes that share the step.
        parts: micro-batches for each of them, at least; fewer where there are too few targets.
        limit: positions of a micro-batch, at most, unless a single target costs more; None: no limit.

    Returns: for each rank its micro-batches, each a list of items, none empty.
    """
    if ranks == parts == 1 and limit is None:
        return [[list(rows)]]
    units = [unit for row in rows for unit in _units(row)]
    per_rank = max(1, min(parts, len(units) // ranks))
    while True:
        cut = _pack(units, per_rank * ranks, tokens_of) if packed else _stack(units, per_rank * ranks)
        largest = max(_cost(part, tokens_of, packed) for part in cut)
        if limit is None or largest <= limit or (per_rank + 1) * ranks > len(units):
            return [cut[rank::ranks] for rank in range(ranks)]
        # Not one by one: a step may need hundreds of parts.
        wanted = max(per_rank + 1, per_rank * largest // (2 * limit))
        per_rank = min(wanted, len(units) // ranks)


def flat_targets(examples: Sequence[Example]) -> dict[str, Tensor]:
    """What every micro-batch holds beside the student's own inputs.

    Args:
        examples: N targets with T label tokens in all.

    Returns: `learned`, `owner` (T,) int64; `task` (N,) int64; `weight` (N,) float32.
    """
    import torch

    return {
        "learned": torch.tensor([token for example in examples for token in example.label], dtype=torch.long),
        "owner": torch.tensor([row for row, example in enumerate(examples) for _ in example.label], dtype=torch.long),
        "task": torch.tensor([example.task for example in examples], dtype=torch.long),
        "weight": torch.tensor([example.weight for example in examples], dtype=torch.float32),
    }


def pad(sequences: Sequence[Sequence[int]], value: int) -> list[list[int]]:
    """Sequences filled up on the right to the longest.

    >>> pad([[1], [2, 3]], 0)
    [[1, 0], [2, 3]]
    """
    longest = max(len(tokens) for tokens in sequences)
    return [[*tokens, *[value] * (longest - len(tokens))] for tokens in sequences]


def portions(sequences: Sequence[Sequence[int]], size: int = ANSWERED_AT_ONCE) -> list[list[int]]:
    """Their indices in portions of similar lengths, so that little is filled up when each is padded.

    >>> portions([[1, 2, 3], [4], [5, 6]], size=2)
    [[1, 2], [0]]
    """
    order = sorted(range(len(sequences)), key=lambda index: len(sequences[index]))
    return [order[start : start + size] for start in range(0, len(order), size)]


def _batches(lengths: Sequence[int], batch: int, seed: int) -> Iterator[list[Visit]]:
    """Batches of whole size, without end."""
    draw = random.Random(f"rows:{seed}")
    rows = list(range(len(lengths)))
    waiting: list[Visit] = []
    for epoch in itertools.count():
        draw.shuffle(rows)
        waiting += [(row, epoch) for row in rows]
        whole = len(waiting) - len(waiting) % batch
        # Windows end with the epoch: sorting across its end would bring the two visits of a row together.
        for start in range(0, whole, batch * WINDOW_BATCHES):
            window = waiting[start : min(start + batch * WINDOW_BATCHES, whole)]
            window.sort(key=lambda visit: lengths[visit[0]])
            batches = [window[first : first + batch] for first in range(0, len(window), batch)]
            draw.shuffle(batches)
            yield from batches
        waiting = waiting[whole:]


def _units(row: Item) -> list[Item]:
    """A row's targets, those that read the same together."""
    together: dict[tuple[tuple[int, ...], ...], list[Example]] = {}
    for example in row:
        together.setdefault(example.inputs, []).append(example)
    return [tuple(examples) for examples in together.values()]


def _pack(units: Sequence[Item], parts: int, tokens_of: Callable[[Example], int]) -> list[list[Item]]:
    """Units in parts of like sums: the largest left goes to the part that has least."""
    costs = [sum(map(tokens_of, unit)) for unit in units]
    heap = [(0, part) for part in range(parts)]
    cut: list[list[Item]] = [[] for _ in range(parts)]
    for unit in sorted(range(len(units)), key=lambda unit: -costs[unit]):
        load, part = heapq.heappop(heap)
        cut[part].append(units[unit])
        heapq.heappush(heap, (load + costs[unit], part))
    return cut


def _stack(units: Sequence[Item], parts: int) -> list[list[Item]]:
    """Units in parts of like number, long labels apart from short ones, and among them long inputs from short."""
    # Labels of like length are one class: inputs are the longer side, and sorting by them saves more.
    order = sorted(units, key=lambda unit: (max(len(one.label) for one in unit).bit_length(), unit[0].length))
    bounds = [len(order) * part // parts for part in range(parts + 1)]
    return [list(order[start:end]) for start, end in itertools.pairwise(bounds)]


def _cost(part: Sequence[Item], tokens_of: Callable[[Example], int], packed: bool) -> int:
    """Positions of a micro-batch; of a padded one, of the rectangles around all inputs and around all labels."""
    if packed:
        return sum(tokens_of(example) for unit in part for example in unit)
    examples = [example for unit in part for example in unit]
    inputs = [len(tokens) for example in examples for tokens in example.inputs]
    return len(inputs) * max(inputs) + len(examples) * max(len(example.label) for example in examples)
