"""Methods side by side."""

from dataclasses import replace

import numpy as np
import pytest
from topic_panels import TEACHERS, grid, panel_of, response, topic_answers, topic_questions

from kp_data.errors import ConfigError, DataError, MethodError
from kp_data.panel import Panel
from kp_data.purify import Fitted, Method, MethodInfo, compare_methods, registry
from kp_data.purify.compare import bootstrap_intervals
from kp_data.purify.figures import outcome_of
from kp_data.purify.protocol import Purification
from kp_data.purify.reliability import PROBABILITY_RIGHT, SCORE_MEANING
from kp_data.tables import read_json, table_of_responses

BASELINES = ["random", "best-single", "majority", "oracle", "all"]


@pytest.fixture(scope="module")
def panel():
    questions = topic_questions()
    return panel_of(questions, topic_answers(questions))


def test_every_method_is_measured_on_the_same_questions_with_intervals_around_its_figures(panel):
    compared = {one.method: one for one in compare_methods(panel, BASELINES)}
    assert list(compared) == BASELINES
    assert {one.figures.n_questions for one in compared.values()} == {36}
    for one in compared.values():
        low, high = one.ci95["purified_accuracy"]
        assert low <= one.figures.purified_accuracy <= high
        assert one.gain == pytest.approx(one.figures.purified_accuracy - one.figures.best_single_accuracy)
    oracle, best = compared["oracle"], compared["best-single"]
    assert oracle.figures.purified_accuracy == oracle.figures.oracle_accuracy
    assert oracle.ci95["gap_closed"] == (1.0, 1.0)
    assert best.ci95["gain"] == (0.0, 0.0)
    right = panel.split("test").answer_QT == 0
    assert compared["all"].figures.purified_accuracy == pytest.approx(right.mean())


def test_the_file_says_what_the_list_says(panel, tmp_path):
    compared = compare_methods(panel, ["majority", "all"], out=tmp_path / "compared", split="validation")
    written = read_json(tmp_path / "compared/compare.json")
    assert [entry["method"] for entry in written] == ["majority", "all"]
    assert written[0]["purified_accuracy"] == compared[0].figures.purified_accuracy
    assert tuple(written[0]["ci95"]["gain"]) == compared[0].ci95["gain"]
    assert set(written[0]["subjects"]) == {"cooking", "astronomy", "football"}
    assert "flatter" in written[0]["notes"][0]


@pytest.mark.parametrize("held", [["mine.txt"], ["questions.parquet", "compare.json"], ["purified.parquet"]])
def test_a_comparison_is_written_into_no_folder_that_holds_something_else(panel, tmp_path, held):
    for name in held:
        (tmp_path / name).write_text("mine")
    with pytest.raises(DataError, match="holds something else; choose another --out"):
        compare_methods(panel, ["random"], out=tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(held, "mine")


def test_a_comparison_may_be_written_again(panel, tmp_path):
    for method in ("random", "majority"):
        compare_methods(panel, [method], out=tmp_path / "compared")
    assert [entry["method"] for entry in read_json(tmp_path / "compared/compare.json")] == ["majority"]


def test_the_same_seed_gives_the_same_figures_whatever_stands_beside(panel):
    alone = compare_methods(panel, ["random"])[0]
    beside = compare_methods(panel, ["majority", "random"])[1]
    assert (alone.figures, alone.ci95) == (beside.figures, beside.ci95)


def test_a_panel_without_gold_is_compared_without_accuracies():
    questions = topic_questions(10)
    unlabelled = Panel.of_tables(*_without_gold(panel_of(questions, topic_answers(questions))))
    (one,) = compare_methods(unlabelled, ["majority"])
    assert one.figures.purified_accuracy is None
    assert one.gain is None
    assert set(one.ci95.values()) == {None}


def test_a_split_that_is_not_there_is_named_with_those_that_are(panel):
    with pytest.raises(DataError, match="no question in split ood; this panel has test, train, validation"):
        compare_methods(panel, ["random"], split="ood")


def test_what_a_method_lacks_is_found_before_the_first_is_fitted(panel):
    unlabelled = panel.take(panel.split_Q == "test")
    with pytest.raises(MethodError, match="best-single: no question of split 'train'"):
        compare_methods(unlabelled, ["random", "best-single"])


@pytest.mark.parametrize("methods", [[], ["random", "random"]])
def test_methods_are_named_once_each(panel, methods):
    with pytest.raises(ConfigError, match="each once"):
        compare_methods(panel, methods)


def test_the_gap_has_no_interval_where_there_is_never_a_gap(panel):
    best = np.zeros(len(panel), dtype=int)
    same = outcome_of(panel, Purification.of_choice(np.zeros((len(panel), 3)), best))
    alike = same.take(np.flatnonzero(same.best_Q == same.oracle_Q))
    assert bootstrap_intervals(alike)["gap_closed"] is None


def _without_gold(panel):
    questions = [replace(question, answer=None, answer_index=None) for question in panel.questions]
    said = [response(question.id, teacher, 0) for question in questions for teacher in TEACHERS]
    return questions, table_of_responses(said)


def test_differences_are_paired_and_mirror_one_another(panel, tmp_path):
    first, second = compare_methods(panel, ["majority", "best-single"], out=tmp_path / "out")
    gain = first.differences["best-single"]
    assert gain.value == pytest.approx(first.figures.purified_accuracy - second.figures.purified_accuracy)
    assert gain.value == pytest.approx(-second.differences["majority"].value)
    assert gain.ci95 == pytest.approx(tuple(-bound for bound in reversed(second.differences["majority"].ci95)))
    assert gain.num == 36
    written = read_json(tmp_path / "out/compare.json")[0]
    assert written["differences"]["best-single"]["ci95"] == list(gain.ci95)
    assert set(written["ci95"]) == {
        "purified_accuracy",
        "best_single_accuracy",
        "majority_accuracy",
        "oracle_accuracy",
        "gain",
        "gap_closed",
    }


def toy(score, meaning):
    """A method that keeps the first teacher and claims a probability for it."""
    facts = {} if meaning is None else {SCORE_MEANING: meaning}
    info = MethodInfo("toy", "claims", "selector", ("rationales",), False, True, "own", "own")

    def purify(panel):
        shape = panel.has_rationale_QT.shape
        return Purification.of_choice(np.full(shape, score), np.zeros(len(panel), dtype=int))

    return Method(info, lambda data, options, context: Fitted(purify, calls_per_question=3, facts=facts))


def test_reliability_is_measured_where_a_method_says_that_its_scores_are_probabilities(panel, monkeypatch):
    monkeypatch.setattr(registry, "METHODS", {"toy": toy(0.75, PROBABILITY_RIGHT)})
    (one,) = compare_methods(panel, ["toy"])
    assert one.reliability.ece == pytest.approx(abs(0.75 - one.figures.purified_accuracy))
    assert one.reliability.num == 36
    monkeypatch.setattr(registry, "METHODS", {"toy": toy(7.5, None)})
    assert compare_methods(panel, ["toy"])[0].reliability is None
    monkeypatch.setattr(registry, "METHODS", {"toy": toy(7.5, PROBABILITY_RIGHT)})
    with pytest.raises(DataError, match=r"a score of 7\.5 is no probability"):
        compare_methods(panel, ["toy"])


def test_being_right_throughout_and_never_differing_are_not_taken_for_certain():
    test = grid([[0, 0], [0, 0]] * 10, split="test")
    train = grid([[0, 1], [0, 0]])
    always = Panel.of_tables(
        [*(replace(one, id=f"t{one.id}") for one in train.questions), *test.questions],
        table_of_responses(
            [response(f"tq{row}", "ab"[column], 0) for row in range(2) for column in range(2)]
            + [response(f"q{row}", teacher, 0) for row in range(20) for teacher in "ab"]
        ),
    )
    best, drawn = compare_methods(always, ["best-single", "random"])
    # Wilson's lower bound for n of n is n / (n + z²).
    assert best.ci95["purified_accuracy"] == (pytest.approx(20 / (20 + 3.8414588)), 1.0)
    assert best.ci95["gain"] == (0.0, 0.0)
    low, high = drawn.differences["best-single"].ci95
    assert -0.2 < low == -high < 0 < high
