"""The gradient of a step is the same however the step is cut, packed, ordered or shared; every family of students."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_causal import small_causal
from small_rows import small_questions, small_responses, write_tiny_bert_checkpoint, write_tiny_t5_checkpoint

from kp_train.batches import Item
from kp_train.losses import REDUCTIONS, Reduction, normalised_loss
from kp_train.ranks import Ranks
from kp_train.schedule import Schedule
from kp_train.steps import Steps
from kp_train.students import Recipe, Student, make_student
from kp_train.views import LABEL, LABEL_PREFIX, RATIONALE, RATIONALE_PREFIX, Target

ROWS = 8
RECIPE = Recipe(lr=1e-3, batch=ROWS, epochs=1, schedule="constant", warmup=0.0, weight_decay=0.0, bf16=False)
QUESTIONS = small_questions(ROWS, 0, 0)
TASKS = 2


def _seq2seq(folder: Path) -> Student:
    return make_student(str(write_tiny_t5_checkpoint(folder, dropout=0.0)), texts=(), seed=0)


def _causal(folder: Path) -> Student:
    return small_causal("llama")


def _encoder(folder: Path) -> Student:
    return make_student(str(write_tiny_bert_checkpoint(folder)), texts=(), seed=0)


FAMILIES: dict[str, Callable[[Path], Student]] = {"seq2seq": _seq2seq, "causal": _causal, "encoder": _encoder}


class Case:
    """A student without dropout, its rows, and the gradient of one step by one undivided, unpacked micro-batch."""

    def __init__(self, student: Student) -> None:
        self.student = student
        model: Any = student.model
        model.double()
        model.eval()  # no dropout: what is random cannot be the same
        self.items = _items(student)

    def gradient(self, schedule: Schedule, ranks: int = 1, order: int = 0) -> dict[str, torch.Tensor]:
        """Of the first step, summed over all ranks, as the trainer computes it."""
        items = [[item] for item in random.Random(order).sample(self.items, ROWS)] if order else self.items_in_order
        model: Any = self.student.model
        model.zero_grad()
        for rank in range(ranks):
            steps = Steps(self.student, items, num_tasks=TASKS, schedule=schedule, ranks=Ranks(rank, ranks))
            step = steps[0]
            for batch in step.batches:
                loss = normalised_loss(
                    self.student.token_losses(batch),
                    batch["owner"],
                    task_N=batch["task"],
                    weight_N=batch["weight"],
                    count_K=step.count_K,
                )
                loss.backward()  # type: ignore[no-untyped-call]
        learned = ((name, weight.grad) for name, weight in model.named_parameters())
        return {name: gradient.clone() for name, gradient in learned if gradient is not None}

    @property
    def items_in_order(self) -> list[list[Item]]:
        return [[item] for item in self.items]


def _items(student: Student) -> list[Item]:
    """Answers, and rationales of very different lengths where the student can write; weights that differ too."""
    items = []
    for number, (question, response) in enumerate(zip(QUESTIONS, small_responses(QUESTIONS)[::2], strict=True)):
        targets = [Target(LABEL, LABEL_PREFIX, str(question.answer), 1 + number / 10)]
        if student.writes_text:
            targets.append(Target(RATIONALE, RATIONALE_PREFIX, str(response.rationale) * (1 + number % 4), 0.5))
        items.append(tuple(student.encode(question, target, task=int(target.task != LABEL)) for target in targets))
    return items


@pytest.fixture(scope="module", params=FAMILIES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(FAMILIES[request.param](tmp_path_factory.mktemp(request.param)))


@given(
    accumulate=st.sampled_from([1, 2, 4, 8]),
    ranks=st.sampled_from([1, 2]),
    pack=st.booleans(),
    batch_tokens=st.none() | st.integers(30, 400),
    order=st.integers(0, 99),
    reduction=st.sampled_from(REDUCTIONS),
)
@settings(max_examples=15, deadline=None)
def test_no_way_of_cutting_a_step_changes_its_gradient(
    case: Case,
    accumulate: int,
    ranks: int,
    pack: bool,
    batch_tokens: int | None,
    order: int,
    reduction: Reduction,
) -> None:
    whole = case.gradient(Schedule(recipe=RECIPE, steps=1, pack=False, reduction=reduction))
    schedule = Schedule(
        recipe=RECIPE, steps=1, accumulate=accumulate, pack=pack, batch_tokens=batch_tokens, reduction=reduction
    )
    cut = case.gradient(schedule, ranks, order)
    assert cut.keys() == whole.keys()
    assert max(gradient.abs().max().item() for gradient in whole.values()) > 1e-2
    for name, gradient in whole.items():
        assert (cut[name] - gradient).abs().max() <= 1e-6, name


def test_every_rank_gets_as_many_micro_batches_and_the_counts_of_the_whole_step(case: Case) -> None:
    schedule = Schedule(recipe=RECIPE, steps=1, accumulate=3, batch_tokens=100)
    first, second = (
        Steps(case.student, case.items_in_order, num_tasks=TASKS, schedule=schedule, ranks=Ranks(rank, 2))[0]
        for rank in range(2)
    )
    assert len(first.batches) == len(second.batches) >= 3
    assert torch.equal(first.count_K, second.count_K)
    learned = sum(len(batch["learned"]) for step in (first, second) for batch in step.batches)
    assert first.learned == second.learned == learned


def test_micro_batches_say_how_many_of_their_positions_hold_a_token(case: Case) -> None:
    step = Steps(case.student, case.items_in_order, num_tasks=TASKS, schedule=Schedule(RECIPE, steps=1), ranks=Ranks())[
        0
    ]
    assert 0 < step.used <= step.computed
    assert step.flops > 0


def test_a_resumed_run_goes_on_with_the_steps_that_were_to_come(case: Case) -> None:
    steps = Steps(case.student, case.items_in_order, num_tasks=TASKS, schedule=Schedule(RECIPE, steps=5), ranks=Ranks())
    all_of_them, rest = list(steps.ahead(0)), list(steps.ahead(3))
    assert (len(all_of_them), len(rest)) == (5, 2)
    for one, other in zip(all_of_them[3:], rest, strict=True):
        assert torch.equal(one.batches[0]["learned"], other.batches[0]["learned"])


def test_what_goes_wrong_while_steps_are_laid_out_is_told(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(case.student, case.items_in_order, num_tasks=TASKS, schedule=Schedule(RECIPE, steps=5), ranks=Ranks())
    monkeypatch.setattr(type(case.student), "collate", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(steps.ahead(0))
