from __future__ import annotations

from pathlib import Path

import pytest
from small_rows import write_panel, write_purified

from kp_data.errors import ConfigError, MethodError
from kp_data.schema import Question
from kp_train.dataset import read_dataset
from kp_train.objectives import OBJECTIVES, Weights, objective_named
from kp_train.objectives.fine_tune import fine_tune
from kp_train.objectives.purified import purified
from kp_train.objectives.step_by_step import step_by_step
from kp_train.objectives.tinyllm import tinyllm
from kp_train.views import Row

QUESTION = Question(id="1", question="Is ice cold?", choices=("yes", "no"), answer="yes", answer_index=0)
ROW = Row(QUESTION, {"ada": "Ice freezes.", "bruno": "Ice burns."}, purified="Ice freezes.")


def test_fine_tuning_learns_the_answer_alone() -> None:
    assert [target.text for target in fine_tune(ROW, Weights(("ada", "bruno")))] == ["yes"]


def test_tinyllm_learns_the_answer_and_every_rationale_at_lambda() -> None:
    targets = tinyllm(ROW, Weights(("ada", "bruno"), rationale=0.3))
    assert [(target.text, target.weight) for target in targets] == [
        ("yes", 1.0),
        ("Ice freezes.", 0.3),
        ("Ice burns.", 0.3),
    ]


def test_purified_learns_the_answer_and_one_rationale_at_lambda() -> None:
    targets = purified(ROW, Weights(("ada", "bruno"), rationale=0.3))
    assert [(target.text, target.weight) for target in targets] == [("yes", 1.0), ("Ice freezes.", 0.3)]


def test_with_one_teacher_all_three_ways_learn_the_same_texts_at_the_same_weights() -> None:
    weights = Weights(("ada",), rationale=2.0)
    ways = [[(target.text, target.weight) for target in way(ROW, weights)] for way in (tinyllm, purified, step_by_step)]
    assert ways[0] == ways[1] == ways[2]


def test_a_second_teacher_changes_tinyllm_and_not_purified() -> None:
    one, two = Weights(("ada",)), Weights(("ada", "bruno"))
    assert len(tinyllm(ROW, two)) == len(tinyllm(ROW, one)) + 1
    assert purified(ROW, two) == purified(ROW, one)


def test_lambda_zero_leaves_the_gradient_of_fine_tuning() -> None:
    learned = [target for target in tinyllm(ROW, Weights(("ada", "bruno"), rationale=0.0)) if target.weight > 0]
    assert learned == fine_tune(ROW, Weights())


def test_an_unknown_objective_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match="fine-tune, step-by-step, tinyllm, purified"):
        objective_named("magic")


def test_objectives_refuse_datasets_without_what_they_learn_from(tmp_path: Path) -> None:
    panel = read_dataset(write_panel(tmp_path / "panel"))
    alone = read_dataset(write_purified(tmp_path / "purified", responses=False))
    with pytest.raises(MethodError, match="kp-data purify"):
        OBJECTIVES["purified"].check(panel, Weights(panel.teachers))
    with pytest.raises(MethodError, match="holds none"):
        OBJECTIVES["tinyllm"].check(alone, Weights(alone.teachers))
    with pytest.raises(MethodError, match="--teachers"):
        OBJECTIVES["step-by-step"].check(panel, Weights(panel.teachers))
