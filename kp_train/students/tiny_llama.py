"""`tiny-llama`: a Llama small enough to learn from scratch on a laptop's processor in about a minute.

Its tokenizer is built from the training rows, so it needs no download; bytes are the fallback, so it can read and
write any text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from kp_train.batches import MAX_INPUT_TOKENS, MAX_TARGET_TOKENS
from kp_train.students.causal import CausalStudent
from kp_train.students.student import Recipe
from kp_train.students.tiny_tokenizer import build_tokenizer

RECIPE: Final = Recipe(
    lr=3e-3, batch=16, epochs=26, schedule="linear", warmup=0.1, weight_decay=0.01, bf16=True, choice_orders=8
)


def make_tiny_llama(texts: Sequence[str], *, seed: int) -> CausalStudent:
    """A fresh student with a tokenizer built from these texts.

    Args:
        texts: what it will read and write; the more, the better its vocabulary.
        seed: of the weights.
    """
    tokenizer = build_tokenizer(texts)
    torch.manual_seed(seed)
    return CausalStudent(LlamaForCausalLM(_config(tokenizer)), tokenizer, recipe=RECIPE)


def _config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=MAX_INPUT_TOKENS + MAX_TARGET_TOKENS,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
