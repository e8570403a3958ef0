"""`--shard`: weights, gradients and optimiser spread over the processes of a run (FSDP2), instead of a copy on each.

Every repeated layer is a shard of its own, gathered when it is needed and let go afterwards; what is left (embeddings,
head) is gathered for a whole forward pass. Checkpoints hold whole tensors, so they do not depend on how many processes
there were.
Source: PyTorch's `fully_shard`.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule, fully_shard

WEIGHTS: Final = "model.safetensors"
OPTIMISER: Final = "optimizer.pt"

_WHOLE: Final = StateDictOptions(full_state_dict=True, cpu_offload=True)
_LOADED: Final = StateDictOptions(full_state_dict=True, strict=False)


@contextlib.contextmanager
def without_view_warnings() -> Iterator[None]:
    """FSDP2 warns of every layer that returns a view, as T5's do with their bias; nobody changes it in place."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module", category=UserWarning)
        yield


class Shards:
    """A model spread over the processes."""

    def __init__(self, model: Any, device: torch.device) -> None:
        """Shard a model in place; a copy of it as it was stays in the host's memory, for the end."""
        self.model = model
        self._plain = copy.deepcopy(model)
        model.to(device)
        for layer in repeated_layers(model):
            fully_shard(layer)
        fully_shard(model)

    @contextlib.contextmanager
    def gathered(self) -> Iterator[None]:
        """All weights whole on every process, for code that calls parts of the model by themselves."""
        parts = [part for part in self.model.modules() if isinstance(part, FSDPModule)]
        for part in parts:
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()
        try:
            yield
        finally:
            for part in parts:
                part.reshard()
                part.set_reshard_after_forward(part is not self.model, recurse=False)

    @contextlib.contextmanager
    def without_exchange(self) -> Iterator[None]:
        """Gradients add up on each process, and are exchanged by the first backward pass outside the block."""
        self.model.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            self.model.set_requires_gradient_sync(True)

    def weights(self) -> dict[str, Tensor]:
        """Whole weights in the host's memory; on the first process alone. All processes must ask."""
        weights: dict[str, Any] = get_model_state_dict(self.model, options=_WHOLE)
        return weights

    def save_weights(self, folder: Path) -> None:
        """Whole weights as safetensors, by the first process. All processes must ask."""
        weights = self.weights()
        if weights:
            folder.mkdir(parents=True, exist_ok=True)
            # Tied weights are one tensor under several names, which the format does not know.
            save_file({name: weight.clone().contiguous() for name, weight in weights.items()}, folder / WEIGHTS)

    def load_weights(self, folder: Path) -> None:
        """What `save_weights` wrote."""
        set_model_state_dict(self.model, load_file(folder / WEIGHTS), options=_LOADED)

    def save_optimiser(self, optimiser: torch.optim.Optimizer, folder: Path) -> None:
        """Its whole state, by the first process. All processes must ask."""
        state = get_optimizer_state_dict(self.model, optimiser, options=_WHOLE)
        if state:
            torch.save(state, folder / OPTIMISER)

    def load_optimiser(self, optimiser: torch.optim.Optimizer, folder: Path) -> None:
        """What `save_optimiser` wrote."""
        state = torch.load(folder / OPTIMISER, map_location="cpu", weights_only=True)
        set_optimizer_state_dict(self.model, optimiser, state, options=_LOADED)

    def whole_model(self) -> Any:
        """The trained model in one piece; on the first process alone. All processes must ask."""
        weights: Mapping[str, Tensor] = self.weights()
        if weights:
            self._plain.load_state_dict(weights)
        return self._plain


def repeated_layers(model: nn.Module) -> list[nn.Module]:
    """The repeated layers of a transformer: what lies in a module list that lies in no other."""
    layers: list[nn.Module] = []
    for child in model.children():
        layers += list(child) if isinstance(child, nn.ModuleList) else repeated_layers(child)
    return layers
