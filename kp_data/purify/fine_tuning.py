"""Fine-tune an encoder under any head: what the classifier, the similarity router and the verifier share.

Axes: N texts of a batch, L tokens, D hidden size, V validation questions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol, Self

import numpy as np
import torch
from torch import Tensor, nn

from kp_data.errors import ConfigError
from kp_data.purify.encoders import (
    MINILM,
    TOKENS_A_BATCH,
    TOKENS_A_BATCH_GPU,
    batches_by_length,
    count_parameters,
    fast_bfloat16,
    load_pretrained,
    mean_over_tokens,
    padded,
    pick_device,
    save_pretrained,
)

Array = np.ndarray[Any, Any]

FOLDER: Final = "encoder"
"""Where a fine-tuned encoder lies within a router's folder."""
WINDOW: Final = 50
"""Batches that are sorted by length together: alike within a batch, still random over an epoch."""
WARMUP_SHARE: Final = 0.1
CLIP_NORM: Final = 1.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast.

    Attributes:
        encoder_learning_rate, head_learning_rate, weight_decay: of AdamW.
        batch_size: texts a step.
        max_epochs: at most so many.
        patience: epochs without a better one before training stops.
        frozen_layers: lowest layers of the encoder, embeddings with them, that stay as they are.
        decay: how the rates fall, after a warm-up.
    """

    encoder_learning_rate: float
    head_learning_rate: float
    weight_decay: float
    batch_size: int
    max_epochs: int
    patience: int
    frozen_layers: int = 0
    decay: Literal["linear", "cosine"] = "linear"


@dataclass
class TunedEncoder:
    """A transformers encoder with its tokenizer: texts to pooled hidden states, trainable, and kept as safetensors.

    Texts are cut on the left, so that the choices, which stand last, are read whatever the length of a context.
    """

    network: Any
    tokenizer: Any
    device: str
    pooling: str
    max_tokens: int
    batch_size: int = 64
    encoder: str = FOLDER
    num_parameters: int = field(init=False)

    def __post_init__(self) -> None:
        self.num_parameters = count_parameters(self.network)

    @classmethod
    def start(cls, encoder: str, device: str | None, *, max_tokens: int, pooling: str, batch_size: int) -> Self:
        """A pretrained encoder, by path or hub id; `minilm` is the packaged one.

        Raises: ConfigError, when it cannot be loaded.
        """
        where = pick_device(device)
        try:
            return cls._load(encoder, where, max_tokens, pooling, batch_size)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
            message = (
                f"cannot load the encoder ({reason}); give the folder or hub id of an encoder of transformers, "
                f"or '{MINILM}', which is packaged"
            )
            raise ConfigError(message, place=f"encoder '{encoder}'") from error

    @classmethod
    def load(cls, folder: Path, config: dict[str, Any], *, device: str | None, batch_size: int) -> Self:
        """What `save` wrote; nothing is fetched."""
        where = pick_device(device)
        return cls._load(folder / FOLDER, where, int(config["max_tokens"]), str(config["pooling"]), batch_size)

    @classmethod
    def _load(cls, source: str | Path, device: str, max_tokens: int, pooling: str, batch_size: int) -> Self:
        network, tokenizer = load_pretrained(source, cut="left")
        longest = int(getattr(network.config, "max_position_embeddings", max_tokens))
        # Some count two places more than they read; their tokenizers know.
        most = min(max_tokens, longest, int(tokenizer.model_max_length))
        return cls(network.to(device), tokenizer, device, pooling, most, batch_size)

    @property
    def size(self) -> int:
        """Numbers a pooled state."""
        return int(self.network.config.hidden_size)

    def save(self, folder: Path) -> dict[str, Any]:
        """Write weights, configuration and tokenizer below a router's folder; returns what `load` must be told."""
        save_pretrained(self.network, self.tokenizer, folder / FOLDER)
        return {"max_tokens": self.max_tokens, "pooling": self.pooling}

    def prepare(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, at most `max_tokens`."""
        if not texts:
            return []
        ids: list[list[int]] = self.tokenizer(list(texts), truncation=True, max_length=self.max_tokens)["input_ids"]
        return ids

    def pooled(self, ids_NL: Sequence[list[int]]) -> Tensor:
        """(N, D) float32 on the encoder's device: the first token's state, or the mean over tokens."""
        token_NL, mask_NL = padded(ids_NL, filler=self.tokenizer.pad_token_id, most=self.max_tokens, device=self.device)
        kind = self.device.partition(":")[0]
        # bfloat16 for the products, where that is faster; weights, and everything that sums, stay in float32.
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=fast_bfloat16(self.device)):
            hidden_NLD = self.network(input_ids=token_NL, attention_mask=mask_NL).last_hidden_state
        first_ND: Tensor = hidden_NLD[:, 0].float()
        return first_ND if self.pooling == "cls" else mean_over_tokens(hidden_NLD, mask_NL)

    def __call__(self, texts: Sequence[str]) -> Array:
        """(N, D) float32, pooled states of texts; each distinct text is read once."""
        distinct = list(dict.fromkeys(texts))
        state_ND = self.encode(self.prepare(distinct))
        row_of = {text: row for row, text in enumerate(distinct)}
        return state_ND[[row_of[text] for text in texts]]

    def encode(self, ids_NL: Sequence[list[int]]) -> Array:
        """(N, D) float32, pooled states of token ids."""
        state_ND = np.zeros((len(ids_NL), self.size), dtype=np.float32)
        for rows, part_ND in self.states(ids_NL):
            state_ND[rows] = part_ND.cpu().numpy()
        return state_ND

    def states(self, ids_NL: Sequence[list[int]]) -> Iterator[tuple[list[int], Tensor]]:
        """(rows, their pooled states without gradient) in batches of like length, the longest first."""
        self.network.eval()
        budget = TOKENS_A_BATCH if self.device == "cpu" else TOKENS_A_BATCH_GPU
        for rows in batches_by_length([len(ids) for ids in ids_NL], self.batch_size, budget):
            with torch.inference_mode():
                part_ND = self.pooled([ids_NL[row] for row in rows])
            yield rows, part_ND

    def freeze(self, num_layers: int) -> None:
        """Keep the embeddings and the lowest layers as they are; 0 lets everything learn.

        Raises: ConfigError, when the encoder has no such layers.
        """
        if not num_layers:
            return
        layers = getattr(getattr(self.network, "encoder", None), "layer", None)
        if layers is None or num_layers > len(layers):
            has = "no layers that can be told apart" if layers is None else f"{len(layers)} layers"
            most = 0 if layers is None else len(layers)
            raise ConfigError(f"the encoder has {has}; give at most {most}", place="option 'frozen_layers'")
        for part in (self.network.embeddings, *layers[:num_layers]):
            part.requires_grad_(False)


class Reader(Protocol):
    """What can be trained under a head: a `TunedEncoder`, or `FrozenStates`, of which only the head learns."""

    network: Any

    def prepare(self, texts: Sequence[str]) -> Sequence[Any]: ...
    def pooled(self, ids_NL: Sequence[Any]) -> Tensor: ...
    def encode(self, ids_NL: Sequence[Any]) -> Array: ...
    def freeze(self, num_layers: int) -> None: ...


class FrozenStates:
    """Question embeddings that stay as they are."""

    def __init__(self, embed: Callable[[Sequence[str]], Array]) -> None:
        self.embed = embed
        self.network = nn.Module()

    def prepare(self, texts: Sequence[str]) -> list[Array]:
        """One embedding a text."""
        return list(self.embed(texts))

    def pooled(self, ids_NL: Sequence[Array]) -> Tensor:
        """(N, D) float32."""
        return torch.from_numpy(self.encode(ids_NL))

    def encode(self, ids_NL: Sequence[Array]) -> Array:
        """(N, D) float32."""
        return np.stack(ids_NL)

    def freeze(self, num_layers: int) -> None:
        """Nothing to do: all of it is frozen."""


def fine_tune(
    encoder: Reader,
    head: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    texts: Sequence[str],
    *,
    schedule: Schedule,
    validate: Callable[[Array], float],
    validation_texts: Sequence[str],
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Train encoder and head together, and leave both as they were in the epoch that is best on validation.

    Args:
        encoder, head: trained in place.
        loss: (N, D) pooled states and (N,) int rows of `texts` to the loss of the batch.
        texts: training questions.
        schedule: AdamW with a linear warm-up and decay.
        validate: routing accuracy, in [0, 1], of (V, D) pooled states of the validation questions.
        validation_texts: V questions.
        progress: called with (step, steps).

    Returns: epochs, the best one and its accuracy.
    """
    encoder.freeze(schedule.frozen_layers)
    ids_NL, validation_ids = encoder.prepare(texts), encoder.prepare(validation_texts)
    history = train(
        (encoder.network, head),
        lambda rows: loss(encoder.pooled([ids_NL[row] for row in rows]), torch.tensor(rows)),
        (_shuffled(ids_NL, schedule.batch_size) for _ in range(schedule.max_epochs)),
        num_steps=schedule.max_epochs * -(-len(ids_NL) // schedule.batch_size),
        schedule=schedule,
        validate=lambda: validate(encoder.encode(validation_ids)),
        progress=progress,
    )
    best = max(history)
    return {"epochs": len(history), "best_epoch": history.index(best) + 1, "validation_accuracy": best}


def train(
    networks: tuple[nn.Module, nn.Module],
    loss: Callable[[list[int]], Tensor],
    epochs: Iterable[Iterable[list[int]]],
    *,
    num_steps: int,
    schedule: Schedule,
    validate: Callable[[], float],
    progress: Callable[[int, int], None],
) -> list[float]:
    """Train encoder and head in place, and leave both as they were in the epoch that is best on validation.

    Args:
        networks: encoder and head.
        loss: rows of a batch to its loss.
        epochs: the batches of each.
        num_steps: batches of all epochs.
        schedule: AdamW with a warm-up and decay.
        validate: what is to be high after an epoch.
        progress: called with (step, steps).

    Returns: what `validate` said after each epoch; where it never said a number, both are as they were.
    """
    from transformers import get_scheduler

    both = nn.ModuleList(networks)
    optimizer = _optimizer(*networks, schedule)
    rate = get_scheduler(schedule.decay, optimizer, int(WARMUP_SHARE * num_steps), num_steps)
    history: list[float] = []
    best, best_epoch, kept, done = -math.inf, 0, _copied(both), 0
    for epoch, batches in enumerate(epochs, start=1):
        both.train()
        for rows in batches:
            optimizer.zero_grad()
            loss(rows).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(both.parameters(), CLIP_NORM)
            optimizer.step()
            rate.step()
            done += 1
            progress(done, num_steps)
        both.eval()
        history.append(validate())
        if history[-1] > best:
            best, best_epoch, kept = history[-1], epoch, _copied(both)
        if epoch - best_epoch >= schedule.patience:
            break
    both.load_state_dict(kept)
    return history


def _optimizer(network: nn.Module, head: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    learning = [weight for weight in network.parameters() if weight.requires_grad]
    groups: list[dict[str, Any]] = [{"params": list(head.parameters()), "lr": schedule.head_learning_rate}]
    if learning:
        groups.append({"params": learning, "lr": schedule.encoder_learning_rate})
    return torch.optim.AdamW(groups, weight_decay=schedule.weight_decay)


def _shuffled(ids_NL: Sequence[Sized], batch_size: int) -> Iterator[list[int]]:
    """Rows of one epoch in random batches of like length."""
    order = torch.randperm(len(ids_NL)).tolist()
    batches = []
    for start in range(0, len(order), WINDOW * batch_size):
        window = sorted(order[start : start + WINDOW * batch_size], key=lambda row: len(ids_NL[row]))
        batches += [window[first : first + batch_size] for first in range(0, len(window), batch_size)]
    yield from (batches[number] for number in torch.randperm(len(batches)).tolist())


def _copied(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
