"""Which files are large: kept out of git's own objects, and sent by LFS or Xet."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Final

INLINE_MAX_BYTES: Final = 4 * 2**20

EXTENSIONS: Final = (
    *("7z", "arrow", "avro", "bin", "bz2", "ckpt", "db", "duckdb", "feather", "ftz", "gguf", "gz", "h5", "joblib"),
    *("jpeg", "jpg", "lance", "lz4", "mds", "mlmodel", "model", "mp3", "mp4", "msgpack", "npy", "npz", "onnx", "orc"),
    *("ot", "parquet", "pb", "pdf", "pickle", "pkl", "png", "pt", "pth", "rar", "safetensors", "sqlite", "tar"),
    *("tflite", "tgz", "wasm", "wav", "webp", "xz", "zip", "zst"),
)
"""Files that do not diff: always large, whatever their size. `datasets` relies on it for Parquet."""

GIT_ATTRIBUTES: Final = "".join(f"*.{name} filter=lfs diff=lfs merge=lfs -text\n" for name in EXTENSIONS).encode()


def is_large(path: str, size: int, sample: bytes) -> bool:
    """Whether a file goes by LFS or Xet.

    Args:
        path: in the repository.
        size: in bytes; empty files never do, for clients cannot send them so.
        sample: its first bytes.
    """
    if size == 0:
        return False
    known = PurePosixPath(path).suffix.lower().lstrip(".") in EXTENSIONS
    return known or size > INLINE_MAX_BYTES or b"\0" in sample
