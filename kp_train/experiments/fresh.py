"""Students of a sweep that start from random weights: made once a seed, with one tokenizer for all methods.

A student that `kp-train fit` makes builds its tokenizer from its own lessons. In a comparison that would be one more
difference between methods, so here all students of a dataset share the tokenizer of everything there is to read.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from filelock import FileLock

from kp_train.batches import MAX_INPUT_TOKENS, MAX_TARGET_TOKENS
from kp_train.dataset import Dataset
from kp_train.experiments.config import Shape, StudentSpec
from kp_train.views import LABEL_PREFIX, RATIONALE_PREFIX, question_input, teacher_prefix

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_RECIPE: Final = ("lr", "batch", "schedule", "warmup", "weight_decay", "bf16", "choice_orders")


def texts_of(datasets: Iterable[Dataset]) -> list[str]:
    """Everything that students of these datasets may read or write, sorted."""
    texts = {LABEL_PREFIX, RATIONALE_PREFIX}
    for dataset in datasets:
        texts.update(teacher_prefix(teacher) for teacher in dataset.teachers)
        for row in dataset.rows:
            texts.add(question_input(row.question))
            texts.update(row.rationales.values())
    return sorted(texts)


def recipe_of(spec: StudentSpec) -> dict[str, Any]:
    """How a student is trained, as options of `kp_train.fit_options.FitOptions`; None: the checkpoint's recipe decides.

    Random weights are no checkpoint: what is usual for fine-tuning one leaves them far from what they can learn, so
    they take the recipe of the tiny student of their architecture, which was chosen on validation for such a start.
    """
    given = {name: getattr(spec, name) for name in _RECIPE}
    if spec.shape is None:
        return given
    if spec.shape.architecture == "t5":
        from kp_train.students.tiny_t5 import RECIPE
    else:
        from kp_train.students.tiny_llama import RECIPE
    return {name: getattr(RECIPE, name) if value is None else value for name, value in given.items()}


def fresh_checkpoint(shape: Shape, texts: list[str], folder: Path, *, seed: int) -> Path:
    """A checkpoint of that shape with random weights, made unless it is there; any number of processes may ask.

    Args:
        shape: how large.
        texts: what its tokenizer is built from.
        folder: where it goes.
        seed: of the weights.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not (folder / "config.json").is_file():
            _make(shape, texts, folder, seed)
    return folder


def _make(shape: Shape, texts: list[str], folder: Path, seed: int) -> None:
    import torch

    from kp_train.quiet import quiet_transformers
    from kp_train.students.tiny_tokenizer import build_tokenizer

    tokenizer = build_tokenizer(texts)
    torch.manual_seed(seed)
    model = _t5(shape, tokenizer) if shape.architecture == "t5" else _llama(shape, tokenizer)
    making = folder.with_name(f".{folder.name}.making")
    with quiet_transformers():
        model.save_pretrained(making)
        tokenizer.save_pretrained(making)
    making.rename(folder)


def _t5(shape: Shape, tokenizer: PreTrainedTokenizerFast) -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=shape.width,
        d_kv=shape.width // shape.heads,
        d_ff=4 * shape.width,
        num_layers=shape.layers,
        num_decoder_layers=shape.layers,
        num_heads=shape.heads,
        dropout_rate=0.0,
        feed_forward_proj="relu",
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    # Not among the arguments that transformers declares for T5, and yet needed.
    config.decoder_start_token_id = tokenizer.pad_token_id
    return T5ForConditionalGeneration(config)


def _llama(shape: Shape, tokenizer: PreTrainedTokenizerFast) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.width,
        intermediate_size=8 * shape.width // 3,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=MAX_INPUT_TOKENS + MAX_TARGET_TOKENS,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)
