"""What every student is to the trainer and to the evaluation: one interface over different architectures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from kp_data.errors import DataError
from kp_data.schema import Question
from kp_train.batches import Example, Item
from kp_train.views import Target

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

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

    Axes: N targets in a batch, L positions, Q questions, C choices.
    """

    truncated: int
    """Inputs and targets cut so far because they were longer than the student takes."""

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

    def collate(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """A micro-batch: the student's inputs, `labels` (N, L), `task` (N,) and `weight` (N,)."""

    def token_losses(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(N, L) float32, negative log-likelihood of each label position in nats; any number where it is ignored."""

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Parameter groups of the optimiser at this peak learning rate."""

    def training_flops(self, batch: Mapping[str, Tensor]) -> float:
        """Estimate of the floating-point operations of one forward and backward pass, padding not counted."""

    def choice_log_probs(self, questions: Sequence[Question], *, per_token: bool = False) -> list[list[float]]:
        """For each question, a score of each choice: its log-probability in nats, or that per token."""

    def generate(self, question: Question, prefix: str) -> str:
        """What the student writes under a prefix.

        Raises:
            MethodError: it cannot write.
        """

    def save(self, folder: Path) -> None:
        """Write model, tokenizer and `student.json` into a folder, weights as safetensors."""
