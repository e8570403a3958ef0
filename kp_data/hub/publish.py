"""Publish a purified folder with versions, and fetch, list and compare what is published.

A push is one commit and then one tag. Interrupted between the two, the next push finds the manifest of a version that
has no tag and finishes it. Overtaken by somebody else, it reads again, builds again and tries again.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from kp_data.errors import DataError, HubError
from kp_data.hub.cards import CardSettings
from kp_data.hub.release import CARD, MANIFEST, OURS, Previous, Release, Source, assemble, is_unchanged, read_source
from kp_data.hub.remote import Overtaken, Remote, RemoteFile, check_name
from kp_data.hub.versions import Bump, RowDiff, Version, diff_rows, next_version
from kp_data.tables import read_json, read_table, replacing

MAX_ATTEMPTS: Final = 80


@dataclass(frozen=True)
class PushResult:
    """What a push did.

    Attributes:
        repo: `namespace/name`.
        version: the version that now holds this data, X.Y.Z.
        commit: its commit; None for a dry run.
        uploaded_bytes: size of the files that were new or different; a hub that stores chunks may have taken less.
        rows_added: purified rows, by id, against the version before; likewise removed and changed.
        unchanged: the hub holds exactly this already, so nothing was written.
        url: where to look at it, or the folder of a dry run.
    """

    repo: str
    version: str
    commit: str | None
    uploaded_bytes: int
    rows_added: int
    rows_removed: int
    rows_changed: int
    unchanged: bool
    url: str

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class PublishedVersion:
    """A version that a hub holds."""

    version: str
    tag: str
    commit: str


@dataclass(frozen=True)
class _State:
    """A repository as it was read, once."""

    head: str | None
    files: Mapping[str, RemoteFile]
    tags: Mapping[Version, str]
    previous: Previous
    changes: Mapping[str, int] = field(default_factory=dict)

    @property
    def last(self) -> Version | None:
        """The highest version, tagged or not."""
        known = [*self.tags, *([self.previous.version] if self.previous.version else [])]
        return max(known, default=None)


def push(
    folder: Path,
    name: str,
    *,
    version: str | None = None,
    bump: Bump = "patch",
    private: bool = False,
    endpoint: str | None = None,
    message: str | None = None,
    token: str | None = None,
    dry_run_to: Path | None = None,
    test_questions: Path | None = None,
    settings: CardSettings | None = None,
) -> PushResult:
    """Publish a purified folder as the next version of a dataset.

    Args:
        folder: a purified folder.
        name: `namespace/name`.
        version: X.Y.Z; default: the last version, bumped.
        bump: which part to raise: patch, minor or major.
        private: a new dataset is visible to its owner only.
        endpoint: the hub's URL; default: HF_ENDPOINT, then huggingface.co.
        message: of the commit.
        token: default: HF_TOKEN, or what `hf auth login` saved.
        dry_run_to: write the files there instead; a release that stands there already is the version before.
        test_questions: a questions file of which no question may be published.
        settings: licence, language and sources for the card.

    Raises:
        DataError: the folder cannot be published, or the dry run's folder holds something else.
        HubError: the hub refused or cannot be reached, or the version exists already.
    """
    check_name(name)
    source = read_source(folder, test_questions=test_questions)
    if dry_run_to is not None:
        return _write_release(source, name, Path(dry_run_to), version=version, bump=bump, settings=settings)
    remote = Remote.at(name, endpoint=endpoint, token=token)
    remote.require_token()
    remote.create(private=private)
    for attempt in range(MAX_ATTEMPTS):
        try:
            return _push_once(source, remote, version=version, bump=bump, message=message, settings=settings)
        except Overtaken as error:
            reason = str(error)
            # Jitter, so that two pushers that met once do not meet again.
            time.sleep(min(8.0, 0.1 * 2**attempt) * random.uniform(0.5, 1.5))
    problem = f"gave up after {MAX_ATTEMPTS} attempts ({reason}): others keep committing, or the hub is failing"
    raise HubError(f"{problem}; push again later", place=remote.url)


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

    Args:
        name: as in `fetch`.
        out: a new folder, or one that holds exactly this release already.
        endpoint: as in `fetch`.
        token: as in `fetch`.

    Raises:
        DataError: `out` holds something else, or a file is not what the manifest says.
        HubError: as `fetch`.
    """
    out = Path(out)
    snapshot = fetch(name, endpoint=endpoint, token=token)
    _check_files(snapshot)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        theirs, ours = snapshot / MANIFEST, out / MANIFEST
        if theirs.is_file() and ours.is_file() and theirs.read_bytes() == ours.read_bytes():
            _check_files(out)
            return out
        raise DataError("holds something else; choose another --out or remove it", place=out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
        copied = Path(temporary) / "copy"
        shutil.copytree(snapshot, copied, symlinks=False)
        if out.exists():
            out.rmdir()
        copied.rename(out)
    return out


def versions(name: str, *, endpoint: str | None = None, token: str | None = None) -> list[PublishedVersion]:
    """The versions of a dataset, newest first.

    Raises:
        HubError: no such dataset, or the hub refused or cannot be reached.
    """
    tags = Remote.at(name, endpoint=endpoint, token=token).tags()
    return [PublishedVersion(str(version), version.tag, commit) for version, commit in tags.items()]


def diff(name: str, old: str, new: str, *, endpoint: str | None = None, token: str | None = None) -> RowDiff:
    """What changed in the purified rows between two versions, by row id.

    Raises:
        HubError: no such dataset or version, or it holds no purified rows.
    """
    tables = []
    for version in (old, new):
        remote, revision = _resolve(f"{name}@{version}", endpoint, token)
        if (table := _purified_rows(remote, revision, remote.files(revision))) is None:
            raise HubError(f"version {version} holds no purified rows with a column 'id'", place=remote.url)
        tables.append(table)
    return diff_rows(tables[0], tables[1])


def _push_once(
    source: Source,
    remote: Remote,
    *,
    version: str | None,
    bump: Bump,
    message: str | None,
    settings: CardSettings | None,
) -> PushResult:
    state = _read_state(remote)
    finished = _finish_tag(remote, state)
    if is_unchanged(source, state.previous, settings):
        published = state.previous.version
        assert published is not None
        if version is not None and not finished:
            next_version(state.last, wanted=version, bump=bump)
        commit = state.tags.get(published) or state.head
        return _result(remote, published, commit, state.changes if finished else {}, 0, unchanged=not finished)
    number = next_version(state.last, wanted=version, bump=bump)
    release = assemble(source, version=number, parent=state.previous, name=remote.name, settings=settings)
    changed = {path: data for path, data in release.files.items() if not _is_there(state.files, path, data)}
    stale = [path for path in state.files if OURS.fullmatch(path) and path not in release.files]
    new_commit = remote.commit(changed, stale, message=message or _message(release), parent=state.head)
    remote.tag(number, new_commit)
    _verify(remote, release, new_commit, stale)
    return _result(remote, number, new_commit, release.diff.counts, sum(map(len, changed.values())))


def _read_state(remote: Remote) -> _State:
    head = remote.head()
    files = remote.files(head) if head else {}
    tags = remote.tags()
    if head is None or MANIFEST not in files:
        card = remote.read(CARD, head).decode(errors="replace") if head and CARD in files else None
        return _State(head, files, tags, Previous(card=card))
    manifest = _parse_manifest(remote.read(MANIFEST, head))
    card = remote.read(CARD, head).decode(errors="replace") if CARD in files else None
    previous = Previous(
        version=Version.of_tag(str(manifest.get("version"))),
        content=manifest.get("content") or {},
        purified=_purified_rows(remote, head, files),
        card=card,
    )
    return _State(head, files, tags, previous, manifest.get("changes") or {})


def _finish_tag(remote: Remote, state: _State) -> bool:
    """Tag a version that was committed but not tagged, and say whether there was one."""
    pending = state.previous.version
    if pending is None or pending in state.tags or state.head is None:
        return False
    remote.tag(pending, state.head)
    return True


def _purified_rows(remote: Remote, revision: str, files: Mapping[str, RemoteFile]) -> pa.Table | None:
    """The purified rows at a commit; None where there are none that can be compared."""
    paths = sorted(path for path in files if path.startswith("purified/") and OURS.fullmatch(path))
    try:
        tables = [pq.read_table(pa.BufferReader(remote.read(path, revision))) for path in paths]
        table = pa.concat_tables(tables, promote_options="permissive") if tables else None
    except pa.ArrowException:
        return None
    return table if table is not None and "id" in table.column_names else None


def _parse_manifest(data: bytes) -> dict[str, Any]:
    try:
        manifest = json.loads(data)
    except ValueError:
        return {}
    if not isinstance(manifest, dict):
        return {}
    # Anybody can write to a repository: what has another shape counts as not there.
    return {
        key: value
        for key, value in manifest.items()
        if key not in ("content", "changes", "files") or isinstance(value, dict)
    }


def _is_there(files: Mapping[str, RemoteFile], path: str, data: bytes) -> bool:
    return path in files and files[path].holds(data)


def _message(release: Release) -> str:
    return "Version {}: {added} rows added, {removed} removed, {changed} changed".format(
        release.version, **release.diff.counts
    )


def _verify(remote: Remote, release: Release, commit: str, stale: list[str]) -> None:
    """Read back what was written.

    Raises:
        HubError: the hub does not hold at the tag what was pushed.
    """
    files = remote.files(release.version.tag)
    wrong = [path for path, data in release.files.items() if not _is_there(files, path, data)]
    if wrong := [*wrong, *(path for path in stale if path in files)]:
        problem = f"commit {commit} was made, but {wrong[0]} does not read back as pushed"
        raise HubError(f"{problem}; push again, and tell the hub's operator", place=remote.url)


def _result(
    remote: Remote,
    version: Version,
    commit: str | None,
    changes: Mapping[str, int],
    uploaded: int,
    *,
    unchanged: bool = False,
) -> PushResult:
    return PushResult(
        remote.name, str(version), commit, uploaded, **_rows(changes), unchanged=unchanged, url=remote.url
    )


def _rows(changes: Mapping[str, int]) -> dict[str, int]:
    return {f"rows_{name}": int(changes.get(name, 0)) for name in ("added", "removed", "changed")}


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


def _write_release(
    source: Source, name: str, out: Path, *, version: str | None, bump: Bump, settings: CardSettings | None
) -> PushResult:
    previous, present = _read_written(out)
    if is_unchanged(source, previous, settings):
        if version is not None:
            next_version(previous.version, wanted=version, bump=bump)
        return PushResult(name, str(previous.version), None, 0, **_rows({}), unchanged=True, url=str(out))
    number = next_version(previous.version, wanted=version, bump=bump)
    release = assemble(source, version=number, parent=previous, name=name, settings=settings)
    changed = {path: data for path, data in release.files.items() if present.get(path) != data}
    # The manifest last: a folder that was half written is not taken for the new version.
    for path in sorted(changed, key=lambda path: path == MANIFEST):
        with replacing(out / path) as temporary:
            temporary.write_bytes(changed[path])
    for path in present:
        if OURS.fullmatch(path) and path not in release.files:
            (out / path).unlink()
    uploaded = sum(map(len, changed.values()))
    return PushResult(name, str(number), None, uploaded, **_rows(release.diff.counts), unchanged=False, url=str(out))


def _read_written(out: Path) -> tuple[Previous, dict[str, bytes]]:
    """The release that stands in a folder and its files; nothing for a new or empty folder."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return Previous(), {}
    manifest = read_json(out / MANIFEST) if (out / MANIFEST).is_file() else None
    if not isinstance(manifest, dict) or "content" not in manifest or "version" not in manifest:
        raise DataError("holds something that is not a release; choose a new or empty folder", place=out)
    present = {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    shards = [path for path in present if path.startswith("purified/") and OURS.fullmatch(path)]
    tables = [read_table(out / path) for path in shards]
    try:
        purified = pa.concat_tables(tables, promote_options="permissive") if tables else None
    except pa.ArrowException as error:
        raise DataError("files that do not belong together; choose a new folder", place=out / "purified") from error
    card = present[CARD].decode(errors="replace") if CARD in present else None
    return Previous(Version.parse(str(manifest["version"])), manifest["content"], purified, card), present


def _check_files(folder: Path) -> None:
    """Compare a folder with its manifest, where it has one.

    Raises:
        DataError: a file is missing or has other bytes.
    """
    if not (folder / MANIFEST).is_file():
        return
    listed = _parse_manifest((folder / MANIFEST).read_bytes()).get("files")
    for path, facts in (listed or {}).items():
        file = folder / path
        wanted = facts.get("sha256") if isinstance(facts, dict) else None
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != wanted:
            raise DataError("missing, or not what manifest.json says; fetch it again", place=file)
