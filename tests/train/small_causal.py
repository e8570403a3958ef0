"""Small random causal students for the tests of kp_train, one of each kind of architecture."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import torch
from small_rows import COLOURS, small_questions
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from kp_train.students.causal import CausalStudent
from kp_train.students.tiny_tokenizer import build_tokenizer
from kp_train.views import question_input

WIDTH: Final = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 48}
GROUPED: Final = {**WIDTH, "num_key_value_heads": 2}
NARROW: Final = {**GROUPED, "head_dim": 8, "sliding_window": 4}
GPT2: Final = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}

CONFIGS: Final[dict[str, tuple[Any, dict[str, Any]]]] = {
    "llama": (LlamaConfig, GROUPED),
    "qwen2": (Qwen2Config, GROUPED),
    "qwen3": (Qwen3Config, {**GROUPED, "head_dim": 8}),
    "gpt2": (GPT2Config, {**GPT2, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}),
    "mistral": (MistralConfig, {**GROUPED, "sliding_window": 4}),
    "gemma2": (Gemma2Config, NARROW),
    "gemma3": (Gemma3TextConfig, NARROW),
    "granite": (GraniteConfig, {**GROUPED, "logits_scaling": 4.0}),
    "opt": (OPTConfig, {**WIDTH, "ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.0}),
    "bloom": (BloomConfig, {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "mamba": (MambaConfig, {"hidden_size": 32, "num_hidden_layers": 2}),
}
PACKED: Final = ("llama", "qwen2", "qwen3", "gpt2", "mistral", "gemma2", "gemma3", "granite")
"""Relative and absolute positions, sliding windows shorter than a text, scaled and capped logits."""


@cache
def small_tokenizer() -> PreTrainedTokenizerFast:
    """Of the texts in `small_rows`."""
    return build_tokenizer([*(question_input(question) for question in small_questions()), *COLOURS])


def small_causal(kind: str, *, dtype: torch.dtype = torch.float32) -> CausalStudent:
    """A random student of a few thousand parameters."""
    make, settings = CONFIGS[kind]
    tokenizer = small_tokenizer()
    marks = dict.fromkeys(("bos_token_id", "eos_token_id"), tokenizer.eos_token_id)
    torch.manual_seed(0)
    config = make(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **marks, **settings)
    return CausalStudent(AutoModelForCausalLM.from_config(config).to(dtype), tokenizer)
