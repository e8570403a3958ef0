"""Self-consistency, thresholds and who is kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kp_data.errors import ConfigError, DataError
from kp_train.assistant import Thresholds, threshold_at_recall, vote

ANSWERS = st.lists(st.sampled_from(["yes", "no", "Maybe.", None]), min_size=1, max_size=9)


def test_self_consistency_is_the_share_of_the_majority() -> None:
    said = vote(["b", "a", "b", "b", "a"], choices=("a", "b", "c"))
    assert (said.answer, said.consistency, said.share_C) == ("b", 3 / 5, (2 / 5, 3 / 5, 0.0))


def test_a_sample_that_cannot_be_read_counts_and_wins_nothing() -> None:
    assert vote([None, None, "a"]).consistency == 1 / 3
    assert (vote([None, None]).answer, vote([None, None]).consistency) == (None, 0.0)


def test_answers_are_normalised_before_the_vote() -> None:
    assert vote(["1,000", "10^3", "$1000$", "7"]).consistency == 3 / 4


def test_choices_that_differ_in_case_alone_are_different_answers() -> None:
    said = vote(["Aa", "Aa", "AA", "aa"], choices=["AA", "Aa", "aa"])
    assert (said.answer, said.consistency, said.share_C) == ("Aa", 0.5, (0.25, 0.5, 0.25))
    # A choice of nothing but signs has no key, and is an answer all the same.
    assert vote([".", ".", "!"], choices=[".", "!"]).answer == "."


@given(ANSWERS, st.randoms())
def test_the_order_of_the_samples_does_not_matter(answers: list[str | None], random: object) -> None:
    rationales = [f"because {number}" for number in range(len(answers))]
    pairs = list(zip(answers, rationales, strict=True))
    random.shuffle(pairs)  # type: ignore[attr-defined]
    shuffled, moved = zip(*pairs, strict=True)
    assert vote(answers, rationales=rationales) == vote(shuffled, rationales=moved)


@given(ANSWERS)
def test_consistency_is_a_share_that_some_answer_reaches(answers: list[str | None]) -> None:
    said = vote(answers)
    assert said.consistency * len(answers) == pytest.approx(sum(answer == said.answer for answer in answers if answer))


def test_the_rationale_of_the_majority_is_one_that_argues_for_it() -> None:
    said = vote(["a", "b", "b"], rationales=["for a", "long for b", "for b"])
    assert said.rationale == "for b"


def test_no_sample_is_refused() -> None:
    with pytest.raises(DataError, match="at least one sample"):
        vote([])


def test_own_answers_need_both_signals() -> None:
    kept = Thresholds(0.6, 0.5, 0.5).keeps_own(np.array([0.6, 0.59, 1.0, 1.0]), np.array([0.5, 0.9, 0.49, 1.0]))
    assert kept.tolist() == [True, False, False, True]


def test_with_thresholds_of_zero_all_but_the_unreadable_is_kept() -> None:
    assert Thresholds(0, 0, 0).keeps_own(np.array([0.125, 0.0]), np.array([0.0, 1.0])).tolist() == [True, False]


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_threshold_that_is_no_share_is_refused(value: float) -> None:
    with pytest.raises(ConfigError, match="not from 0 to 1"):
        Thresholds(student=value).check()


@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40),
    st.floats(0.01, 1),
)
def test_the_threshold_reaches_the_recall_and_is_the_highest_that_does(
    pairs: list[tuple[float, bool]], recall: float
) -> None:
    score_N, right_N = np.array([score for score, _ in pairs]), np.array([right for _, right in pairs])
    cut = threshold_at_recall(score_N, right_N, recall=recall)
    if not right_N.any():
        assert cut == 0.0
        return
    assert (score_N[right_N] >= cut).mean() >= recall - 1e-9
    higher = score_N[right_N][score_N[right_N] > cut]
    assert not len(higher) or (score_N[right_N] >= higher.min()).mean() < recall


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40))
def test_less_recall_never_keeps_more(pairs: list[tuple[float, bool]]) -> None:
    score_N, right_N = np.array([score for score, _ in pairs]), np.array([right for _, right in pairs])
    cuts = [threshold_at_recall(score_N, right_N, recall=recall) for recall in (0.9, 0.7, 0.5)]
    assert cuts == sorted(cuts)
