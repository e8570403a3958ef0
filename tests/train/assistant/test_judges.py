"""Who judges, and how a judge's word becomes log-odds."""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import classroom, world

from kp_data.errors import ConfigError, DataError, MethodError
from kp_data.purify.selector import fold_of
from kp_data.purify.verifier_input import Claim
from kp_data.schema import Question
from kp_train.assistant import AssistantOptions
from kp_train.assistant.hiring import hire
from kp_train.assistant.judges import (
    FAR,
    SPOKEN_ODDS,
    AskedAssistant,
    GoldAssistant,
    TrustingAssistant,
    VerifierAssistant,
    YesNoAssistant,
    bare_claims,
    fit_verifier_assistant,
    load_assistant,
    spoken_log_odds,
    without_gold,
)

ROOM = classroom(world(120))


def hired(assistant: str, folder: Path, stack: ExitStack | None = None) -> Any:
    """An assistant by name, with nothing to learn from."""
    options = AssistantOptions(10, assistant)
    options.check()
    return hire(options, ROOM, [], np.zeros(0, bool), folder=folder, config=None, stack=stack or ExitStack(), seed=0)


@pytest.mark.parametrize(
    ("reply", "logprob", "odds"),
    [
        ("Yes.", math.log(0.8), math.log(4)),
        ("**No**, it is not", math.log(0.9), -math.log(9)),
        ("yes", None, SPOKEN_ODDS),
        ("Not sure", None, 0.0),
        ("Nothing speaks against it", None, 0.0),
        ("Note that ice is cold. Yes.", None, 0.0),
        ("Yesterday it was", None, 0.0),
        ("NO\nIt is not.", None, -SPOKEN_ODDS),
        ("Yes, for a long and unlikely reason", math.log(0.2), 0.0),
        ("Perhaps", math.log(0.9), 0.0),
        ("", None, 0.0),
        (None, None, 0.0),
    ],
)
def test_a_spoken_word_becomes_its_log_odds(reply: str | None, logprob: float | None, odds: float) -> None:
    assert spoken_log_odds(reply, logprob) == pytest.approx(odds, abs=1e-6)


@given(st.text(max_size=40), st.one_of(st.none(), st.floats(-50, 5)))
def test_whatever_is_said_gives_finite_log_odds(reply: str, logprob: float | None) -> None:
    assert math.isfinite(spoken_log_odds(reply, logprob))


def test_a_judge_is_asked_through_the_store_and_once_only(tmp_path: Path) -> None:
    claims = [Claim(question, "", choice) for question in ROOM.pool[:6] for choice in question.choices]
    with ExitStack() as stack:
        judge = hired("judge=practice/judge-0", tmp_path, stack)
        assert isinstance(judge, AskedAssistant)
        odds = judge.log_odds(claims)
        assert judge.log_odds(claims).tolist() == odds.tolist()
        assert judge.asker.bill.calls_now == len(claims)
    right = np.array([claim.answer == ROOM.gold[claim.question.id] for claim in claims])
    assert ((odds > 0) == right).all()
    with ExitStack() as stack:
        again = hired("judge=practice/judge-0", tmp_path, stack)
        assert again.log_odds(claims).tolist() == odds.tolist()
        assert again.asker.bill.calls_now == 0


class SaysYes:
    """A checkpoint that finds yes likelier, the more the question says."""

    writes_text = True

    def choice_log_probs(self, questions: list[Question]) -> list[list[float]]:
        assert all(question.choices == ("yes", "no") for question in questions)
        return [[-1.0, -1.0 - len(question.question)] for question in questions]


def test_a_checkpoint_judges_by_the_difference_of_yes_and_no() -> None:
    claim = Claim(ROOM.pool[0], "because", "an answer")
    (odds,) = YesNoAssistant(SaysYes()).log_odds([claim])  # type: ignore[arg-type]
    assert odds > len("because") + len("an answer")


def test_trust_and_gold_need_no_training(tmp_path: Path) -> None:
    claim = Claim(ROOM.pool[0], "", "certainly wrong")
    assert hired("none", tmp_path).log_odds([claim]).tolist() == [FAR]
    assert hired("gold", tmp_path).log_odds([claim]).tolist() == [-FAR]
    assert isinstance(hired("none", tmp_path), TrustingAssistant)


def test_open_ended_answers_are_compared_as_answers() -> None:
    judge = GoldAssistant({"q": "1,000"})
    said = [Claim(Question("q", "How many?"), "", answer) for answer in ("10^3", "999")]
    assert judge.log_odds(said).tolist() == [FAR, -FAR]


def test_every_choice_of_a_judged_question_is_a_claim() -> None:
    question = ROOM.judged(ROOM.pool[0])
    claims, right_N = bare_claims([question, question, ROOM.pool[1]])
    assert [claim.answer for claim in claims] == list(question.choices)
    assert [claim.answer for claim, right in zip(claims, right_N, strict=True) if right] == [question.answer]


def test_a_verifier_without_gold_answers_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MethodError, match="learns from questions of the warm-up that have gold answers"):
        hired("verifier", tmp_path)


def test_an_unknown_assistant_is_refused_before_anything_is_asked() -> None:
    with pytest.raises(ConfigError, match="'nobody' is none of verifier, surface, gold, none"):
        AssistantOptions(10, "nobody").check()


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no student here"):
        load_assistant(tmp_path)


@pytest.mark.slow
def test_a_verifier_is_fitted_crosswise_and_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    questions = [ROOM.judged(question) for question in ROOM.pool[:16]]
    claims = [Claim(question, "It is known.", question.choices[row % 4]) for row, question in enumerate(questions)]
    right_N = np.array([claim.answer == claim.question.answer for claim in claims])
    checked, checked_right_N = bare_claims(ROOM.validation[:3])
    assistant = fit_verifier_assistant(claims, right_N, checked, checked_right_N, epochs=1, max_tokens=32, seed=0)
    odds_N = assistant.log_odds([without_gold(claim) for claim in claims])
    first, second = ((VerifierAssistant((verifier,))).log_odds(claims) for verifier in assistant.verifiers)
    # Each claim by the one verifier that has left out its question; others by the mean of both.
    fold_N = np.array([fold_of(claim.question.id, 2) for claim in claims])
    assert odds_N == pytest.approx(np.where(fold_N == 0, first, second), abs=1e-4)
    others = [Claim(question, "It is known.", question.choices[0]) for question in ROOM.pool[30:34]]
    means = np.mean([VerifierAssistant((verifier,)).log_odds(others) for verifier in assistant.verifiers], axis=0)
    assert assistant.log_odds(others) == pytest.approx(means, abs=1e-4)
    assistant.save(tmp_path)
    loaded = load_assistant(tmp_path)
    assert loaded.log_odds(claims) == pytest.approx(assistant.log_odds(claims), abs=1e-4)
