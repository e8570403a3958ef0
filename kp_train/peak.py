"""What a device can do at most, measured: model FLOP utilisation is the share of it that a run gets."""

from __future__ import annotations

import platform
import time
from functools import cache

import torch

SIDE = 4096
"""Of the square matrices: large enough to fill today's devices, and 32 MiB each."""


@cache
def matmul_peak(device: torch.device, side: int = SIDE) -> float:
    """FLOP/s of the fastest of ten products of two `side` x `side` bfloat16 matrices on an accelerator.

    A data sheet's figure is of no use here: it is for another clock, other limits of power, and sometimes for sparse
    matrices. What a plain product reaches on this very device is what a model could reach.
    """
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(13):  # the first ones load kernels and wake the device
        torch.accelerator.synchronize(device)
        begun = time.perf_counter()
        torch.mm(a, b)
        torch.accelerator.synchronize(device)
        seconds.append(time.perf_counter() - begun)
    return 2 * side**3 / min(seconds[3:])


def peak_of(device: torch.device) -> float | None:
    """`matmul_peak` of an accelerator; None for a CPU, where it depends on what else runs at that moment."""
    return None if device.type == "cpu" else matmul_peak(device)


def device_name(device: torch.device) -> str:
    """A device's name for people, as `NVIDIA H200`, or the kind of CPU and the threads used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"CPU {platform.machine()}, {torch.get_num_threads()} threads"
    return str(device)
