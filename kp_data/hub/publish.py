"""Publish a purified folder as a version of a dataset.

A push is one commit and then one tag. What the commit holds is read back before it is tagged, so that a tag always
stands at a whole version. Interrupted between the two, the next push finds the manifest of a version that has no tag
and finishes it. Overtaken by somebody else, it reads again, builds again and tries again.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from kp_data.errors import HubError
from kp_data.hub.fetching import fetch as fetch
from kp_data.hub.front_matter import CardSettings
from kp_data.hub.release import (
    MANIFEST,
    OURS,
    Release,
    Source,
    assemble,
    changes_since,
    is_unchanged,
    read_source,
)
from kp_data.hub.remote import Overtaken, Remote, WantedFile, check_name
from kp_data.hub.state import State, read_state, read_written
from kp_data.hub.versions import Bump, RowDiff, Version, next_version
from kp_data.tables import replacing

MAX_ATTEMPTS: Final = 80


@dataclass(frozen=True, slots=True)
class FileChange:
    """One file of a push: what happens to it, and its size."""

    path: str
    change: Literal["new", "changed", "removed"]
    bytes: int


@dataclass(frozen=True)
class PushResult:
    """What a push did, or a dry run would do.

    Attributes:
        repo: `namespace/name`.
        version: the version that now holds this data, X.Y.Z.
        commit: its commit; None for a dry run.
        uploaded_bytes: size of the files that were new or different; a hub that stores chunks may have taken less.
        rows_added: purified rows, by id, against the version before; likewise removed and changed.
        unchanged: the hub holds exactly this already, so nothing was written.
        url: where to look at it, or the folder of a dry run.
        parent: the version before; None for the first.
        suggested_bump: what `--bump auto` raises for these rows; None where there is nothing to compare with.
        files: what was sent or removed.
        benchmarks_checked: per benchmark, how many of its questions stand in train.
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
    parent: str | None = None
    suggested_bump: Bump | None = None
    files: tuple[FileChange, ...] = ()
    benchmarks_checked: tuple[Mapping[str, Any], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


@dataclass(frozen=True)
class _Wish:
    """What the user asked for, whatever the repository holds."""

    version: str | None
    bump: Bump | Literal["auto"]
    message: str | None
    settings: CardSettings | None

    def number(self, last: Version | None, rows: RowDiff) -> Version:
        return next_version(last, wanted=self.version, bump=rows.bump if self.bump == "auto" else self.bump)


def push(
    folder: Path,
    name: str,
    *,
    version: str | None = None,
    bump: Bump | Literal["auto"] = "patch",
    private: bool = False,
    endpoint: str | None = None,
    message: str | None = None,
    token: str | None = None,
    dry_run: bool = False,
    dry_run_to: Path | None = None,
    benchmarks: Sequence[str] = (),
    allow_leaks: bool = False,
    panel: Path | None = None,
    settings: CardSettings | None = None,
) -> PushResult:
    """Publish a purified folder as the next version of a dataset.

    Args:
        folder: a purified folder.
        name: `namespace/name`.
        version: X.Y.Z; default: the last version, bumped.
        bump: which part to raise: patch, minor or major, or auto: what `RowDiff.bump` says of the rows.
        private: a new dataset is visible to its owner only.
        endpoint: the hub's URL; default: HF_ENDPOINT, then huggingface.co.
        message: of the commit, and in the changelog.
        token: default: HF_TOKEN, or what `hf auth login` saved.
        dry_run: only say what would be sent.
        dry_run_to: write the files there instead; a release that stands there already is the version before.
        benchmarks: whose test questions must not stand in `train`, as `read_benchmark` takes them.
        allow_leaks: publish them all the same; the card says so.
        panel: the panel folder it was purified from, for how the teachers were asked.
        settings: licence, language and sources for the card.

    Raises:
        DataError: the folder cannot be published, or the dry run's folder holds something else.
        LeakError: test questions of a benchmark stand in `train`.
        HubError: the hub refused or cannot be reached, or the version exists already.
    """
    check_name(name)
    source = read_source(folder, benchmarks=benchmarks, allow_leaks=allow_leaks, panel=panel)
    wish = _Wish(version, bump, message, settings)
    if dry_run_to is not None:
        return _write_release(source, name, Path(dry_run_to), wish)
    remote = Remote.at(name, endpoint=endpoint, token=token)
    if dry_run:
        return _foretell(source, remote, wish)
    remote.require_token()
    remote.create(private=private)
    for attempt in range(MAX_ATTEMPTS):
        try:
            return _push_once(source, remote, wish)
        except Overtaken as error:
            reason = str(error)
            # Jitter, so that two pushers that met once do not meet again.
            time.sleep(min(8.0, 0.1 * 2**attempt) * random.uniform(0.5, 1.5))
    problem = f"gave up after {MAX_ATTEMPTS} attempts ({reason}): others keep committing, or the hub is failing"
    raise HubError(f"{problem}; push again later", place=remote.url)


def _push_once(source: Source, remote: Remote, wish: _Wish) -> PushResult:
    state = read_state(remote)
    finished = _finish_tag(remote, state)
    if is_unchanged(source, state.previous, wish.settings) and _is_whole(state, finished):
        return _unchanged(source, remote, state, wish, finished=finished)
    release, files = _next_release(source, remote.name, state, wish)
    add = {entry.path: release.files[entry.path] for entry in files if entry.change != "removed"}
    delete = [entry.path for entry in files if entry.change == "removed"]
    commit = remote.commit(add, delete, message=wish.message or _message(release), parent=state.head)
    if wrong := remote.first_wrong(commit, _wanted(release), delete):
        problem = f"commit {commit} was made, but {wrong} does not read back as pushed, so it was not tagged"
        raise HubError(f"{problem}; push again, and tell the hub's operator", place=remote.url)
    remote.tag(release.version, commit)
    return _result(source, release, files, commit, remote.url)


def _foretell(source: Source, remote: Remote, wish: _Wish) -> PushResult:
    state = read_state(remote) if remote.exists() else State()
    if is_unchanged(source, state.previous, wish.settings):
        return _unchanged(source, remote, state, wish, finished=False)
    release, files = _next_release(source, remote.name, state, wish)
    return _result(source, release, files, None, remote.url)


def _write_release(source: Source, name: str, out: Path, wish: _Wish) -> PushResult:
    previous, present = read_written(out)
    if is_unchanged(source, previous, wish.settings):
        if wish.version is not None:
            next_version(previous.version, wanted=wish.version, bump="patch")
        return _outcome(source, name, previous.version, str(out), {}, commit=None, unchanged=True)
    changes = changes_since(previous, source, message=wish.message)
    number = wish.number(previous.version, changes.rows)
    release = assemble(source, changes, version=number, parent=previous, name=name, settings=wish.settings)
    there = {path: data == release.files.get(path) for path, data in present.items()}
    files = _file_changes(release, there, {path: len(data) for path, data in present.items()})
    # The manifest last: a folder that was half written is not taken for the new version.
    for entry in sorted(files, key=lambda entry: entry.path == MANIFEST):
        if entry.change == "removed":
            (out / entry.path).unlink()
            continue
        with replacing(out / entry.path) as temporary:
            temporary.write_bytes(release.files[entry.path])
    return _result(source, release, files, None, str(out))


def _next_release(source: Source, name: str, state: State, wish: _Wish) -> tuple[Release, tuple[FileChange, ...]]:
    changes = changes_since(state.previous, source, message=wish.message)
    number = wish.number(state.last, changes.rows)
    release = assemble(source, changes, version=number, parent=state.previous, name=name, settings=wish.settings)
    there = {path: path in release.files and file.holds(release.files[path]) for path, file in state.files.items()}
    return release, _file_changes(release, there, {path: file.size for path, file in state.files.items()})


def _file_changes(release: Release, there: Mapping[str, bool], sizes: Mapping[str, int]) -> tuple[FileChange, ...]:
    """What has to be done to a place that holds some files, `there` saying which of them hold the right bytes."""
    send = [
        FileChange(path, "changed" if path in there else "new", len(data))
        for path, data in release.files.items()
        if not there.get(path, False)
    ]
    stale = [path for path in there if OURS.fullmatch(path) and path not in release.files]
    return (*send, *(FileChange(path, "removed", sizes[path]) for path in stale))


def _finish_tag(remote: Remote, state: State) -> bool:
    """Tag a version that was committed whole but not tagged, and say whether there was one."""
    pending = state.previous.version
    if pending is None or pending in state.tags or state.head is None:
        return False
    listed = state.manifest.get("files") or {}
    wanted = {path: WantedFile.of(facts) for path, facts in listed.items() if isinstance(facts, dict)}
    if remote.first_wrong(state.head, wanted, ()):
        return False
    remote.tag(pending, state.head)
    return True


def _is_whole(state: State, finished: bool) -> bool:
    """Whether the release that stands there is tagged, now or before: one that is not did not read back."""
    return finished or state.previous.version in state.tags


def _wanted(release: Release) -> dict[str, WantedFile]:
    rows = release.num_rows
    return {
        path: WantedFile(hashlib.sha256(data).hexdigest(), len(data), rows.get(path))
        for path, data in release.files.items()
    }


def _unchanged(source: Source, remote: Remote, state: State, wish: _Wish, *, finished: bool) -> PushResult:
    if wish.version is not None and not finished:
        next_version(state.last, wanted=wish.version, bump="patch")
    published = state.previous.version
    assert published is not None
    commit = state.tags.get(published) or state.head
    changes = state.manifest.get("changes", {}) if finished else {}
    return _outcome(source, remote.name, published, remote.url, changes, commit=commit, unchanged=not finished)


def _result(
    source: Source, release: Release, files: tuple[FileChange, ...], commit: str | None, url: str
) -> PushResult:
    outcome = _outcome(source, release.name, release.version, url, release.diff.counts, commit=commit)
    return replace(
        outcome,
        uploaded_bytes=sum(entry.bytes for entry in files if entry.change != "removed"),
        parent=str(release.parent) if release.parent else None,
        suggested_bump=release.diff.bump if release.parent else None,
        files=files,
    )


def _outcome(
    source: Source,
    name: str,
    version: Version | None,
    url: str,
    changes: Mapping[str, int],
    *,
    commit: str | None,
    unchanged: bool = False,
) -> PushResult:
    added, removed, changed = (int(changes.get(kind, 0)) for kind in ("added", "removed", "changed"))
    checked = tuple(check.as_dict() for check in source.leaks)
    return PushResult(
        name, str(version), commit, 0, added, removed, changed, unchanged, url, benchmarks_checked=checked
    )


def _message(release: Release) -> str:
    return "Version {}: {added} rows added, {removed} removed, {changed} changed".format(
        release.version, **release.diff.counts
    )
