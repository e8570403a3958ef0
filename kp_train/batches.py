"""Tokenise once, bucket by length, and lay out every micro-batch of a run before it starts.

A run's order is a function of the seed alone: `plan_batches` lists the rows of every micro-batch, so a run that was
killed goes on with exactly the batches that were still to come.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

MAX_INPUT_TOKENS: Final = 512
MAX_TARGET_TOKENS: Final = 256
WINDOW_BATCHES: Final = 8
"""Rows are sorted by length within a window of this many batches: short waits for short, and order stays random."""

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
    """

    inputs: tuple[tuple[int, ...], ...]
    label: tuple[int, ...]
    task: int
    weight: float
    second: tuple[int, ...] = ()

    @property
    def length(self) -> int:
        """Tokens of its longest sequence, which is what padding depends on."""
        return max(len(self.label), *(len(tokens) for tokens in self.inputs))


Item = tuple[Example, ...]
"""All targets of one row: they are learned in the same step."""

Visit = tuple[int, int]
"""A row, and the how-manieth time it comes; a row with several wordings shows another each time."""


def plan_batches(
    lengths: Sequence[int], *, steps: int, batch: int, accumulate: int, seed: int
) -> list[tuple[Visit, ...]]:
    """The rows of every micro-batch of a run, `accumulate` micro-batches a step.

    Every row comes once an epoch; an epoch's leftover rows open the next one, so that no step is short.

    Args:
        lengths: tokens of each row, for bucketing.
        steps: optimiser steps.
        batch: rows a step.
        accumulate: micro-batches that a step is cut into, at most `batch`.
        seed: of the order.

    Returns: steps x accumulate tuples of (row, visit), both from 0.
    """
    plan: list[tuple[Visit, ...]] = []
    for rows in _batches(lengths, batch, seed):
        if len(plan) >= steps * accumulate:
            break
        plan += _cut(rows, accumulate)
    return plan


def pad(sequences: Sequence[Sequence[int]], value: int) -> list[list[int]]:
    """Sequences filled up on the right to the longest.

    >>> pad([[1], [2, 3]], 0)
    [[1, 0], [2, 3]]
    """
    longest = max(len(tokens) for tokens in sequences)
    return [[*tokens, *[value] * (longest - len(tokens))] for tokens in sequences]


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


def _cut(rows: Sequence[Visit], parts: int) -> list[tuple[Visit, ...]]:
    """Rows in consecutive parts whose sizes differ by one at most."""
    bounds = [len(rows) * part // parts for part in range(parts + 1)]
    return [tuple(rows[start:end]) for start, end in itertools.pairwise(bounds)]
