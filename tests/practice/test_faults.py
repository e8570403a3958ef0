"""Fault plans."""

from __future__ import annotations

from collections import Counter

import pytest

from kp_data.errors import ConfigError
from kp_data.practice.faults import parse_faults


def test_a_sequence_comes_in_turn_and_then_all_is_well():
    plan = parse_faults("500, 429,ok,hang")
    assert [plan.fault(number) for number in range(6)] == ["500", "429", "ok", "hang", "ok", "ok"]


def test_chances_come_true_and_depend_on_seed_and_number_alone():
    plan = parse_faults("429:0.2,hang:0.05", seed=1)
    faults = [plan.fault(number) for number in range(10_000)]
    counts = Counter(faults)
    assert abs(counts["429"] / 10_000 - 0.2) < 0.02
    assert abs(counts["hang"] / 10_000 - 0.05) < 0.01
    assert faults == [parse_faults("429:0.2,hang:0.05", seed=1).fault(number) for number in range(10_000)]
    assert faults != [parse_faults("429:0.2,hang:0.05", seed=2).fault(number) for number in range(10_000)]


@pytest.mark.parametrize("text", [None, "", " "])
def test_nothing_means_no_faults(text: str | None):
    assert {parse_faults(text).fault(number) for number in range(100)} == {"ok"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("200:0.1", "no fault '200'"),
        ("explode", "no fault 'explode'"),
        ("500:0.1,429", "mixes chances and a sequence"),
        ("500:often", "'often' is no chance"),
        ("500:nan", "'nan' is no chance"),
        ("500:1.5", "'1.5' is no chance"),
        ("500:0.6,429:0.6", "come to more than 1"),
    ],
)
def test_nonsense_is_refused(text: str, says: str):
    with pytest.raises(ConfigError, match=says):
        parse_faults(text)
