"""Conflict mitigation value: the definition by hand, and what it refuses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kp_data.errors import DataError
from kp_data.purify.cmv import conflict_mitigation_value


def right(share: float, num: int = 10, seeds: int = 1) -> np.ndarray:
    """(S, Q), the first so many questions right."""
    return np.tile(np.arange(num) < round(share * num), (seeds, 1)).astype(float)


def test_the_value_is_the_mean_over_two_and_more_teachers_and_over_data_sets():
    method = {2: [right(0.6), right(0.5)], 3: [right(0.7), right(0.5)], 4: [right(0.8), right(0.6)]}
    tinyllm = {2: [right(0.5), right(0.5)], 3: [right(0.5), right(0.4)], 4: [right(0.4), right(0.4)]}
    result = conflict_mitigation_value(method, tinyllm)
    assert result.deltas == pytest.approx({2: 0.05, 3: 0.15, 4: 0.3})
    assert result.value == pytest.approx((0.05 + 0.15 + 0.3) / 3)
    relative = conflict_mitigation_value(method, tinyllm, relative=True)
    assert relative.deltas == pytest.approx({2: 0.1, 3: (0.4 + 0.25) / 2, 4: (1 + 0.5) / 2})


def test_one_teacher_changes_nothing_where_more_are_there():
    two = {2: [right(0.6)]}
    with_one = conflict_mitigation_value({1: [right(0.9)], **two}, {1: [right(0.1)], 2: [right(0.5)]})
    assert with_one == conflict_mitigation_value(two, {2: [right(0.5)]})


def test_students_without_a_teacher_count_for_nothing():
    two = {2: [right(0.6)]}
    with_none = conflict_mitigation_value({0: [right(0.9)], **two}, {0: [right(0.1)], 2: [right(0.5)]})
    assert with_none == conflict_mitigation_value(two, {2: [right(0.5)]})


def test_equal_results_give_a_value_of_exactly_zero():
    results = {2: [right(0.6, seeds=3)], 3: [right(0.3, seeds=3)]}
    result = conflict_mitigation_value(results, results)
    assert (result.value, result.ci95) == (0.0, (0.0, 0.0))


@pytest.mark.parametrize(
    ("method", "baseline", "message"),
    [
        ({1: [right(1)]}, {1: [right(1)]}, "two or more teachers"),
        ({2: [right(1)], 4: [right(1)]}, {2: [right(1)], 4: [right(1)]}, "results for 3 teachers are missing"),
        ({2: [right(1)]}, {2: [right(1)], 3: [right(1)]}, r"\[2\] teachers and baseline for \[2, 3\]"),
        ({2: [right(1)]}, {2: [right(1, num=9)]}, "same questions and seeds"),
        ({2: []}, {2: []}, "same questions and seeds"),
        ({2: [np.ones((1, 2, 3))]}, {2: [np.ones((1, 2, 3))]}, "same questions and seeds"),
        ({2: [np.full((1, 2), np.nan)]}, {2: [np.ones((1, 2))]}, "not between wrong"),
        ({2: [60 * np.ones((1, 2))]}, {2: [50 * np.ones((1, 2))]}, "not between wrong"),
        ({2: [right(1)], 3: [right(1, 9)]}, {2: [right(1)], 3: [right(1, 9)]}, "differ between numbers of teachers"),
    ],
)
def test_results_that_do_not_make_a_value_are_refused(method, baseline, message):
    with pytest.raises(DataError, match=message):
        conflict_mitigation_value(method, baseline)


def test_a_baseline_that_is_never_right_has_no_relative_value():
    with pytest.raises(DataError, match="never right"):
        conflict_mitigation_value({2: [right(1)]}, {2: [right(0)]}, relative=True)


def test_a_relative_value_that_some_draws_lack_has_no_interval_and_says_how_many():
    result = conflict_mitigation_value({2: [right(0.5)]}, {2: [right(0.1)]}, relative=True, num_draws=4000)
    assert (result.value, result.ci95) == (pytest.approx(4.0), None)
    # Ten questions are drawn, and each time it is one of the nine that the baseline has wrong.
    assert result.undefined == pytest.approx(0.9**10, abs=0.03)
    often = conflict_mitigation_value({2: [right(0.5, 400)]}, {2: [right(0.4, 400)]}, relative=True)
    low, high = often.ci95
    assert (low < 0.25 < high, often.undefined) == (True, 0.0)


def test_a_difference_is_never_undefined():
    result = conflict_mitigation_value({2: [right(0.5)]}, {2: [right(0)]})
    assert (result.undefined, result.ci95 is None) == (0.0, False)


def test_the_interval_is_as_wide_as_that_of_a_paired_mean():
    random = np.random.default_rng(1)
    method, baseline = (random.random((1, 800)) < share for share in (0.6, 0.5))
    result = conflict_mitigation_value({2: [method.astype(float)]}, {2: [baseline.astype(float)]}, num_draws=2000)
    low, high = result.ci95
    error = (method.astype(float) - baseline).std() / np.sqrt(800)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert low < result.value < high


def test_seeds_that_differ_widen_the_interval():
    steady = np.tile(np.arange(200) % 2, (4, 1)).astype(float)
    varied = np.stack([np.full(200, share) for share in (0.3, 0.4, 0.6, 0.7)])
    narrow = conflict_mitigation_value({2: [steady]}, {2: [steady * 0]}).ci95
    wide = conflict_mitigation_value({2: [varied]}, {2: [steady * 0]}).ci95
    assert wide[1] - wide[0] > narrow[1] - narrow[0]


@given(st.integers(0, 2**16), st.integers(2, 4))
def test_swapping_method_and_baseline_turns_the_sign(seed, most):
    random = np.random.default_rng(seed)
    one, other = ({n: [random.random((2, 6)).round()] for n in range(2, most + 1)} for _ in range(2))
    forth, back = (conflict_mitigation_value(a, b, num_draws=20) for a, b in ((one, other), (other, one)))
    assert forth.value == pytest.approx(-back.value)
    assert forth.ci95 == pytest.approx((-back.ci95[1], -back.ci95[0]))
