from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_rows import small_questions, write_panel

from kp_data.errors import ConfigError, DataError
from kp_data.schema import Question
from kp_train.dataset import gold_dataset, read_dataset
from kp_train.evaluate import bootstrap_interval, evaluate_loaded, predict_choices, write_predictions


class AlwaysRed:
    """A student that prefers the first choice, or per token the last."""

    def choice_log_probs(self, questions: Sequence[Question], *, per_token: bool = False) -> list[list[float]]:
        order = [-3.0, -2.0, -1.0] if per_token else [-1.0, -2.0, -3.0]
        return [order for _ in questions]


STUDENT: Any = AlwaysRed()


def test_accuracy_agreement_and_subjects_are_counted_by_hand(tmp_path: Path) -> None:
    dataset = read_dataset(write_panel(tmp_path, small_questions(0, 0, 9))).split("test")
    evaluation = evaluate_loaded(STUDENT, dataset)
    assert (evaluation.accuracy, evaluation.n, evaluation.split) == (3 / 9, 9, "test")
    assert evaluation.agreement == {"ada": 3 / 9, "bruno": 1.0}
    assert evaluation.per_subject == {"even": {"accuracy": 2 / 5, "n": 5}, "odd": {"accuracy": 1 / 4, "n": 4}}


def test_the_score_per_token_may_choose_otherwise() -> None:
    (summed,), (mean,) = (
        predict_choices(STUDENT, small_questions(1, 0, 0), method=method)
        for method in ("option-likelihood", "option-likelihood-per-token")
    )
    assert (summed.predicted, mean.predicted) == (0, 2)


def test_questions_without_gold_or_choices_are_counted_apart() -> None:
    questions = [
        *small_questions(0, 0, 3),
        Question(id="open", question="Why?", answer="so", split="test"),
        Question(id="unlabelled", question="Which?", choices=("a", "b", "c"), split="test"),
    ]
    evaluation = evaluate_loaded(STUDENT, gold_dataset(questions, "here"))
    assert (evaluation.n, evaluation.skipped) == (3, 2)


def test_nothing_to_evaluate_is_an_error() -> None:
    with pytest.raises(DataError, match="no choice question with a gold answer"):
        evaluate_loaded(STUDENT, gold_dataset([Question(id="1", question="Why?")], "here"))


def test_the_interval_is_that_of_resampled_questions() -> None:
    correct_Q = np.array([True] * 30 + [False] * 20)
    draws = np.random.default_rng(5).choice(correct_Q, size=(20_000, 50)).mean(axis=1)
    expected = np.quantile(draws, (0.025, 0.975))
    assert np.allclose(bootstrap_interval(30, 50), expected, atol=0.021)  # one question of fifty is 0.02
    assert bootstrap_interval(30, 50, seed=1) == bootstrap_interval(30, 50, seed=1)


def test_more_questions_narrow_the_interval() -> None:
    (low, high), (lower, higher) = bootstrap_interval(600, 1000), bootstrap_interval(6, 10)
    assert high - low < (higher - lower) / 5


def test_predictions_are_written_one_a_line_for_paired_comparison(tmp_path: Path) -> None:
    predictions = predict_choices(STUDENT, small_questions(2, 0, 0))
    write_predictions(predictions, tmp_path / "predictions.jsonl")
    lines = (tmp_path / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["correct"] for line in lines] == [True, False]
    with pytest.raises(ConfigError, match="jsonl"):
        write_predictions(predictions, tmp_path / "predictions.csv")


def test_the_json_object_holds_the_contracts_fields_and_no_predictions() -> None:
    values = evaluate_loaded(STUDENT, gold_dataset(small_questions(0, 0, 3), "here")).as_dict()
    assert {"accuracy", "ci95", "n", "per_subject", "seconds", "method"} <= set(values)
    assert "predictions" not in values
    json.dumps(values, allow_nan=False)
