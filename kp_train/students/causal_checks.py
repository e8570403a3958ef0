"""What an architecture is found able to do, by trying it on the student itself before anything is trained.

Hundreds of causal architectures differ in how they count positions, mask and cache, and a list of those for which a
shortcut is exact would be wrong with the next release. A few dozen tokens tell: the shortcut must give the hidden
states that the plain way gives. Axes: N sequences, S positions of one, D model size.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor

LENGTHS: Final = (7, 4, 9)
"""Tokens of the sequences that are tried: of different lengths, and not in order."""

TOLERANCE: Final = 1e-4
"""Largest difference, relative to the largest value: rounding stays far below it, another mask or position above."""

_UNABLE: Final = (TypeError, ValueError, AttributeError, RuntimeError, IndexError, KeyError, NotImplementedError)
"""What a model raises when it does not know an argument or a shape."""


def can_pack(model: Any) -> bool:
    """Whether sequences in one row, told apart by positions that begin again, are computed as if each were alone.

    transformers makes the block-diagonal mask from the positions, in the form that the attention at hand reads:
    variable lengths for flash attention, a mask elsewhere; sliding windows are counted within each sequence. Models
    that carry a state along the row, or count positions by themselves, fail here.
    """

    def packed() -> Tensor:
        row = torch.cat(sequences, dim=1)
        positions = torch.cat([torch.arange(length, device=row.device) for length in LENGTHS])[None]
        return hidden_states(model, row, position_ids=positions)[0]

    sequences = _sequences(model)
    return takes_positions(model) and _same(model, packed, lambda: _alone(model, sequences))


def can_share_prompts(model: Any, *, longest: int) -> bool:
    """Whether texts of several lengths can be continued from one cache, as if each were read whole.

    Args:
        model: the model.
        longest: tokens of prompt and continuation; a sliding window below it would count padding.
    """

    def continued() -> Tensor:
        beginning, (first, second) = PromptCache.of(model, [(1, 2, 3, 4, 5), (3, 4)]), ((6, 7), (8, 9, 2))
        hidden_NSD = beginning.continued(model, [0, 1, 1], [first, second, first])
        return torch.cat([hidden_NSD[0, :2], hidden_NSD[1, :3], hidden_NSD[2, :2]])

    def whole() -> Tensor:
        texts = [((1, 2, 3, 4, 5), (6, 7)), ((3, 4), (8, 9, 2)), ((3, 4), (6, 7))]
        read = [torch.tensor([[*before, *after]], device=model.device) for before, after in texts]
        return torch.cat(
            [hidden_states(model, row)[0, -len(after) :] for row, (_, after) in zip(read, texts, strict=True)]
        )

    window = getattr(model.config, "sliding_window", None)
    return (window is None or window >= longest) and _same(model, continued, whole)


def has_plain_head(model: Any) -> bool:
    """Whether logits are the hidden states times the output embedding, neither scaled nor capped."""
    (row, *_) = _sequences(model)
    head = model.get_output_embeddings()
    # A cap bends large logits alone, which an untrained model does not have yet.
    capped = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return (
        head is not None
        and capped is None
        and _same(model, lambda: head(hidden_states(model, row)), lambda: all_logits(model, row))
    )


def takes_positions(model: Any) -> bool:
    """Whether a model can be told positions."""
    return "position_ids" in inspect.signature(model.base_model.forward).parameters


def hidden_states(model: Any, input_ids: Tensor, **inputs: Any) -> Tensor:
    """(N, S, D) float, what the head reads."""
    hidden_NSD: Tensor = model.base_model(input_ids=input_ids, use_cache=False, **inputs)[0]
    return hidden_NSD


def all_logits(model: Any, input_ids: Tensor, **inputs: Any) -> Tensor:
    """(N, S, V) float, the model's own, by its class: a trainer may have put another forward pass before it."""
    logits_NSV: Tensor = type(model).forward(model, input_ids=input_ids, use_cache=False, **inputs).logits
    return logits_NSV


class PromptCache:
    """Prompts read once, to be continued in several ways."""

    def __init__(self, cache: Any, mask_NS: Tensor, last_ND: Tensor) -> None:
        self._cache = cache
        self._mask_NS = mask_NS
        self.last_ND = last_ND
        """(N, D) hidden state of each prompt's last token, which foretells the first of what follows."""

    @classmethod
    def of(cls, model: Any, prompts: list[tuple[int, ...]]) -> PromptCache:
        """Prompts, padded on the right; the mask keeps what follows from seeing the padding."""
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=model.device)
        tokens_NS = _padded(prompts, model.device)
        mask_NS = torch.arange(tokens_NS.shape[1], device=model.device) < lengths[:, None]
        out = model.base_model(input_ids=tokens_NS, attention_mask=mask_NS.long(), use_cache=True)
        last_ND = out[0][torch.arange(len(prompts), device=model.device), lengths - 1]
        return cls(out.past_key_values, mask_NS, last_ND)

    def continued(self, model: Any, owner: list[int], texts: list[tuple[int, ...]]) -> Tensor:
        """(R, L, D) hidden states of texts, each after the prompt that owns it; the cache is used up."""
        rows = torch.tensor(owner, device=model.device)
        mask_RS, tokens_RL = self._mask_NS[rows], _padded(texts, model.device)
        if tokens_RL.shape[1] == 0:
            return self.last_ND[rows][:, :0, None].transpose(1, 2)
        self._cache.batch_select_indices(rows)
        inputs = {}
        if takes_positions(model):
            inputs["position_ids"] = mask_RS.sum(dim=1, keepdim=True) + torch.arange(
                tokens_RL.shape[1], device=model.device
            )
        hidden_RLD: Tensor = model.base_model(
            input_ids=tokens_RL,
            attention_mask=torch.cat([mask_RS, torch.ones_like(tokens_RL, dtype=torch.bool)], dim=1).long(),
            past_key_values=self._cache,
            use_cache=True,
            **inputs,
        )[0]
        return hidden_RLD


def _padded(sequences: list[tuple[int, ...]], device: torch.device) -> Tensor:
    tensors = [torch.tensor(tokens, dtype=torch.long, device=device) for tokens in sequences]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)


def _sequences(model: Any) -> list[Tensor]:
    """Token sequences that differ, from anywhere in the vocabulary."""
    draw = torch.Generator().manual_seed(0)
    size = model.get_input_embeddings().weight.shape[0]
    return [torch.randint(size, (1, length), generator=draw).to(model.device) for length in LENGTHS]


def _alone(model: Any, sequences: list[Tensor]) -> Tensor:
    return torch.cat([hidden_states(model, tokens)[0] for tokens in sequences])


def _same(model: Any, shortcut: Callable[[], Tensor], plain: Callable[[], Tensor]) -> bool:
    with _still(model):
        try:
            short, long = shortcut(), plain()
        except _UNABLE:
            return False
        return bool((short - long).abs().max() <= TOLERANCE * long.abs().max())


@contextmanager
def _still(model: Any) -> Iterator[None]:
    """Without dropout, gradients and rounding to a narrower format."""
    training = model.training
    model.train(False)
    try:
        with torch.no_grad(), torch.autocast(model.device.type, enabled=False):
            yield
    finally:
        model.train(training)
