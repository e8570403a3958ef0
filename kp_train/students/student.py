"""What every student is to the trainer and to the evaluation: one interface over different architectures."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

from kp_data.errors import DataError
from kp_data.schema import Question
from kp_train.batches import Example, Item
from kp_train.views import Target

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

STUDENT_FILE: Final = "student.json"


def read_limit(described: Mapping[str, Any], key: str, folder: Path) -> int:
    """A number of tokens from what student.json says.

    Raises:
        DataError: it is missing, or no whole number above 0.
    """
    value = described.get(key)
    if not isinstance(value, int) or value < 1:
        raise DataError(
            f"'{key}' is missing or no whole number above 0; fit the student again, or copy the whole folder again",
            place=folder / STUDENT_FILE,
        )
    return value


def tokenizer_identity(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """What decides about the tokens of a text; None where a tokenizer cannot tell."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    parts = (backend.to_str(), tokenizer.special_tokens_map, tokenizer.chat_template, tokenizer.name_or_path)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@runtime_checkable
class Encodes(Protocol):
    """A student whose encoded rows may be kept between runs."""

    def encoding_identity(self) -> str | None:
        """All that decides what `encode` makes of a row: class, `tokenizer_identity`, limits; None: keep nothing."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a student is trained unless the user says otherwise; chosen on validation data.

    Attributes:
        lr: peak learning rate.
        batch: rows a step.
        epochs: passes over the rows.
        schedule: learning-rate schedule, as transformers names it.
        warmup: share of the steps over which the learning rate rises.
        weight_decay: of AdamW.
        bf16: whether to compute in bfloat16.
        choice_orders: orders in which the choices of a row are shown, in turn; 1 for students that do not see order.
    """

    lr: float
    batch: int
    epochs: float
    schedule: str
    warmup: float
    weight_decay: float
    bf16: bool
    choice_orders: int = 1


class Student(Protocol):
    """A model with its tokenizer, and what differs between architectures.

    A micro-batch is a dict of tensors: the student's own inputs, and always
        learned (T,) int64    tokens that are learned, all targets of the micro-batch one after another, nothing padded
        owner   (T,) int64    which target of the micro-batch each of them belongs to
        task    (N,) int64    task of each target
        weight  (N,) float32  weight of each target
    which `kp_train.batches.flat_targets` makes. A scorer of choices learns one "token" a target, the index of the
    right choice. What a micro-batch computes must not depend on what else is in it, so that the trainer may cut a
    step wherever it likes, also between two targets of a row; targets of a row that read the same stay together.

    Axes: N targets in a micro-batch, T learned tokens, Q questions, C choices.
    """

    truncated: int
    """Inputs and targets cut so far because they were longer than the student takes."""

    @property
    def packs(self) -> bool:
        """Whether several targets may share a sequence, exactly; if not, `collate` is never asked to pack."""

    @property
    def kind(self) -> str:
        """`seq2seq` or `encoder`, as student.json has it."""

    @property
    def model(self) -> PreTrainedModel:
        """The model itself."""

    @property
    def recipe(self) -> Recipe:
        """How it is trained by default."""

    @property
    def writes_text(self) -> bool:
        """Whether it can learn rationales."""

    def encode(self, question: Question, target: Target, *, task: int) -> Example:
        """One target, tokenised.

        Raises:
            MethodError: this student cannot learn from this question.
        """

    def tokens_of(self, example: Example) -> int:
        """Positions that it costs, inputs and label, without padding; what `--batch-tokens` counts."""

    def collate(self, items: Sequence[Item], *, packed: bool = False) -> dict[str, Tensor]:
        """A micro-batch on the host; `packed` puts several targets into one sequence."""

    def positions(self, batch: Mapping[str, Tensor]) -> tuple[int, int]:
        """Positions of a micro-batch that hold a token, and positions that are computed, padding included."""

    def token_losses(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(T,) float32, negative log-likelihood of each learned token in nats.

        Hidden states are gathered where something is learned before they meet the vocabulary
        (`kp_train.losses.head_losses`), so that no logits of all positions ever exist.
        """

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Parameter groups of the optimiser at this peak learning rate."""

    def training_flops(self, batch: Mapping[str, Tensor]) -> float:
        """Estimate of the floating-point operations of one forward and backward pass, padding not counted.

        Asked of a micro-batch on the host, before it is moved.
        """

    def choice_log_probs(self, questions: Sequence[Question], *, per_token: bool = False) -> list[list[float]]:
        """For each question, a score of each choice: its log-probability in nats, or that per token."""

    def generate_all(self, questions: Sequence[Question], prefix: str) -> list[str]:
        """What the student writes about each question under a prefix, greedily.

        Raises:
            MethodError: it cannot write.
        """

    def save(self, folder: Path) -> None:
        """Write model, tokenizer and `student.json` into a folder, weights as safetensors."""
