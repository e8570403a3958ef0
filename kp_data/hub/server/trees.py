"""What a commit holds: folders of entries, stored by content, so that commits share the folders they do not change.

A tree's id is a hash over its entries in canonical form, and it is looked up within its repository only: no id, guessed
or forged, leads out of it. File ids are those that clients compare: git's SHA-1 for files inside commits, SHA-256 for
large ones.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import sqlalchemy as sa

from kp_data.hub.server.database import TREES, put
from kp_data.hub.server.refusals import bad_request

_CACHED_CHARS: Final = 65_536
_REMEMBERED: Final = 16
"""Trees that one request goes back to, above all for the paths of one folder."""


@dataclass(frozen=True, slots=True)
class File:
    """A file of a commit.

    Attributes:
        sha256: of its bytes, which the object store keeps.
        size: in bytes.
        git: the id that git gives its bytes; for a large file, those of its pointer.
        large: tracked by LFS or Xet.
    """

    sha256: str
    size: int
    git: str
    large: bool

    @property
    def etag(self) -> str:
        """By which clients tell versions of a file apart."""
        return self.sha256 if self.large else self.git


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of a commit, by the id of its tree."""

    oid: str


Entry = File | Folder


def large_file(sha256: str, size: int) -> File:
    """The entry of a file that stands in git as a pointer."""
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
    git = hashlib.sha1(b"blob %d\0" % len(pointer) + pointer, usedforsecurity=False).hexdigest()
    return File(sha256, size, git, large=True)


class Trees:
    """The trees of one repository, within a transaction."""

    def __init__(self, connection: sa.Connection, repo: str) -> None:
        self._connection, self._repo = connection, repo
        self._last: OrderedDict[str, Mapping[str, Entry]] = OrderedDict()

    def read(self, oid: str) -> Mapping[str, Entry]:
        """The entries of a tree by name, in order of name."""
        if (found := self._last.get(oid)) is None:
            found = self._last[oid] = self._read(oid)
            if len(self._last) > _REMEMBERED:
                self._last.popitem(last=False)
        return found

    def _read(self, oid: str) -> Mapping[str, Entry]:
        query = sa.select(TREES.c.entries).where(TREES.c.repo == self._repo, TREES.c.oid == oid)
        return _parse(self._connection.execute(query).scalar_one())

    def find(self, oid: str, path: str) -> Entry | None:
        """The entry at a path; the empty path is the tree itself."""
        entry: Entry | None = Folder(oid)
        for name in path.split("/") if path else ():
            entry = self.read(entry.oid).get(name) if isinstance(entry, Folder) else None
        return entry

    def walk(
        self, oid: str, prefix: str = "", *, recursive: bool = True, after: str = ""
    ) -> Iterator[tuple[str, Entry]]:
        """(path, entry) in order of path; folders come before what they hold.

        Args:
            oid: tree to begin with.
            prefix: its path.
            recursive: descend into folders.
            after: leave out everything up to this path, without reading folders that hold nothing else.
        """
        for name, entry in self.read(oid).items():
            path = f"{prefix}/{name}" if prefix else name
            begun = after == path or after.startswith(path + "/")
            if _order(path) > _order(after):
                yield path, entry
            elif not begun:
                continue
            if recursive and isinstance(entry, Folder):
                yield from self.walk(entry.oid, path, after=after)

    def files(self, oid: str) -> Iterator[tuple[str, File]]:
        """(path, file) of every file."""
        return ((path, entry) for path, entry in self.walk(oid) if isinstance(entry, File))

    def change(self, oid: str | None, delete: Mapping[str, bool], add: Mapping[str, File]) -> str:
        """A tree with changes made; stores what is new of it.

        Args:
            oid: of the tree to begin with; None: an empty one.
            delete: paths to remove, and whether each is a folder; they must be there.
            add: path to file, after the removals.

        Returns: the new tree's id.

        Raises:
            Refusal: 400; a file stands where a folder is needed, or the other way round.
        """
        root = Change(self, oid)
        for path in delete:
            root.remove(path.split("/"))
        for path, file in add.items():
            root.put(path.split("/"), file, path)
        return root.store() or self.store({})

    def store(self, entries: Mapping[str, Entry]) -> str:
        """Keep a tree; its id."""
        text = _canonical(entries)
        oid = hashlib.sha256(text.encode()).hexdigest()[:40]
        put(self._connection, TREES, {"repo": self._repo, "oid": oid, "entries": text})
        return oid


class Change:
    """A folder while it is being changed; reads no more folders than the changes touch."""

    def __init__(self, trees: Trees, oid: str | None) -> None:
        self._trees = trees
        self._entries: dict[str, Entry | Change] = dict(trees.read(oid)) if oid else {}

    def remove(self, parts: list[str]) -> None:
        """Remove what stands at a path."""
        name, rest = parts[0], parts[1:]
        if rest and isinstance(entry := self._opened(name), Change):
            entry.remove(rest)
        elif not rest:
            self._entries.pop(name, None)

    def put(self, parts: list[str], file: File, path: str) -> None:
        """Put a file at a path, `path` as the user gave it."""
        name, rest = parts[0], parts[1:]
        entry = self._opened(name)
        if isinstance(entry, Change) and not rest and entry.is_empty:
            entry = None
        if (rest and isinstance(entry, File)) or (not rest and isinstance(entry, Change)):
            raise bad_request(f"{path!r} would be a file and a folder at once")
        if rest:
            folder = entry if isinstance(entry, Change) else Change(self._trees, None)
            self._entries[name] = folder
            folder.put(rest, file, path)
        else:
            self._entries[name] = file

    @property
    def is_empty(self) -> bool:
        """Whether no file is left in it."""
        return all(isinstance(entry, Change) and entry.is_empty for entry in self._entries.values())

    def store(self) -> str | None:
        """Keep it and what it holds; None when nothing is left, for git knows no empty folders."""
        kept: dict[str, Entry] = {}
        for name, entry in self._entries.items():
            if not isinstance(entry, Change):
                kept[name] = entry
            elif oid := entry.store():
                kept[name] = Folder(oid)
        return self._trees.store(kept) if kept else None

    def _opened(self, name: str) -> File | Change | None:
        entry = self._entries.get(name)
        if isinstance(entry, Folder):
            entry = self._entries[name] = Change(self._trees, entry.oid)
        return entry


def _order(path: str) -> list[str]:
    return path.split("/")


def _canonical(entries: Mapping[str, Entry]) -> str:
    rows = [
        [name, entry.oid]
        if isinstance(entry, Folder)
        else [name, entry.git, entry.sha256, entry.size, int(entry.large)]
        for name, entry in sorted(entries.items())
    ]
    return json.dumps(rows, ensure_ascii=False, separators=(",", ":"))


def _parse(text: str) -> Mapping[str, Entry]:
    # Only small trees are kept in memory: 256 of them are 16 MiB at most.
    return _parse_small(text) if len(text) < _CACHED_CHARS else _parse_any(text)


@lru_cache(maxsize=256)
def _parse_small(text: str) -> Mapping[str, Entry]:
    return _parse_any(text)


def _parse_any(text: str) -> Mapping[str, Entry]:
    rows = json.loads(text)
    return {row[0]: Folder(row[1]) if len(row) == 2 else File(row[2], row[3], row[1], bool(row[4])) for row in rows}
