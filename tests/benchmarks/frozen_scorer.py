"""An encoder student whose encoder stays as it was published: only the head and the look-up learn.

Every pair of question and choice is encoded once for all rows of a set, so a row costs seconds where fine-tuning costs
a quarter of an hour, and every purification method can be compared on all questions. What such a student reaches is a
floor: an encoder that learns with its head reaches more.

Axes: P pairs of all questions, Q questions, N questions a step, C choices (padded), D hidden size.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import torch
from mcqa_sets import STORED
from safetensors.numpy import load_file, save_file
from torch import Tensor
from torch.nn import functional

from kp_data.schema import Question
from kp_data.tables import read_json, write_json
from kp_train.dataset import Dataset
from kp_train.students import make_student
from kp_train.students.encoder import EncoderStudent, read_rationales
from kp_train.students.retrieval_embedding import mean_over
from kp_train.views import LABEL, Target

Array = np.ndarray[Any, Any]

EPOCHS: Final = 8
BATCH: Final = 16
LR: Final = 1e-3
"""What the recipe of the fine-tuned student gives its fresh parameters."""
WEIGHT_DECAY: Final = 0.01
ENCODED_AT_ONCE: Final = 16


@dataclass(frozen=True)
class Pairs:
    """Encoded pairs of a set's questions.

    Attributes:
        questions: Q questions, each with choices and a gold answer.
        pooled_PD: what the encoder makes of each pair of question and choice.
        row_QC: (Q, C) which pair each choice is; P where a question has fewer choices.
    """

    questions: tuple[Question, ...]
    pooled_PD: Tensor
    row_QC: Tensor

    @property
    def gold_Q(self) -> Tensor:
        """(Q,) the right choices."""
        return torch.tensor([question.answer_index for question in self.questions])

    def split(self, name: str) -> Tensor:
        """Numbers of the questions of a split."""
        return torch.tensor([row for row, question in enumerate(self.questions) if question.split == name])


def encode_pairs(dataset: Dataset, cache: Path) -> Pairs:
    """Every choice question with its pairs, encoded by the untrained student once and kept in a file."""
    questions = tuple(row.question for row in dataset.rows if row.question.choices and row.question.answer is not None)
    counts = torch.tensor([len(question.choices) for question in questions])
    start_Q = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)[:-1]])
    choice_C = torch.arange(int(counts.max()))
    row_QC = torch.where(choice_C < counts[:, None], start_Q[:, None] + choice_C, int(counts.sum()))
    if not cache.is_file():
        cache.parent.mkdir(parents=True, exist_ok=True)
        save_file({"pooled": _encode(questions)}, cache)
    return Pairs(questions, torch.tensor(load_file(cache)["pooled"]).float(), row_QC)


def fit_frozen(dataset: Dataset, pairs: Pairs, out: Path, *, count: int | None, seed: int) -> dict[str, Any]:
    """Learn head and look-up, keep the epoch that is best on validation, and keep what is right of every split.

    Args:
        dataset: whose rationales of the splits `STORED` are looked up.
        pairs: of the same questions.
        out: JSON file of the result; a finished one is returned as it is.
        count: rationales that a pair looks at; None: it looks nothing up.
        seed: of the fresh weights and of the order of questions.
    """
    if out.is_file():
        return cast(dict[str, Any], read_json(out))
    begun = time.process_time()
    student = _student(dataset, count, seed)
    scorer = _Scorer(student, pairs)
    best: dict[str, Any] = {"validation": -1.0, "epoch": 0, "right": {}}
    for epoch in scorer.learn(seed):
        validation = float(np.mean(scorer.right("validation")))
        if validation > best["validation"]:
            right = {name: scorer.right(name) for name in ("validation", "test")}
            best = {"validation": validation, "epoch": epoch, "right": right}
    record = {"seed": seed, "count": count, **best, "cpu_seconds": round(time.process_time() - begun, 1)}
    write_json(record, out)
    return record


class _Scorer:
    """The fresh parts of a student over encoded pairs."""

    def __init__(self, student: EncoderStudent, pairs: Pairs) -> None:
        self._student, self._pairs = student, pairs
        parts = [student.model.head] if student.model.recall is None else [student.model.head, student.model.recall]
        self._parameters = [parameter for part in parts for parameter in part.parameters()]
        self._gold_Q = pairs.gold_Q

    def learn(self, seed: int) -> Iterator[int]:
        """Learn, and give the number of each epoch that is over."""
        draw = torch.Generator().manual_seed(seed)
        train_Q = self._pairs.split("train")
        steps = EPOCHS * math.ceil(len(train_Q) / BATCH)
        optimiser = torch.optim.AdamW(self._parameters, lr=LR, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.02, total_iters=steps)
        for epoch in range(1, EPOCHS + 1):
            for rows_N in torch.split(train_Q[torch.randperm(len(train_Q), generator=draw)], BATCH):
                loss = functional.cross_entropy(self._scores(rows_N), self._gold_Q[rows_N])
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
            yield epoch

    @torch.inference_mode()
    def right(self, split: str) -> list[bool]:
        """For each question of a split, whether its highest score is the right choice's."""
        rows_Q = self._pairs.split(split)
        score_QC = torch.cat([self._scores(rows_Q[start : start + BATCH]) for start in range(0, len(rows_Q), BATCH)])
        return [bool(value) for value in score_QC.argmax(1) == self._gold_Q[rows_Q]]

    def _scores(self, rows_N: Tensor) -> Tensor:
        """(N, C) scores, minus infinity where a question has no such choice."""
        row_NC = self._pairs.row_QC[rows_N]
        real_NC = row_NC < len(self._pairs.pooled_PD)
        pooled_RD = self._pairs.pooled_PD[row_NC[real_NC]]
        score_R: Tensor = self._student.model.head(pooled_RD)[:, 0]
        if self._student.model.recall is not None:
            score_R = score_R + self._student.model.recall(pooled_RD, self._apart(rows_N, real_NC))
        return torch.full(row_NC.shape, -torch.inf).masked_scatter(real_NC, score_R)

    def _apart(self, rows_N: Tensor, real_NC: Tensor) -> Tensor:
        """(R, B) what each pair must not look up, filled up with the number of all that there is."""
        retriever = self._student.retriever
        assert retriever is not None
        apart = [retriever.apart(self._pairs.questions[int(row)]) for row in rows_N]
        width, known = max(1, *map(len, apart)), len(retriever.store.passages)
        padded = torch.tensor([[*numbers, *[known] * (width - len(numbers))] for numbers in apart])
        return padded.repeat_interleave(real_NC.sum(1), dim=0)


def _student(dataset: Dataset, count: int | None, seed: int) -> EncoderStudent:
    student = make_student("minilm", texts=(), seed=seed)
    assert isinstance(student, EncoderStudent)
    if count is not None:
        torch.manual_seed(seed)
        read_rationales(student, [row for row in dataset.rows if row.question.split in STORED], count=count)
    return student


@torch.inference_mode()
def _encode(questions: Sequence[Question]) -> Array:
    """(P, D) float16, mean-pooled hidden states of every pair, in the order of questions and choices."""
    student = make_student("minilm", texts=(), seed=0)
    assert isinstance(student, EncoderStudent)
    student.model.train(False)
    examples = [student.encode(question, Target(LABEL, "", question.answer or ""), task=0) for question in questions]
    order = sorted(range(len(examples)), key=lambda row: max(map(len, examples[row].inputs)))
    pooled: dict[int, Array] = {}
    for start in range(0, len(order), ENCODED_AT_ONCE):
        rows = order[start : start + ENCODED_AT_ONCE]
        batch = student.collate([(examples[row],) for row in rows])
        segments = {"token_type_ids": batch["token_type_ids"]} if "token_type_ids" in batch else {}
        with torch.autocast("cpu", torch.bfloat16):
            hidden_RSD = student.model.encoder(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], **segments
            ).last_hidden_state
        pooled_RD = mean_over(hidden_RSD.float(), batch["attention_mask"]).numpy()
        parts = np.split(pooled_RD, np.cumsum([len(examples[row].inputs) for row in rows])[:-1])
        pooled.update(zip(rows, parts, strict=True))
    return np.concatenate([pooled[row] for row in range(len(examples))]).astype(np.float16)
