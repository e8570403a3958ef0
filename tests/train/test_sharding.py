"""Sharding over a single process: all of its machinery, none of its savings. Two processes are in test_fit.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from small_rows import small_questions, write_tiny_t5_checkpoint
from torch import distributed
from torch.distributed.tensor import DTensor

from kp_train.sharding import Shards
from kp_train.students.seq2seq import Seq2SeqStudent
from kp_train.views import LABEL, LABEL_PREFIX, Target

QUESTIONS = small_questions(4, 0, 0)


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.fixture
def student(tmp_path: Path) -> Seq2SeqStudent:
    return Seq2SeqStudent.from_checkpoint(str(write_tiny_t5_checkpoint(tmp_path / "t5", dropout=0.0)))


def _learn(student: Seq2SeqStudent) -> torch.optim.Optimizer:
    """One step of AdamW, through the model's own forward pass, as the trainer routes it."""
    targets = [(question, Target(LABEL, LABEL_PREFIX, str(question.answer))) for question in QUESTIONS]
    items = [(student.encode(question, target, task=0),) for question, target in targets]
    batch = student.collate(items, packed=True)
    student.model.forward = lambda **_: student.token_losses(batch)
    optimiser = torch.optim.AdamW(student.model.parameters(), lr=0.1)
    student.model(unused=None).mean().backward()
    optimiser.step()
    del student.model.forward
    return optimiser


@pytest.mark.usefixtures("group")
@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")
def test_a_sharded_student_learns_as_a_whole_one_does(student: Seq2SeqStudent, tmp_path: Path) -> None:
    whole = Seq2SeqStudent.from_checkpoint(str(tmp_path / "t5"))
    _learn(whole)
    shards = Shards(student.model, torch.device("cpu"))
    assert all(isinstance(parameter, DTensor) for parameter in student.model.parameters())
    _learn(student)
    with shards.gathered():
        assert student.choice_log_probs(QUESTIONS)[0] == pytest.approx(whole.choice_log_probs(QUESTIONS)[0], abs=1e-4)
    trained = shards.whole_model().state_dict()
    for name, weight in whole.model.state_dict().items():
        assert not isinstance(trained[name], DTensor)
        assert torch.allclose(trained[name], weight, atol=1e-5), name


@pytest.mark.usefixtures("group")
@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")
def test_weights_and_optimiser_come_back_from_a_checkpoint(student: Seq2SeqStudent, tmp_path: Path) -> None:
    shards = Shards(student.model, torch.device("cpu"))
    optimiser = _learn(student)
    shards.save_weights(tmp_path)
    shards.save_optimiser(optimiser, tmp_path)
    saved = {name: weight.clone() for name, weight in shards.weights().items()}
    moments = [state["exp_avg"].full_tensor().clone() for state in optimiser.state.values()]
    optimiser = _learn(student)
    assert any(not torch.equal(saved[name], weight) for name, weight in shards.weights().items())
    shards.load_weights(tmp_path)
    shards.load_optimiser(optimiser, tmp_path)
    for name, weight in shards.weights().items():
        assert torch.equal(saved[name], weight), name
    for before, state in zip(moments, optimiser.state.values(), strict=True):
        assert torch.equal(before, state["exp_avg"].full_tensor())
