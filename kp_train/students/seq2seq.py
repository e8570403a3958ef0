"""Encoder-decoder students: T5 and its relatives.

Axes: N targets in a batch, S input positions, L label positions, V vocabulary, Q questions, R choices of all
questions of a batch in one row, D model size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput

from kp_data.errors import ConfigError
from kp_data.schema import Question
from kp_data.tables import write_json
from kp_train.batches import IGNORED, MAX_INPUT_TOKENS, MAX_TARGET_TOKENS, Example, Item, pad
from kp_train.students.student import STUDENT_FILE, Recipe, read_limit
from kp_train.views import LABEL_PREFIX, Target, question_input

SCORED_AT_ONCE: Final = 32
"""Questions scored together; each is encoded once for all its choices."""

CHECKPOINT_RECIPE: Final = Recipe(
    lr=5e-5, batch=16, epochs=3, schedule="constant", warmup=0.0, weight_decay=0.0, bf16=False
)
"""TinyLLM's learning rate and batch; the number of epochs is ours."""


class Seq2SeqStudent:
    """An encoder-decoder model that learns label and rationales as tasks with different prefixes."""

    kind = "seq2seq"
    writes_text = True

    # `model` is Any: encoder-decoder methods of transformers are untyped, or typed as tensors.
    model: Any

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        recipe: Recipe = CHECKPOINT_RECIPE,
        max_input: int = MAX_INPUT_TOKENS,
        max_target: int = MAX_TARGET_TOKENS,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.recipe = recipe
        self.max_input = max_input
        self.max_target = max_target
        self.truncated = 0

    @classmethod
    def from_checkpoint(cls, name: str) -> Seq2SeqStudent:
        """A pretrained student.

        Raises:
            ConfigError: the checkpoint cannot be loaded.
        """
        try:
            model = AutoModelForSeq2SeqLM.from_pretrained(name, dtype=torch.float32)
            return cls(model, AutoTokenizer.from_pretrained(name))
        except (OSError, ValueError) as error:
            first = str(error).strip().splitlines()[0]
            raise ConfigError(f"checkpoint {name!r} cannot be loaded ({first})", place="--student") from error

    @classmethod
    def load(cls, folder: Path, described: Mapping[str, Any]) -> Seq2SeqStudent:
        """A student that was saved here; `described` is its student.json.

        Raises:
            DataError: student.json lacks a limit.
        """
        student = cls.from_checkpoint(str(folder))
        student.max_input = read_limit(described, "max_input", folder)
        student.max_target = read_limit(described, "max_target", folder)
        return student

    def encode(self, question: Question, target: Target, *, task: int) -> Example:
        """One target, tokenised; an input that is too long loses its beginning, never its prefix or its choices."""
        label = self._target(target.text)
        return Example((self._input(target.prefix, question),), label, task, target.weight)

    def collate(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """`input_ids`, `attention_mask` (N, S); `labels` (N, L); `task`, `weight` (N,)."""
        examples = [example for item in items for example in item]
        batch = self._padded([example.inputs[0] for example in examples])
        batch["labels"] = torch.tensor(pad([example.label for example in examples], IGNORED))
        batch["task"] = torch.tensor([example.task for example in examples])
        batch["weight"] = torch.tensor([example.weight for example in examples])
        return batch

    def token_losses(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(N, L) float32, negative log-likelihood of each label token in nats, 0 where ignored."""
        logits_NLV = self.model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            decoder_input_ids=self.model.prepare_decoder_input_ids_from_labels(labels=batch["labels"]),
        ).logits
        return _negative_log_likelihood(logits_NLV, batch["labels"])

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """One group of everything."""
        return [{"params": list(self.model.parameters()), "lr": lr, "weight_decay": weight_decay}]

    def training_flops(self, batch: Mapping[str, Tensor]) -> float:
        """6 x parameters x tokens, the encoder's for input tokens and the decoder's, with the head, for label tokens.

        Source: the usual 6 N D estimate (arXiv:2001.08361), attention left out.
        """
        read, written = int(batch["attention_mask"].sum()), int((batch["labels"] != IGNORED).sum())
        inside = _own_parameters(self.model.get_encoder())
        head = self.model.get_output_embeddings()
        outside = _own_parameters(self.model.get_decoder()) + (head.weight.numel() if head is not None else 0)
        return 6.0 * (inside * read + outside * written)

    @torch.inference_mode()
    def choice_log_probs(self, questions: Sequence[Question], *, per_token: bool = False) -> list[list[float]]:
        """For each question, log p(choice text | question, label prefix) of each choice in nats, or that per token."""
        self.model.eval()
        inputs = [self._input(LABEL_PREFIX, question) for question in questions]
        order = sorted(range(len(questions)), key=lambda row: len(inputs[row]))
        scores: list[list[float]] = [[] for _ in questions]
        for start in range(0, len(order), SCORED_AT_ONCE):
            rows = order[start : start + SCORED_AT_ONCE]
            chunk = [questions[row] for row in rows]
            flat = self._score([inputs[row] for row in rows], chunk, per_token)
            for row, question in zip(rows, chunk, strict=True):
                scores[row] = [next(flat) for _ in question.choices]
        return scores

    @torch.inference_mode()
    def generate(self, question: Question, prefix: str, *, max_new_tokens: int = 128) -> str:
        """What the student writes under a prefix, greedily."""
        self.model.eval()
        batch = self._to_device(self._padded([self._input(prefix, question)]))
        tokens = self.model.generate(**batch, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1)
        return str(self.tokenizer.decode(tokens[0], skip_special_tokens=True)).strip()

    def save(self, folder: Path) -> None:
        """A checkpoint that AutoModelForSeq2SeqLM and AutoTokenizer load, and student.json."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        described = {"kind": self.kind, "max_input": self.max_input, "max_target": self.max_target}
        write_json(described, folder / STUDENT_FILE)

    def _score(
        self, inputs: Sequence[tuple[int, ...]], questions: Sequence[Question], per_token: bool
    ) -> Iterator[float]:
        """Scores of all choices of some questions, one after the other."""
        batch = self._to_device(self._padded(inputs))
        hidden_QSD = self.model.get_encoder()(**batch).last_hidden_state
        owner_R = [row for row, question in enumerate(questions) for _ in question.choices]
        choices = [self._target(choice) for question in questions for choice in question.choices]
        labels_RL = torch.tensor(pad(choices, IGNORED), device=self.model.device)
        logits_RLV = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=hidden_QSD[owner_R]),
            attention_mask=batch["attention_mask"][owner_R],
            decoder_input_ids=self.model.prepare_decoder_input_ids_from_labels(labels=labels_RL),
        ).logits
        score_R = -_negative_log_likelihood(logits_RLV, labels_RL).sum(dim=1)
        if per_token:
            score_R = score_R / (labels_RL != IGNORED).sum(dim=1)
        return iter(score_R.tolist())

    def _input(self, prefix: str, question: Question) -> tuple[int, ...]:
        text = question_input(question)
        tokens = self._tokens(prefix + text)
        if len(tokens) + 1 > self.max_input:
            self.truncated += 1
            head = self._tokens(prefix)
            tokens = head + self._tokens(text)[-(self.max_input - 1 - len(head)) :]
        return (*tokens, self._end)

    def _target(self, text: str) -> tuple[int, ...]:
        tokens = (*self._tokens(text), self._end)
        if len(tokens) <= self.max_target:
            return tokens
        self.truncated += 1
        # Without the end token: a student must not learn to stop in mid-sentence.
        return tokens[: self.max_target]

    def _tokens(self, text: str) -> tuple[int, ...]:
        # `verbose` would warn of inputs beyond the tokenizer's nominal length, which are cut here.
        return tuple(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    @property
    def _end(self) -> int:
        end = self.tokenizer.eos_token_id
        if not isinstance(end, int):
            raise ConfigError("the checkpoint's tokenizer has no end token", place="--student")
        return end

    def _padded(self, inputs: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        tokens = torch.tensor(pad(inputs, self._pad))
        lengths = torch.tensor([len(sequence) for sequence in inputs])
        return {"input_ids": tokens, "attention_mask": (torch.arange(tokens.shape[1]) < lengths[:, None]).long()}

    @property
    def _pad(self) -> int:
        # Padding is masked, so any token will do where a tokenizer names none.
        token = self.tokenizer.pad_token_id
        return token if isinstance(token, int) else 0

    def _to_device(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.to(self.model.device) for name, tensor in batch.items()}


def _negative_log_likelihood(logits_NLV: Tensor, labels_NL: Tensor) -> Tensor:
    # In float32 whatever the model computes in: a log-softmax over a vocabulary loses too much in bfloat16.
    return functional.cross_entropy(
        logits_NLV.float().transpose(1, 2), labels_NL, ignore_index=IGNORED, reduction="none"
    )


def _own_parameters(module: torch.nn.Module) -> int:
    """Parameters of a stack without its embeddings, which are looked up, not multiplied."""
    embeddings = {id(part.weight) for part in module.modules() if isinstance(part, torch.nn.Embedding)}
    return sum(parameter.numel() for parameter in module.parameters() if id(parameter) not in embeddings)
