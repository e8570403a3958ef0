"""lm-evaluation-harness on saved students, where it is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from small_rows import small_questions
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from kp_train.students import make_student
from kp_train.views import LABEL_PREFIX, question_input

QUESTIONS = small_questions(0, 0, 3)
TASK = """task: colours
dataset_path: json
dataset_kwargs:
  data_files: {{test: {rows}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
target_delimiter: ""
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1}}
"""
PROGRAM = """
import json, sys
import lm_eval
from lm_eval.tasks import TaskManager
tasks, model = sys.argv[1:]
found = lm_eval.simple_evaluate(
    model="hf", model_args={"pretrained": model, "dtype": "float32"}, tasks=["colours"], device="cpu", batch_size=2,
    task_manager=TaskManager(include_path=tasks, include_defaults=False), log_samples=True, bootstrap_iters=0,
)
samples = sorted(found["samples"]["colours"], key=lambda sample: sample["doc_id"])
scores = [[answer[0] for answer in sample["filtered_resps"]] for sample in samples]
print(json.dumps({"accuracy": found["results"]["colours"]["acc,none"], "scores": scores}))
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-evaluation-harness is not installed")
@pytest.mark.parametrize("name", ["tiny-t5", "tiny-llama"])
def test_the_harness_gives_a_saved_student_the_likelihoods_that_plain_transformers_gives(
    name: str, tmp_path: Path
) -> None:
    texts = [question_input(question) for question in small_questions()]
    (tmp_path / "student").mkdir()
    make_student(name, texts=[*texts, LABEL_PREFIX], seed=0).save(tmp_path / "student")
    asked = [LABEL_PREFIX + question_input(question) for question in QUESTIONS]
    _write_task(tmp_path / "tasks", asked)
    found = _harness(tmp_path)
    expected = [
        [_log_prob(tmp_path / "student", name, text, choice) for choice in question.choices]
        for text, question in zip(asked, QUESTIONS, strict=True)
    ]
    for row, by_hand in zip(found["scores"], expected, strict=True):
        assert row == pytest.approx(by_hand, abs=1e-4)
    best = [row.index(max(row)) for row in expected]
    right = [choice == question.answer_index for choice, question in zip(best, QUESTIONS, strict=True)]
    assert found["accuracy"] == pytest.approx(sum(right) / len(right))


def _write_task(folder: Path, asked: list[str]) -> None:
    folder.mkdir()
    rows = [
        {"text": text, "choices": list(question.choices), "gold": question.answer_index}
        for text, question in zip(asked, QUESTIONS, strict=True)
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (folder / "colours.yaml").write_text(TASK.format(rows=folder / "rows.jsonl"), encoding="utf-8")


def _harness(folder: Path) -> dict[str, list[list[float]]]:
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "cache")}
    command = [sys.executable, "-c", PROGRAM, str(folder / "tasks"), str(folder / "student")]
    ended = subprocess.run(command, env={**os.environ, **offline}, capture_output=True, text=True, check=True)
    return dict(json.loads(ended.stdout.strip().splitlines()[-1]))


def _log_prob(folder: Path, name: str, text: str, choice: str) -> float:
    """log p(choice | text) in nats, without an end token, which the harness does not ask for."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    read = tokenizer(text)["input_ids"]
    with torch.inference_mode():
        if name == "tiny-t5":
            model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
            written = tokenizer(choice, add_special_tokens=False)["input_ids"]
            decoder = torch.tensor([[model.config.decoder_start_token_id, *written[:-1]]])
            logits = model(input_ids=torch.tensor([read]), decoder_input_ids=decoder).logits[0]
        else:
            model = AutoModelForCausalLM.from_pretrained(folder).eval()
            # The harness tokenises both as one text, and counts as the choice what lies beyond the first alone.
            whole = tokenizer(text + choice)["input_ids"]
            written = whole[len(read) :]
            logits = model(input_ids=torch.tensor([whole[:-1]])).logits[0, -len(written) :]
    return sum(logits.log_softmax(-1)[place, token].item() for place, token in enumerate(written))
