from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from kp_data.errors import ConfigError
from kp_train.memory import advice, telling_out_of_memory


def _ask_for_too_much() -> None:
    torch.empty(2**60, dtype=torch.uint8)


def _device_is_full() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.mark.parametrize("happen", [_ask_for_too_much, _device_is_full])
def test_memory_that_runs_out_is_one_error_with_the_option_to_change(happen: Callable[[], None]) -> None:
    advised = r"--batch-tokens 2048, then --gradient-checkpointing"
    with pytest.raises(ConfigError, match=advised), telling_out_of_memory(4096, False):
        happen()


def test_other_errors_are_left_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="size mismatch"), telling_out_of_memory(None, False):
        raise RuntimeError("size mismatch")


def test_advice_names_what_has_not_been_tried() -> None:
    assert "--batch-tokens 8192" in advice(None, False)
    assert "--batch-tokens 256" in advice(300, False)
    assert "--gradient-checkpointing" not in advice(4096, True)
