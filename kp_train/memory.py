"""Running out of memory in training is no crash but advice: which option, and which value."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from kp_data.errors import ConfigError

START_TOKENS: Final = 8192
"""What to try as --batch-tokens first: fills a large device, and fits a small one with a small student."""


@contextlib.contextmanager
def telling_out_of_memory(batch_tokens: int | None, gradient_checkpointing: bool) -> Iterator[None]:
    """Turn out-of-memory errors inside the block into advice.

    Args:
        batch_tokens: positions of a micro-batch as the run has them; None: unlimited.
        gradient_checkpointing: whether activations are computed twice already.

    Raises:
        ConfigError: memory ran out.
    """
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
        if not _is_shortage(error):
            raise
        raise ConfigError(advice(batch_tokens, gradient_checkpointing)) from error


def advice(batch_tokens: int | None, gradient_checkpointing: bool) -> str:
    """What to change, the gentlest first; the same run goes on, for none of it changes the result."""
    tokens = START_TOKENS if batch_tokens is None else max(256, batch_tokens // 2)
    tries = [f"--batch-tokens {tokens}"]
    if not gradient_checkpointing:
        tries.append("--gradient-checkpointing")
    tries += ["--bf16 or --lora-rank 16 (in another --out)", "a smaller student"]
    return (
        "memory is not enough for one micro-batch, or for the student with its optimiser; run the same command with "
        f"{', then '.join(tries[:2])}, then {', '.join(tries[2:])}"
    )


def _is_shortage(error: BaseException) -> bool:
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return any(sign in text for sign in ("not enough memory", "can't allocate memory", "cannot allocate memory"))
