"""Several processes, one run: what `torchrun` and `accelerate launch` start, as much of it as a run has to know.

Every process plans the whole run and takes its share of each step; the first alone writes and speaks.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those that share a run.

    Attributes:
        rank: its number, from 0.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this one writes and speaks."""
        return self.rank == 0

    @property
    def backend(self) -> str:
        """How processes talk to each other."""
        import torch

        return "nccl" if torch.cuda.is_available() else "gloo"

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        import torch

        return torch.device("cuda", self.local) if torch.cuda.is_available() else torch.device("cpu")

    @property
    def local(self) -> int:
        """Its number on this machine."""
        return int(os.environ.get("LOCAL_RANK", "0"))

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """Meet the other processes, and part from them again; `told` works inside the block."""
        if self.size == 1:
            yield
            return
        import torch
        from torch import distributed

        if torch.cuda.is_available():
            torch.cuda.set_device(self.local)
        distributed.init_process_group(self.backend)
        try:
            yield
        finally:
            distributed.destroy_process_group()

    def told(self, value: Value) -> Value:
        """What the first process says, on all of them."""
        if self.size == 1:
            return value
        from torch import distributed

        message: list[Any] = [value]
        distributed.broadcast_object_list(message, src=0)
        said: Value = message[0]
        return said


def ranks_of_environment() -> Ranks:
    """What the launcher says; a single process where there is none."""
    return Ranks(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
