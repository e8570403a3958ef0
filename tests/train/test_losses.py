from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kp_train.losses import REDUCTIONS, Reduction, count_units, normalised_loss

LOSS = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
OWNER = torch.tensor([0, 0, 1, 2, 2, 2])
TASK = torch.tensor([0, 0, 1])
WEIGHT = torch.tensor([1.0, 1.0, 0.5])


def test_token_mean_is_each_tasks_mean_over_its_tokens_times_lambda() -> None:
    count = count_units(OWNER, TASK, num_tasks=2)
    loss = normalised_loss(LOSS, OWNER, task_N=TASK, weight_N=WEIGHT, count_K=count)
    assert loss.item() == pytest.approx((1 + 2 + 3) / 3 + 0.5 * (4 + 5 + 6) / 3)


def test_sequence_sum_averages_targets_and_sums_their_tokens() -> None:
    count = count_units(OWNER, TASK, num_tasks=2, reduction="sequence-sum")
    loss = normalised_loss(LOSS, OWNER, task_N=TASK, weight_N=WEIGHT, count_K=count)
    assert loss.item() == pytest.approx((1 + 2 + 3) / 2 + 0.5 * (4 + 5 + 6) / 1)


@given(st.lists(st.integers(0, 2), min_size=3, max_size=3), st.sampled_from(REDUCTIONS))
def test_the_shares_of_micro_batches_add_up_to_the_whole_however_it_is_cut(
    part_of_target: list[int], reduction: Reduction
) -> None:
    count = count_units(OWNER, TASK, num_tasks=2, reduction=reduction)
    whole = normalised_loss(LOSS, OWNER, task_N=TASK, weight_N=WEIGHT, count_K=count)
    shares, counts = [], []
    for part in range(3):
        targets = torch.tensor([name == part for name in part_of_target])
        tokens = targets[OWNER]
        owner = (targets.cumsum(0) - 1)[OWNER[tokens]]
        task, weight = TASK[targets], WEIGHT[targets]
        counts.append(count_units(owner, task, num_tasks=2, reduction=reduction))
        shares.append(normalised_loss(LOSS[tokens], owner, task_N=task, weight_N=weight, count_K=count))
    assert sum(share.item() for share in shares) == pytest.approx(whole.item())
    assert torch.equal(torch.stack(counts).sum(dim=0), count)


def test_a_task_without_a_target_in_the_step_adds_nothing() -> None:
    count = count_units(OWNER, TASK, num_tasks=5)
    loss = normalised_loss(LOSS, OWNER, task_N=TASK, weight_N=WEIGHT, count_K=count)
    assert loss.item() == pytest.approx(2.0 + 0.5 * 5.0)
