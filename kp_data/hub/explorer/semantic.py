"""Rows that mean something similar: unit vectors on disk, searched exactly or, when there are many, by faiss.

Axes: N rows, D embedding size.
Vectors are float16 in a file. Up to EXACT_ROWS every one is compared; above, an inverted file of one bit a dimension
(RaBitQ, arXiv:2405.12497; in memory: about 60 bytes a row of 384) names candidates, and the vectors in the file rank
these.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kp_data.errors import DataError
from kp_data.hub.explorer.dataset import Part

Array = np.ndarray[Any, Any]

EXACT_ROWS: Final = 50_000
MAX_EMBEDDED: Final = 100_000
"""Rows that are embedded here; larger parts are searched by meaning only if they bring a column of embeddings."""

EMBEDDING: Final = "embedding"
"""The column that holds stored embeddings: lists of numbers of one length, made by `minilm` to be searched by text."""

VECTORS: Final = "vectors.f16"
CODES: Final = "codes.faiss"
ABOUT: Final = "about.json"

_BLOCK: Final = 8_192
_TRAINED_ON: Final = 100_000
_PROBED: Final = 48
_CANDIDATES: Final = 400
_CHECKED: Final = 100


def can_embed(part: Part) -> bool:
    """Whether rows of a part can be searched by meaning: it brings embeddings, or it has texts, and not too many."""
    return stored_size(part) is not None or (text_column(part) is not None and part.num_rows <= MAX_EMBEDDED)


def stored_size(part: Part) -> int | None:
    """The size of the embeddings that a part brings; None: it brings none."""
    if EMBEDDING not in part.schema.names:
        return None
    kind = part.schema.field(EMBEDDING).type
    return int(kind.list_size) if pa.types.is_fixed_size_list(kind) else None


def text_column(part: Part) -> str | None:
    """The column that says what a row is about."""
    texts = [name for name, kind in part.kinds.items() if kind == "text" and name not in ("id", "split")]
    return "question" if "question" in texts else "rationale" if "rationale" in texts else next(iter(texts), None)


def build_semantic(part: Part, folder: Path, progress: Callable[[float], None] = lambda _: None) -> None:
    """Write vectors and codes of a part into an empty folder.

    Raises:
        DataError: the embeddings that the part brings are not usable.
    """
    size, num_rows = _write_vectors(part, folder, progress), part.num_rows
    about: dict[str, Any] = {"rows": num_rows, "size": size, "recall": 1.0}
    if num_rows > EXACT_ROWS:
        about["recall"] = _write_codes(folder, num_rows, size)
    (folder / ABOUT).write_text(json.dumps(about), encoding="utf-8")


class Semantic:
    """Searches vectors that were built."""

    def __init__(self, folder: Path) -> None:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        self.size, self.recall = int(about["size"]), float(about["recall"])
        """Embedding size; share of the true ten nearest that were found when the codes were checked."""
        self._path = folder / VECTORS
        self._vector_ND = np.memmap(self._path, np.float16, "r", shape=(int(about["rows"]), self.size))
        self._codes = _read_codes(folder / CODES) if (folder / CODES).is_file() else None

    def vector(self, row: int) -> Array:
        """(D,) float32 of a row."""
        return np.asarray(self._read(np.array([row]))[0])

    def nearest(self, vector_D: Array, k: int) -> list[tuple[int, float]]:
        """(row number, cosine) of the k nearest rows, nearest first."""
        if self._codes is None:
            cosine_N = np.zeros(len(self._vector_ND), np.float32)
            for block_ND, out_N in zip(_blocks(self._vector_ND), _blocks(cosine_N), strict=True):
                np.matmul(np.asarray(block_ND, np.float32), vector_D, out=out_N)
            return _best(np.arange(len(cosine_N)), cosine_N, k)
        _, found = self._codes.search(vector_D[None, :].astype(np.float32), max(k, _CANDIDATES))
        rows = np.unique(found[0][found[0] >= 0])
        return _best(rows, self._read(rows) @ vector_D, k)

    def _read(self, rows: Array) -> Array:
        """(N, D) float32 of some rows: read and not mapped, for mapped pages stay in the memory of the process."""
        width = 2 * self.size
        with self._path.open("rb", buffering=0) as file:
            stored = b"".join(os.pread(file.fileno(), width, width * int(row)) for row in rows)
        return np.frombuffer(stored, np.float16).reshape(len(rows), self.size).astype(np.float32)


def _best(rows: Array, cosine: Array, k: int) -> list[tuple[int, float]]:
    order = np.argsort(-cosine, kind="stable")[:k]
    return [(int(rows[place]), float(cosine[place])) for place in order]


def _write_vectors(part: Part, folder: Path, progress: Callable[[float], None]) -> int:
    """Unit vectors of all rows, a block in memory at a time; their size."""
    size, done, num_rows = 0, 0, max(1, part.num_rows)
    with (folder / VECTORS).open("wb") as file:
        for block_ND in _stored(part) if stored_size(part) is not None else _embedded(part):
            size = block_ND.shape[1]
            norm_N = np.linalg.norm(block_ND, axis=1, keepdims=True)
            file.write((block_ND / np.where(norm_N > 0, norm_N, 1)).astype(np.float16).tobytes())
            done += len(block_ND)
            progress(min(0.9, done / num_rows))
    return size


def _stored(part: Part) -> Iterator[Array]:
    size = stored_size(part)
    assert size is not None
    for file in part.files:
        with pq.ParquetFile(file) as opened:
            for batch in opened.iter_batches(_BLOCK, columns=[EMBEDDING]):
                flat = batch.column(0).flatten().to_numpy(zero_copy_only=False)
                if flat.size != len(batch) * size:
                    raise DataError(f"column '{EMBEDDING}' holds missing values; publish it whole", place=file.name)
                yield flat.reshape(-1, size).astype(np.float32)


def _embedded(part: Part) -> Iterator[Array]:
    from kp_data.purify.embedding import Embedder

    column = text_column(part)
    assert column is not None
    embedder = Embedder()
    for file in part.files:
        with pq.ParquetFile(file) as opened:
            for batch in opened.iter_batches(_BLOCK, columns=[column]):
                yield embedder([text or "" for text in batch.column(0).to_pylist()])


def _write_codes(folder: Path, num_rows: int, size: int) -> float:
    """An inverted file over binary codes; the share of true neighbours that it finds."""
    import faiss

    vector_ND = np.memmap(folder / VECTORS, np.float16, "r", shape=(num_rows, size))
    draw = np.random.default_rng(0)
    sample = np.sort(draw.choice(num_rows, min(_TRAINED_ON, num_rows), replace=False))
    lists = int(min(4096, max(16, num_rows**0.5)))
    index = faiss.index_factory(size, f"IVF{lists},RaBitQ", faiss.METRIC_INNER_PRODUCT)
    index.train(np.asarray(vector_ND[sample], np.float32))
    for block_ND in _blocks(vector_ND):
        index.add(np.asarray(block_ND, np.float32))
    faiss.write_index(index, str(folder / CODES))
    return _recall(folder, num_rows, size)


def _recall(folder: Path, num_rows: int, size: int) -> float:
    """Recall at ten over some rows, each searched as its own query."""
    codes = _read_codes(folder / CODES)
    vector_ND = np.memmap(folder / VECTORS, np.float16, "r", shape=(num_rows, size))
    rows = np.random.default_rng(1).choice(num_rows, min(_CHECKED, num_rows), replace=False)
    query_QD = np.asarray(vector_ND[np.sort(rows)], np.float32)
    truth = _exact(vector_ND, query_QD)
    _, found = codes.search(query_QD, _CANDIDATES)
    shares = [len(set(true) & set(near)) / len(true) for true, near in zip(truth, found.tolist(), strict=True)]
    return float(np.mean(shares))


def _exact(vector_ND: Array, query_QD: Array, k: int = 10) -> list[list[int]]:
    best: list[list[tuple[float, int]]] = [[] for _ in query_QD]
    start = 0
    for block_ND in _blocks(vector_ND):
        cosine_QN = query_QD @ np.asarray(block_ND, np.float32).T
        place_Qk = np.argpartition(-cosine_QN, min(k, cosine_QN.shape[1] - 1), axis=1)[:, :k]
        for query, places in enumerate(place_Qk):
            best[query] += [(float(cosine_QN[query, place]), start + int(place)) for place in places]
            best[query] = sorted(best[query], reverse=True)[:k]
        start += len(block_ND)
    return [[row for _, row in each] for each in best]


def _blocks(vector_ND: Array) -> Iterator[Array]:
    return (vector_ND[start : start + _BLOCK] for start in range(0, len(vector_ND), _BLOCK))


def _read_codes(path: Path) -> Any:
    import faiss

    codes: Any = faiss.read_index(str(path))
    codes.nprobe = _PROBED
    return codes
