"""Every method of the registry on panels as they come: each works on what is there, or says what to do instead."""

from dataclasses import replace

import numpy as np
import pytest
from topic_panels import panel_of, response

from kp_data.errors import KpError, MethodError
from kp_data.purify import METHODS, Context, Embedder
from kp_data.purify.purified import make_report, purified_table, run_method
from kp_data.purify.registry import make_options
from kp_data.schema import AGGREGATED, Question

NUM = 30
SPLITS = ("train", "train", "train", "validation", "test")
EMBED = Embedder()
REMEDY = (";", "take method", "give ", "run ", "add ", "name ", "set ")


def marked(name):
    """What trains a network of its own takes seconds for each panel."""
    heavy = METHODS[name].info.trained and name != "similarity-router"
    return pytest.param(name, marks=pytest.mark.slow) if heavy else name


NAMES = [marked(name) for name in METHODS]
BLIND_TO_GOLD = [
    marked(name) for name, method in METHODS.items() if method.info.transferable and method.info.kind != "writer"
]
"""Those that must choose without the right answers; a writer needs a model to be asked, and has tests of its own."""


def questions(**changes):
    base = [Question(f"q{n}", f"What is thing {n}?", ("w", "x", "y"), "w", 0, SPLITS[n % 5]) for n in range(NUM)]
    return [replace(question, **changes) for question in base]


def answers(wrong=(), teachers="abc"):
    """(question number, teacher, answer): right three times of four, at times of their own; never right in `wrong`."""
    for number in range(NUM):
        for column, teacher in enumerate(teachers):
            yield number, teacher, 1 + column % 2 if teacher in wrong or (number + column) % 4 == 0 else 0


def said(*, wrong=(), teachers="abc", **rest):
    return [response(f"q{number}", teacher, index, **rest) for number, teacher, index in answers(wrong, teachers)]


def some_missing():
    return questions(), [row for n, row in enumerate(said()) if row.teacher != "c" or n % 2]


def one_always_wrong():
    return questions(), said(wrong="c")


def all_always_wrong():
    return questions(), said(wrong="abc")


def one_teacher():
    return questions(), said(teachers="a")


def no_gold():
    return questions(answer=None, answer_index=None), said()


def no_blind_answers():
    return questions(), [replace(row, mode="teacher_forced", answer_index=0) for row in said()]


def empty_rationales():
    blank = {"a": "", "b": None, "c": "  \n"}
    return questions(), [
        replace(row, rationale=blank[row.teacher]) if row.question_id in ("q4", "q5", "q6") else row for row in said()
    ]


def an_enormous_rationale():
    return questions(), [
        replace(row, rationale="because it is so " * 65_000) if (row.question_id, row.teacher) == ("q4", "b") else row
        for row in said()
    ]


def ties_everywhere():
    return questions(), [response(f"q{n}", teacher, column) for n in range(NUM) for column, teacher in enumerate("abc")]


def calls_that_all_failed():
    failed = {"rationale": None, "answer_index": None, "error": "timeout"}
    return questions(), [replace(row, **failed) if row.question_id in ("q4", "q9") else row for row in said()]


def open_ended():
    asked = questions(choices=(), answer="1,000 kg", answer_index=None)
    texts = ("1e3 kg", "12 kg", "a lot")
    return asked, [replace(row, answer=texts[row.answer_index], answer_index=None) for row in said()]


def hostile_texts():
    evil = "\x1b[31m</style><script>x</script> {{7*7}} ../../etc \u202e \ud7ff DROP TABLE"
    return questions(), [replace(row, rationale=evil) for row in said()]


WORLDS = [
    some_missing,
    one_always_wrong,
    all_always_wrong,
    one_teacher,
    no_gold,
    no_blind_answers,
    empty_rationales,
    an_enormous_rationale,
    ties_everywhere,
    calls_that_all_failed,
    open_ended,
    hostile_texts,
]


def purified(name, world):
    """(panel, run), or (panel, the error that says what to do)."""
    panel, method = panel_of(*world()), METHODS[name]
    try:
        return panel, run_method(panel, method, make_options(method, {}), Context(seed=0, embed=EMBED))
    except KpError as error:
        return panel, error


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", NAMES)
def test_a_method_keeps_what_was_said_or_tells_what_to_do(name, world):
    panel, run = purified(name, world)
    if isinstance(run, KpError):
        message = str(run)
        assert any(words in message for words in REMEDY), f"no remedy in: {message}"
        assert len(message) > 40
        return
    report = make_report(panel, run).as_dict()
    check_rows(panel, purified_table(panel, run.purification, name).to_pylist())
    accuracy = report["purified_accuracy"]
    assert accuracy is None or 0 <= accuracy <= 1
    if world is no_gold or world is no_blind_answers:
        assert accuracy is None
    if world is all_always_wrong and not run.purification.written_Q.any():
        assert accuracy == 0
    if world is one_teacher and not run.purification.written_Q.any():
        assert report["teacher_share"] == {"a": 1.0}
        assert report["gap_closed"] is None


def check_rows(panel, rows):
    """One row a question unless several are kept; each rationale is one that its teacher gave, or written anew."""
    given = {
        (question.id, teacher): panel.rationale_QT[row, column]
        for row, question in enumerate(panel.questions)
        for column, teacher in enumerate(panel.teachers)
    }
    assert [row["id"].split("#")[0] for row in rows] == sorted(
        (row["id"].split("#")[0] for row in rows), key=lambda name: int(name[1:])
    )
    assert {row["id"].split("#")[0] for row in rows} == {question.id for question in panel.questions}
    for row in rows:
        if row["teacher"] is None:
            assert row["rationale"] is None
        elif row["teacher"] != AGGREGATED:
            assert row["rationale"] == given[row["id"].split("#")[0], row["teacher"]]


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.info.kind == "router"])
def test_a_router_refuses_to_learn_from_answers_that_were_given_the_gold(name):
    _, refusal = purified(name, no_blind_answers)
    assert isinstance(refusal, MethodError)
    assert "--mode blind" in str(refusal)
    assert "take method 'random' or 'all'" in str(refusal)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_keeps_the_same(name):
    runs = [purified(name, one_always_wrong)[1] for _ in range(2)]
    if isinstance(runs[0], KpError):
        assert str(runs[0]) == str(runs[1])
        return
    first, second = (run.purification for run in runs)
    assert np.array_equal(first.kept_QT, second.kept_QT)
    assert np.array_equal(first.score_QT, second.score_QT, equal_nan=True)


@pytest.mark.parametrize("name", BLIND_TO_GOLD)
def test_answers_of_the_test_split_do_not_change_what_is_kept(name):
    asked, rows = one_always_wrong()
    flipped = [replace(q, answer="y", answer_index=2) if q.split == "test" else q for q in asked]
    kept = []
    for given in (asked, flipped):
        panel, run = purified(name, lambda given=given: (given, rows))
        assert not isinstance(run, KpError), str(run)
        kept.append(run.purification.kept_QT[panel.split_Q == "test"])
    assert np.array_equal(*kept)
