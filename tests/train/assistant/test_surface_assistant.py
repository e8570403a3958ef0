"""The assistant that learns how rationales look."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scripted import classroom, world

from kp_data.errors import MethodError
from kp_data.purify.verifier_input import Claim
from kp_train.assistant.staging import Judged
from kp_train.assistant.surface import SurfaceAssistant

ROOM = classroom(world(160))


def claims(*, telling: bool) -> tuple[list[Claim], np.ndarray]:
    """Answers, of which about half are right; where rationales are telling, wrong ones hedge and ramble."""
    said, right_N = [], np.random.default_rng(0).random(100) < 0.5
    for question, is_right in zip(ROOM.pool[:100], right_N, strict=True):
        doubt = "It is known. " if is_right or not telling else "Perhaps it may seem so, although I am not sure. " * 3
        said.append(Claim(question, f"{doubt}So it {question.choices[0]}.", question.choices[0]))
    return said, right_N


def test_what_shows_in_rationales_is_learned_and_holds_for_questions_left_out() -> None:
    said, right_N = claims(telling=True)
    judged = Judged.of(SurfaceAssistant.fit(said, right_N), said, right_N)
    assert ((judged.probability_N > 0.5) == right_N).mean() > 0.95


def test_what_does_not_show_is_not_learned_by_heart() -> None:
    said, right_N = claims(telling=False)
    odds_N = SurfaceAssistant.fit(said, right_N).log_odds(said)
    assert ((odds_N > 0) == right_N).mean() < 0.7


def test_the_gold_answer_is_not_read() -> None:
    said, right_N = claims(telling=True)
    assistant = SurfaceAssistant.fit(said, right_N)
    told = [replace(claim, question=ROOM.judged(claim.question)) for claim in said]
    assert assistant.log_odds(told).tolist() == assistant.log_odds(said).tolist()


def test_few_answers_or_all_alike_are_refused() -> None:
    said, right_N = claims(telling=True)
    for some, right in ((said[:10], right_N[:10]), (said, np.ones(100, dtype=bool))):
        with pytest.raises(MethodError, match="too few, or too alike"):
            SurfaceAssistant.fit(some, right)


def test_no_claims_need_no_word() -> None:
    said, right_N = claims(telling=True)
    assert SurfaceAssistant.fit(said, right_N).log_odds([]).tolist() == []
