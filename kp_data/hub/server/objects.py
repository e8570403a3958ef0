"""Where the hub keeps bytes: a folder, or any file system that fsspec knows, such as S3.

An object is written once, under a name of its own that holds its hash and a random part, and never changed. Because
no two writes share a name, deleting one object can never take away what somebody else just stored.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

from kp_data.errors import HubError

BLOCK_BYTES: Final = 2**20
_LOCATION: Final = re.compile(r"[0-9a-f]{2}/[0-9a-f]{64}-[0-9a-f]{16}")


class ObjectStore(Protocol):
    """Immutable objects by location."""

    def put(self, digest: str, file: Path) -> str:
        """Take a file in for good; durable when it returns. The file may be gone afterwards. Gives the location."""
        ...

    def open(self, location: str) -> BinaryIO:
        """The object, to be read and sought in."""
        ...

    def delete(self, location: str) -> None:
        """Remove it; gone already is fine."""
        ...

    def locations(self) -> Iterator[tuple[str, float]]:
        """Every object, with the time it was stored."""
        ...


class FolderObjects:
    """Objects in a folder on the same file system as the spool: taking one in is a rename."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True)

    def put(self, digest: str, file: Path) -> str:
        """See `ObjectStore.put`."""
        location = _new_location(digest)
        target = self._root / location
        is_new = not target.parent.exists()
        target.parent.mkdir(exist_ok=True)
        _flush(file)
        file.replace(target)
        _flush(target.parent)
        if is_new:
            _flush(self._root)
        return location

    def open(self, location: str) -> BinaryIO:
        """See `ObjectStore.open`."""
        return (self._root / _checked(location)).open("rb")

    def delete(self, location: str) -> None:
        """See `ObjectStore.delete`."""
        (self._root / _checked(location)).unlink(missing_ok=True)

    def locations(self) -> Iterator[tuple[str, float]]:
        """See `ObjectStore.locations`."""
        for path in self._root.glob("??/*"):
            location = path.relative_to(self._root).as_posix()
            if _LOCATION.fullmatch(location):
                yield location, path.stat().st_mtime


class FsspecObjects:
    """Objects below a URL that fsspec knows; for S3 install the extra `s3`."""

    def __init__(self, url: str) -> None:
        """Open.

        Raises:
            HubError: no such protocol, or its package is missing.
        """
        import fsspec  # type: ignore[import-untyped]

        try:
            self._fs, path = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise HubError(f"cannot keep objects there ({error}); S3 needs the extra `s3`", place=url) from error
        self._path = str(path).rstrip("/")

    def put(self, digest: str, file: Path) -> str:
        """See `ObjectStore.put`."""
        location = _new_location(digest)
        target = f"{self._path}/{location}"
        self._fs.makedirs(target.rpartition("/")[0], exist_ok=True)
        self._fs.put_file(str(file), target)
        return location

    def open(self, location: str) -> BinaryIO:
        """See `ObjectStore.open`."""
        found: Any = self._fs.open(f"{self._path}/{_checked(location)}", "rb", block_size=4 * BLOCK_BYTES)
        return found  # type: ignore[no-any-return]

    def delete(self, location: str) -> None:
        """See `ObjectStore.delete`."""
        if self._fs.exists(target := f"{self._path}/{_checked(location)}"):
            self._fs.rm_file(target)

    def locations(self) -> Iterator[tuple[str, float]]:
        """See `ObjectStore.locations`."""
        for path, info in self._fs.find(self._path, detail=True).items():
            location = "/".join(str(path).split("/")[-2:])
            if _LOCATION.fullmatch(location):
                yield location, _time_of(info)


class Spool:
    """Files on their way in: never seen by readers, swept when their sender does not come back."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def file(self) -> Iterator[Path]:
        """A name for a new file; removed at the end if it is still there."""
        path = self.root / secrets.token_hex(16)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def folder(self, name: str) -> Path:
        """A folder for the parts of one upload, found again by name."""
        path = self.root / hashlib.sha256(name.encode()).hexdigest()
        path.mkdir(exist_ok=True)
        return path

    def sweep(self, *, before: float) -> int:
        """Remove what nobody has touched since; says how many."""
        stale = [path for path in self.root.iterdir() if _touched(path) < before]
        for path in stale:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        return len(stale)


def open_objects(url: str | None, root: Path) -> ObjectStore:
    """The object store of a hub: `objects` in its folder, or below an fsspec URL."""
    return FolderObjects(root / "objects") if url is None else FsspecObjects(url)


def digests(file: BinaryIO) -> tuple[str, str, int]:
    """(SHA-256, the SHA-1 that git gives it as a blob, size) of a file, read once."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    while block := file.read(BLOCK_BYTES):
        sha256.update(block)
        git.update(block)
    return sha256.hexdigest(), git.hexdigest(), size


def read_range(file: BinaryIO, start: int, length: int) -> Iterator[bytes]:
    """`length` bytes from `start` on, a block at a time; closes the file."""
    with file:
        file.seek(start)
        while length > 0 and (block := file.read(min(BLOCK_BYTES, length))):
            length -= len(block)
            yield block


def _new_location(digest: str) -> str:
    return f"{digest[:2]}/{digest}-{secrets.token_hex(8)}"


def _checked(location: str) -> str:
    if not _LOCATION.fullmatch(location):
        raise HubError(f"{location!r} is no location; the hub's metadata is damaged")
    return location


def _flush(path: Path) -> None:
    """Onto the disk, also for a folder's list of names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _touched(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return time.time()


def _time_of(info: dict[str, Any]) -> float:
    """When a store says that a file was written; unknown counts as now, so that it is kept."""
    found = info.get("LastModified") or info.get("mtime") or info.get("created") or time.time()
    return float(found.timestamp() if hasattr(found, "timestamp") else found)
