"""Fetch, list and compare what is published."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from kp_data.errors import DataError, HubError
from kp_data.hub.changelog import CHANGELOG, read_entries
from kp_data.hub.release import MANIFEST
from kp_data.hub.remote import Remote
from kp_data.hub.state import check_files, purified_rows, release_rows
from kp_data.hub.versions import RowDiff, Version, diff_rows
from kp_data.tables import read_table


@dataclass(frozen=True, slots=True)
class PublishedVersion:
    """A version that a hub holds.

    Attributes:
        version: X.Y.Z.
        tag: its tag.
        commit: what the tag stands at.
        changes: its entry in the changelog, as Markdown; "" where there is none.
    """

    version: str
    tag: str
    commit: str
    changes: str = ""


def fetch(name: str, *, endpoint: str | None = None, token: str | None = None) -> Path:
    """A local, read-only folder with a published dataset, from the cache where it is there already.

    Args:
        name: `namespace/name`, newest version, or `namespace/name@version` (or a branch or commit after the @).
        endpoint: the hub's URL; default: HF_ENDPOINT, then huggingface.co.
        token: default: HF_TOKEN, or what `hf auth login` saved.

    Raises:
        HubError: no such dataset or version, or the hub refused or cannot be reached.
    """
    remote, revision = _resolve(name, endpoint, token)
    return remote.snapshot(revision)


def pull(name: str, out: Path, *, endpoint: str | None = None, token: str | None = None) -> Path:
    """A copy of a published dataset in a folder of one's own, checked against its manifest.

    The folder appears whole, by a rename, or not at all.

    Args:
        name: as in `fetch`.
        out: a new folder, or one that holds exactly this release already.
        endpoint: as in `fetch`.
        token: as in `fetch`.

    Raises:
        DataError: `out` holds something else or cannot be written, or a file is not what the manifest says.
        HubError: as `fetch`.
    """
    out = Path(out)
    snapshot = fetch(name, endpoint=endpoint, token=token)
    check_files(snapshot)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        theirs, ours = snapshot / MANIFEST, out / MANIFEST
        if theirs.is_file() and ours.is_file() and theirs.read_bytes() == ours.read_bytes():
            check_files(out)
            return out
        raise DataError("holds something else; choose another --out or remove it", place=out)
    try:
        _copy(snapshot, out)
    except OSError as error:
        remedy = "free space or choose another --out; what was fetched is kept in the cache"
        raise DataError(f"cannot be written ({error.strerror or error}); {remedy}", place=out) from error
    return out


def versions(name: str, *, endpoint: str | None = None, token: str | None = None) -> list[PublishedVersion]:
    """The versions of a dataset, newest first, each with what the newest one's changelog says of it.

    Raises:
        HubError: no such dataset, or the hub refused or cannot be reached.
    """
    remote = Remote.at(name, endpoint=endpoint, token=token)
    tags = remote.tags()
    newest = next(iter(tags.values()), None)
    entries: dict[str, str] = {}
    if newest is not None and CHANGELOG in remote.files(newest):
        entries = read_entries(remote.read(CHANGELOG, newest).decode(errors="replace"))
    return [
        PublishedVersion(str(version), version.tag, commit, entries.get(str(version), ""))
        for version, commit in tags.items()
    ]


def diff(name: str, old: str, new: str, *, endpoint: str | None = None, token: str | None = None) -> RowDiff:
    """What changed in the purified rows between two versions, by row id.

    Raises:
        HubError: no such dataset or version, or it holds no purified rows.
    """
    sources = (f"{name}@{old}", f"{name}@{new}")
    return diff_rows(*(read_rows(source, endpoint=endpoint, token=token) for source in sources))


def read_rows(source: str, *, endpoint: str | None = None, token: str | None = None) -> pa.Table:
    """The purified rows of a purified folder, of a release in a folder, or of a published version, by id.

    Args:
        source: a folder, or `namespace/name[@version]`.
        endpoint: as in `fetch`.
        token: as in `fetch`.

    Raises:
        DataError: a folder without purified rows, or with a table that cannot be read.
        HubError: no such dataset or version, or it holds no purified rows.
    """
    folder = Path(source)
    if folder.is_dir():
        single = folder / "purified.parquet"
        table = read_table(single) if single.is_file() else release_rows(folder)
        if table is None or "id" not in table.column_names:
            raise DataError("no purified rows with a column 'id' in this folder", place=folder)
        return table.sort_by("id")
    if "/" not in source or source.startswith((".", "/")):
        raise DataError("no such folder, nor a published dataset, which is written namespace/name", place=source)
    remote, revision = _resolve(source, endpoint, token)
    found = purified_rows(remote, revision, remote.files(revision))
    if found is None:
        raise HubError(f"{source} holds no purified rows with a column 'id'", place=remote.url)
    return found


def _copy(snapshot: Path, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
        copied = Path(temporary) / "copy"
        copied.mkdir()
        for path in sorted(path for path in snapshot.rglob("*") if path.is_file()):
            target = copied / path.relative_to(snapshot)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        if out.exists():
            out.rmdir()
        copied.rename(out)


def _resolve(name: str, endpoint: str | None, token: str | None) -> tuple[Remote, str]:
    """The repository and the commit that `namespace/name[@version]` means."""
    base, _, wanted = name.partition("@")
    remote = Remote.at(base, endpoint=endpoint, token=token)
    tags = remote.tags()
    version = Version.of_tag(wanted) if wanted else next(iter(tags), None)
    if version is not None:
        if version not in tags:
            known = ", ".join(map(str, tags)) or "none yet"
            raise HubError(f"no version {version}; there is {known}", place=remote.url)
        return remote, tags[version]
    with remote.failures("read the dataset"):
        # A commit, not a name: the client's cache may know an older meaning of a name.
        commit = remote.api.repo_info(base, repo_type="dataset", revision=wanted or None).sha
    if commit is None:
        raise HubError("this dataset is empty; push something to it first", place=remote.url)
    return remote, commit
