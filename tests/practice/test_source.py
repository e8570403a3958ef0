"""Practice sources as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kp_data.errors import ConfigError
from kp_data.practice import PracticeSource, make_questions, parse_practice_source


@given(
    st.integers(1, 10**9),
    st.integers(0, 10**9),
    st.lists(st.sampled_from(["law:30", "animals"]), min_size=1, unique=True),
)
def test_what_is_written_is_what_is_read(n: int, seed: int, subjects: list[str]):
    text = f"practice:{n}?seed={seed}&subjects={','.join(subjects)}"
    assert parse_practice_source(text) == PracticeSource(n, seed, tuple(subjects))


def test_a_number_alone_means_seed_0_and_every_subject():
    assert parse_practice_source("practice:7") == PracticeSource(7, 0, None)
    assert parse_practice_source("practice:7").questions() == make_questions(7)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("questions.csv", "not a practice source"),
        ("practice:", "must be a whole number, not ''"),
        ("practice:many", "must be a whole number, not 'many'"),
        ("practice:-5", "must be a whole number, not '-5'"),
        ("practice:²", "must be a whole number"),
        ("practice:0", "0 questions asked for"),
        ("practice:5?seed=x", "seed must be a whole number, not 'x'"),
        ("practice:5?sed=1", "option 'sed' is unknown; there are seed and subjects"),
        ("practice:5?seed=1&seed=2", "option 'seed' is given twice"),
        ("practice:5?subjects=law,cooking", "no subject 'cooking'; there are animals, stones"),
        ("practice:5?subjects=", "no subject named"),
        ("practice:5?subjects=law,plants:many", "subject 'plants:many': behind the colon goes how many in a hundred"),
        ("practice:5?subjects=law:50,law", "subject 'law' stands there twice"),
    ],
)
def test_nonsense_gets_one_message_that_names_the_source(text: str, says: str):
    with pytest.raises(ConfigError, match=says) as caught:
        parse_practice_source(text)
    assert str(caught.value).startswith(f"{text}: ")
    assert "\n" not in str(caught.value)
