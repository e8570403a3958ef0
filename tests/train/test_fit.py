from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_rows import (
    small_questions,
    write_panel,
    write_purified,
    write_tiny_bert_checkpoint,
    write_tiny_t5_checkpoint,
)

from kp_data.errors import ConfigError, DataError, MethodError
from kp_train.dataset import gold_dataset, read_dataset
from kp_train.fit import fit
from kp_train.fit_options import FitOptions
from kp_train.students import load_student

OPTIONS = FitOptions(student="tiny-t5", objective="fine-tune", steps=2, batch=4, eval_steps=1, choice_orders=1)
GOLD = gold_dataset(small_questions(), "here")


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_t5_checkpoint(tmp_path_factory.mktemp("t5"))


def test_a_checkpoint_given_by_path_is_distilled_and_recorded(t5: Path, tmp_path: Path) -> None:
    dataset = read_dataset(write_purified(tmp_path / "data"))
    options = replace(OPTIONS, student=str(t5), objective="tinyllm", accumulate=2)
    record = fit(dataset, options, tmp_path / "out")
    assert record == json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))
    assert record["steps"] == 2
    assert record["rows"]["tasks"] == ["label", "rationale ada", "rationale bruno"]
    assert record["identity"]["dataset"] == dataset.hashes
    assert record["tokens"] > 0
    assert record["flops"] > 0
    assert record["teacher_calls"] == 0
    assert [line["step"] for line in record["curve"] if "validation_accuracy" in line] == [1, 2]
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_checkpoints_hold_nothing_that_runs_code_when_it_is_read(t5: Path, tmp_path: Path) -> None:
    seen: set[str] = set()

    def look(_: object) -> None:
        for file in (tmp_path / "out" / "checkpoints").glob("checkpoint-*/*"):
            seen.add(file.name)
            if file.suffix == ".pt":
                torch.load(file, weights_only=True)

    fit(GOLD, replace(OPTIONS, student=str(t5)), tmp_path / "out", report=look)
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"} <= seen
    assert "training_args.bin" not in seen


def test_training_teaches_what_the_rows_say(tmp_path: Path) -> None:
    dataset = gold_dataset(small_questions(24, 6, 6), "here")
    record = fit(dataset, replace(OPTIONS, steps=100, batch=12, lr=3e-3, eval_steps=100), tmp_path / "out")
    student = load_student(tmp_path / "out")
    questions = [row.question for row in dataset.split("train").rows]
    scores = student.choice_log_probs(questions)
    right = sum(row.index(max(row)) == question.answer_index for row, question in zip(scores, questions, strict=True))
    assert right >= 20
    losses = [line["loss"] for line in record["curve"] if "loss" in line]
    assert losses[-1] < losses[0] / 3


def test_the_same_command_gives_the_same_student(t5: Path, tmp_path: Path) -> None:
    options = replace(OPTIONS, student=str(t5))
    for name in ("one", "two"):
        fit(GOLD, options, tmp_path / name)
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


def test_a_finished_run_returns_its_record_and_touches_nothing(t5: Path, tmp_path: Path) -> None:
    options = replace(OPTIONS, student=str(t5))
    first = fit(GOLD, options, tmp_path / "out")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert fit(GOLD, options, tmp_path / "out") == first
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


def test_a_folder_of_another_run_is_refused_and_not_overwritten(t5: Path, tmp_path: Path) -> None:
    fit(GOLD, replace(OPTIONS, student=str(t5)), tmp_path / "out")
    weights = (tmp_path / "out" / "model.safetensors").read_bytes()
    for changed in (replace(OPTIONS, student=str(t5), seed=1), OPTIONS):
        with pytest.raises(ConfigError, match="holds a run with another"):
            fit(GOLD, changed, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == weights


def test_other_questions_are_another_run(t5: Path, tmp_path: Path) -> None:
    fit(GOLD, replace(OPTIONS, student=str(t5)), tmp_path / "out")
    with pytest.raises(ConfigError, match="another dataset"):
        fit(gold_dataset(small_questions(13), "here"), replace(OPTIONS, student=str(t5)), tmp_path / "out")


def test_a_student_folder_whose_files_changed_is_another_run(tmp_path: Path) -> None:
    start = write_tiny_t5_checkpoint(tmp_path / "t5")
    options = replace(OPTIONS, student=str(start))
    first = fit(GOLD, options, tmp_path / "out")
    assert "model.safetensors" in first["identity"]["student_files"]
    (start / ".lock").touch()
    assert fit(GOLD, options, tmp_path / "out") == first
    weights = start / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ConfigError, match="another student_files"):
        fit(GOLD, options, tmp_path / "out")


def test_a_second_fit_into_a_folder_that_is_being_written_is_refused(t5: Path, tmp_path: Path) -> None:
    options = replace(OPTIONS, student=str(t5))
    refused: list[str] = []

    def fit_again(_: object) -> None:
        with pytest.raises(ConfigError, match="another fit is writing here") as caught:
            fit(GOLD, options, tmp_path / "out")
        refused.append(str(caught.value))

    record = fit(GOLD, options, tmp_path / "out", report=fit_again)
    assert refused
    assert fit(GOLD, options, tmp_path / "out") == record


def test_an_encoder_learns_labels_and_refuses_rationales_before_anything_is_written(tmp_path: Path) -> None:
    bert = write_tiny_bert_checkpoint(tmp_path / "bert")
    record = fit(GOLD, replace(OPTIONS, student=str(bert), bf16=True), tmp_path / "out")
    assert record["rows"]["tasks"] == ["label"]
    assert (tmp_path / "out" / "head.safetensors").is_file()
    dataset = read_dataset(write_purified(tmp_path / "data"))
    for student in (str(bert), "minilm"):
        with pytest.raises(MethodError, match="--objective fine-tune"):
            fit(dataset, replace(OPTIONS, student=student, objective="purified"), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_without_a_validation_split_rows_are_held_out_and_the_user_is_told(t5: Path, tmp_path: Path) -> None:
    told: list[str] = []
    dataset = gold_dataset(small_questions(20, 0, 0), "here")
    record = fit(dataset, replace(OPTIONS, student=str(t5)), tmp_path / "out", say=told.append)
    assert (record["rows"]["learned"], record["rows"]["validation"]) == (17, 3)
    assert any("held out" in line for line in told)


def test_purified_labels_need_no_gold(t5: Path, tmp_path: Path) -> None:
    read = read_dataset(write_purified(tmp_path / "data"))
    rows = tuple(replace(row, question=replace(row.question, answer=None, answer_index=None)) for row in read.rows)
    unlabelled = replace(read, rows=rows)
    options = replace(OPTIONS, student=str(t5), objective="purified")
    with pytest.raises(DataError, match="no choice question with an answer"):
        fit(unlabelled, options, tmp_path / "out")
    record = fit(unlabelled, replace(options, labels="purified"), tmp_path / "out")
    assert record["rows"]["learned"] == 12


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"steps": 0}, "--steps"),
        ({"lr": float("nan")}, "--lr"),
        ({"rationale_weight": -1.0, "objective": "tinyllm"}, "--lambda"),
        ({"accumulate": 9}, "--accumulate"),
        ({"batch_tokens": 0}, "--batch-tokens"),
        ({"reduction": "max"}, "--reduction"),
        ({"validation_split": "train"}, "--validation-split"),
        ({"validation_split": "test"}, "--validation-split.*never selected on"),
        ({"student": "tiny-t6"}, "no student 'tiny-t6'; there are tiny-t5, tiny-llama, minilm"),
        ({"objective": "magic"}, "--objective"),
    ],
)
def test_an_option_that_cannot_be_is_named(tmp_path: Path, change: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        fit(GOLD, replace(OPTIONS, **change), tmp_path / "out")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"teachers": ("ada",)}, "--teachers has no effect on objective fine-tune.*step-by-step, tinyllm"),
        ({"teachers": ("ada",), "objective": "purified"}, "--teachers has no effect on objective purified"),
        ({"rationale_weight": 1.0}, "--lambda has no effect.*step-by-step, tinyllm, purified"),
        ({"choice_orders": 4, "student": "minilm"}, "--choice-orders has no effect on minilm"),
    ],
)
def test_an_option_without_effect_is_refused(tmp_path: Path, change: dict[str, object], said: str) -> None:
    with pytest.raises(MethodError, match=said):
        fit(GOLD, replace(OPTIONS, **change), tmp_path / "out")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_the_default_weight_and_the_same_weight_given_are_one_run(t5: Path, tmp_path: Path) -> None:
    dataset = read_dataset(write_panel(tmp_path / "data"))
    options = replace(OPTIONS, student=str(t5), objective="tinyllm")
    record = fit(dataset, options, tmp_path / "out")
    assert record["identity"]["rationale_weight"] == 1.0
    assert fit(dataset, replace(options, rationale_weight=1.0), tmp_path / "out") == record


def test_more_processes_than_rows_of_a_step_are_refused(
    t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "9")
    with pytest.raises(ConfigError, match="--batch: 4 rows a step are too few for 9 processes"):
        fit(GOLD, replace(OPTIONS, student=str(t5)), tmp_path / "out")


def test_sharding_over_a_single_process_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--shard.*torchrun"):
        fit(GOLD, replace(OPTIONS, shard=True), tmp_path / "out")


def test_how_a_run_is_cut_does_not_make_it_another_run(t5: Path, tmp_path: Path) -> None:
    options = replace(OPTIONS, student=str(t5))
    record = fit(GOLD, options, tmp_path / "out")
    assert fit(GOLD, replace(options, batch_tokens=64, pack=False), tmp_path / "out") == record
    assert record["token_efficiency"] == 1.0


@pytest.mark.parametrize("change", [{"batch_tokens": 60}, {"pack": False}, {"gradient_checkpointing": True}])
def test_memory_options_change_the_student_by_rounding_at_most(change: dict[str, Any], tmp_path: Path) -> None:
    dataset = read_dataset(write_purified(tmp_path / "data"))
    start = write_tiny_t5_checkpoint(tmp_path / "start", dropout=0.0)
    options = replace(OPTIONS, student=str(start), objective="tinyllm", batch=6, steps=3, eval_steps=3, lr=1e-3)
    for name, changed in (("plain", options), ("changed", replace(options, **change))):
        fit(dataset, changed, tmp_path / name)
    plain, changed = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "changed"))
    # Adam turns the sign of a vanishing gradient into a whole step, so a few weights may differ by that.
    for name, weight in plain.items():
        assert (weight - changed[name]).abs().mean() < 1e-4, name


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_with_the_same_weights(tmp_path: Path) -> None:
    panel = write_panel(tmp_path / "panel", small_questions(40, 6, 6))
    command = [sys.executable, "-m", "kp_train", "fit", str(panel), "--student", "tiny-t5"]
    command += ["--objective", "tinyllm", "--steps", "40", "--batch", "6", "--accumulate", "2", "--eval-steps", "4"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--out", str(tmp_path / "whole")], env=environment, check=True, capture_output=True)
    killed = subprocess.Popen([*command, "--out", str(tmp_path / "cut")], env=environment, stderr=subprocess.DEVNULL)
    _wait_for(tmp_path / "cut" / "checkpoints" / "checkpoint-8")
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    again = subprocess.run(
        [*command, "--out", str(tmp_path / "cut")], env=environment, check=True, capture_output=True, text=True
    )
    assert "going on from step" in again.stderr
    whole, cut = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert whole == cut
    records = [json.loads((tmp_path / name / "run.json").read_text(encoding="utf-8")) for name in ("whole", "cut")]
    for key in ("steps", "best_step", "tokens", "token_efficiency", "flops", "validation_accuracy"):
        assert records[0][key] == records[1][key], key
    assert _losses(records[0]) == _losses(records[1])


def _losses(record: dict[str, Any]) -> list[float]:
    return [line["loss"] for line in record["curve"] if "loss" in line]


@pytest.mark.slow
@pytest.mark.parametrize("how", [[], ["--batch-tokens", "200"], ["--shard"]])
def test_two_processes_give_the_result_of_one(how: list[str], tmp_path: Path) -> None:
    panel = write_panel(tmp_path / "panel", small_questions(24, 6, 6))
    start = write_tiny_t5_checkpoint(tmp_path / "start", dropout=0.0)
    command = ["kp_train", "fit", str(panel), "--student", str(start), "--objective", "tinyllm", "--json"]
    command += ["--steps", "12", "--batch", "6", "--eval-steps", "6", "--lr", "1e-3"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    outputs = [
        subprocess.run(
            [sys.executable, *launch, *command, *options, "--out", str(tmp_path / name)],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
        for name, launch, options in (("one", ["-m"], []), ("two", torchrun, how))
    ]
    one, two = (json.loads((tmp_path / name / "run.json").read_text(encoding="utf-8")) for name in ("one", "two"))
    assert json.loads(outputs[1].stdout)["steps"] == 12  # one object, so one process alone has spoken
    assert _losses(two) == pytest.approx(_losses(one), rel=1e-4)
    for key in ("tokens", "validation_accuracy", "best_step"):
        assert one[key] == two[key], key
    assert one["flops"] == pytest.approx(two["flops"])
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    assert weights[0].keys() == weights[1].keys()
    for name, weight in weights[0].items():
        assert (weight - weights[1][name]).abs().mean() < 1e-4, name


def _wait_for(path: Path, *, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.01)
