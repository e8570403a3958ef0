"""Low-rank adapters: a checkpoint is frozen, and small matrices beside its linear layers learn instead.

W x becomes W x + (alpha / rank) B A x, with A (rank, inputs) random and B (outputs, rank) zero at the start, so that a
student begins as the checkpoint it came from. Once trained, B A is added to W, and what is saved is an ordinary
checkpoint; or the adapter alone is saved, which needs the checkpoint again.
Source: Hu et al. 2021, arXiv:2106.09685; the layers are peft's.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from kp_data.errors import ConfigError, DataError, MethodError
from kp_data.tables import read_json, write_json
from kp_train.students.student import STUDENT_FILE, Student, read_limit

ADAPTER_CONFIG: Final = "adapter_config.json"
ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"

LR_FACTOR: Final = 10
"""Adapters learn best at about ten times the rate of the whole model, by common experience; --lr wins."""


@dataclass(frozen=True, slots=True)
class Lora:
    """How a student is adapted.

    Attributes:
        rank: of the added matrices.
        alpha: scale of what they add, divided by the rank; None: twice the rank.
        targets: names of the layers to adapt, whole or their last part; None: all linear layers but the head.
        keep: save the adapter alone instead of a merged checkpoint.
    """

    rank: int
    alpha: float | None = None
    targets: tuple[str, ...] | None = None
    keep: bool = False

    def check(self) -> None:
        """Refuse values that cannot be, and an installation without peft.

        Raises:
            ConfigError: names the option.
        """
        if self.rank < 1:
            raise ConfigError(f"{self.rank} is not above 0", place="--lora-rank")
        if self.alpha is not None and not 0 < self.alpha < float("inf"):
            raise ConfigError(f"{self.alpha} is not above 0", place="--lora-alpha")
        need_peft("--lora-rank")


def need_peft(place: str) -> None:
    """Adapters need peft, an extra.

    Raises:
        ConfigError: it is not installed; says how to.
    """
    if find_spec("peft") is None:
        raise ConfigError(
            'adapters need peft; install it with `pip install "knowledge-purification[lora]"`', place=place
        )


def add_adapter(student: Student, lora: Lora, *, base: str, seed: int) -> None:
    """Freeze a student and give it an adapter to learn in.

    Args:
        student: changed in place; its recipe gets an adapter's learning rate.
        lora: how.
        base: the checkpoint that the student came from, for whoever loads the adapter alone.
        seed: of the random half of each adapter.

    Raises:
        MethodError: the student starts from scratch, or is an encoder.
        ConfigError: it has no such layers.
    """
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    if student.kind == "encoder":
        raise MethodError("adapters are for encoder-decoder and causal students; leave --lora-rank out")
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=2 * lora.rank if lora.alpha is None else lora.alpha,
        lora_dropout=0.0,
        target_modules=list(lora.targets) if lora.targets else "all-linear",
        base_model_name_or_path=base,
        task_type="CAUSAL_LM" if student.kind == "causal" else "SEQ_2_SEQ_LM",
        fan_in_fan_out=_stores_transposed(student.model),
    )
    _check_targets(student.model, lora.targets)
    torch.manual_seed(seed)
    inject_adapter_in_model(config, student.model)
    untyped: Any = student
    untyped.recipe = replace(student.recipe, lr=student.recipe.lr * LR_FACTOR)


def merge_adapter(model: Any) -> None:
    """Add what an adapter learned to the weights it stands beside, and leave an ordinary model, all of it learnable.

    Raises:
        MethodError: the adapter holds numbers that are not finite; training has failed.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in list(model.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            try:
                layer.merge(safe_merge=True)
            except ValueError as error:
                raise MethodError(f"the adapter of {name} is not finite; lower --lr") from error
            model.set_submodule(name, layer.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
    model.requires_grad_(True)


def save_adapter(student: Student, folder: Path) -> None:
    """The adapter as peft and transformers read it, the tokenizer, and student.json."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    untyped: Any = student
    (config,) = untyped.model.peft_config.values()
    config.inference_mode = True
    config.save_pretrained(folder)
    weights = get_peft_model_state_dict(untyped.model)
    named = {f"base_model.model.{name}": tensor.contiguous().cpu() for name, tensor in weights.items()}
    save_file(named, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    untyped.tokenizer.save_pretrained(folder)
    limits = {"max_input": untyped.max_input, "max_target": untyped.max_target}
    write_json({"kind": student.kind, **limits, "adapter_of": config.base_model_name_or_path}, folder / STUDENT_FILE)


def load_adapted(folder: Path, described: Mapping[str, Any]) -> Student:
    """A student whose adapter alone was saved, merged into its checkpoint; `described` is its student.json.

    Raises:
        DataError: the adapter or its checkpoint is missing, or they do not fit.
        ConfigError: peft is not installed.
    """
    need_peft(str(folder))
    from peft import PeftModel
    from transformers import AutoTokenizer

    base = _base(folder)
    student = _bare(base, described, folder)
    untyped: Any = student
    try:
        with warnings.catch_warnings():
            # peft asks transformers by a name that is on its way out.
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
            adapted: Any = PeftModel.from_pretrained(untyped.model, folder)
        untyped.model = adapted.merge_and_unload(safe_merge=True)
        untyped.tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise DataError(f"the adapter does not fit its checkpoint {base!r} ({first})", place=folder) from error
    untyped.max_input = read_limit(described, "max_input", folder)
    untyped.max_target = read_limit(described, "max_target", folder)
    return student


def _base(folder: Path) -> str:
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise DataError("the adapter's weights are missing; copy the whole folder again", place=folder)
    base = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise DataError("does not say which checkpoint it adapts", place=folder / ADAPTER_CONFIG)
    return base


def _bare(base: str, described: Mapping[str, Any], folder: Path) -> Student:
    """The checkpoint that was adapted."""
    try:
        if described.get("kind") == "causal":
            from kp_train.students.causal import CausalStudent

            return CausalStudent.from_checkpoint(base)
        from kp_train.students.seq2seq import Seq2SeqStudent

        return Seq2SeqStudent.from_checkpoint(base)
    except ConfigError as error:
        raise DataError(
            f"is an adapter of {base!r}, which cannot be loaded; put the checkpoint back, or fit without --lora-keep",
            place=folder,
        ) from error


def _check_targets(model: Any, targets: tuple[str, ...] | None) -> None:
    """Every target must be the name of a linear layer inside; the head is read apart from the model."""
    import torch
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    linear = [name for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear | Conv1D)]
    inside = [name for name in linear if model.get_submodule(name) is not head]
    for target in targets or ():
        if not any(name == target or name.endswith(f".{target}") for name in inside):
            there = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in inside}))
            raise ConfigError(f"the student has no layer {target!r} to adapt; it has {there}", place="--lora-targets")


def _stores_transposed(model: Any) -> bool:
    """Whether linear layers keep their weights transposed, as GPT-2's do."""
    from transformers.pytorch_utils import Conv1D

    return any(isinstance(layer, Conv1D) for layer in model.modules())
