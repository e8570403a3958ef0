"""Fits of causal students, and the views and labels that any student can be fitted with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from small_causal import small_causal
from small_rows import purified_table, small_questions, write_panel, write_purified

from kp_data.errors import ConfigError, DataError, MethodError
from kp_data.tables import write_parquet
from kp_train.dataset import read_dataset
from kp_train.fit import fit
from kp_train.fit_options import FitOptions
from kp_train.predict import answer_file
from kp_train.students import load_student
from kp_train.views import RATIONALE_PREFIX

SHORT: dict[str, Any] = {"steps": 2, "batch": 4, "eval_steps": 2, "bf16": False}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("checkpoint")
    small_causal("qwen3").save(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("objective", "extra", "tasks"),
    [
        ("tinyllm", {}, ["label", "rationale ada", "rationale bruno"]),
        ("step-by-step", {"teachers": ("ada",)}, ["label", "rationale ada"]),
        ("purified", {"view": "rationale-first"}, ["label", "rationale-first rationale"]),
        ("tinyllm", {"view": "answer-first", "teachers": ("ada",)}, ["label", "answer-first rationale ada"]),
    ],
)
def test_one_dataset_serves_every_objective_and_view(
    objective: str, extra: dict[str, Any], tasks: list[str], checkpoint: str, tmp_path: Path
) -> None:
    dataset = read_dataset(write_purified(tmp_path / "data"), teachers=extra.get("teachers"))
    record = fit(dataset, FitOptions(student=checkpoint, objective=objective, **extra, **SHORT), tmp_path / "out")
    assert record["rows"]["tasks"] == tasks
    student = load_student(tmp_path / "out")
    assert student.kind == "causal"
    assert isinstance(student.generate_all(small_questions()[:1], RATIONALE_PREFIX)[0], str)


def test_tiny_llama_is_fitted_again_to_the_same_bytes(tmp_path: Path) -> None:
    dataset = read_dataset(write_purified(tmp_path / "data"))
    options = FitOptions(student="tiny-llama", objective="purified", **SHORT)
    for name in ("one", "two"):
        fit(dataset, options, tmp_path / name)
    one, two = (tmp_path / name / "model.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_questions_without_gold_are_learned_from_purified_answers(checkpoint: str, tmp_path: Path) -> None:
    table = purified_table()
    for name in ("answer", "answer_index"):
        field = table.schema.field(name)
        table = table.set_column(table.column_names.index(name), field, pa.nulls(table.num_rows, field.type))
    write_parquet(table, tmp_path / "data" / "purified.parquet")
    dataset = read_dataset(tmp_path / "data")
    options = FitOptions(student=checkpoint, objective="purified", labels="purified", **SHORT)
    record = fit(dataset, options, tmp_path / "out")
    assert record["rows"]["learned"] == 12
    assert record["rows"]["validation"] == 4
    with pytest.raises(DataError, match="answer"):
        fit(dataset, replace(options, labels="gold"), tmp_path / "gold")


def test_scores_change_what_is_learned(checkpoint: str, tmp_path: Path) -> None:
    data = write_purified(tmp_path / "data", responses=False)
    plain = FitOptions(student=checkpoint, objective="purified", **SHORT)
    with pytest.raises(MethodError, match="no purified rationale here has a score"):
        fit(read_dataset(data), replace(plain, weight_by="score"), tmp_path / "none")
    dataset = read_dataset(data)
    scored = replace(
        dataset, rows=tuple(replace(row, score=0.1 + number % 3) for number, row in enumerate(dataset.rows))
    )
    fit(scored, plain, tmp_path / "plain")
    fit(scored, replace(plain, weight_by="score"), tmp_path / "scored")
    one, two = (tmp_path / name / "model.safetensors" for name in ("plain", "scored"))
    assert one.read_bytes() != two.read_bytes()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"view": "both"}, ConfigError, "--view: 'both' is none of separate, rationale-first, answer-first"),
        ({"weight_by": "length"}, ConfigError, "--weight-by: 'length' is not score"),
        (
            {"objective": "fine-tune", "view": "answer-first"},
            MethodError,
            "--view has no effect on objective fine-tune",
        ),
        ({"objective": "tinyllm", "weight_by": "score"}, MethodError, "--weight-by has no effect on objective tinyllm"),
    ],
)
def test_options_that_cannot_be_are_refused(
    options: dict[str, Any], error: type[Exception], message: str, checkpoint: str
) -> None:
    with pytest.raises(error, match=message):
        FitOptions(**{"student": checkpoint, "objective": "purified", **options}).check()


def test_a_causal_student_answers_a_file_of_open_and_choice_questions(checkpoint: str, tmp_path: Path) -> None:
    fit(
        read_dataset(write_panel(tmp_path / "data")),
        FitOptions(student=checkpoint, objective="fine-tune", **SHORT),
        tmp_path / "out",
    )
    file = tmp_path / "questions.jsonl"
    file.write_text(
        '{"id": "1", "question": "Which?", "choices": ["red", "green"]}\n{"id": "2", "question": "Why?"}\n',
        encoding="utf-8",
    )
    choice, open_ended = answer_file(tmp_path / "out", file, explain=True)
    assert choice["answer"] in ("red", "green")
    assert {"id", "answer", "rationale"} <= set(open_ended)


@pytest.mark.parametrize("view", ["rationale-first", "answer-first"])
def test_answer_and_rationale_come_as_one_text_from_a_student_fitted_so(
    view: Any, checkpoint: str, tmp_path: Path
) -> None:
    data = read_dataset(write_panel(tmp_path / "data"))
    fit(data, FitOptions(student=checkpoint, objective="tinyllm", view=view, **SHORT), tmp_path / "out")
    file = tmp_path / "questions.jsonl"
    file.write_text(
        '{"id": "1", "question": "Which?", "choices": ["red", "green"]}\n{"id": "2", "question": "Why?"}\n',
        encoding="utf-8",
    )
    choice, open_ended = answer_file(tmp_path / "out", file, view=view, teacher=data.teachers[0])
    assert set(choice) == {"id", "answer", "answer_index", "rationale"}
    assert set(open_ended) == {"id", "answer", "rationale"}
    if view == "answer-first":
        assert open_ended["answer"] == open_ended["rationale"].split("\n")[0]
