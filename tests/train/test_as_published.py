from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_rows import small_questions, small_responses, write_panel, write_tiny_t5_checkpoint

from kp_data.errors import ConfigError, MethodError
from kp_data.schema import Question
from kp_train.batches import Item
from kp_train.dataset import read_dataset
from kp_train.fit import fit
from kp_train.fit_options import FitOptions
from kp_train.students import load_student, make_student
from kp_train.students.as_published import CAP, PublishedStudent
from kp_train.students.seq2seq import Seq2SeqStudent
from kp_train.views import LABEL, LABEL_PREFIX, Target, teacher_prefix

QUESTIONS = small_questions(4, 1, 0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_t5_checkpoint(tmp_path_factory.mktemp("checkpoint"), dropout=0.0)


def _pair(checkpoint: Path) -> tuple[Seq2SeqStudent, PublishedStudent]:
    plain = make_student(str(checkpoint), texts=(), seed=0)
    published = make_student(str(checkpoint), texts=(), seed=0, as_published=True)
    assert isinstance(plain, Seq2SeqStudent)
    assert isinstance(published, PublishedStudent)
    return plain, published


def _items(student: Seq2SeqStudent, questions: list[Question] = QUESTIONS) -> list[Item]:
    responses = small_responses(questions)
    items = []
    for number, question in enumerate(questions):
        rationales = [str(response.rationale) for response in responses[2 * number : 2 * number + 2]]
        targets = [Target(LABEL, LABEL_PREFIX, str(question.answer))]
        for teacher, text in zip(("ada", "bruno"), rationales, strict=True):
            targets.append(Target(f"rationale {teacher}", teacher_prefix(teacher), text * (1 + number), 0.5))
        items.append(tuple(student.encode(question, target, task=task) for task, target in enumerate(targets)))
    return items


def test_an_input_that_is_not_cut_has_the_same_losses(checkpoint: Path) -> None:
    plain, published = _pair(checkpoint)
    assert all(len(example.inputs[0]) <= CAP for item in _items(plain) for example in item)
    ours, theirs = (student.collate(_items(student)) for student in (plain, published))
    assert torch.equal(ours["learned"], theirs["learned"])
    assert torch.allclose(plain.token_losses(ours), published.token_losses(theirs), rtol=0, atol=1e-5)


def test_a_long_input_loses_its_end_and_with_it_its_choices(checkpoint: Path) -> None:
    plain, published = _pair(checkpoint)
    long = Question(id="1", question="Thing " * 200, choices=("red", "green"), answer="red", answer_index=0)
    texts = []
    for student in (plain, published):
        student.max_input = CAP
        tokens = student.encode(long, Target(LABEL, LABEL_PREFIX, "red"), task=0).inputs[0]
        assert (len(tokens), tokens[-1], student.truncated) == (CAP, student.tokenizer.eos_token_id, 1)
        texts.append(student.tokenizer.decode(tokens, skip_special_tokens=True))
    assert [text.strip().startswith("predict:") for text in texts] == [True, True]
    assert ["(b) green" in text for text in texts] == [True, False]


def test_every_task_is_a_forward_pass_of_its_own_over_inputs_as_long_as_the_cap(checkpoint: Path) -> None:
    _, published = _pair(checkpoint)
    read: list[torch.Size] = []
    published.model.get_encoder().register_forward_hook(
        lambda module, args, kwargs, out: read.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    batch = published.collate(_items(published))
    published.token_losses(batch)
    assert read == [torch.Size([5, CAP])] * 3
    used, computed = published.positions(batch)
    written = sum(batch[f"{task}.decoder_input_ids"].numel() for task in range(3))
    assert computed == 3 * 5 * CAP + written
    assert used < computed
    assert not published.packs


def test_a_row_without_one_teacher_does_not_mix_up_the_others(checkpoint: Path) -> None:
    plain, published = _pair(checkpoint)
    ours, theirs = ([*items[:1], items[1][:1], items[2][1:], items[3]] for items in (_items(plain), _items(published)))
    losses = [student.token_losses(student.collate(items)) for student, items in ((plain, ours), (published, theirs))]
    assert torch.allclose(*losses, rtol=0, atol=1e-5)


def test_a_student_is_fitted_saved_and_read_again_as_it_was_trained(checkpoint: Path, tmp_path: Path) -> None:
    dataset = read_dataset(write_panel(tmp_path / "data"))
    options = FitOptions(
        student=str(checkpoint), objective="tinyllm", steps=2, batch=4, eval_steps=2, as_published=True
    )
    record = fit(dataset, options, tmp_path / "out")
    assert record["schedule"]["recipe"]["bf16"] is False
    student: Any = load_student(tmp_path / "out")
    assert (type(student), student.max_input) == (PublishedStudent, CAP)


def test_what_was_not_published_is_refused(checkpoint: Path) -> None:
    with pytest.raises(MethodError, match="encoder-decoder students only"):
        make_student("tiny-llama", texts=["thing"], seed=0, as_published=True)
    with pytest.raises(MethodError, match="--as-published has no effect on objective purified"):
        FitOptions(student=str(checkpoint), objective="purified", as_published=True).check()
    with pytest.raises(ConfigError, match="leave --bf16 out"):
        FitOptions(student=str(checkpoint), objective="tinyllm", as_published=True, bf16=True).check()
