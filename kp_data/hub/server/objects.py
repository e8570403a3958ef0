"""Where the hub keeps bytes: a folder, or any file system that fsspec knows, such as S3.

An object is written once, under a name of its own that holds its hash and a random part, and never changed. Because
no two writes share a name, deleting one object can never take away what somebody else just stored.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol
from urllib.parse import parse_qs, urlsplit

from kp_data.errors import HubError

BLOCK_BYTES: Final = 2**20
_MARK: Final = "hub-id"
_S3_OPTIONS: Final = {"config_kwargs": {"signature_version": "s3v4"}}
"""Older signatures do not cover the range of bytes that an address is for."""
_FLAT: Final = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "az", "memory"})
"""Stores without folders, where making one costs a call, or makes something else."""
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

    def address(self, location: str, *, lasts_s: float, name: str, span: tuple[int, int] | None = None) -> str | None:
        """An address by which anybody reads the object, or its bytes from the first to the last of `span`, for a while.

        None: there is no such address, and the hub must pass the bytes on itself.
        """
        ...

    def mark(self) -> str | None:
        """The hub whose objects these are; None: nobody has said so yet."""
        ...

    def set_mark(self, hub: str) -> None:
        """Note whose objects these are."""
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

    def address(self, location: str, *, lasts_s: float, name: str, span: tuple[int, int] | None = None) -> str | None:
        """See `ObjectStore.address`; a folder has none."""
        return None

    def mark(self) -> str | None:
        """See `ObjectStore.mark`."""
        path = self._root / _MARK
        return path.read_text() if path.exists() else None

    def set_mark(self, hub: str) -> None:
        """See `ObjectStore.set_mark`."""
        fresh = self._root / f"{_MARK}.{secrets.token_hex(8)}"
        fresh.write_text(hub)
        fresh.replace(self._root / _MARK)


class FsspecObjects:
    """Objects below a URL that fsspec knows; for S3 install the extra `s3`.

    Whatever the file system's own library raises comes as an OSError.
    """

    def __init__(self, url: str) -> None:
        """Open.

        Raises:
            HubError: no such protocol, or its package is missing.
        """
        import fsspec  # type: ignore[import-untyped]

        try:
            # Another process may have changed what a listing held a moment ago, or where the store is.
            options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
            options |= _S3_OPTIONS if url.startswith(("s3:", "s3a:")) else {}
            self._fs, path = fsspec.core.url_to_fs(url, **options)
        except (ImportError, ValueError) as error:
            reason = f"cannot keep objects there ({error}); S3 needs the extra `s3`"
            raise HubError(reason, place=without_password(url)) from error
        self._path = str(path).rstrip("/")
        kinds = self._fs.protocol if isinstance(self._fs.protocol, tuple) else (self._fs.protocol,)
        self._is_s3, self._has_folders = "s3" in kinds, not _FLAT.intersection(kinds)

    def put(self, digest: str, file: Path) -> str:
        """See `ObjectStore.put`."""
        location = _new_location(digest)
        target = f"{self._path}/{location}"
        with _as_os_error():
            if self._has_folders:
                self._fs.makedirs(target.rpartition("/")[0], exist_ok=True)
            self._fs.put_file(str(file), target)
        return location

    def open(self, location: str) -> BinaryIO:
        """See `ObjectStore.open`."""
        path = f"{self._path}/{_checked(location)}"
        with _as_os_error():
            found: Any = self._fs.open(path, "rb", block_size=4 * BLOCK_BYTES)
        return found  # type: ignore[no-any-return]

    def delete(self, location: str) -> None:
        """See `ObjectStore.delete`."""
        with suppress(FileNotFoundError), _as_os_error():
            self._fs.rm_file(f"{self._path}/{_checked(location)}")

    def locations(self) -> Iterator[tuple[str, float]]:
        """See `ObjectStore.locations`."""
        with _as_os_error():
            found = self._fs.find(self._path, detail=True)
        for path, info in found.items():
            location = "/".join(str(path).split("/")[-2:])
            if _LOCATION.fullmatch(location):
                yield location, _time_of(info)

    def address(self, location: str, *, lasts_s: float, name: str, span: tuple[int, int] | None = None) -> str | None:
        """See `ObjectStore.address`."""
        more = {}
        if self._is_s3:
            more = {"ResponseContentType": "application/octet-stream"}
            more["ResponseContentDisposition"] = f'attachment; filename="{name}"'
            # Signed along: the address is good for no other range than this.
            more |= {"Range": f"bytes={span[0]}-{span[1]}"} if span else {}
        elif span:
            return None
        try:
            with _as_os_error():
                found = str(self._fs.sign(f"{self._path}/{_checked(location)}", expiration=int(lasts_s), **more))
        except NotImplementedError:
            return None
        signed = parse_qs(urlsplit(found).query).get("X-Amz-SignedHeaders", [""])[0]
        # An address that opens the whole where a part was asked for would show chunks of others.
        return found if span is None or "range" in signed.split(";") else None

    def mark(self) -> str | None:
        """See `ObjectStore.mark`."""
        with suppress(FileNotFoundError), _as_os_error():
            return str(self._fs.cat_file(f"{self._path}/{_MARK}").decode())
        return None

    def set_mark(self, hub: str) -> None:
        """See `ObjectStore.set_mark`."""
        with _as_os_error():
            if self._has_folders:
                self._fs.makedirs(self._path, exist_ok=True)
            self._fs.pipe_file(f"{self._path}/{_MARK}", hub.encode())


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

    def folder(self, repo: str, oid: str) -> Path:
        """A folder for the parts of one upload, found again by what it is of: names of the hub's own making."""
        path = self.root / f"{repo}-{oid}"
        path.mkdir(exist_ok=True)
        return path

    def waiting(self, repo: str) -> int:
        """The size in bytes of all parts that have come for a repository."""
        return sum(_size_of(part) for part in self.root.glob(f"{repo}-*/*"))

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


def without_password(url: str) -> str:
    """A URL for messages.

    >>> without_password("sftp://me:secret@host/folder")
    'sftp://host/folder'
    """
    return re.sub(r"//[^/@]*@", "//", url)


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


@contextmanager
def _as_os_error() -> Iterator[None]:
    try:
        yield
    except (OSError, NotImplementedError):
        raise
    except Exception as error:
        raise OSError(errno.EIO, f"the object store failed: {str(error)[:300] or type(error).__name__}") from error


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


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _time_of(info: dict[str, Any]) -> float:
    """When a store says that a file was written; unknown counts as now, so that it is kept."""
    found = info.get("LastModified") or info.get("mtime") or info.get("created") or time.time()
    return float(found.timestamp() if hasattr(found, "timestamp") else found)
