"""Panels where calls failed on the way: one accuracy everywhere, over what was answered."""

import pytest
from topic_panels import response, write_panel

from kp_data.measures import accuracy_T, comparable_accuracy_T, unfinished_note
from kp_data.panel import UNANSWERED
from kp_data.purify import compare_methods, load_router, purify_panel
from kp_data.report import page_of_folder
from kp_data.schema import Question
from kp_data.summary import summarise
from kp_data.tables import read_json

NUM = 40


def questions(split=None):
    return [Question(f"q{n}", "?", ("w", "x"), "w", 0, split or ("test" if n % 2 else "train")) for n in range(NUM)]


def failed(question, teacher, error, mode="blind"):
    return response(question.id, teacher, None, mode=mode, rationale=None, error=error)


def elin_and_ada(answered=14):
    """elin is right wherever she answered, the first so many questions; ada is right on three of four."""
    said = []
    for number, question in enumerate(questions()):
        missing = failed(question, "elin", UNANSWERED[number % len(UNANSWERED)])
        said.append(response(question.id, "elin", 0) if number < answered else missing)
        said.append(response(question.id, "ada", int(number % 8 in (0, 1))))
    return said


@pytest.fixture
def panel(tmp_path):
    return write_panel(tmp_path / "panel", questions(), elin_and_ada())


def test_failed_calls_are_left_out_and_refusals_are_wrong(tmp_path):
    said = [response("q0", "a", 0), failed(questions()[1], "a", "rate_limited"), failed(questions()[2], "a", "refused")]
    panel = write_panel(tmp_path / "panel", questions(), said)
    assert accuracy_T(panel).tolist() == [0.5]
    assert unfinished_note(panel) == "panel unfinished for a: 2 of 40 questions"


def test_panel_report_purified_report_and_comparison_say_the_same_accuracy(panel, tmp_path):
    report = purify_panel(panel, method="majority", out=tmp_path / "pure")
    compared = compare_methods(panel, ["majority"], split="test", out=tmp_path / "compared")[0]
    facts = {teacher.name: teacher.accuracy for teacher in summarise(panel.folder).teachers}
    assert facts == report.overall.teacher_accuracy == {"elin": 1.0, "ada": 0.75}
    assert {teacher.name: teacher.accuracy for teacher in summarise(tmp_path / "pure").teachers} == facts
    assert compared.figures.teacher_accuracy == report.splits["test"].teacher_accuracy
    note = "panel unfinished for elin: 14 of 40 questions"
    assert note in report.notes
    assert note in read_json(tmp_path / "compared/compare.json")[0]["notes"]
    for folder in (panel.folder, tmp_path / "pure", tmp_path / "compared"):
        assert any(note in section.note for section in page_of_folder(folder).sections)


@pytest.mark.parametrize(("answered", "best"), [(14, "ada"), (26, "elin")])
def test_a_teacher_with_less_than_half_of_the_cells_is_not_the_best_one(tmp_path, answered, best):
    panel = write_panel(tmp_path / "panel", questions(), elin_and_ada(answered))
    report = purify_panel(panel, method="best-single", out=tmp_path / "pure")
    assert report.best_single_teacher == best
    assert load_router(tmp_path / "pure").route(panel.questions[:1])[1] == (best,)
    facts = {fact.label: fact.value for fact in page_of_folder(panel.folder).facts}
    assert facts["best single teacher"] == {"ada": "75.0 %", "elin": "100.0 %"}[best]


def test_half_of_the_cells_are_enough(tmp_path):
    panel = write_panel(tmp_path / "panel", questions(), elin_and_ada(20))
    assert comparable_accuracy_T(panel).tolist() == [1.0, 0.75]


def test_a_kept_teacher_that_was_never_asked_blind_is_counted_and_not_called_wrong(tmp_path):
    asked = questions("train")
    said = [response(question.id, "a", 0, mode="teacher_forced") for question in asked]
    said += [
        response(question.id, "a", 0) if n < 30 else failed(question, "a", "budget") for n, question in enumerate(asked)
    ]
    said += [response(question.id, "b", 1) for question in asked]
    report = purify_panel(write_panel(tmp_path / "panel", asked, said), method="all", out=tmp_path / "pure")
    assert report.overall.purified_accuracy == 1.0
    assert report.overall.n_unjudged == 10
    assert any(note.startswith("10 labelled questions are left out of the purified accuracy") for note in report.notes)


def test_a_question_that_a_teacher_answered_but_nobody_explained_is_wrong(tmp_path):
    asked = questions("train")[:2]
    said = [response("q0", "a", 0), failed(asked[1], "a", "refused")]
    report = purify_panel(write_panel(tmp_path / "panel", asked, said), method="random", out=tmp_path / "pure")
    assert (report.overall.purified_accuracy, report.overall.n_unjudged) == (0.5, 0)


def test_the_router_is_judged_on_validation_questions_that_every_teacher_answered(tmp_path):
    asked = [Question(f"q{n}", "?", ("w", "x"), "w", 0, "train" if n < 20 else "validation") for n in range(NUM)]
    said = [response(question.id, "a", n % 2) for n, question in enumerate(asked)]
    said += [response(q.id, "b", 0) if n < 21 else failed(q, "b", "timeout") for n, q in enumerate(asked)]
    panel = write_panel(tmp_path / "panel", asked, said)
    report = purify_panel(panel, method="similarity-router", out=tmp_path / "pure")
    assert report.fit["fallback_reason"].startswith("fewer than two validation questions have a gold answer and an")
