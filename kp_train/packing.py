"""Packing for encoder-decoder students: no padding in any linear layer, and attention block by block.

Everything but attention treats positions one by one. So the tokens of all targets stand one after another, in rows
only because the model wants a rectangle; a text may run from one row into the next. Attention takes the positions of
each text out of these rows, attends inside it, and puts the results back. That is what block-diagonal masks say, at
the cost of the blocks alone, and it is exact wherever position enters through offsets within a text only: T5's
relative bias, whose top left corner is the bias of any block.

E inputs (texts of the encoder), N texts of a group or targets, S and L positions of the longest, P and R flat
positions of inputs and labels, B rows, H heads, D size of a head.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

BLOCK_ATTENTION: Final = "kp_blocks"
"""The attention's name among those of transformers; without `packed_blocks` it is plain SDPA."""

PACKED_MODELS: Final = frozenset({"t5", "mt5", "umt5"})
"""Model types of transformers that pack exactly; each has a test."""

ROW: Final = 512
"""Positions of a row, about: the model computes its relative bias for a whole row, so rows must not be endless."""


SPREAD: Final = 2
"""Within a group of texts that are attended to together, the longest is at most this much longer than the shortest."""


@dataclass(frozen=True, slots=True)
class Group:
    """Texts of like length, side by side for attention alone.

    Attributes:
        take_NS: (N, S) int64, flat position of each position of each text; any position beyond a text's end.
        holds_NS: (N, S) bool, whether a text is that long.
    """

    take_NS: Tensor
    holds_NS: Tensor

    @classmethod
    def of_batch(cls, batch: Mapping[str, Tensor], name: str) -> tuple[Group, ...]:
        """The groups that `lay_out` put into a micro-batch under a name."""
        groups: list[Group] = []
        while (take_NS := batch.get(f"{name}_take_{len(groups)}")) is not None:
            positions_S = torch.arange(take_NS.shape[1], device=take_NS.device)
            groups.append(cls(take_NS, positions_S < batch[f"{name}_length_{len(groups)}"][:, None]))
        return tuple(groups)

    def pick(self, flat_PHD: Tensor) -> Tensor:
        """(P, H, D) flat positions to (N, H, S, D), a text each."""
        picked_PHD = flat_PHD.index_select(0, self.take_NS.flatten())
        return picked_PHD.view(*self.take_NS.shape, *flat_PHD.shape[1:]).transpose(1, 2)


@dataclass(frozen=True, slots=True)
class PackedBlocks:
    """What `block_attention` must know of a micro-batch.

    Attributes:
        inputs: the texts of the encoder, in groups.
        labels: those of the decoder.
        reads: for each group of labels, the inputs that they read.
        put_inputs_P: (P,) int64, for each flat position where it is among the positions of all groups, one after
            another; 0 for what is no text's.
        put_labels_R: (R,) the same for labels.
    """

    inputs: tuple[Group, ...]
    labels: tuple[Group, ...]
    reads: tuple[Group, ...]
    put_inputs_P: Tensor
    put_labels_R: Tensor

    @classmethod
    def of_batch(cls, batch: Mapping[str, Tensor]) -> PackedBlocks:
        """From what `lay_out` put into a micro-batch."""
        inputs, labels, reads = (Group.of_batch(batch, name) for name in ("input", "label", "read"))
        return cls(inputs, labels, reads, batch["input_put"], batch["label_put"])

    def sides(self, module: nn.Module) -> tuple[tuple[Group, ...], tuple[Group, ...], Tensor]:
        """Who asks, who is read, and where answers are put, in a layer's kind of attention."""
        if module.is_causal:
            return self.labels, self.labels, self.put_labels_R
        if module.is_decoder:
            return self.labels, self.reads, self.put_labels_R
        return self.inputs, self.inputs, self.put_inputs_P


def lay_out(
    inputs: Sequence[Sequence[int]], labels: Sequence[Sequence[int]], reads: Sequence[int], *, filler: int
) -> dict[str, Tensor]:
    """Texts one after another in rows, and where they are.

    Args:
        inputs: E sequences of tokens, none empty.
        labels: N sequences that the decoder reads, none empty.
        reads: for each label, which input it reads.
        filler: token at the positions left over, fewer than a row's.

    Returns: for each side in `input`, `label`: `{side}_rows` (B, positions of a row), `{side}_put` (P,), and for each
        of its groups number g `{side}_take_{g}` (N, S), `{side}_length_{g}` (N,); the same of `read`, the inputs that
        the labels of a group read. All int64.
    """
    rows = max(1, -(-max(sum(map(len, inputs)), sum(map(len, labels))) // ROW))
    starts = [0, *itertools.accumulate(map(len, inputs))]
    read = [(starts[block], len(inputs[block])) for block in reads]
    groups = _groups([len(label) for label in labels])
    laid = _lay_side("input", inputs, _groups([len(text) for text in inputs]), rows, filler)
    laid |= _lay_side("label", labels, groups, rows, filler)
    for number, group in enumerate(groups):
        laid |= _group(f"read_{{}}_{number}", [read[label] for label in group])
    return laid


def _lay_side(
    side: str, texts: Sequence[Sequence[int]], groups: Sequence[Sequence[int]], rows: int, filler: int
) -> dict[str, Tensor]:
    starts = [0, *itertools.accumulate(map(len, texts))]
    width = max(max(map(len, texts)), -(-starts[-1] // rows))
    flat_P = torch.full((rows * width,), filler)
    flat_P[: starts[-1]] = torch.tensor([token for text in texts for token in text])
    put_P = torch.zeros_like(flat_P)
    laid: dict[str, Tensor] = {}
    begun = 0
    for number, group in enumerate(groups):
        laid |= _group(f"{side}_{{}}_{number}", [(starts[text], len(texts[text])) for text in group])
        longest = max(len(texts[text]) for text in group)
        for place, text in enumerate(group):
            first = begun + place * longest
            put_P[starts[text] : starts[text + 1]] = torch.arange(first, first + len(texts[text]))
        begun += longest * len(group)
    return {**laid, f"{side}_rows": flat_P.view(rows, width), f"{side}_put": put_P}


def _group(name: str, spans: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
    """Indices and lengths of texts that begin here and are so long."""
    start_N, length_N = torch.tensor(spans).T
    offset_S = torch.arange(int(length_N.max()))
    take_NS = start_N[:, None] + torch.minimum(offset_S, length_N[:, None] - 1)
    return {name.format("take"): take_NS, name.format("length"): length_N}


def _groups(lengths: Sequence[int]) -> list[list[int]]:
    """Numbers of texts, those of like length together."""
    groups: list[list[int]] = []
    for text in sorted(range(len(lengths)), key=lambda text: lengths[text]):
        if not groups or lengths[text] > SPREAD * lengths[groups[-1][0]]:
            groups.append([])
        groups[-1].append(text)
    return groups


def use_block_attention(model: Any) -> None:
    """Make a model attend block by block where it is called with `packed_blocks`, and as before elsewhere."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(BLOCK_ATTENTION, block_attention)
    AttentionMaskInterface.register(BLOCK_ATTENTION, sdpa_mask)
    model.set_attn_implementation(BLOCK_ATTENTION)


def block_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    position_bias: Tensor | None = None,
    packed_blocks: PackedBlocks | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of T5 and its relatives, as transformers asks for it; see the module.

    Args:
        module: the layer; `is_decoder` and `is_causal` tell what kind of attention it is.
        query: (B, H, positions, D) in rows; so are key and value.
        attention_mask: unused where blocks are given.
        dropout: of attention weights.
        scaling: of query times key.
        position_bias: (1, H, row, row), T5's bias; its corner belongs to every block.
        packed_blocks: the texts in the rows.

    Returns: (B, positions, H, D), and no weights.
    """
    if packed_blocks is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        plain: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, position_bias=position_bias, **kwargs
        )
        return plain
    all_asks, all_reads, put = packed_blocks.sides(module)
    query_PHD, key_PHD, value_PHD = (states.transpose(1, 2).flatten(0, 1) for states in (query, key, value))
    attended = []
    for asks, reads in zip(all_asks, all_reads, strict=True):
        attended_NHLD = functional.scaled_dot_product_attention(
            asks.pick(query_PHD),
            reads.pick(key_PHD),
            reads.pick(value_PHD),
            attn_mask=_mask(module, position_bias, asks.take_NS.shape[1], reads.holds_NS, query.dtype),
            dropout_p=dropout,
            scale=scaling,
        )
        attended.append(attended_NHLD.transpose(1, 2).flatten(0, 1))
    flat_PHD = torch.cat(attended).index_select(0, put)
    return flat_PHD.view(len(query), -1, *flat_PHD.shape[1:]), None


def _mask(module: nn.Module, bias: Tensor | None, length: int, holds_NS: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to the scores of each block, or a bool mask where T5 has no bias."""
    if module.is_decoder and not module.is_causal:
        return holds_NS[:, None, None, :]
    # Beyond a text's end nothing is read: inputs hide it, and a decoder never looks ahead.
    seen = _lower(length, holds_NS.device) if module.is_causal else holds_NS[:, None, None, :]
    if bias is None:
        return seen
    return torch.where(seen, bias[:, :, :length, :length].to(dtype), torch.finfo(dtype).min)


def _lower(length: int, device: torch.device) -> Tensor:
    return torch.ones(1, 1, length, length, dtype=torch.bool, device=device).tril()
