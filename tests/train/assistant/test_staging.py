"""What is asked, and what is kept, without any training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripted import Scripted, classroom

from kp_data.purify.calibration import sigmoid
from kp_data.purify.verifier_input import Claim
from kp_train.assistant import Thresholds, Vote
from kp_train.assistant.judges import FAR, Calibrated, GoldAssistant, TrustingAssistant
from kp_train.assistant.lessons import kept_rows
from kp_train.assistant.records import Signal, last_words, read_signals, write_signals
from kp_train.assistant.routing import Chooser
from kp_train.assistant.staging import Judged, Look, plan_round, plan_warm_up, requests_of, with_answers
from kp_train.assistant.teachers import TeacherSource

Array = np.ndarray[Any, Any]
ROOM = classroom()
NOBODY = Look((), (), np.zeros(0))


def look(*, seed: int = 0) -> Look:
    """A student of random sureness on every question of the pool."""
    draw = np.random.default_rng(seed)
    shares = draw.dirichlet(np.ones(4), len(ROOM.pool))
    votes = tuple(
        Vote(question.choices[int(row.argmax())], float(row.max()), None, tuple(row))
        for question, row in zip(ROOM.pool, shares, strict=True)
    )
    return Look(ROOM.pool, votes, draw.random(len(ROOM.pool)))


def planned(
    calls: int, *, ask_first: str = "self-consistency", seen: Look | None = None, source: TeacherSource | None = None
) -> list[Signal]:
    """The plan of a round."""
    return plan_round(
        seen or look(),
        NOBODY,
        Chooser(source or Scripted()),
        name="round-1",
        calls=calls,
        thresholds=Thresholds(0.6, 0.5, 0.5),
        ask_first=ask_first,
        seed=0,
    )


@pytest.mark.parametrize("percent", [0, 10, 30, 50])
def test_with_an_oracle_exactly_the_wrong_answers_of_the_teacher_are_removed(percent: int, tmp_path: Path) -> None:
    source = Scripted((percent,))
    plan = plan_warm_up(ROOM, source, calls=len(ROOM.pool), side_by_side=False, seed=0)
    answered = source.ask(requests_of(ROOM, plan), stage=tmp_path)
    signals = with_answers(plan, answered, Calibrated(GoldAssistant(ROOM.gold)), least=0.5)
    right = {signal.question_id for signal in signals if signal.teacher_answer == ROOM.gold[signal.question_id]}
    assert {signal.question_id for signal in signals if signal.kept} == right
    assert len(signals) == len(ROOM.pool)


@pytest.mark.parametrize("calls", [1, 7, 10_000])
def test_the_warm_up_spends_exactly_what_it_may(calls: int) -> None:
    plan = plan_warm_up(ROOM, Scripted(), calls=calls, side_by_side=False, seed=0)
    assert len(plan) == min(calls, len(ROOM.pool))
    assert len({signal.question_id for signal in plan}) == len(plan)


def test_side_by_side_each_question_goes_to_all_teachers_or_to_none() -> None:
    plan = plan_warm_up(ROOM, Scripted((10, 20, 30)), calls=20, side_by_side=True, seed=0)
    assert len(plan) == 18
    assert {sum(signal.question_id == other.question_id for other in plan) for signal in plan} == {3}


@pytest.mark.parametrize("calls", [0, 1, 13, 10_000])
def test_a_round_never_asks_more_than_it_may(calls: int) -> None:
    plan = planned(calls)
    asked = [signal for signal in plan if signal.decision == "asked"]
    own = [signal for signal in plan if signal.decision == "own"]
    assert len(asked) == min(calls, len(ROOM.pool) - len(own))
    assert all(signal.consistency >= 0.6 and signal.student_confidence >= 0.5 for signal in own)  # type: ignore[operator]
    assert len(plan) == len(ROOM.pool)


def test_calls_go_to_questions_on_which_the_student_is_less_consistent_than_on_random_ones() -> None:
    def mean_consistency(ask_first: str) -> float:
        plan = planned(20, ask_first=ask_first)
        return float(np.mean([signal.consistency for signal in plan if signal.decision == "asked"]))

    assert mean_consistency("self-consistency") < mean_consistency("random") - 0.05


@pytest.mark.parametrize("ask_first", ["random", "self-consistency", "assistant", "coverage"])
def test_the_order_of_the_questions_changes_no_decision(ask_first: str) -> None:
    seen = look()
    turned = seen.take(np.random.default_rng(1).permutation(len(ROOM.pool)).tolist())
    one, other = planned(15, ask_first=ask_first, seen=seen), planned(15, ask_first=ask_first, seen=turned)
    assert sorted(one, key=lambda s: s.question_id) == sorted(other, key=lambda s: s.question_id)


def test_with_thresholds_of_zero_everything_that_teachers_said_is_kept(tmp_path: Path) -> None:
    source = Scripted((50,))
    plan = plan_warm_up(ROOM, source, calls=len(ROOM.pool), side_by_side=False, seed=0)
    answered = source.ask(requests_of(ROOM, plan), stage=tmp_path)
    signals = with_answers(plan, answered, Calibrated(GoldAssistant(ROOM.gold)), least=0.0)
    rows = kept_rows(ROOM, signals, rationales=True)
    said = {each.request.question.id: each.claim for each in answered}
    assert [row.question.id for row in rows] == [question.id for question in ROOM.pool]
    assert all(row.purified_answer == said[row.question.id].answer for row in rows)  # type: ignore[union-attr]


def test_a_refusal_is_a_call_and_teaches_nothing(tmp_path: Path) -> None:
    source = Scripted(refuses=frozenset(question.id for question in ROOM.pool[:5]))
    plan = plan_warm_up(ROOM, source, calls=len(ROOM.pool), side_by_side=False, seed=0)
    signals = with_answers(
        plan, source.ask(requests_of(ROOM, plan), stage=tmp_path), Calibrated(TrustingAssistant()), least=0
    )
    assert sum(not signal.kept for signal in signals) == 5
    assert sum(source.asked.values()) == len(ROOM.pool)


def test_of_several_kept_answers_the_most_trusted_is_learned() -> None:
    id_ = ROOM.pool[0].id
    low = Signal(id_, "warm-up", "asked", teacher="a", teacher_answer="x", teacher_confidence=0.6, kept=True)
    high = replace(low, teacher="b", teacher_answer="y", teacher_confidence=0.9)
    dropped = replace(low, teacher="c", teacher_answer="z", teacher_confidence=0.99, kept=False)
    (row,) = kept_rows(ROOM, [low, high, dropped], rationales=False)
    assert (row.purified_answer, row.score, row.purified) == ("y", 0.9, None)


def test_the_last_stage_has_the_last_word() -> None:
    first = [Signal("a", "round-1", "own", kept=True), Signal("b", "round-1", "waiting")]
    second = [Signal("a", "round-2", "asked", teacher="t"), Signal("c", "round-2", "waiting")]
    assert [(one.question_id, one.stage) for one in last_words([first, second])] == [
        ("a", "round-2"),
        ("b", "round-1"),
        ("c", "round-2"),
    ]


def test_signals_come_back_as_they_were_written(tmp_path: Path) -> None:
    signals = [*planned(9), Signal("x", "warm-up", "asked", teacher="t", cost_usd=0.5, kept=True)]
    write_signals(signals, tmp_path / "signals.parquet")
    assert read_signals(tmp_path / "signals.parquet") == signals


def test_the_pool_of_a_classroom_holds_no_gold_answer() -> None:
    assert all(question.answer is None and question.answer_index is None for question in ROOM.pool)
    assert len(ROOM.gold) == len(ROOM.pool)
    assert all(question.answer for question in ROOM.validation)


class Overconfident:
    """Says 99 % to everything."""

    least_judged = 50

    def log_odds(self, claims: Sequence[Claim]) -> Array:
        return np.full(len(claims), 4.6)


def test_calibration_brings_an_overconfident_assistant_to_what_comes_true() -> None:
    claims = [Claim(ROOM.pool[0], "", "right" if number % 2 else "wrong") for number in range(200)]
    right_N = np.array([claim.answer == "right" for claim in claims])
    judged = Judged.of(Overconfident(), claims, right_N)
    assert sigmoid(np.array(4.6)) > 0.98
    assert judged.probability_N == pytest.approx(0.5, abs=0.02)
    assert judged.as_facts()["reliability"]["ece"] < 0.02


def test_with_few_judged_answers_nothing_is_calibrated() -> None:
    claims = [Claim(ROOM.pool[0], "", "right")] * 5
    judged = Judged.of(Overconfident(), claims, np.array([False] * 5))
    assert judged.as_facts()["calibrated_on"] == 0
    assert judged.threshold(0.4, recall=None) == 0.4


def test_gold_is_certain_and_never_calibrated() -> None:
    claims = [Claim(ROOM.pool[0], "", ROOM.gold[ROOM.pool[0].id])] * 60
    assert GoldAssistant(ROOM.gold).log_odds(claims).tolist() == [FAR] * 60
    assert Judged.of(GoldAssistant(ROOM.gold), claims, np.ones(60)).calibrated.platt.num_items == 0
