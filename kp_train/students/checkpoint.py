"""Reading checkpoints that others wrote: whatever is wrong with one becomes one message."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from kp_data.errors import ConfigError, KpError

_UNREADABLE = (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError)
"""What transformers, tokenizers and safetensors raise on files that are missing, broken or of something else."""


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Errors of a checkpoint that cannot be read as one of ours; lack of memory stays what it is.

    Raises:
        ConfigError: names the checkpoint and the first line of what was found wrong.
    """
    try:
        yield
    except (KpError, torch.OutOfMemoryError):
        raise
    except _UNREADABLE as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"checkpoint {name!r} cannot be loaded ({first})", place="--student") from error


def read_checkpoint(auto: Any, name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer, in float32 whatever the checkpoint was stored in: small updates vanish in bfloat16.

    Args:
        auto: the class of `transformers` that knows such models, as AutoModelForCausalLM.
        name: a folder or a Hugging Face name.

    Raises:
        ConfigError: it cannot be read, or lacks weights, which transformers would make up at random.
    """
    with readable(name):
        model, found = auto.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(name)
    if missing := sorted(found["missing_keys"]):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ConfigError(
            f"checkpoint {name!r} lacks weights of the model that its config.json describes: {missing[0]}{more}",
            place="--student",
        )
    return model, tokenizer
