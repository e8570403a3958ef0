from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kp_data.errors import DataError
from kp_train.comparison import compare_paired, mcnemar, paired_interval

ANSWERS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40)


def test_the_interval_is_that_of_resampled_pairs() -> None:
    difference_Q = np.array([1.0] * 12 + [-1.0] * 5 + [0.0] * 83)
    draws = np.random.default_rng(7).choice(difference_Q, size=(20_000, 100)).mean(axis=1)
    assert np.allclose(paired_interval(difference_Q), np.quantile(draws, (0.025, 0.975)), atol=0.011)
    assert paired_interval(difference_Q, seed=1) == paired_interval(difference_Q, seed=1)


def test_mcnemars_test_counts_coins_by_hand() -> None:
    # Of 8 coins, at most one on the rarer side: (1 + 8) of 256 ways, on both sides.
    assert mcnemar(7, 1) == pytest.approx(2 * 9 / 256)
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(3000, 2000) < 1e-40


@given(ANSWERS)
@settings(max_examples=25, deadline=None)
def test_a_comparison_turned_round_has_the_opposite_sign(answers: list[tuple[bool, bool]]) -> None:
    ours, theirs = ([pair[side] for pair in answers] for side in (0, 1))
    there, back = compare_paired(ours, theirs, other="b"), compare_paired(theirs, ours, other="a")
    assert there.difference == pytest.approx(-back.difference)
    assert there.difference == pytest.approx((there.only_this - there.only_other) / there.n)
    assert there.p_value == back.p_value
    assert there.ci95[0] <= there.difference <= there.ci95[1]


def test_students_that_answered_different_numbers_of_questions_are_not_compared() -> None:
    with pytest.raises(DataError, match="same questions"):
        compare_paired([True], [True, False], other="b")
    with pytest.raises(DataError, match="same questions"):
        compare_paired([], [], other="b")
