"""What a repository or a folder holds already: its files, its versions, and the release that stands there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kp_data.errors import DataError
from kp_data.hub.changelog import CHANGELOG, Facts
from kp_data.hub.release import CARD, MANIFEST, OURS, Previous
from kp_data.hub.remote import Remote, RemoteFile
from kp_data.hub.versions import Version
from kp_data.tables import read_json, read_table


@dataclass(frozen=True)
class State:
    """A repository as it was read, once.

    Attributes:
        head: the commit that `main` stood at; None: empty, or no repository.
        files: path to file there.
        tags: version to commit.
        previous: the release that stands there.
        manifest: its manifest, {} where there is none.
    """

    head: str | None = None
    files: Mapping[str, RemoteFile] = field(default_factory=dict)
    tags: Mapping[Version, str] = field(default_factory=dict)
    previous: Previous = field(default_factory=Previous)
    manifest: Mapping[str, Any] = field(default_factory=dict)

    @property
    def last(self) -> Version | None:
        """The highest version, tagged or not."""
        known = [*self.tags, *([self.previous.version] if self.previous.version else [])]
        return max(known, default=None)


def read_state(remote: Remote) -> State:
    """A repository as it stands now.

    Raises:
        HubError: refused or unreachable.
    """
    head = remote.head()
    files = remote.files(head) if head else {}
    tags = remote.tags()
    texts = {
        path: remote.read(path, head).decode(errors="replace")
        for path in (CARD, CHANGELOG)
        if head is not None and path in files
    }
    if head is None or MANIFEST not in files:
        return State(head, files, tags, Previous(card=texts.get(CARD), changelog=texts.get(CHANGELOG)))
    manifest = parse_manifest(remote.read(MANIFEST, head))
    previous = Previous(
        version=Version.of_tag(str(manifest.get("version"))),
        content=manifest.get("content") or {},
        purified=purified_rows(remote, head, files),
        card=texts.get(CARD),
        changelog=texts.get(CHANGELOG),
        facts=Facts.of(manifest.get("facts")),
    )
    return State(head, files, tags, previous, manifest)


def purified_rows(remote: Remote, revision: str, files: Mapping[str, RemoteFile]) -> pa.Table | None:
    """The purified rows at a commit, by id; None where there are none that can be compared."""
    paths = sorted(path for path in files if path.startswith("purified/") and OURS.fullmatch(path))
    try:
        tables = [pq.read_table(pa.BufferReader(remote.read(path, revision))) for path in paths]
        table = pa.concat_tables(tables, promote_options="permissive") if tables else None
    except pa.ArrowException:
        return None
    return table.sort_by("id") if table is not None and "id" in table.column_names else None


def parse_manifest(data: bytes) -> dict[str, Any]:
    """A manifest; what has another shape than ours counts as not there, because anybody can write to a repository."""
    try:
        manifest = json.loads(data)
    except ValueError:
        return {}
    if not isinstance(manifest, dict):
        return {}
    return {
        key: value
        for key, value in manifest.items()
        if key not in ("content", "changes", "files") or isinstance(value, dict)
    }


def read_written(out: Path) -> tuple[Previous, dict[str, bytes]]:
    """The release that stands in a folder and its files; nothing for a new or empty folder.

    Raises:
        DataError: the folder holds something else, or tables that cannot be read.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return Previous(), {}
    manifest = read_json(out / MANIFEST) if (out / MANIFEST).is_file() else None
    if not isinstance(manifest, dict) or "content" not in manifest or "version" not in manifest:
        raise DataError("holds something that is not a release; choose a new or empty folder", place=out)
    present = {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    texts = {path: present[path].decode(errors="replace") for path in (CARD, CHANGELOG) if path in present}
    previous = Previous(
        Version.parse(str(manifest["version"])),
        manifest["content"],
        release_rows(out),
        texts.get(CARD),
        texts.get(CHANGELOG),
        Facts.of(manifest.get("facts")),
    )
    return previous, present


def release_rows(folder: Path) -> pa.Table | None:
    """The purified rows of a release in a folder, by id; None where there are none that can be compared.

    Raises:
        DataError: a table cannot be read, or tables do not belong together.
    """
    shards = sorted((folder / "purified").glob("*.parquet"))
    tables = [read_table(path) for path in shards if OURS.fullmatch(path.relative_to(folder).as_posix())]
    try:
        table = pa.concat_tables(tables, promote_options="permissive") if tables else None
    except pa.ArrowException as error:
        raise DataError("files that do not belong together; choose a new folder", place=folder / "purified") from error
    return table.sort_by("id") if table is not None and "id" in table.column_names else None


def check_files(folder: Path) -> None:
    """Compare a folder with its manifest, where it has one.

    Raises:
        DataError: a file is missing or has other bytes.
    """
    if not (folder / MANIFEST).is_file():
        return
    listed = parse_manifest((folder / MANIFEST).read_bytes()).get("files")
    for path, facts in (listed or {}).items():
        file = folder / path
        wanted = facts.get("sha256") if isinstance(facts, dict) else None
        if not file.is_file() or file_hash(file) != wanted:
            raise DataError("missing, or not what manifest.json says; fetch it again", place=file)


def file_hash(path: Path) -> str:
    """sha256 of a file, without holding it in memory."""
    with path.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()
