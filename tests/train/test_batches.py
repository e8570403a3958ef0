from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from kp_train.batches import Example, Item, cut_step, pad, plan_steps


@given(rows=st.integers(1, 30), batch=st.integers(1, 9), seed=st.integers(0, 99))
@settings(max_examples=40)
def test_every_row_comes_once_in_each_whole_epoch(rows: int, batch: int, seed: int) -> None:
    steps = 8 * rows  # whole windows and whole epochs: 8 * rows * batch visits
    plan = plan_steps([1] * rows, steps=steps, batch=batch, seed=seed)
    visits = Counter(visit for micro in plan for visit in micro)
    assert set(visits.values()) == {1}
    assert set(visits) == {(row, epoch) for row in range(rows) for epoch in range(8 * batch)}


def test_a_longer_run_begins_like_a_shorter_one_and_another_seed_differs() -> None:
    short = plan_steps([1] * 10, steps=3, batch=4, seed=0)
    assert plan_steps([1] * 10, steps=9, batch=4, seed=0)[:3] == short
    assert plan_steps([1] * 10, steps=3, batch=4, seed=1) != short


def test_no_batch_shows_a_row_twice_while_there_are_others() -> None:
    plan = plan_steps([3] * 8, steps=40, batch=8, seed=0)
    assert all(len({row for row, _ in micro}) == 8 for micro in plan)


def test_rows_of_like_length_share_a_batch() -> None:
    lengths = [10, 500] * 32
    plan = plan_steps(lengths, steps=8, batch=8, seed=0)
    assert all(len({lengths[row] for row, _ in micro}) == 1 for micro in plan)


Sizes = list[tuple[int, int, bool]]
SIZES = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 40), st.booleans()), min_size=4, max_size=12)


def _rows(sizes: Sizes) -> list[Item]:
    """Rows of two targets, of which the second may read the same as the first."""
    rows = []
    for number, (read, written, shared) in enumerate(sizes):
        inputs = ((number,) * read,)
        other = inputs if shared else ((number, *inputs[0]),)
        rows.append((Example(inputs, (1,), 0, 1.0), Example(other, (2,) * written, 1, 1.0)))
    return rows


def _tokens(example: Example) -> int:
    return len(example.inputs[0]) + len(example.label)


@given(SIZES, st.booleans(), st.integers(1, 3), st.integers(1, 4), st.none() | st.integers(20, 200))
def test_a_step_cut_in_any_way_has_the_very_same_targets(
    sizes: Sizes, packed: bool, ranks: int, parts: int, limit: int | None
) -> None:
    rows = _rows(sizes)
    cut = cut_step(rows, tokens_of=_tokens, packed=packed, ranks=ranks, parts=parts, limit=limit)
    assert len(cut) == ranks
    assert len({len(batches) for batches in cut}) == 1
    assert all(part for batches in cut for part in batches)
    learned = [example for batches in cut for part in batches for item in part for example in item]
    assert Counter(learned) == Counter(example for row in rows for example in row)


@given(SIZES, st.booleans(), st.integers(20, 200))
def test_a_micro_batch_keeps_to_its_tokens_unless_one_input_costs_more(sizes: Sizes, packed: bool, limit: int) -> None:
    rows = _rows(sizes)
    for part in cut_step(rows, tokens_of=_tokens, packed=packed, limit=limit)[0]:
        examples = [example for item in part for example in item]
        if packed:
            cost = sum(map(_tokens, examples))
        else:
            cost = len(examples) * (
                max(len(one.inputs[0]) for one in examples) + max(len(one.label) for one in examples)
            )
        assert cost <= limit or len(part) == 1


def test_targets_that_read_the_same_stay_together() -> None:
    shared, apart = _rows([(5, 3, True), (5, 3, False)])
    parts = cut_step([shared, apart], tokens_of=_tokens, packed=True, parts=3)[0]
    assert sorted(len(item) for part in parts for item in part) == [1, 1, 2]


def test_packed_parts_cost_about_the_same() -> None:
    rows = _rows([(length, length, False) for length in range(1, 40)])
    costs = [
        sum(_tokens(one) for item in part for one in item)
        for part in cut_step(rows, tokens_of=_tokens, packed=True, parts=4)[0]
    ]
    assert max(costs) <= 1.05 * min(costs)


def test_padded_parts_keep_long_labels_from_short_ones() -> None:
    rows = _rows([(20, 30, False)] * 8)
    parts = cut_step(rows, tokens_of=_tokens, packed=False, parts=2)[0]
    assert [{len(one.label) for item in part for one in item} for part in parts] == [{1}, {30}]


def test_a_step_that_is_not_cut_keeps_its_rows_whole() -> None:
    rows = _rows([(3, 2, False), (4, 2, True)])
    assert cut_step(rows, tokens_of=_tokens, packed=True) == [[rows]]


def test_padding_fills_up_on_the_right() -> None:
    assert pad([[1, 2, 3], [4], []], 9) == [[1, 2, 3], [4, 9, 9], [9, 9, 9]]
