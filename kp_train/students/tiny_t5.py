"""`tiny-t5`: a T5 small enough to learn from scratch on a laptop's processor in under a minute.

Its tokenizer is built from the training rows, so it needs no download; bytes are the fallback, so it can read and
write any text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from kp_train.students.seq2seq import Seq2SeqStudent
from kp_train.students.student import Recipe
from kp_train.students.tiny_tokenizer import build_tokenizer

__all__ = ["RECIPE", "build_tokenizer", "make_tiny_t5"]

RECIPE: Final = Recipe(
    lr=3e-3, batch=16, epochs=26, schedule="linear", warmup=0.1, weight_decay=0.01, bf16=True, choice_orders=8
)


def make_tiny_t5(texts: Sequence[str], *, seed: int) -> Seq2SeqStudent:
    """A fresh student with a tokenizer built from these texts.

    Args:
        texts: what it will read and write; the more, the better its vocabulary.
        seed: of the weights.
    """
    tokenizer = build_tokenizer(texts)
    torch.manual_seed(seed)
    return Seq2SeqStudent(T5ForConditionalGeneration(_config(tokenizer)), tokenizer, recipe=RECIPE)


def _config(tokenizer: PreTrainedTokenizerFast) -> T5Config:
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=96,
        d_kv=12,
        d_ff=384,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=8,
        dropout_rate=0.0,
        feed_forward_proj="relu",
        pad_token_id=0,
        eos_token_id=1,
    )
    # Not among the arguments that transformers declares for T5, and yet needed.
    config.decoder_start_token_id = 0
    return config
