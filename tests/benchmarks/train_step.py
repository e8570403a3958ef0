"""A training step on a CPU: one packed purified rationale, beside the way TinyLLM's published code trains.

Both train the same random T5 of the same shape on the same rows, AdamW step included, in turns within one run after a
warm-up. Theirs: every input padded to 100 tokens, a forward pass for the answer and one for each teacher, float32, the
loss of Hugging Face. Beside it what most would write: the answer and one rationale of each row as rows of their own,
collated as Seq2SeqTrainer collates, which pads to the longest of the batch. Ours: the same two, packed. Times are CPU
seconds of one thread, because wall time on a busy machine tells of the others. With --efficiency it also tells which
share of the computed positions hold a token, over an epoch of each folder.

    python tests/benchmarks/train_step.py --data PANEL --efficiency PANEL --efficiency OTHER
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from train_material import (
    Material,
    PublishedWay,
    all_items,
    make_student,
    make_tokenizer,
    purified_items,
    read_material,
    tokens_of,
)


@dataclass(frozen=True)
class Timing:
    """CPU seconds of each round of a contestant."""

    name: str
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="panel folder; made-up questions otherwise")
    parser.add_argument("--shape", default="t5-small")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5, help="each on other rows")
    parser.add_argument("--efficiency", type=Path, action="append", default=[], help="panel folder; repeatable")
    args = parser.parse_args()

    import torch

    torch.set_num_threads(1)
    timings = time_steps(args.data, args.shape, args.batch, args.rounds)
    print_timings(timings)
    for folder in args.efficiency:
        print_efficiency(read_material(folder, teachers=2))


def time_steps(folder: Path | None, shape: str, batch: int, rounds: int) -> list[Timing]:
    """All contestants on the same rows, in turns."""
    import torch
    from transformers import DataCollatorForSeq2Seq

    two, four = (read_material(folder, teachers=count) for count in (2, 4))
    student = make_student(shape, make_tokenizer(two.rows))
    student.model.train()
    optimiser = torch.optim.AdamW(student.model.parameters(), lr=1e-5)
    published = PublishedWay(student.model)
    collate = DataCollatorForSeq2Seq(student.tokenizer, model=student.model)
    chosen = slice(0, batch * (rounds + 1))
    ours, theirs_two, theirs_four = (
        purified_items(student, two.rows[chosen]),
        all_items(student, two.rows[chosen]),
        all_items(student, four.rows[chosen]),
    )
    lengths = {name: round(value, 1) for name, value in tokens_of(theirs_two).items()}
    print(f"{two.name}, {shape}, batch {batch}, {rounds} rounds; mean tokens: {lengths}")

    def purified(rows: slice) -> None:
        learn(our_loss(student, ours[rows]), optimiser)

    def purified_bf16(rows: slice) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = our_loss(student, ours[rows])
        learn(loss, optimiser)

    def collated(rows: slice) -> None:
        features = [
            {"input_ids": list(one.inputs[0]), "labels": list(one.label)} for item in ours[rows] for one in item
        ]
        learn(student.model(**collate(features)).loss, optimiser)

    contestants: dict[str, Callable[[slice], None]] = {
        "purified, packed": purified,
        "purified, packed, bf16": purified_bf16,
        "all of two teachers, packed": lambda rows: learn(our_loss(student, theirs_two[rows]), optimiser),
        "purified, as Seq2SeqTrainer collates": collated,
        "published way, two teachers": lambda rows: learn(
            published.loss(published.batches(theirs_two[rows])), optimiser
        ),
        "published way, four teachers": lambda rows: learn(
            published.loss(published.batches(theirs_four[rows])), optimiser
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, step in contestants.items():
            begun = time.process_time()
            step(slice(number * batch, (number + 1) * batch))
            if number:  # the first round warms up
                seconds[name].append(time.process_time() - begun)
    return [Timing(name, tuple(values)) for name, values in seconds.items()]


def our_loss(student: Any, items: list[Any]) -> Any:
    """What the trainer computes for a step of one micro-batch."""
    from kp_train.losses import count_units, normalised_loss

    batch = student.collate(items, packed=True)
    count_K = count_units(batch["owner"], batch["task"], num_tasks=5)
    return normalised_loss(
        student.token_losses(batch), batch["owner"], task_N=batch["task"], weight_N=batch["weight"], count_K=count_K
    )


def learn(loss: Any, optimiser: Any) -> None:
    """Backward pass and AdamW step."""
    loss.backward()
    optimiser.step()
    optimiser.zero_grad()


def print_timings(timings: list[Timing]) -> None:
    """A Markdown table; ratios are of medians, the range that of the rounds, which share their rows."""
    ours = timings[0]
    print("\n| step | CPU s, median | slower than purified, packed | range over rounds |\n| --- | ---: | ---: | ---: |")
    for timing in timings:
        ratios = [theirs / mine for theirs, mine in zip(timing.seconds, ours.seconds, strict=True)]
        print(
            f"| {timing.name} | {timing.median:.2f} | {timing.median / ours.median:.2f} × "
            f"| {min(ratios):.2f} – {max(ratios):.2f} |"
        )


def print_efficiency(material: Material) -> None:
    """Share of computed positions that hold a token, over one epoch as `kp-train fit` lays it out."""
    from kp_train.ranks import Ranks
    from kp_train.schedule import Schedule
    from kp_train.steps import Steps
    from kp_train.students.seq2seq import CHECKPOINT_RECIPE

    student = make_student("toy", make_tokenizer(material.rows))
    items = [[item] for item in purified_items(student, material.rows)]
    recipe = replace(CHECKPOINT_RECIPE, batch=16)
    print(f"\n{material.name}: {len(items)} rows, answer and one rationale each, 16 rows a step")
    print("\n| layout | --batch-tokens | micro-batches a step | tokens / positions |\n| --- | ---: | ---: | ---: |")
    for pack, limit in ((True, None), (True, 1024), (False, None), (False, 4096), (False, 1024)):
        schedule = Schedule(recipe=recipe, steps=len(items) // recipe.batch, batch_tokens=limit, pack=pack)
        steps = Steps(student, items, num_tasks=2, schedule=schedule, ranks=Ranks())
        laid = [steps[number] for number in range(len(steps))]
        share = sum(step.used for step in laid) / sum(step.computed for step in laid)
        parts = sum(len(step.batches) for step in laid) / len(laid)
        print(f"| {'packed' if pack else 'padded'} | {limit or '–'} | {parts:.1f} | {share:.3f} |")


if __name__ == "__main__":
    main()
