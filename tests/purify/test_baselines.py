"""Baselines: what they choose, by hand."""

import numpy as np
import pytest
from topic_panels import grid, panel_of, response

from kp_data.errors import MethodError
from kp_data.measures import accuracy_T
from kp_data.purify.labels import fit_data, label_by_agreement
from kp_data.purify.protocol import Context
from kp_data.purify.purified import make_report, run_method
from kp_data.purify.registry import find_method, make_options
from kp_data.schema import Question


def run(panel, name, *, seed=0, labels="gold"):
    method = find_method(name)
    return run_method(panel, method, make_options(method, {}), Context(seed), labels=labels)


def chosen(panel, name, **rest):
    return run(panel, name, **rest).purification.chosen_Q.tolist()


def without(panel, *cells):
    """The panel with these (question, teacher) rationales missing."""
    for cell in cells:
        panel.rationale_QT[cell] = None
    return panel


def test_best_single_is_decided_on_train_and_not_elsewhere():
    train = [Question(f"t{n}", "?", ("w", "x"), "w", 0, "train") for n in range(40)]
    test = [Question(f"e{n}", "?", ("w", "x"), "w", 0, "test") for n in range(40)]
    said = [response(q.id, "a", 0) for q in train] + [response(q.id, "b", 1) for q in train]
    said += [response(q.id, "a", 1) for q in test] + [response(q.id, "b", 0) for q in test]
    panel = panel_of([*train, *test], said)
    report = make_report(panel, run(panel, "best-single"))
    assert report.best_single_teacher == "a"
    assert report.splits["test"].best_single_accuracy == 0.0
    assert report.splits["test"].oracle_accuracy == 1.0
    assert report.splits["test"].gap_closed == 0.0


def test_best_single_takes_the_next_best_where_the_best_has_no_rationale():
    panel = without(grid([[0, 0, 1]] * 3 + [[1, 0, 1]] * 2 + [[0, 0, 0]] * 20), (4, 1))
    assert chosen(panel, "best-single")[:5] == [1, 1, 1, 1, 0]


def test_best_single_closes_nothing_of_its_own_gap_also_where_a_part_of_train_is_held_out():
    random = np.random.default_rng(0)
    for _ in range(20):
        panel = grid(random.integers(0, 2, (15, 3)).tolist())
        report = make_report(panel, run(panel, "best-single"))
        assert report.overall.purified_accuracy == report.overall.best_single_accuracy


def test_a_missing_answer_is_wrong_and_still_counts():
    assert accuracy_T(grid([[0, None], [0, 0], [None, 0], [1, 0]])).tolist() == [0.5, 0.75]


def test_majority_chooses_a_teacher_of_the_majority_and_the_best_of_them():
    panel = grid([[1, 2, 2, 2]] + [[1, 1, 0, 2]] * 30)
    assert chosen(panel, "majority")[0] == 2
    assert chosen(panel, "majority")[1] == 0


def test_majority_passes_over_a_teacher_without_a_rationale():
    panel = without(grid([[1, 2, 2]] + [[1, 1, 0]] * 30), (0, 2))
    assert chosen(panel, "majority")[0] == 1


def test_oracle_chooses_a_right_teacher_wherever_there_is_one():
    panel = grid([[1, 0, 2], [1, 1, 0], [1, 2, 3]])
    result = run(panel, "oracle")
    assert result.purification.chosen_Q.tolist()[:2] == [1, 2]
    assert make_report(panel, result).overall.purified_accuracy == pytest.approx(2 / 3)


def test_random_is_even_over_the_available_teachers_and_follows_the_seed_not_the_order():
    panel = without(grid([[0, 1, 2]] * 600), *((row, 2) for row in range(300)))
    first = np.array(chosen(panel, "random"))
    assert set(first[:300]) == {0, 1}
    assert np.bincount(first[300:], minlength=3).min() > 70
    assert chosen(panel.take(np.arange(600)[::-1]), "random") == first[::-1].tolist()
    assert chosen(panel, "random", seed=1) != first.tolist()


def test_all_keeps_every_rationale_and_its_accuracy_is_their_mean():
    panel = without(grid([[0, 1], [0, 0], [1, 1]]), (0, 1))
    result = run(panel, "all")
    assert result.purification.kept_QT.sum() == 5
    assert make_report(panel, result).overall.purified_accuracy == pytest.approx((1 + 1 + 0) / 3)


def test_nobody_is_chosen_where_nobody_has_a_rationale():
    panel = without(grid([[0, 1]] * 20), (3, 0), (3, 1))
    for name in ("random", "best-single", "majority", "oracle", "all"):
        result = run(panel, name)
        assert result.purification.chosen_Q[3] == -1
        assert not result.purification.kept_QT[3].any()
        report = make_report(panel, result)
        assert report.overall.n_without_rationale == 1
        assert any("no rationale by any teacher" in note for note in report.notes)


def test_all_teachers_always_wrong_leaves_no_gap_to_close():
    report = make_report(panel := grid([[1, 2]] * 20), run(panel, "best-single"))
    assert report.overall.oracle_accuracy == 0.0
    assert report.overall.gap_closed is None


def test_without_gold_the_figures_are_null_and_a_note_says_so():
    panel = grid([[1, 2]] * 5, golds=[None] * 5)
    report = make_report(panel, run(panel, "majority"))
    assert report.overall.purified_accuracy is None
    assert report.overall.conflict_rate == 1.0
    assert any("no question has a gold answer" in note for note in report.notes)


def test_best_single_without_labels_on_train_says_what_to_do():
    with pytest.raises(MethodError, match=r"best-single: no question of split 'train' has a label.*agreement"):
        run(grid([[0, 1]] * 5, split="test"), "best-single")


@pytest.mark.parametrize("name", ["best-single", "oracle", "similarity-router"])
def test_teacher_forced_rationales_are_refused_as_a_signal_and_the_way_out_is_named(name):
    questions = [Question(f"q{n}", "?", ("w", "x"), "w", 0) for n in range(4)]
    panel = panel_of(questions, [response(q.id, t, 0, mode="teacher_forced") for q in questions for t in "ab"])
    with pytest.raises(MethodError, match=r"carry no signal.*--mode blind \(or both\)"):
        run(panel, name)


def test_teacher_forced_rationales_have_no_accuracy():
    questions = [Question(f"q{n}", "?", ("w", "x"), "w", 0) for n in range(4)]
    panel = panel_of(questions, [response(q.id, t, 0, mode="teacher_forced") for q in questions for t in "ab"])
    report = make_report(panel, run(panel, "random"))
    assert report.overall.purified_accuracy is report.overall.oracle_accuracy is None
    assert report.overall.n_labelled == 0
    assert any("--mode both" in note for note in report.notes)


def test_in_both_modes_the_rationale_is_the_forced_one_and_accuracy_the_blind_one():
    questions = [Question(f"q{n}", "?", ("w", "x"), "w", 0) for n in range(20)]
    said = [response(q.id, "a", 1) for q in questions]
    said += [response(q.id, "a", 0, mode="teacher_forced") for q in questions]
    panel = panel_of(questions, said)
    report = make_report(panel, run(panel, "random"))
    assert report.rationale_mode == "teacher_forced"
    assert report.overall.purified_accuracy == 0.0


def test_agreement_labels_take_a_clear_majority_and_leave_ties_and_loners_unlabelled():
    panel = label_by_agreement(grid([[2, 2, 0], [0, 1, 2], [0, 0, 1], [3, 3, None]], golds=[None] * 4))
    assert panel.gold_Q.tolist() == [2, -1, 0, 3]
    assert panel.skill_QT[0].tolist() == [1.0, 1.0, 0.0]
    assert np.isnan(panel.skill_QT[1]).all()
    assert label_by_agreement(grid([[1, 1, 2, 2]])).gold_Q.tolist() == [-1]


def test_best_single_learns_from_agreement_where_there_is_no_gold():
    panel = grid([[1, 2, 2]] * 20, golds=[None] * 20)
    assert set(chosen(panel, "best-single", labels="agreement")) == {1}


def test_fitting_sees_train_and_validation_only_and_holds_out_a_part_where_there_is_no_validation():
    questions = [Question(f"q{n}", "?", ("w",), "w", 0, "test" if n % 2 else "train") for n in range(400)]
    data = fit_data(panel_of(questions, [response(q.id, "a", 0) for q in questions]))
    seen = [question.split for part in (data.train, data.validation) for question in part.questions]
    assert set(seen) == {"train"}
    assert len(seen) == 200
    assert data.held_out
    assert 15 <= len(data.validation) <= 45
