from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_rows import write_panel, write_purified

from kp_data.errors import ConfigError, DataError, MethodError
from kp_data.schema import Question
from kp_data.tables import write_parquet
from kp_train.dataset import Dataset, read_dataset
from kp_train.objectives import OBJECTIVES, Weights, objective_named, weigh_by_score
from kp_train.objectives.fine_tune import fine_tune
from kp_train.objectives.purified import purified
from kp_train.objectives.step_by_step import step_by_step
from kp_train.objectives.tinyllm import tinyllm
from kp_train.views import Row, View

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


@pytest.mark.parametrize("view", ["rationale-first", "answer-first"])
def test_a_view_changes_what_rationales_are_learned_as_and_nothing_else(view: View) -> None:
    for objective, teachers in ((tinyllm, ("ada", "bruno")), (purified, ()), (step_by_step, ("ada",))):
        apart = objective(ROW, Weights(teachers, rationale=0.3))
        combined = objective(ROW, Weights(teachers, rationale=0.3, view=view))
        assert combined[0] == apart[0]
        assert [target.weight for target in combined] == [target.weight for target in apart]
        assert all(
            "yes" in target.text and target.prefix != other.prefix
            for target, other in zip(combined[1:], apart[1:], strict=True)
        )


def _scored(*scores: float | None) -> Dataset:
    rows = [Row(QUESTION, purified="Ice freezes.", purified_answer="yes", score=score) for score in scores]
    return Dataset("here", tuple(rows))


def test_rows_count_by_their_score_and_one_in_the_mean() -> None:
    weighed = weigh_by_score(_scored(0.2, 0.4, None, 0.9))
    assert [row.confidence for row in weighed.rows] == pytest.approx([0.4, 0.8, 1.0, 1.8])


@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=20), st.floats(0.1, 10.0))
def test_the_scale_of_scores_does_not_matter_and_the_mean_weight_is_one(scores: list[float], scale: float) -> None:
    one = [row.confidence for row in weigh_by_score(_scored(*scores)).rows]
    two = [row.confidence for row in weigh_by_score(_scored(*(scale * score for score in scores))).rows]
    assert one == pytest.approx(two)
    assert sum(one) / len(one) == pytest.approx(1.0)


def test_a_method_equally_sure_of_everything_changes_nothing() -> None:
    assert {row.confidence for row in weigh_by_score(_scored(0.25, 0.25, 0.25)).rows} == {1.0}


def test_a_row_without_a_rationale_has_no_say_in_the_mean() -> None:
    bare = Row(QUESTION, score=100.0)
    scored = _scored(0.5, 0.5)
    assert [row.confidence for row in weigh_by_score(replace(scored, rows=(*scored.rows, bare))).rows] == [1, 1, 1]


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ((None, None), "no purified rationale here has a score"),
        ((0.5, -0.1), "the score -0.1, and weights are 0 or above"),
        ((0.5, float("nan")), "the score nan"),
        ((0.0, 0.0), "every score is 0"),
    ],
)
def test_scores_that_cannot_weigh_are_refused(scores: tuple[float | None, ...], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        weigh_by_score(_scored(*scores))


def test_scores_are_read_with_the_dataset(tmp_path: Path) -> None:
    folder = write_purified(tmp_path, responses=False)
    table = pq.read_table(folder / "purified.parquet")
    column = table.column_names.index("score")
    scores = pa.array([None if row == 0 else row / 10 for row in range(table.num_rows)], pa.float64())
    write_parquet(table.set_column(column, "score", scores), folder / "purified.parquet")
    assert [row.score for row in read_dataset(folder).rows][:3] == [None, 0.1, 0.2]
    words = pa.array(["high"] * table.num_rows)
    write_parquet(table.set_column(column, "score", words), folder / "purified.parquet")
    with pytest.raises(DataError, match="column 'score' holds no numbers"):
        read_dataset(folder)


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
