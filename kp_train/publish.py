"""Publish a fitted student as a model repository, and fetch one.

    student.json, config.json, *.safetensors, tokenizer…   as they lie in the folder
    run.json, evaluations.json                             without paths of this machine
    README.md                                              the card, under the repository's name

A push is one commit, whose every file is read back, and then one tag where a version is given. Files that a hub holds
already are not sent again, so that the same command goes on after whatever ended the last one. What the owner wrote
into the card on the hub stays there.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from kp_data.errors import DataError, HubError
from kp_data.hub.front_matter import CardSettings, dump_front, split_card
from kp_data.hub.publish import MAX_ATTEMPTS, FileChange
from kp_data.hub.publishable import publishable
from kp_data.hub.remote import Overtaken, Remote, RemoteFile, WantedFile, sha256_of, size_of
from kp_data.hub.sections import around_section
from kp_data.hub.versions import Version
from kp_data.tables import read_json
from kp_train.card_facts import StudentFacts
from kp_train.model_card import heading_of, license_warning, owners_front, read_folder_facts, render_card
from kp_train.run_folder import RUN_FILE
from kp_train.student_folder import (
    CARD_FILE,
    EVALUATIONS_FILE,
    FORMAT,
    is_student_file,
    read_card,
    read_evaluations,
    read_finished,
    student_paths,
)
from kp_train.students.lora import ADAPTER_CONFIG
from kp_train.students.student import STUDENT_FILE

PATTERNS: Final = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.parquet", CARD_FILE)
"""What of a model repository a student can be loaded from; weights in any other form could run code."""

_LOCAL_KEYS: Final = ("out", "dataset_path")
_NAMING_KEYS: Final = ("_name_or_path", "name_or_path", "base_model_name_or_path", "adapter_of")
"""Where libraries note which folder a model or a tokenizer came from."""

Content = bytes | Path


@dataclass(frozen=True)
class StudentPush:
    """What a push did, or a dry run would do.

    Attributes:
        repo: `namespace/name`.
        version: tag that the commit has now, X.Y.Z; None where none was asked for.
        commit: that holds this student; None for a dry run that would make one.
        uploaded_bytes: size of the files that were new or different; a hub that stores chunks may have taken less.
        unchanged: the hub holds exactly this already, so no commit was made.
        url: where to look at it.
        files: what was sent or removed.
        notes: what the owner should know.
    """

    repo: str
    version: str | None
    commit: str | None
    uploaded_bytes: int
    unchanged: bool
    url: str
    files: tuple[FileChange, ...] = ()
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


@dataclass(frozen=True)
class _Source:
    """A student's folder, read once."""

    facts: StudentFacts
    files: Mapping[str, Content]
    card: str | None


@dataclass(frozen=True)
class _State:
    """A repository as it stands."""

    head: str | None = None
    files: Mapping[str, RemoteFile] = field(default_factory=dict)
    tags: Mapping[Version, str] = field(default_factory=dict)
    card: str | None = None


def push_student(
    folder: Path,
    name: str,
    *,
    version: str | None = None,
    private: bool = False,
    endpoint: str | None = None,
    message: str | None = None,
    token: str | None = None,
    dry_run: bool = False,
    settings: CardSettings | None = None,
) -> StudentPush:
    """Publish a finished student.

    Args:
        folder: the --out folder of a `kp-train fit` that is done.
        name: `namespace/name` of the model repository.
        version: X.Y.Z, a tag for the commit; None: no tag.
        private: a new repository is visible to its owner only.
        endpoint: the hub's URL; default: HF_ENDPOINT, then huggingface.co.
        message: of the commit.
        token: default: HF_TOKEN, or what `hf auth login` saved.
        dry_run: only say what would be sent.
        settings: licence and language for the card.

    Raises:
        DataError: no finished student there, or one that nobody else could load.
        HubError: the hub refused or cannot be reached, the version exists already, or another model stands there.
    """
    remote = Remote.at(name, endpoint=endpoint, token=token, kind="model")
    wanted = Version.parse(version) if version is not None else None
    source, settings = _read_source(Path(folder)), settings or CardSettings()
    if dry_run:
        return _foretell(remote, source, wanted, settings)
    remote.require_token()
    remote.create(private=private)
    for attempt in range(MAX_ATTEMPTS):
        try:
            return _push_once(remote, source, wanted, settings, message)
        except Overtaken as error:
            reason = str(error)
            # Jitter, so that two pushers that met once do not meet again.
            time.sleep(min(8.0, 0.1 * 2**attempt) * random.uniform(0.5, 1.5))
    problem = f"gave up after {MAX_ATTEMPTS} attempts ({reason}): others keep committing, or the hub is failing"
    raise HubError(f"{problem}; push again later", place=remote.url)


def fetch_student(name: str, *, endpoint: str | None = None, token: str | None = None) -> Path:
    """A local, read-only folder with a student of a hub, from the client's cache where it is there already.

    Args:
        name: `namespace/name`, or with `@` and a version, branch or commit.
        endpoint: the hub's URL; default: HF_ENDPOINT, then huggingface.co.
        token: default: HF_TOKEN, or what `hf auth login` saved.

    Raises:
        HubError: no such model or version, or the hub refused or cannot be reached.
    """
    base, _, wanted = name.partition("@")
    remote = Remote.at(base, endpoint=endpoint, token=token, kind="model")
    if (version := Version.of_tag(wanted) if wanted else None) is not None:
        tags = remote.tags()
        if version not in tags:
            raise HubError(
                f"no version {version}; there is {', '.join(map(str, tags)) or 'none yet'}", place=remote.url
            )
        return remote.snapshot(tags[version], patterns=PATTERNS)
    with remote.failures("read the model"):
        # A commit, not a name: the client's cache may know an older meaning of a name.
        commit = remote.api.repo_info(base, repo_type="model", revision=wanted or None).sha
    if commit is None:
        raise HubError("this repository is empty; push a student to it first", place=remote.url)
    return remote.snapshot(commit, patterns=PATTERNS)


def _read_source(folder: Path) -> _Source:
    run, facts = read_finished(folder), read_folder_facts(folder)
    _check_adapter(folder)
    record = {key: value for key, value in run.items() if key not in _LOCAL_KEYS}
    record["identity"] = {**run["identity"], "student": facts.student}
    files: dict[str, Content] = {path.name: _content(path) for path in student_paths(folder)}
    files[RUN_FILE] = _json_bytes(publishable(record))
    if measured := read_evaluations(folder):
        files[EVALUATIONS_FILE] = _json_bytes({"format": FORMAT, "evaluations": publishable(measured)})
    return _Source(facts, files, read_card(folder / CARD_FILE))


def _check_adapter(folder: Path) -> None:
    """An adapter needs its base wherever it is loaded."""
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        return
    config = read_json(path)
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if not isinstance(base, str) or publishable(base) != base or Path(base).is_dir():
        raise DataError(
            "this adapter's base is a folder of this machine, so nobody else could load it; fit without --lora-keep, "
            "or from a base that stands on a hub",
            place=path,
        )


def _content(path: Path) -> Content:
    """A file of a student; a configuration without the folder that its model came from."""
    if path.suffix != ".json" or path.name == "tokenizer.json":
        return path
    config = read_json(path)
    if not isinstance(config, dict):
        return path
    named = {key: publishable(config[key]) for key in _NAMING_KEYS if key in config}
    return _json_bytes({**config, **named}) if any(config[key] != value for key, value in named.items()) else path


def _push_once(
    remote: Remote, source: _Source, version: Version | None, settings: CardSettings, message: str | None
) -> StudentPush:
    state = _read_state(remote)
    files, result = _planned(remote, source, state, version, settings)
    commit = result.commit
    if not result.unchanged:
        sent = {change.path: files[change.path] for change in result.files if change.change != "removed"}
        gone = [change.path for change in result.files if change.change == "removed"]
        said = message or f"Student: {source.facts.student}, {source.facts.objective}"
        commit = remote.commit(sent, gone, message=said, parent=state.head)
        wanted = {path: WantedFile(sha256_of(data), size_of(data)) for path, data in files.items()}
        if wrong := remote.first_wrong(commit, wanted, gone):
            problem = f"commit {commit} was made, but {wrong} does not read back as pushed"
            raise HubError(f"{problem}; push again, and tell the hub's operator", place=remote.url)
    if version is not None and commit is not None and state.tags.get(version) != commit:
        remote.tag(version, commit)
    return replace(result, commit=commit)


def _foretell(remote: Remote, source: _Source, version: Version | None, settings: CardSettings) -> StudentPush:
    state = _read_state(remote) if remote.exists() else _State()
    return _planned(remote, source, state, version, settings)[1]


def _planned(
    remote: Remote, source: _Source, state: _State, version: Version | None, settings: CardSettings
) -> tuple[dict[str, Content], StudentPush]:
    """Every file of the repository-to-be, and what has to be done to get there."""
    _check_ours(remote, state)
    card = _card(source, remote.name, state.card, settings)
    files = {**source.files, CARD_FILE: card.encode()}
    changes = _changes(files, state.files)
    standing = state.tags.get(version) if version is not None else None
    if standing is not None and (changes or standing != state.head):
        raise HubError(f"version {version} exists already; give a higher one", place=remote.url)
    result = StudentPush(
        repo=remote.name,
        version=None if version is None else str(version),
        commit=None if changes else state.head,
        uploaded_bytes=sum(change.bytes for change in changes if change.change != "removed"),
        unchanged=not changes,
        url=remote.url,
        files=changes,
        notes=_notes(source, state.card, card),
    )
    return files, result


def _check_ours(remote: Remote, state: _State) -> None:
    foreign = [path for path in state.files if is_student_file(path)]
    if foreign and RUN_FILE not in state.files and STUDENT_FILE not in state.files:
        raise HubError(
            f"another model stands there ({foreign[0]}), which kp-train did not push; choose another name",
            place=remote.url,
        )


def _read_state(remote: Remote) -> _State:
    head = remote.head()
    files = remote.files(head) if head else {}
    card = None
    if head is not None and CARD_FILE in files:
        card = remote.read(CARD_FILE, head).decode(errors="replace")
    return _State(head, files, remote.tags(), card)


def _changes(files: Mapping[str, Content], there: Mapping[str, RemoteFile]) -> tuple[FileChange, ...]:
    send = [
        FileChange(path, "changed" if path in there else "new", size_of(data))
        for path, data in files.items()
        if path not in there or not there[path].holds(data)
    ]
    ours = [path for path in there if is_student_file(path) or path == EVALUATIONS_FILE]
    return (*send, *(FileChange(path, "removed", there[path].size) for path in ours if path not in files))


def _card(source: _Source, name: str, on_hub: str | None, settings: CardSettings) -> str:
    """The card on the hub renewed; where there is none, what the owner wrote into the folder's goes along."""
    existing = on_hub
    if existing is None and source.card is not None:
        front, body = split_card(source.card)
        prose = body if _own_prose(source) else ""
        existing = f"---\n{dump_front(owners_front(front, body))}---\n{prose}"
    return render_card(source.facts, name=name, existing=existing, settings=settings)


def _notes(source: _Source, on_hub: str | None, card: str) -> tuple[str, ...]:
    kept = "the card on the hub keeps the text that stands there; what you wrote into README.md here is not sent"
    notes = [] if on_hub is None or all(part in on_hub for part in _own_prose(source)) else [kept]
    warning = license_warning(source.facts, card)
    return (*notes, warning) if warning else tuple(notes)


def _own_prose(source: _Source) -> tuple[str, ...]:
    """What the owner wrote into the folder's card, before and after our section, our heading left out."""
    if source.card is None:
        return ()
    before, after = around_section(split_card(source.card)[1])
    parts = (before.strip().removeprefix(heading_of(source.facts)).strip(), (after or "").strip())
    return tuple(part for part in parts if part)


def _json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def shown(result: StudentPush) -> Sequence[str]:
    """Lines about a push or a dry run, for a person."""
    from kp_data.hub.words import printable

    tag = f" v{result.version}" if result.version else ""
    if result.unchanged:
        return [f"{result.repo}{tag} holds this student already: nothing to publish", *result.notes, result.url]
    sent = sum(change.change != "removed" for change in result.files)
    would = "would be sent" if result.commit is None else "sent"
    lines = [f"{result.repo}{tag}: {result.uploaded_bytes:,} bytes in {sent} files {would}"]
    if result.commit is None:
        lines += [f"  {each.change:8}{each.bytes:>15,}  {printable(each.path)}" for each in result.files]
    return [*lines, *result.notes, result.url]
