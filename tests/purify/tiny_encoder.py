"""A very small BERT with a vocabulary of the topic questions, made here: tests must not load a large one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path


def make_tiny_encoder(folder: Path, texts: Sequence[str]) -> str:
    """The folder of an untrained encoder of two narrow layers."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    words = sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]", text.lower())})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    tokenizer = BertTokenizer(str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(words) + 5,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
        )
        BertModel(config).save_pretrained(folder)
    return str(folder)
