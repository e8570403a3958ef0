"""The three example files at a size that a test can run: same methods and protocol, tiny students and few questions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_sweep import HerePool, plan_of

from kp_data.practice import practice_server
from kp_train.experiments.estimate import estimate_sweep
from kp_train.experiments.results import collect
from kp_train.experiments.run import run_plan

EXAMPLES = Path(__file__).parents[3] / "examples"
TINY = {"shape": {"width": 16, "layers": 1, "heads": 2}, "batch": 4, "lr": 0.001, "bf16": False}
FEW = {"budget": {"steps": 2, "evaluations": 1}, "counts": [2], "seeds": [0]}


def example(name: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text(encoding="utf-8"))
    return values


def run_small(values: dict[str, Any], folder: Path) -> set[tuple[str, str]]:
    """Run a file; (domain, method) of the lines that came out."""
    path, out = folder / "sweep.yaml", folder / "out"
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    plan = plan_of(path)
    out.mkdir()
    standing = run_plan(plan, out, HerePool(plan.sweep, out, folder))
    assert [outcome.trace or outcome.error for outcome in standing.failed.values()] == []
    assert not standing.blocked
    return {(row.domain, row.method) for row in collect(plan, out, standing).rows}


@pytest.mark.parametrize("name", ["laptop", "gpu", "paper"])
def test_a_dry_run_tells_students_tokens_and_flops(name: str, tmp_path: Path) -> None:
    plan = plan_of(EXAMPLES / f"{name}.yaml")
    estimate = estimate_sweep(plan, tmp_path, home=EXAMPLES)
    trained = sum(line.students for line in estimate.lines)
    assert trained == len(plan.cells) + sum(task.kind == "teach" for task in plan.tasks)
    by_what = {line.what: line for line in estimate.lines}
    last = plan.sweep.students[-1].name
    assert by_what[f"all, {last}"].tokens > by_what[f"similarity-router, {last}"].tokens
    assert estimate.calls_saved > 0
    if plan.sweep.hardware is not None:
        assert estimate.hours is not None
        assert estimate.hours > 0


@pytest.mark.slow
def test_laptop(tmp_path: Path) -> None:
    values = example("laptop") | FEW
    values["datasets"][0]["source"] = "practice:60?seed=1&subjects=animals,stones"
    values["out_of_domain"]["datasets"][0]["source"] = "practice:40?seed=1&subjects=plants"
    values["students"] = [{"name": "base", **TINY}]
    lines = run_small(values, tmp_path)
    assert {method for domain, method in lines if domain == "in"} == set(values["methods"])
    assert {method for domain, method in lines if domain == "out"} == {"fine-tune", "all", "similarity-router"}


@pytest.mark.slow
def test_gpu(tmp_path: Path) -> None:
    values = example("gpu") | FEW
    values["datasets"][0]["source"] = "practice:40?seed=1&subjects=animals,stones"
    values["out_of_domain"]["datasets"][0]["source"] = "practice:30?seed=1&subjects=plants"
    values["teachers"] = values["teachers"][:2]
    for teacher in values["teachers"]:
        teacher["taught"] |= {"questions": 40, "heard": 20, "steps": 2}
    shape = {"architecture": "llama", "width": 16, "layers": 1, "heads": 2}
    values["students"] = [{"name": "teacher", **TINY, "shape": shape}, {"name": "base", **TINY}]
    lines = run_small(values, tmp_path)
    assert {method for domain, method in lines if domain == "in"} == set(values["methods"])
    assert ("out", "similarity-router") in lines
    assert {folder.name.split("-")[0] for folder in (tmp_path / "out" / "teachers").iterdir()} == {"north", "east"}


@pytest.fixture
def teachers_url() -> Iterator[str]:
    with practice_server() as url:
        yield url


@pytest.mark.slow
def test_paper(tmp_path: Path, teachers_url: str) -> None:
    checkpoint = str(write_tiny_flan_t5(tmp_path / "flan-t5"))
    values = example("paper") | FEW
    subjects = {"obqa": "animals", "arc": "stones", "bioasq": "plants"}
    values["datasets"] = [{"name": name, "source": world(subjects[name])} for name in ("obqa", "arc")]
    values["out_of_domain"] |= {"datasets": [{"name": "bioasq", "source": world("plants")}], "students": ["small"]}
    values["teachers"] = [
        {**teacher, "model": model, "api_base": teachers_url}
        for teacher, model in zip(values["teachers"], ("ada", "bruno"), strict=False)
    ]
    small = {"aggregation": {"aggregator": "practice/editor"}, "plm-classifier": {"max_epochs": 1}}
    small |= {"similarity-router": {"max_epochs": 2}, "teacher-selection": {"rounds": 1, "warm_epochs": 1}}
    values["methods"] = [
        {"name": one["name"], "options": small[one["name"]]} if isinstance(one, dict) else one
        for one in values["methods"]
    ]
    values["students"] = [{**values["students"][0], "model": checkpoint, "bf16": False}]
    lines = run_small(values, tmp_path)
    named = {one["name"] if isinstance(one, dict) else one for one in values["methods"]}
    assert {method for domain, method in lines if domain == "in"} == named
    assert {method for domain, method in lines if domain == "out"} == set(values["out_of_domain"]["methods"])


def world(subject: str) -> str:
    return f"practice:40?seed=1&subjects={subject}"


def write_tiny_flan_t5(folder: Path) -> Path:
    """Random weights in FLAN-T5's architecture: gated GELU, a head of its own."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    from kp_data.practice import make_questions
    from kp_train.students.tiny_tokenizer import build_tokenizer
    from kp_train.views import question_input

    tokenizer = build_tokenizer([question_input(question) for question in make_questions(60)])
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_decoder_layers=1,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        pad_token_id=0,
        eos_token_id=1,
    )
    config.decoder_start_token_id = 0
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
