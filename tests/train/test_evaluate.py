from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from small_rows import small_questions, write_panel, write_tiny_bert_checkpoint, write_tiny_t5_checkpoint

from kp_data.errors import ConfigError, DataError, MethodError
from kp_data.schema import Question
from kp_train.answering import read_written
from kp_train.dataset import gold_dataset, read_dataset
from kp_train.evaluate import (
    EvaluationOptions,
    bootstrap_interval,
    compare_evaluations,
    evaluate_loaded,
    evaluate_splits,
    evaluate_writing,
    predict_choices,
    write_predictions,
)
from kp_train.students import make_student


class AlwaysRed:
    """A student that prefers the first choice, or per token the last."""

    writes_text = True

    def choice_log_probs(self, questions: Sequence[Question], *, per_token: bool = False) -> list[list[float]]:
        order = [-3.0, -2.0, -1.0] if per_token else [-1.0, -2.0, -3.0]
        return [order for _ in questions]

    def generate_all(self, questions: Sequence[Question], prefix: str) -> list[str]:
        firsts = [question.choices[0] for question in questions]
        return [f"It looks so.\nThe answer is {first}" for first in firsts] if prefix == "reason: " else firsts


class Doubting(AlwaysRed):
    """As sure of red as its scores say, and half as sure of the rest together."""

    def choice_log_probs(self, questions: Sequence[Question], *, per_token: bool = False) -> list[list[float]]:
        return [np.log([0.5, 0.25, 0.25]).tolist() for _ in questions]


class Mute:
    """A scorer of choices, which has no words."""

    writes_text = False

    def choice_log_probs(self, questions: Sequence[Question], *, per_token: bool = False) -> list[list[float]]:
        return [[0.0, -1.0, -1.0] for _ in questions]


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


def test_fidelity_is_agreement_and_cohens_kappa_over_positions(tmp_path: Path) -> None:
    dataset = read_dataset(write_panel(tmp_path, small_questions(0, 0, 9))).split("test")
    fidelity = evaluate_loaded(STUDENT, dataset).fidelity
    # The student says the first choice nine times; ada says each choice three times: chance alone gives a third.
    assert (fidelity["ada"].agreement, fidelity["ada"].kappa, fidelity["ada"].n) == (3 / 9, pytest.approx(0.0), 9)
    # Both say the first choice throughout: agreement that says nothing.
    assert (fidelity["bruno"].agreement, fidelity["bruno"].kappa) == (1.0, None)


def test_calibration_is_that_of_the_softmax_over_choices() -> None:
    evaluation = evaluate_loaded(cast("Any", Doubting()), gold_dataset(small_questions(0, 0, 9), "here"))
    assert evaluation.calibration is not None
    assert evaluation.calibration.ece == pytest.approx(0.5 - 3 / 9)
    (row,) = evaluation.calibration.bins
    assert (row.n, row.confidence, row.accuracy) == (9, pytest.approx(0.5), 3 / 9)


def test_a_student_that_writes_is_read_and_compared_to_the_letter() -> None:
    dataset = gold_dataset(small_questions(0, 0, 9), "here")
    short, reasoned = evaluate_writing(STUDENT, dataset), evaluate_writing(STUDENT, dataset, view="rationale-first")
    assert (short.accuracy, short.exact_match, short.unreadable, short.method) == (3 / 9, 3 / 9, 0, "generation")
    assert (reasoned.accuracy, reasoned.exact_match) == (3 / 9, 0.0)
    assert short.calibration is None


@pytest.mark.parametrize(
    ("text", "predicted"),
    [
        ("green", 1),
        ("  Green. ", 1),
        ("(b)", 1),
        ("The answer is (c).", 2),
        ("Leaves are green.\nThe answer is green", 1),
        ("It may be red or green", None),
        ("", None),
    ],
)
def test_what_was_written_names_a_choice_or_none(text: str, predicted: int | None) -> None:
    question = small_questions(2, 0, 0)[1]
    assert read_written(question, text).predicted == predicted


@pytest.mark.parametrize(
    ("text", "right"), [("1,000", True), ("So the answer is 1000.", True), ("10", False), ("", False)]
)
def test_an_open_question_is_right_where_what_was_written_says_the_same(text: str, right: bool) -> None:
    answer = read_written(Question(id="1", question="How many?", answer="1000"), text)
    assert (answer.correct, answer.predicted) == (right, None)


def test_open_questions_count_where_the_student_writes() -> None:
    class Writer(AlwaysRed):
        def generate_all(self, questions: Sequence[Question], prefix: str) -> list[str]:
            return ["so"] * len(questions)

    questions = [
        Question(id="open", question="Why?", answer="so", split="test"),
        Question(id="unknown", question="Why?", split="test"),
        *small_questions(0, 0, 1),
    ]
    evaluation = evaluate_writing(cast("Any", Writer()), gold_dataset(questions, "here"))
    assert (evaluation.accuracy, evaluation.n, evaluation.skipped, evaluation.unreadable) == (1 / 2, 2, 1, 1)


def test_a_scorer_of_choices_has_no_other_score_and_writes_nothing() -> None:
    dataset = gold_dataset(small_questions(0, 0, 3), "here")
    mute: Any = Mute()
    assert evaluate_loaded(mute, dataset, every_score=True).by_score == {"sum": 1 / 3}
    with pytest.raises(MethodError, match="no other score than sum"):
        evaluate_loaded(mute, dataset, method="option-likelihood-pmi")
    with pytest.raises(MethodError, match="leave --generate out"):
        evaluate_writing(mute, dataset)


def test_two_students_are_compared_question_by_question() -> None:
    class AlwaysBlue(AlwaysRed):
        def choice_log_probs(self, questions: Sequence[Question], *, per_token: bool = False) -> list[list[float]]:
            return [[-3.0, -2.0, -1.0] for _ in questions]

    dataset = gold_dataset(small_questions(0, 0, 10), "here")
    red, blue = evaluate_loaded(STUDENT, dataset), evaluate_loaded(cast("Any", AlwaysBlue()), dataset)
    paired = compare_evaluations(red, blue, other="blue")
    assert (paired.difference, paired.only_this, paired.only_other) == (pytest.approx(0.1), 4, 3)
    assert paired.other_accuracy == 0.3
    fewer = evaluate_loaded(STUDENT, gold_dataset(small_questions(0, 0, 9), "here"))
    with pytest.raises(DataError, match="same questions"):
        compare_evaluations(red, fewer, other="fewer")


def test_an_evaluation_leaves_the_students_folder_as_it_was(tmp_path: Path) -> None:
    dataset = read_dataset(write_panel(tmp_path / "panel"))
    folder = write_tiny_t5_checkpoint(tmp_path / "t5")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    options = EvaluationOptions(every_score=True)
    (evaluation,) = evaluate_splits(folder, dataset, ["test"], options, against=folder).values()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert set(evaluation.by_score or {}) == {"sum", "token", "char", "pmi"}
    assert evaluation.compared is not None
    assert (evaluation.compared.difference, evaluation.compared.p_value) == (0.0, 1.0)


def test_a_writing_student_is_evaluated_by_what_it_writes(tmp_path: Path) -> None:
    dataset = read_dataset(write_panel(tmp_path / "panel"))
    folder = write_tiny_t5_checkpoint(tmp_path / "t5")
    (evaluation,) = evaluate_splits(folder, dataset, ["test"], EvaluationOptions(generate=True)).values()
    texts = [
        make_student(str(folder), texts=(), seed=0).generate_all([row.question], "predict: ")[0]
        for row in dataset.split("test").rows
    ]
    assert [answer.written for answer in evaluation.predictions] == [text.strip() for text in texts]


def test_an_encoder_is_evaluated_through_the_same_door(tmp_path: Path) -> None:
    student = make_student(str(write_tiny_bert_checkpoint(tmp_path)), texts=(), seed=0)
    evaluation = evaluate_loaded(student, gold_dataset(small_questions(0, 0, 6), "here"), every_score=True)
    assert evaluation.by_score == {"sum": evaluation.accuracy}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (EvaluationOptions(score="mean"), "none of sum, token, char, pmi"),
        (EvaluationOptions(view="rationale-first"), "without --generate"),
        (EvaluationOptions(view="sideways", generate=True), "none of separate"),
        (EvaluationOptions(score="pmi", generate=True), "one of them"),
    ],
)
def test_options_that_cannot_be_are_refused(options: EvaluationOptions, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        options.check()


def test_the_json_object_holds_the_contracts_fields_and_no_predictions() -> None:
    values = evaluate_loaded(STUDENT, gold_dataset(small_questions(0, 0, 3), "here")).as_dict()
    assert {"accuracy", "ci95", "n", "per_subject", "seconds", "method"} <= set(values)
    assert not {"predictions", "by_score", "exact_match", "compared"} & set(values)
    json.dumps(values, allow_nan=False)
