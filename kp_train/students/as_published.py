"""TinyLLM trained the way its published code trains: for comparison, not for use.

    cap         inputs end after 100 tokens, whatever stood behind them, often the choices
    padding     every input is filled up to that cap
    forwards    one for each task of a micro-batch: the label, and each teacher's rationales
    precision   float32

What is learned is the same, so losses differ from those of an ordinary student only where an input was cut. Not
reproduced, because they are mistakes and not ways of training: selection on the test split, and a loss that is
averaged within each micro-batch.
Source: the code published with arXiv:2402.04616.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from kp_data.errors import MethodError
from kp_data.schema import Question
from kp_data.tables import read_json, write_json
from kp_train.batches import Example, Item, flat_targets, pad
from kp_train.students.seq2seq import Seq2SeqStudent
from kp_train.students.student import STUDENT_FILE, Student
from kp_train.views import question_input

CAP: Final = 100
"""Input tokens, the end token included: the default that the published code uses for every dataset."""
MARK: Final = "as_published"
"""In student.json: this student reads its inputs from the beginning."""


def as_published(student: Student) -> PublishedStudent:
    """The same model and tokenizer, trained as published.

    Raises:
        MethodError: it is no encoder-decoder, which is what was published.
    """
    if not isinstance(student, Seq2SeqStudent):
        raise MethodError("--as-published trains encoder-decoder students only, such as google/flan-t5-small")
    recipe = replace(student.recipe, bf16=False)
    return PublishedStudent(student.model, student.tokenizer, recipe=recipe, max_target=student.max_target)


class PublishedStudent(Seq2SeqStudent):
    """An encoder-decoder student, padded and capped, with one forward pass a task."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **{**named, "max_input": CAP})
        self.packs = False

    def tokens_of(self, example: Example) -> int:
        """The cap, whatever the input's length, and the label's tokens."""
        return self.max_input + len(example.label)

    def collate(self, items: Sequence[Item], *, packed: bool = False) -> dict[str, Tensor]:
        """A micro-batch for each task, and `order` (T,), by which their tokens come back into the targets' order."""
        examples = [example for item in items for example in item]
        tasks = sorted({example.task for example in examples})
        batch, token_order = flat_targets(examples), []
        for task in tasks:
            numbers = [number for number, example in enumerate(examples) if example.task == task]
            part = super().collate([(examples[number],) for number in numbers])
            batch |= {f"{task}.{name}": tensor for name, tensor in part.items()}
            token_order += [(batch["owner"] == number).nonzero()[:, 0] for number in numbers]
        return batch | {"order": torch.cat(token_order).argsort()}

    def positions(self, batch: Mapping[str, Tensor]) -> tuple[int, int]:
        """Of all tasks."""
        parts = [super(PublishedStudent, self).positions(part) for part in _parts(batch)]
        return sum(used for used, _ in parts), sum(computed for _, computed in parts)

    def token_losses(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(T,) float32, one forward pass a task."""
        losses = [super(PublishedStudent, self).token_losses(part) for part in _parts(batch)]
        return torch.cat(losses)[batch["order"]]

    def save(self, folder: Path) -> None:
        """As every student, with a mark that its inputs are cut at the end."""
        super().save(folder)
        write_json({**read_json(folder / STUDENT_FILE), MARK: True}, folder / STUDENT_FILE)

    def _input(self, prefix: str, question: Question) -> tuple[int, ...]:
        tokens = self._tokens(prefix + question_input(question))
        self.truncated += len(tokens) + 1 > self.max_input
        return (*tokens[: self.max_input - 1], self._end)

    def _padded(self, inputs: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        lengths = torch.tensor([len(sequence) for sequence in inputs])
        # A row as long as the cap makes all rows so, and is dropped again.
        tokens = torch.tensor(pad([*inputs, [self._pad] * self.max_input], self._pad)[:-1])
        return {"input_ids": tokens, "attention_mask": (torch.arange(self.max_input) < lengths[:, None]).long()}


def _parts(batch: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The micro-batches of the tasks, in their order."""
    parts: dict[int, dict[str, Tensor]] = {}
    for key, tensor in batch.items():
        task, _, name = key.partition(".")
        if name:
            parts.setdefault(int(task), {})[name] = tensor
    return [parts[task] for task in sorted(parts)]
