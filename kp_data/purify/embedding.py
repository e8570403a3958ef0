"""Sentence embeddings of texts: the frozen eyes of every router.

Axes: N texts, D embedding size.
A text is embedded once: within a call, within the life of an `Embedder`, and, through the cache on disk, between runs.

What is equal to the last bit. `minilm` on a CPU gives the same bytes for the same text whatever batch it is in and
whatever the caches hold, on one kind of processor with one version of torch. Another kind of processor, a GPU, or an
encoder by path or hub id can differ in the last bits, there also between batches; the cache never mixes them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from kp_data.purify.embedding_cache import EmbeddingCache, cache_file
from kp_data.purify.encoders import MINILM, Encoder, LoadEncoder, Precision, load_encoder

Array = np.ndarray[Any, Any]
Progress = Callable[[int, int], None]

REMEMBERED: Final = 200_000
"""Texts that an embedder keeps in memory between calls; the cache on disk has the rest."""
WRITTEN_AT_ONCE: Final = 2048
BLOCK: Final = 16_384

__all__ = ["MINILM", "Embedder", "embed_texts"]


def embed_texts(
    texts: Sequence[str],
    *,
    encoder: str = MINILM,
    batch_size: int = 64,
    device: str | None = None,
    progress: Progress | None = None,
    precision: Precision = "auto",
) -> Array:
    """One unit vector a text; a text that stands twice is embedded once.

    Args:
        texts: N texts; a long one is cut where the encoder stops reading (256 tokens for `minilm`).
        encoder: `minilm` (packaged, no network), or a path or hub id of a sentence-transformers model.
        batch_size: most texts a forward pass; long texts come fewer at a time.
        device: torch device; default: CUDA where there is one, else CPU.
        progress: called with (done, total) distinct texts after each batch.
        precision: `float32`, `bfloat16`, or `auto`: bfloat16 for `minilm` where the processor is faster at it.

    Returns: (N, D) float32, rows of length 1.
    Raises: ConfigError, when the device is not there or the encoder cannot be loaded.
    Source: Reimers and Gurevych, Sentence-BERT (arXiv:1908.10084): mean over tokens, then normalised. Differs: in
    bfloat16 by less than 0.001 in cosine (`tests/benchmarks/embedding.py` measures it).
    """
    return Embedder(encoder, batch_size=batch_size, device=device, progress=progress, precision=precision)(texts)


@dataclass
class Embedder:
    """An encoder that is loaded at its first use, and remembers.

    Attributes:
        encoder, batch_size, device, progress, precision: as in `embed_texts`.
        cache: file of the embeddings of earlier runs; None: none is read or written.
        load: how the encoder is made; see `kp_data.purify.embedding_cluster` for one on many machines.
    """

    encoder: str = MINILM
    batch_size: int = 64
    device: str | None = None
    progress: Progress | None = None
    precision: Precision = "auto"
    cache: Path | None = field(default_factory=cache_file)
    load: LoadEncoder = field(default=load_encoder, repr=False)
    _model: Encoder | None = field(default=None, init=False, repr=False)
    _disk: EmbeddingCache | None = field(default=None, init=False, repr=False)
    _known: dict[str, Array] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, texts: Sequence[str]) -> Array:
        """(N, D) float32, one unit vector a text; see `embed_texts`."""
        if not texts:
            return np.zeros((0, self.model.size), dtype=np.float32)
        missing = list(dict.fromkeys(text for text in texts if text not in self._known))
        self._embed(missing)
        vector_ND = np.stack([self._known[text] for text in texts])
        self._forget_all_but(REMEMBERED)
        return vector_ND

    def stream(self, texts: Iterable[str], *, block: int = BLOCK) -> Iterator[Array]:
        """(N, D) float32 of every `block` texts in turn: memory does not grow with their number."""
        for part in _batched(texts, block):
            yield self(part)
            self._forget_all_but(block)

    @property
    def model(self) -> Encoder:
        """The encoder itself, loaded when first asked for."""
        if self._model is None:
            self._model = self.load(self.encoder, self.device, self.precision)
        return self._model

    @property
    def num_parameters(self) -> int:
        """Parameters of the encoder."""
        return self.model.num_parameters

    def _embed(self, missing: list[str]) -> None:
        """Bring every missing text into memory, from disk or from the encoder."""
        if missing and (disk := self._disk_cache()) is not None:
            self._known.update(disk.read(missing, self.model.size))
            missing = [text for text in missing if text not in self._known]
        # Longest first: batches hold texts of like length, and a memory limit shows in the first batch, not the last.
        missing.sort(key=len, reverse=True)
        done, unwritten = 0, list[tuple[str, Array]]()
        for rows, vector_ND in self.model.batches(missing, self.batch_size) if missing else ():
            batch = [(missing[row], vector_D) for row, vector_D in zip(rows, vector_ND, strict=True)]
            self._known.update(batch)
            unwritten += batch
            done += len(batch)
            # Kept as it goes, so that an interrupted run finds what it has paid for.
            if len(unwritten) >= WRITTEN_AT_ONCE or done == len(missing):
                self._keep(unwritten)
                unwritten = []
            if self.progress is not None:
                self.progress(done, len(missing))

    def _forget_all_but(self, latest: int) -> None:
        for text in list(itertools.islice(self._known, max(0, len(self._known) - latest))):
            del self._known[text]

    def _keep(self, known: list[tuple[str, Array]]) -> None:
        if (disk := self._disk_cache()) is not None:
            disk.write(known)

    def _disk_cache(self) -> EmbeddingCache | None:
        if self._disk is None and self.cache is not None:
            self._disk = EmbeddingCache(self.cache, self.model.identity)
        return self._disk


def _batched(texts: Iterable[str], size: int) -> Iterator[tuple[str, ...]]:
    # itertools.batched came with Python 3.12.
    remaining = iter(texts)
    while part := tuple(itertools.islice(remaining, size)):
        yield part
