from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kp_train.losses import count_units, normalised_loss

LOSS = torch.tensor([[1.0, 2.0, 9.0], [3.0, 9.0, 9.0], [4.0, 5.0, 6.0]])
MASK = torch.tensor([[True, True, False], [True, False, False], [True, True, True]])
TASK = torch.tensor([0, 0, 1])
WEIGHT = torch.tensor([1.0, 1.0, 0.5])


def test_token_mean_is_each_tasks_mean_over_its_tokens_times_lambda() -> None:
    count = count_units(MASK, TASK, num_tasks=2)
    loss = normalised_loss(LOSS, MASK, task_N=TASK, weight_N=WEIGHT, count_K=count)
    assert loss.item() == pytest.approx((1 + 2 + 3) / 3 + 0.5 * (4 + 5 + 6) / 3)


def test_sequence_sum_averages_targets_and_sums_their_tokens() -> None:
    count = count_units(MASK, TASK, num_tasks=2, reduction="sequence-sum")
    loss = normalised_loss(LOSS, MASK, task_N=TASK, weight_N=WEIGHT, count_K=count)
    assert loss.item() == pytest.approx((1 + 2 + 3) / 2 + 0.5 * (4 + 5 + 6) / 1)


@given(st.lists(st.integers(0, 2), min_size=3, max_size=3))
def test_the_shares_of_micro_batches_add_up_to_the_whole_however_it_is_cut(part_of_row: list[int]) -> None:
    count = count_units(MASK, TASK, num_tasks=2)
    whole = normalised_loss(LOSS, MASK, task_N=TASK, weight_N=WEIGHT, count_K=count)
    parts = [torch.tensor([part == name for part in part_of_row]) for name in range(3)]
    shares = [
        normalised_loss(LOSS[rows], MASK[rows], task_N=TASK[rows], weight_N=WEIGHT[rows], count_K=count)
        for rows in parts
    ]
    assert sum(share.item() for share in shares) == pytest.approx(whole.item())


def test_a_task_without_a_target_in_the_step_adds_nothing() -> None:
    count = count_units(MASK, TASK, num_tasks=5)
    loss = normalised_loss(LOSS, MASK, task_N=TASK, weight_N=WEIGHT, count_K=count)
    assert loss.item() == pytest.approx(2.0 + 0.5 * 5.0)


def test_what_stands_at_an_ignored_position_cannot_spoil_the_loss() -> None:
    spoiled = torch.where(MASK, LOSS, torch.inf)
    count = count_units(MASK, TASK, num_tasks=2)
    assert normalised_loss(spoiled, MASK, task_N=TASK, weight_N=WEIGHT, count_K=count).isfinite()
