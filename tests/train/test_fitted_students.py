"""A fitted student is an ordinary checkpoint: plain transformers loads it, and it answers as it did here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_rows import small_questions, write_tiny_bert_checkpoint, write_tiny_t5_checkpoint
from transformers import AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer

from kp_train.dataset import gold_dataset
from kp_train.fit import fit
from kp_train.fit_options import FitOptions
from kp_train.students import load_student
from kp_train.students.encoder import HEAD_FILE
from kp_train.views import LABEL_PREFIX, question_input

QUESTIONS = small_questions()
GOLD = gold_dataset(QUESTIONS, "here")


def _fitted(checkpoint: Path, out: Path, *, lr: float) -> Path:
    options = FitOptions(str(checkpoint), "fine-tune", steps=3, batch=4, eval_steps=3, lr=lr)
    fit(GOLD, options, out)
    return out


def test_a_fitted_encoder_decoder_writes_its_answer_through_plain_transformers(tmp_path: Path) -> None:
    folder = _fitted(write_tiny_t5_checkpoint(tmp_path / "t5"), tmp_path / "out", lr=1e-2)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSeq2SeqLM.from_pretrained(folder)
    text = LABEL_PREFIX + question_input(QUESTIONS[0])
    end = torch.tensor([[tokenizer.eos_token_id]])
    tokens = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    written = model.generate(torch.cat([tokens, end], dim=1), max_new_tokens=128, do_sample=False, num_beams=1)
    answer = tokenizer.decode(written[0], skip_special_tokens=True).strip()
    assert answer == load_student(folder).generate_all(QUESTIONS[:1], LABEL_PREFIX)[0]


def test_a_fitted_encoder_chooses_through_plain_transformers_and_its_heads_two_tensors(tmp_path: Path) -> None:
    folder = _fitted(write_tiny_bert_checkpoint(tmp_path / "bert"), tmp_path / "out", lr=1e-2)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    head = load_file(folder / HEAD_FILE)
    question = QUESTIONS[1]
    scores = []
    for choice in question.choices:
        asked, answer = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (question.question, choice))
        first = [tokenizer.cls_token_id, *asked, tokenizer.sep_token_id]
        pair = [*first, *answer, tokenizer.sep_token_id]
        segments = [0] * len(first) + [1] * (len(pair) - len(first))
        with torch.inference_mode():
            hidden = model(input_ids=torch.tensor([pair]), token_type_ids=torch.tensor([segments])).last_hidden_state
        scores.append((hidden[0].mean(dim=0) @ head["weight"][0] + head["bias"][0]).item())
    expected = load_student(folder).choice_log_probs([question])[0]
    assert torch.tensor(scores).log_softmax(dim=0).tolist() == pytest.approx(expected, abs=1e-5)


def test_mixed_precision_ends_with_the_training_that_asked_for_it(tmp_path: Path) -> None:
    options = FitOptions(
        str(write_tiny_bert_checkpoint(tmp_path / "bert")), "fine-tune", steps=1, batch=4, eval_steps=1, bf16=True
    )
    fit(GOLD, options, tmp_path / "out")
    assert not torch.is_autocast_enabled("cpu")
