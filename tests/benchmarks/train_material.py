"""What the training benchmarks train on and with: rows, a tokenizer of T5's size, random students of known shapes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kp_data.schema import Question
from kp_train.batches import Example, Item
from kp_train.students.seq2seq import Seq2SeqStudent
from kp_train.views import LABEL, LABEL_PREFIX, RATIONALE, RATIONALE_PREFIX, Row, Target, question_input, teacher_prefix

VOCABULARY = 32_000
SHAPES: dict[str, dict[str, Any]] = {
    "toy": {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4},
    "t5-small": {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8},
    "t5-base": {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
    "t5-large": {"d_model": 1024, "d_kv": 64, "d_ff": 4096, "num_layers": 24, "num_heads": 16},
}
"""The published sizes of T5, 60, 223 and 738 million parameters; weights are random, which costs the same."""


@dataclass(frozen=True)
class Material:
    """Rows with every teacher's rationale; one of them, in turn, stands for the purified one."""

    name: str
    rows: tuple[Row, ...]
    teachers: tuple[str, ...]


def read_material(folder: Path | None, *, teachers: int, limit: int | None = None) -> Material:
    """Training rows of a panel folder, or made-up ones; two teachers' texts are repeated where more are asked for."""
    rows = _rows_of(folder) if folder else _made_up_rows()
    rows = random.Random(0).sample(rows, len(rows))[:limit]
    known = tuple(rows[0].rationales)
    names = tuple(known[number % len(known)] + "'" * (number // len(known)) for number in range(teachers))
    spread = []
    for number, row in enumerate(rows):
        texts = list(row.rationales.values())
        rationales = {name: texts[index % len(texts)] for index, name in enumerate(names)}
        spread.append(Row(row.question, rationales, purified=texts[number % len(texts)]))
    return Material(folder.name if folder else "made-up questions", tuple(spread), names)


def make_tokenizer(rows: Sequence[Row]) -> Any:
    """A byte-level BPE tokenizer of T5's size, built from the rows."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [text for row in rows for text in (question_input(row.question), *row.rationales.values())]
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def make_student(shape: str, tokenizer: Any, *, dropout: float = 0.1) -> Seq2SeqStudent:
    """A T5 of a published shape with random weights and T5's 32,128 output positions."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(vocab_size=32_128, dropout_rate=dropout, **SHAPES[shape])
    config.decoder_start_token_id = 0
    return Seq2SeqStudent(T5ForConditionalGeneration(config), tokenizer)


def purified_items(student: Any, rows: Sequence[Row]) -> list[Item]:
    """Answer and one rationale of each row, encoded."""
    return [
        (
            student.encode(row.question, Target(LABEL, LABEL_PREFIX, str(row.question.answer)), task=0),
            student.encode(row.question, Target(RATIONALE, RATIONALE_PREFIX, str(row.purified)), task=1),
        )
        for row in rows
    ]


def all_items(student: Any, rows: Sequence[Row]) -> list[Item]:
    """Answer and every teacher's rationale of each row, encoded."""
    return [
        (
            student.encode(row.question, Target(LABEL, LABEL_PREFIX, str(row.question.answer)), task=0),
            *(
                student.encode(row.question, Target(name, teacher_prefix(name), text), task=1 + index)
                for index, (name, text) in enumerate(row.rationales.items())
            ),
        )
        for row in rows
    ]


class PublishedWay:
    """TinyLLM's way of training: every input padded to the cap, a forward pass a task, float32, Hugging Face's loss."""

    def __init__(self, model: Any, *, cap: int = 100) -> None:
        self.model, self.cap = model, cap

    def batches(self, items: Sequence[Item]) -> list[dict[str, Any]]:
        """One padded batch a task."""
        import torch

        made = []
        for examples in zip(*items, strict=True):
            longest = max(len(one.label) for one in examples)
            inputs = torch.tensor([_fill(one.inputs[0][: self.cap], self.cap, 0) for one in examples])
            labels = torch.tensor([_fill(one.label, longest, -100) for one in examples])
            made.append({"input_ids": inputs, "attention_mask": (inputs != 0).long(), "labels": labels})
        return made

    def loss(self, batches: Sequence[dict[str, Any]]) -> Any:
        """Sum of the tasks' losses, all graphs alive until the one backward pass."""
        return sum(self.model(**batch).loss for batch in batches)


def tokens_of(items: Sequence[Item]) -> dict[str, float]:
    """Mean lengths, for the record."""
    first = [item[0] for item in items]
    rest: list[Example] = [example for item in items for example in item[1:]]
    return {
        "input": sum(len(one.inputs[0]) for one in first) / len(first),
        "label": sum(len(one.label) for one in first) / len(first),
        "rationale": sum(len(one.label) for one in rest) / len(rest),
    }


def _rows_of(folder: Path) -> list[Row]:
    import pyarrow.parquet as pq

    questions = pq.read_table(folder / "questions.parquet").to_pylist()
    texts: dict[str, dict[str, str]] = {}
    for response in pq.read_table(folder / "responses.parquet").to_pylist():
        if response["rationale"]:
            texts.setdefault(response["question_id"], {})[response["teacher"]] = response["rationale"]
    everyone = {teacher for said in texts.values() for teacher in said}
    rows = []
    for one in questions:
        said = texts.get(one["id"], {})
        if one["split"] == "train" and one["answer_index"] is not None and set(said) == everyone:
            rows.append(Row(_question(one), {name: said[name] for name in sorted(everyone)}))
    return rows


def _question(one: dict[str, Any]) -> Question:
    choices, index = tuple(one["choices"]), one["answer_index"]
    return Question(one["id"], one["question"], choices, answer=choices[index], answer_index=index)


def _made_up_rows(count: int = 512) -> list[Row]:
    from kp_data.practice import make_questions

    draw = random.Random(0)
    words = ["because", "the", "water", "rises", "when", "it", "is", "warmed", "and", "so", "metal", "light", "falls"]
    rows = []
    for question in make_questions(count, seed=0):
        said = {"brief": draw.randint(10, 40), "wordy": draw.randint(50, 100)}
        rows.append(Row(question, {name: " ".join(draw.choices(words, k=size)) for name, size in said.items()}))
    return rows


def _fill(tokens: Sequence[int], length: int, value: int) -> list[int]:
    return [*tokens, *[value] * (length - len(tokens))]
