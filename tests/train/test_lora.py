from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_causal import small_causal
from small_rows import (
    small_questions,
    write_panel,
    write_purified,
    write_tiny_bert_checkpoint,
    write_tiny_t5_checkpoint,
)
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from kp_data.errors import ConfigError, DataError, MethodError
from kp_train.dataset import read_dataset
from kp_train.evaluate import evaluate_loaded
from kp_train.fit import fit
from kp_train.fit_options import FitOptions
from kp_train.students import Lora, Student, load_student, make_student, save_student
from kp_train.students import lora as lora_module
from kp_train.students.lora import LR_FACTOR, merge_adapter
from kp_train.views import LABEL, LABEL_PREFIX, Target

pytest.importorskip("peft")

QUESTIONS = small_questions(3, 1, 0)
KINDS = ["llama", "gpt2", "t5"]


def _checkpoint(kind: str, folder: Path) -> Path:
    if kind == "t5":
        return write_tiny_t5_checkpoint(folder, dropout=0.0)
    if kind == "bert":
        return write_tiny_bert_checkpoint(folder)
    folder.mkdir(parents=True, exist_ok=True)
    small_causal(kind).save(folder)
    return folder


def _taught(student: Student, steps: int = 3) -> Student:
    """After a few steps on the label task."""
    groups = student.parameter_groups(1e-2, 0.0)
    optimiser = torch.optim.AdamW(groups)
    items = [
        (student.encode(question, Target(LABEL, LABEL_PREFIX, str(question.answer)), task=0),) for question in QUESTIONS
    ]
    for _ in range(steps):
        student.token_losses(student.collate(items)).mean().backward()
        optimiser.step()
        optimiser.zero_grad()
    return student


def _close(one: Student, two: Student) -> bool:
    scores = [torch.tensor(student.choice_log_probs(QUESTIONS)) for student in (one, two)]
    return torch.allclose(*scores, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapted_student_begins_as_its_checkpoint_and_learns_in_the_adapter_alone(kind: str, tmp_path: Path) -> None:
    folder = _checkpoint(kind, tmp_path)
    plain, adapted = (make_student(str(folder), texts=(), seed=0, lora=lora) for lora in (None, Lora(2)))
    assert _close(plain, adapted)
    before = {name: weight.clone() for name, weight in adapted.model.named_parameters()}
    _taught(adapted)
    moved = {name for name, weight in adapted.model.named_parameters() if not torch.equal(weight, before[name])}
    assert moved
    assert all("lora_" in name for name in moved)
    assert not _close(plain, adapted)


@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_adapter_is_an_ordinary_checkpoint_that_answers_the_same(kind: str, tmp_path: Path) -> None:
    folder = _checkpoint(kind, tmp_path / "base")
    student = _taught(make_student(str(folder), texts=(), seed=0, lora=Lora(2)))
    scores = torch.tensor(student.choice_log_probs(QUESTIONS))
    (tmp_path / "out").mkdir()
    save_student(student, tmp_path / "out", lora=Lora(2))
    auto: Any = AutoModelForSeq2SeqLM if kind == "t5" else AutoModelForCausalLM
    model = auto.from_pretrained(tmp_path / "out")
    assert not any("lora" in name for name, _ in model.named_parameters())
    assert all(weight.requires_grad for weight in student.model.parameters())
    loaded = load_student(tmp_path / "out")
    assert torch.allclose(torch.tensor(loaded.choice_log_probs(QUESTIONS)), scores, atol=1e-4)


# peft asks transformers by a name that is on its way out.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_that_is_kept_is_loaded_on_its_checkpoint_by_us_and_by_transformers(
    kind: str, tmp_path: Path
) -> None:
    folder = _checkpoint(kind, tmp_path / "base")
    student = _taught(make_student(str(folder), texts=(), seed=0, lora=Lora(2)))
    (tmp_path / "out").mkdir()
    save_student(student, tmp_path / "out", lora=Lora(2, keep=True))
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "student.json"} <= files
    assert "model.safetensors" not in files
    assert _close(load_student(tmp_path / "out"), student)
    auto: Any = AutoModelForSeq2SeqLM if kind == "t5" else AutoModelForCausalLM
    plain = type(student)(auto.from_pretrained(tmp_path / "out"), AutoTokenizer.from_pretrained(tmp_path / "out"))
    assert _close(plain, student)


def test_an_adapter_without_its_checkpoint_is_one_error(tmp_path: Path) -> None:
    folder = _checkpoint("llama", tmp_path / "base")
    student = make_student(str(folder), texts=(), seed=0, lora=Lora(2))
    (tmp_path / "out").mkdir()
    save_student(student, tmp_path / "out", lora=Lora(2, keep=True))
    shutil.rmtree(folder)
    with pytest.raises(DataError, match=r"is an adapter of .*base.*, which cannot be loaded; put the checkpoint back"):
        load_student(tmp_path / "out")


def test_an_adapter_of_another_model_is_one_error(tmp_path: Path) -> None:
    folder = _checkpoint("llama", tmp_path / "base")
    student = make_student(str(folder), texts=(), seed=0, lora=Lora(2))
    out = tmp_path / "out"
    out.mkdir()
    save_student(student, out, lora=Lora(2, keep=True))
    other = _checkpoint("gpt2", tmp_path / "other")
    config = json.loads((out / "adapter_config.json").read_text(encoding="utf-8"))
    (out / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(other)}))
    with pytest.raises(DataError, match="does not fit its checkpoint"):
        load_student(out)
    (out / "adapter_model.safetensors").unlink()
    with pytest.raises(DataError, match="the adapter's weights are missing"):
        load_student(out)


def test_layers_can_be_named_and_an_unknown_one_lists_those_there_are(tmp_path: Path) -> None:
    folder = _checkpoint("llama", tmp_path)
    student = make_student(str(folder), texts=(), seed=0, lora=Lora(2, targets=("q_proj", "layers.0.mlp.up_proj")))
    adapted = {name.split(".lora_")[0] for name, _ in student.model.named_parameters() if "lora_" in name}
    assert len(adapted) == 3
    with pytest.raises(ConfigError, match="no layer 'query' to adapt; it has down_proj, gate_proj, k_proj"):
        make_student(str(folder), texts=(), seed=0, lora=Lora(2, targets=("query",)))
    with pytest.raises(ConfigError, match="no layer 'lm_head' to adapt"):
        make_student(str(folder), texts=(), seed=0, lora=Lora(2, targets=("lm_head",)))


def test_an_adapter_adds_alpha_over_rank_times_its_product(tmp_path: Path) -> None:
    folder = _checkpoint("llama", tmp_path)
    student = _taught(make_student(str(folder), texts=(), seed=0, lora=Lora(2, alpha=3.0, targets=("q_proj",))))
    model: Any = student.model
    layer = model.model.layers[0].self_attn.q_proj
    base, down, up = layer.base_layer.weight, layer.lora_A["default"].weight, layer.lora_B["default"].weight
    expected = base + 3.0 / 2 * up @ down
    merge_adapter(model)
    assert torch.allclose(model.model.layers[0].self_attn.q_proj.weight, expected, atol=1e-6)


def test_adapters_learn_at_a_higher_rate_and_are_the_same_for_the_same_seed(tmp_path: Path) -> None:
    folder = _checkpoint("llama", tmp_path)
    students = [make_student(str(folder), texts=(), seed=seed, lora=Lora(2)) for seed in (0, 0, 1)]
    plain = make_student(str(folder), texts=(), seed=0)
    assert students[0].recipe.lr == LR_FACTOR * plain.recipe.lr
    first, same, other = (dict(each.model.named_parameters()) for each in students)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_an_adapter_that_is_not_finite_is_not_merged(tmp_path: Path) -> None:
    student = make_student(str(_checkpoint("llama", tmp_path)), texts=(), seed=0, lora=Lora(2))
    for name, weight in student.model.named_parameters():
        if "lora_B" in name:
            weight.data.fill_(float("nan"))
    with pytest.raises(MethodError, match="not finite; lower --lr"):
        merge_adapter(student.model)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lora_rank": 0}, ConfigError, "--lora-rank: 0 is not above 0"),
        ({"lora_rank": 2, "lora_alpha": -1.0}, ConfigError, "--lora-alpha: -1.0 is not above 0"),
        ({"lora_keep": True}, ConfigError, "--lora-keep: has no effect without --lora-rank"),
        ({"lora_alpha": 4.0}, ConfigError, "--lora-alpha: has no effect without --lora-rank"),
        ({"lora_rank": 2, "student": "tiny-t5"}, MethodError, "tiny-t5 starts from scratch"),
        ({"lora_rank": 2, "student": "minilm"}, MethodError, "minilm scores choices"),
    ],
)
def test_options_that_cannot_be_are_refused(
    options: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    folder = _checkpoint("llama", tmp_path)
    with pytest.raises(error, match=message):
        FitOptions(**{"student": str(folder), "objective": "fine-tune", **options}).check()


def test_without_peft_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora_module, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "knowledge-purification\[lora\]"'):
        Lora(4).check()


def test_an_encoder_has_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(MethodError, match="leave --lora-rank out"):
        make_student(str(_checkpoint("bert", tmp_path)), texts=(), seed=0, lora=Lora(2))


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_a_fit_with_an_adapter_keeps_its_best_step_and_saves_it_merged(kind: str, tmp_path: Path) -> None:
    folder = _checkpoint(kind, tmp_path / "base")
    dataset = read_dataset(write_purified(tmp_path / "data"))
    options = FitOptions(
        student=str(folder), objective="purified", steps=6, batch=4, eval_steps=2, lr=3e-3, bf16=False, lora_rank=2
    )
    record = fit(dataset, options, tmp_path / "out")
    student = load_student(tmp_path / "out")
    reached = evaluate_loaded(student, dataset.split("validation")).accuracy
    assert reached == pytest.approx(record["validation_accuracy"])
    again = fit(dataset, options, tmp_path / "out")
    assert again["best_step"] == record["best_step"]


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_the_snippet_of_an_adapters_card_answers_in_a_process_that_knows_nothing_of_us(
    kind: str, tmp_path: Path
) -> None:
    folder = _checkpoint(kind, tmp_path / "base")
    dataset = read_dataset(write_purified(tmp_path / "data"))
    options = FitOptions(
        student=str(folder),
        objective="purified",
        steps=2,
        batch=4,
        eval_steps=2,
        bf16=False,
        lora_rank=2,
        lora_keep=True,
    )
    fit(dataset, options, tmp_path / "out")
    (code,) = re.findall(r"```python\n(.*?)```", (tmp_path / "out" / "README.md").read_text(), re.DOTALL)
    assert "from peft import AutoPeftModel" in code
    code = code.replace("path/to/this/folder", str(tmp_path / "out"))
    # What the snippet ends with is what it says; the adapter must have reached the model that says it.
    code += (
        '\nassert any("lora_" in name for name, _ in model.named_parameters())\nprint("said", len(written[0]) > 0)\n'
    )
    apart = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    environment = {**apart, "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == "said True"


@pytest.mark.slow
def test_two_sharded_processes_give_the_adapter_of_one(tmp_path: Path) -> None:
    panel = write_panel(tmp_path / "panel", small_questions(24, 6, 6))
    start = write_tiny_t5_checkpoint(tmp_path / "start", dropout=0.0)
    command = ["kp_train", "fit", str(panel), "--student", str(start), "--objective", "tinyllm", "--json"]
    command += ["--steps", "6", "--batch", "6", "--eval-steps", "3", "--lr", "1e-3", "--lora-rank", "2", "--lora-keep"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    for name, launch, options in (("one", ["-m"], []), ("two", torchrun, ["--shard"])):
        ran = subprocess.run(
            [sys.executable, *launch, *command, *options, "--out", str(tmp_path / name)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, ran.stderr
    adapters = [load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two")]
    assert adapters[0].keys() == adapters[1].keys()
    for name, weight in adapters[0].items():
        assert torch.allclose(weight, adapters[1][name], atol=1e-4), name
    # It has learned: the half that begins at zero does not any more.
    assert any(weight.abs().max() > 0 for name, weight in adapters[1].items() if "lora_B" in name)
