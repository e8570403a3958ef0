from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kp_train.calibration import calibration, confidences


def test_the_error_is_the_mean_gap_of_the_bins_by_hand() -> None:
    confidence_Q = np.array([0.95, 0.95, 0.95, 0.55])
    correct_Q = np.array([True, True, False, True])
    found = calibration(confidence_Q, correct_Q, num_bins=10)
    assert found.ece == pytest.approx(3 / 4 * abs(2 / 3 - 0.95) + 1 / 4 * abs(1 - 0.55))
    assert [(row.low, row.high, row.n) for row in found.bins] == [(0.5, 0.6, 1), (0.9, 1.0, 3)]


def test_an_edge_belongs_to_the_bin_below_it_and_zero_to_the_first() -> None:
    found = calibration(np.array([0.0, 0.5, 1.0]), np.array([False, True, True]), num_bins=2)
    assert [row.n for row in found.bins] == [2, 1]


def test_one_who_is_as_often_right_as_sure_has_no_error() -> None:
    draw = np.random.default_rng(0)
    confidence_Q = draw.uniform(size=200_000)
    assert calibration(confidence_Q, draw.uniform(size=200_000) < confidence_Q).ece < 0.005


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50))
def test_the_error_lies_between_0_and_1_and_every_question_is_in_one_bin(answers: list[tuple[float, bool]]) -> None:
    found = calibration(np.array([answer[0] for answer in answers]), np.array([answer[1] for answer in answers]))
    assert 0 <= found.ece <= 1
    assert sum(row.n for row in found.bins) == len(answers)


def test_confidence_is_the_highest_share_of_the_softmax_whatever_is_added_to_all_scores() -> None:
    scores = np.log([[0.7, 0.2, 0.1]])
    assert confidences(scores.tolist()).tolist() == pytest.approx([0.7])
    assert confidences((scores - 1e4).tolist()).tolist() == pytest.approx([0.7])
