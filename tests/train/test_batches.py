from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from kp_train.batches import pad, plan_batches


@given(rows=st.integers(1, 30), batch=st.integers(1, 9), seed=st.integers(0, 99))
@settings(max_examples=40)
def test_every_row_comes_once_in_each_whole_epoch(rows: int, batch: int, seed: int) -> None:
    steps = 8 * rows  # whole windows and whole epochs: 8 * rows * batch visits
    plan = plan_batches([1] * rows, steps=steps, batch=batch, accumulate=1, seed=seed)
    visits = Counter(visit for micro in plan for visit in micro)
    assert set(visits.values()) == {1}
    assert set(visits) == {(row, epoch) for row in range(rows) for epoch in range(8 * batch)}


@given(batch=st.integers(4, 12), accumulate=st.integers(1, 4))
def test_accumulation_cuts_the_very_same_steps_into_smaller_pieces(batch: int, accumulate: int) -> None:
    lengths = [number % 7 for number in range(25)]
    whole = plan_batches(lengths, steps=6, batch=batch, accumulate=1, seed=3)
    cut = plan_batches(lengths, steps=6, batch=batch, accumulate=accumulate, seed=3)
    steps = [cut[start : start + accumulate] for start in range(0, len(cut), accumulate)]
    assert [sum(parts, ()) for parts in steps] == whole
    assert all(abs(len(a) - len(b)) <= 1 for parts in steps for a in parts for b in parts)


def test_a_longer_run_begins_like_a_shorter_one_and_another_seed_differs() -> None:
    short = plan_batches([1] * 10, steps=3, batch=4, accumulate=1, seed=0)
    assert plan_batches([1] * 10, steps=9, batch=4, accumulate=1, seed=0)[:3] == short
    assert plan_batches([1] * 10, steps=3, batch=4, accumulate=1, seed=1) != short


def test_no_batch_shows_a_row_twice_while_there_are_others() -> None:
    plan = plan_batches([3] * 8, steps=40, batch=8, accumulate=1, seed=0)
    assert all(len({row for row, _ in micro}) == 8 for micro in plan)


def test_rows_of_like_length_share_a_batch() -> None:
    lengths = [10, 500] * 32
    plan = plan_batches(lengths, steps=8, batch=8, accumulate=1, seed=0)
    assert all(len({lengths[row] for row, _ in micro}) == 1 for micro in plan)


def test_padding_fills_up_on_the_right() -> None:
    assert pad([[1, 2, 3], [4], []], 9) == [[1, 2, 3], [4, 9, 9], [9, 9, 9]]
