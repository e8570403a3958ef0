"""Reliability of scores: the error by hand, and that neither order nor ties matter."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kp_data.errors import DataError
from kp_data.purify.reliability import reliability_of

scored = st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), st.booleans()), min_size=1, max_size=40)


def test_the_error_is_the_weighted_distance_of_score_and_truth():
    # Two bins: scores .1 .3 (none right), .6 .8 (both right): (2 x |0 - .2| + 2 x |1 - .7|) / 4.
    result = reliability_of(np.array([0.8, 0.1, 0.6, 0.3]), np.array([1.0, 0.0, 1.0, 0.0]), num_bins=2)
    assert result.ece == pytest.approx(0.25)
    assert [(one.predicted, one.observed, one.num) for one in result.bins] == [
        (pytest.approx(0.2), 0.0, 2),
        (pytest.approx(0.7), 1.0, 2),
    ]


def test_bins_hold_equally_many_where_scores_differ():
    result = reliability_of(np.linspace(0, 1, 50), np.ones(50), num_bins=5)
    assert [one.num for one in result.bins] == [10] * 5


def test_a_score_that_comes_true_as_often_as_it_says_has_no_error():
    result = reliability_of(np.repeat([0.25, 0.75], 4), np.array([1, 0, 0, 0, 1, 1, 1, 0.0]))
    assert result.ece == 0.0
    assert len(result.bins) == 2


def test_what_is_not_known_is_left_out():
    result = reliability_of(np.array([0.5, np.nan, 0.5]), np.array([1.0, 1.0, np.nan]))
    assert (result.num, result.ece) == (1, 0.5)
    assert reliability_of(np.array([np.nan]), np.array([1.0])) is None


def test_a_score_beyond_0_and_1_is_refused():
    with pytest.raises(DataError, match=r"a score of 1\.5 is no probability"):
        reliability_of(np.array([0.5, 1.5]), np.array([1.0, 1.0]))


@given(scored, st.randoms())
def test_the_order_of_the_data_does_not_matter(pairs, random):
    shuffled = random.sample(pairs, len(pairs))
    first, second = (reliability_of(*np.array(data, dtype=float).T) for data in (pairs, shuffled))
    assert first.ece == pytest.approx(second.ece)
    assert [one.num for one in first.bins] == [one.num for one in second.bins]


@given(scored)
def test_the_error_lies_between_0_and_1_and_the_bins_hold_everything(pairs):
    result = reliability_of(*np.array(pairs, dtype=float).T)
    assert 0 <= result.ece <= 1
    assert sum(one.num for one in result.bins) == len(pairs)
    assert all(one.low <= one.observed <= one.high for one in result.bins)
