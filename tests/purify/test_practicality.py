"""The practicality table: what is measured, and what is said to be unknown."""

from dataclasses import replace

import numpy as np
import pytest
from topic_panels import panel_of, response, write_panel

from kp_data.errors import MethodError
from kp_data.panel import Panel
from kp_data.purify import METHODS, Context, Fitted, Method, MethodInfo, Purification, compare_methods
from kp_data.purify.practicality import CallRecords, practicality_of, seconds_a_question
from kp_data.purify.protocol import NoOptions
from kp_data.purify.purified import run_method
from kp_data.schema import Question
from kp_data.tables import read_json

NUM = 20


def asked() -> list[Question]:
    return [Question(f"q{n}", f"thing {n}?", ("w", "x"), "w", 0, "test" if n % 2 else "train") for n in range(NUM)]


def paid(cost=(0.01, 0.02), latency=(1.0, 3.0)):
    """Two teachers, a always right, b never; what each call cost and how long it took."""
    return [
        response(f"q{n}", teacher, column, cost_usd=cost[column], latency_s=latency[column])
        for n in range(NUM)
        for column, teacher in enumerate("ab")
    ]


@pytest.fixture
def panel(tmp_path) -> Panel:
    return write_panel(tmp_path / "panel", asked(), paid())


def practical(panel, name):
    run = run_method(panel, METHODS[name], NoOptions(), Context())
    return practicality_of(panel, run, run.purification, CallRecords.of(panel))


def test_a_method_that_asks_one_teacher_costs_what_that_teacher_costs(panel):
    usage = practical(panel, "best-single")
    assert (usage.cost_usd, usage.teacher_seconds, usage.teacher_calls) == (pytest.approx(0.01), 1.0, 1.0)
    assert (usage.prior, usage.training) == ("the question", "labelled questions, no training")


def test_a_method_that_asks_all_costs_their_sum_and_waits_for_the_slowest(panel):
    usage = practical(panel, "majority")
    assert (usage.cost_usd, usage.teacher_seconds, usage.teacher_calls) == (pytest.approx(0.03), 3.0, 2.0)
    assert (usage.prior, usage.training, usage.transferable) == ("all rationales", "", True)
    assert practical(panel, "oracle").prior == "all rationales, own answers, gold"


def test_calls_of_both_modes_are_added_up(tmp_path):
    forced = [replace(row, mode="teacher_forced", cost_usd=0.5, latency_s=2.0) for row in paid()]
    records = CallRecords.of(write_panel(tmp_path / "panel", asked(), [*paid(), *forced]))
    assert np.allclose(records.cost_QT, [[0.51, 0.52]] * NUM)
    assert np.allclose(records.latency_QT, [[2.0, 3.0]] * NUM)


def test_a_price_that_is_not_known_is_never_guessed(tmp_path):
    unknown = write_panel(tmp_path / "panel", asked(), paid(cost=(None, 0.02), latency=(None, None)))
    assert practical(unknown, "best-single").cost_usd is None
    assert practical(unknown, "majority").cost_usd is None
    assert practical(unknown, "majority").teacher_seconds is None
    in_memory = panel_of(asked(), paid())
    assert practical(in_memory, "majority").cost_usd is None


def test_every_timed_question_is_one_that_no_cache_has_seen(panel):
    seen: list[str] = []

    def purify(one: Panel) -> None:
        assert len(one) == 1
        seen.extend([one.questions[0].question, *one.rationale_QT[0]])

    assert seconds_a_question(purify, panel, repeats=5) > 0
    assert len(seen) == len(set(seen)) == 15
    known = {question.question for question in panel.questions} | set(panel.rationale_QT.ravel())
    assert not known & set(seen)
    assert seconds_a_question(purify, panel.take(np.array([], dtype=int))) is None


def toy(kind, purify, **facts):
    info = MethodInfo("toy", "a toy", kind, ("rationales",), False, True, "own", "own")
    return Method(info, lambda data, options, context: Fitted(purify, calls_per_question=3, facts=facts), NoOptions)


def first_kept(panel):
    return Purification.of_choice(np.zeros(panel.has_rationale_QT.shape), np.zeros(len(panel), dtype=int))


def test_a_writer_is_not_asked_again_to_be_timed_and_its_own_calls_are_added(panel):
    sizes = []

    def purify(part):
        sizes.append(len(part))
        return first_kept(part)

    method = toy("writer", purify, seconds_per_call=1.5, calls=20, cost_usd=2.0)
    run = run_method(panel, method, NoOptions(), Context())
    usage = practicality_of(panel, run, run.purification, CallRecords.of(panel))
    assert sizes == [NUM]
    assert (usage.seconds_a_question, usage.cost_usd) == (1.5, pytest.approx(0.03 + 0.1))
    run = run_method(panel, toy("writer", first_kept), NoOptions(), Context())
    unknown = practicality_of(panel, run, run.purification, CallRecords.of(panel))
    assert (unknown.seconds_a_question, unknown.cost_usd) == (None, None)


def test_a_method_that_chooses_for_whole_panels_only_has_no_time_a_question(panel):
    def purify(part):
        if len(part) < NUM:
            raise MethodError("chooses for a whole panel; give it one")
        return first_kept(part)

    run = run_method(panel, toy("selector", purify), NoOptions(), Context())
    assert practicality_of(panel, run, run.purification, CallRecords.of(panel)).seconds_a_question is None


def test_compare_writes_the_table_for_every_method(panel, tmp_path):
    compare_methods(panel, ["best-single", "majority"], out=tmp_path / "compared")
    entries = read_json(tmp_path / "compared/compare.json")
    assert [entry["practicality"]["cost_usd"] for entry in entries] == [pytest.approx(0.01), pytest.approx(0.03)]
    assert all(entry["practicality"]["seconds_a_question"] > 0 for entry in entries)
    assert [entry["kind"] for entry in entries] == ["baseline", "baseline"]
