"""Checked sums: what counts as a calculation, and texts that were made to hurt."""

import math

import pytest

from kp_data.purify.arithmetic import check_arithmetic, close, numbers_in


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("2 + 2 = 4", (1, 0)),
        ("2 + 2 = 5", (0, 1)),
        ("-5 + 3 = -2", (1, 0)),
        ("2 - 3 - 4 = -5", (1, 0)),
        ("10 / 2 * 3 = 15", (1, 0)),
        ("1 + 2 * 3 = 7, and 2 * -3 = -6", (2, 0)),
        (r"$0.030 \cdot 0.025 = 0.00075$", (1, 0)),
        (r"\frac{1}{3} = 0.333", (1, 0)),
        (r"100 \div 7 \approx 14.3", (1, 0)),
        ("1,200 × 2 = 2,400", (1, 0)),
        ("5 − 3 = 1", (0, 1)),
        ("7 / 0 = 1", (0, 0)),
        ("2^3 = 8", (0, 0)),
        ("x + 2 = 7", (0, 0)),
        ("3 kg + 4 kg = 9 kg", (0, 0)),
        ("4 = 4", (0, 0)),
        ("", (0, 0)),
    ],
)
def test_calculations_are_counted_by_whether_they_come_out(text, outcome):
    assert check_arithmetic(text) == outcome


@pytest.mark.parametrize(
    "text",
    ["1+" * 50_000, "1" * 100_000, "1," * 50_000, "-" * 100_000, "1+1=" * 20_000, r"\frac{1" * 10_000, "9e999 + 1 = 2"],
)
def test_texts_made_to_hurt_are_read_all_the_same(text):
    right, wrong = check_arithmetic(text)
    assert right + wrong <= len(text)
    assert all(isinstance(number, float) for number in numbers_in(text))


def test_a_number_too_large_to_hold_is_none():
    assert math.isnan(numbers_in("9e999")[0])
    assert not close(math.nan, math.nan)
