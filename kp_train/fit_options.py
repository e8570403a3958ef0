"""What a run of `kp-train fit` can be told, and which of it can be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Final, Literal

from kp_data.errors import ConfigError, MethodError
from kp_train.objectives import OBJECTIVES, Objective, objective_named
from kp_train.ranks import ranks_of_environment
from kp_train.students import STUDENTS, Lora, check_adaptable, check_student_name
from kp_train.views import VIEWS, Labels, View

_OPTION_NAMES: Final = {
    "teachers": "--teachers",
    "rationale_weight": "--lambda",
    "view": "--view",
    "weight_by": "--weight-by",
    "as_published": "--as-published",
}
"""Options that only some objectives read, as on the command line."""

_ABOVE_ZERO: Final = (
    "epochs",
    "steps",
    "lr",
    "batch",
    "accumulate",
    "eval_steps",
    "choice_orders",
    "retrieve",
    "batch_tokens",
)
_SHARES: Final = {"warmup": "--lr-warmup", "weight_decay": "--weight-decay"}
SCHEDULES: Final = ("linear", "cosine", "constant")
"""How the learning rate goes on after its warm-up, as transformers names it."""


HOW: Final = ("batch_tokens", "pack", "gradient_checkpointing", "shard", "log_to")
"""Options that change memory, speed and what is shown, never what is learned: with others it is the same run."""

LOGGERS: Final = {
    "tensorboard": ("tensorboardX", "tensorboard"),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
    "trackio": ("trackio",),
}
"""Where a log can go, as Trainer names it, and the packages of which one must be there."""


@dataclass(frozen=True, slots=True)
class FitOptions:
    """What `kp-train fit` can be told; None: the student's recipe decides.

    Attributes:
        student: `tiny-t5`, `minilm`, a folder or a Hugging Face name.
        objective: name of one of `kp_train.objectives.OBJECTIVES`.
        labels: which answers the label task predicts.
        rationale_weight: lambda of each rationale task; None: 1.
        teachers: learn from these only; None: from all.
        split: rows to learn from.
        validation_split: rows to select on; 15 % of the rows are held out where the dataset has no such split.
        epochs: passes over the rows; `steps` wins.
        steps: optimiser steps.
        lr: peak learning rate.
        batch: rows a step.
        accumulate: micro-batches a step is cut into.
        eval_steps: steps between two validations.
        bf16: compute in bfloat16.
        choice_orders: orders in which the choices of a row are shown, in turn.
        reduction: `token-mean` or `sequence-sum`.
        seed: of every random choice.
        view: how rationales are learned; None: `separate`.
        weight_by: `score`: rationales count by what their purifier gave them; None: all the same.
        as_published: train as TinyLLM's published code does: capped, padded, one forward pass a task, in float32.
        lora_rank: freeze the student and train adapters of this rank; None: train all of it.
        lora_alpha: scale of the adapters; None: twice the rank.
        lora_targets: layers to adapt; None: all linear ones.
        lora_keep: save the adapter alone, instead of adding it to the weights.
        batch_tokens: positions of a micro-batch, at most.
        pack: whether targets share sequences, where the student can.
        gradient_checkpointing: compute activations twice instead of keeping them.
        shard: spread weights and optimiser over the processes.
        log_to: where the log goes beside the screen: names of Trainer's integrations; empty: nowhere.
        retrieve: rationales of other training rows that a scorer of choices reads with each choice; None: none.
        retrieve_as: `vectors` or `text`; None: vectors.
        schedule: of the learning rate, one of `SCHEDULES`.
        warmup: share of the steps over which the learning rate rises.
        weight_decay: of AdamW.
    """

    student: str
    objective: str
    labels: Labels = "gold"
    rationale_weight: float | None = None
    teachers: tuple[str, ...] | None = None
    split: str = "train"
    validation_split: str = "validation"
    epochs: float | None = None
    steps: int | None = None
    lr: float | None = None
    batch: int | None = None
    accumulate: int = 1
    eval_steps: int | None = None
    bf16: bool | None = None
    choice_orders: int | None = None
    reduction: str = "token-mean"
    seed: int = 0
    # None, not a value, is the default of each: a run of before there were such options stays the same run.
    view: View | None = None
    weight_by: Literal["score"] | None = None
    as_published: bool | None = None
    lora_rank: int | None = None
    lora_alpha: float | None = None
    lora_targets: tuple[str, ...] | None = None
    lora_keep: bool | None = None
    retrieve: int | None = None
    retrieve_as: Literal["vectors", "text"] | None = None
    schedule: Literal["linear", "cosine", "constant"] | None = None
    warmup: float | None = None
    weight_decay: float | None = None
    batch_tokens: int | None = None
    pack: bool = True
    gradient_checkpointing: bool = False
    shard: bool = False
    log_to: tuple[str, ...] = ("tensorboard",)

    @property
    def lora(self) -> Lora | None:
        """The adapter to train; None: the whole student is trained."""
        if self.lora_rank is None:
            return None
        return Lora(self.lora_rank, self.lora_alpha, self.lora_targets, bool(self.lora_keep))

    @property
    def weight(self) -> float:
        """Lambda of each rationale task, given or default."""
        return 1.0 if self.rationale_weight is None else self.rationale_weight

    def check(self) -> None:
        """Refuse values that cannot be, and options without effect.

        Raises:
            ConfigError: names the option.
            MethodError: the objective or the student does not read an option that is given.
        """
        objective = objective_named(self.objective)
        check_student_name(self.student)
        _check_student_can(self.student, objective)
        self._check_values()
        self._check_lora()
        # What is retrieved are the teachers' rationales, whatever the objective.
        read = (*objective.options, "teachers") if self.retrieve else objective.options
        for name, option in _OPTION_NAMES.items():
            if getattr(self, name) is not None and name not in read:
                readers = ", ".join(other.name for other in OBJECTIVES.values() if name in other.options)
                raise MethodError(
                    f"{option} has no effect on objective {objective.name}; leave it out, or take an objective that "
                    f"reads it: {readers}"
                )

    def _check_lora(self) -> None:
        if self.lora is not None:
            self.lora.check()
            check_adaptable(self.student)
        elif given := [name for name in ("lora_alpha", "lora_targets", "lora_keep") if getattr(self, name)]:
            raise ConfigError("has no effect without --lora-rank", place=f"--{given[0].replace('_', '-')}")

    def _check_values(self) -> None:
        if self.view is not None and self.view not in VIEWS:
            raise ConfigError(f"{self.view!r} is none of {', '.join(VIEWS)}", place="--view")
        if self.as_published and self.bf16:
            raise ConfigError("--as-published trains in float32; leave --bf16 out", place="--bf16")
        if self.retrieve_as is not None and not self.retrieve:
            raise ConfigError("has no effect without --retrieve", place="--retrieve-as")
        if self.retrieve_as not in (None, "vectors", "text"):
            raise ConfigError(f"{self.retrieve_as!r} is neither vectors nor text", place="--retrieve-as")
        if self.weight_by not in (None, "score"):
            raise ConfigError(f"{self.weight_by!r} is not score, the one thing to weigh by", place="--weight-by")
        for name in _ABOVE_ZERO:
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ConfigError(f"{value} is not above 0", place=f"--{name.replace('_', '-')}")
        if self.schedule not in (None, *SCHEDULES):
            raise ConfigError(f"{self.schedule!r} is none of {', '.join(SCHEDULES)}", place="--lr-schedule")
        for name, option in _SHARES.items():
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise ConfigError(f"{value} is not from 0 to below 1", place=option)
        if not (self.weight >= 0 and math.isfinite(self.weight)):
            raise ConfigError(f"{self.weight} is not 0 or above", place="--lambda")
        if self.validation_split == "test":
            raise ConfigError(
                "'test' is kept for evaluation and never selected on; name another split, or leave the option out",
                place="--validation-split",
            )
        if self.split == self.validation_split:
            raise ConfigError(f"--split and --validation-split are both {self.split!r}; select on other rows")
        _check_loggers(self.log_to)
        if self.shard and ranks_of_environment().size == 1:
            raise ConfigError(
                "spreads a student over several processes, and there is one; start them with torchrun or accelerate "
                "launch, or leave the option out",
                place="--shard",
            )


def _check_loggers(names: tuple[str, ...]) -> None:
    for name in names:
        if name not in LOGGERS:
            raise ConfigError(f"{name!r} is none of {', '.join(LOGGERS)}, none", place="--log-to")
        if not any(find_spec(package) for package in LOGGERS[name]):
            raise ConfigError(f"{name} is not installed; pip install {LOGGERS[name][0]}", place="--log-to")


def _check_student_can(student: str, objective: Objective) -> None:
    kind = STUDENTS.get(student)
    if kind is not None and objective.name not in kind.objectives:
        raise MethodError(
            f"{student} scores choices and cannot write rationales, so objective {objective.name} is not for it; use "
            f"--objective {kind.objectives[0]}, or a student that writes, such as tiny-t5"
        )
