"""From a purified folder to the files of a release: Parquet per split, card, changelog, manifest.

A release holds `README.md`, `CHANGELOG.md`, `purified/{split}-{number}-of-{count}.parquet`, the same under `panel/`
where the folder holds the teachers' responses, `router/`, `report.json`, `run.json` and `manifest.json`. The same
folder, version and parent give the same bytes. Nothing here touches a network, unless a benchmark is to be read from
one.

Purified rows stand in `id` order, and responses by teacher, then question: what a hub stores in chunks by content then
stays where it was when rows are edited, when questions are appended, and when a teacher is added. `id` and
`question_id` come first, because a hub recognises a file by how it begins.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import kp_data
from kp_data.errors import DataError
from kp_data.hub.asked import Asked, read_asked
from kp_data.hub.benchmarks import is_training, read_benchmark
from kp_data.hub.cards import METRICS, purified_by, render_card
from kp_data.hub.changelog import CHANGELOG, Changes, Facts, add_entry, write_entry
from kp_data.hub.front_matter import CardSettings, ConfigFacts, settings_differ, split_card
from kp_data.hub.leaks import LeakCheck, find_leaks, refuse_leaks
from kp_data.hub.publishable import publishable
from kp_data.hub.versions import RowDiff, Version, content_hash, diff_rows, documents_hash
from kp_data.schema import SCHEMA_VERSION
from kp_data.summary import FolderTables, read_folder, summarise_tables

MANIFEST: Final = "manifest.json"
CARD: Final = "README.md"
OURS: Final = re.compile(
    r"(purified|panel)/[^/]+-\d{5}-of-\d{5}\.parquet|router/.+|report\.json|run\.json|manifest\.json"
)
"""The paths that a release writes and a later one may delete; everything else in a repository belongs to its owner."""

ROWS_A_FILE: Final = 250_000
"""Some hundred megabytes of rationales: what a push that was killed begins again with, and what one reader streams."""

_SPLIT = re.compile(r"\w+(\.\w+)*")


@dataclass(frozen=True)
class Source:
    """A purified folder, read and encoded once; whatever version it becomes.

    Attributes:
        tables: the folder's tables.
        configs: per config (`purified`, `panel`) what its card entry needs.
        files: path to bytes, all files but the card and the manifest.
        rows: path to number of rows, for the Parquet files.
        content: per part a hash of what it says, None where the folder lacks it; equal hashes are equal data.
        asked: how each teacher was asked, where that is known.
        own_leaks: questions of its other splits that stand in its `train`.
        leaks: the same of every benchmark that was looked for.
    """

    tables: FolderTables
    configs: tuple[ConfigFacts, ...]
    files: Mapping[str, bytes]
    rows: Mapping[str, int]
    content: Mapping[str, str | None]
    asked: Mapping[str, Asked]
    own_leaks: LeakCheck
    leaks: tuple[LeakCheck, ...] = ()

    @property
    def purified(self) -> pa.Table:
        """The purified rows."""
        assert self.tables.purified is not None
        return self.tables.purified

    @property
    def facts(self) -> Facts:
        """What it says beside its rows."""
        report, responses = self.tables.report, self.tables.responses
        teachers = None if responses is None else tuple(dict.fromkeys(responses["teacher"].to_pylist()))
        return Facts(purified_by(self.tables), teachers, {name: report[name] for name in METRICS if name in report})


@dataclass(frozen=True)
class Previous:
    """What a repository or a folder holds already.

    Attributes:
        version: the version of its manifest; None where there is no release yet.
        content: the content hashes of its manifest.
        purified: its purified rows; None: no release, or rows that cannot be compared.
        card: its README.md, None where there is none.
        changelog: its CHANGELOG.md, None where there is none.
        facts: what its manifest says beside the rows.
    """

    version: Version | None = None
    content: Mapping[str, Any] = field(default_factory=dict)
    purified: pa.Table | None = None
    card: str | None = None
    changelog: str | None = None
    facts: Facts = field(default_factory=Facts)


@dataclass(frozen=True)
class Release:
    """Every file of one version, ready to be written or pushed.

    Attributes:
        files: path to bytes.
        changes: what it changes against the version before.
    """

    name: str
    version: Version
    files: Mapping[str, bytes]
    changes: Changes

    @property
    def parent(self) -> Version | None:
        """The version this one follows."""
        return self.changes.parent

    @property
    def diff(self) -> RowDiff:
        """Rows by id against the parent."""
        return self.changes.rows

    @property
    def num_rows(self) -> dict[str, int]:
        """Path to number of rows, for the Parquet files."""
        listed = json.loads(self.files[MANIFEST])["files"]
        return {path: facts["rows"] for path, facts in listed.items() if "rows" in facts}


def build_release(
    folder: Path,
    *,
    version: Version | str,
    parent: Previous | None = None,
    name: str | None = None,
    settings: CardSettings | None = None,
    benchmarks: Sequence[str] = (),
    allow_leaks: bool = False,
    panel: Path | None = None,
) -> Release:
    """The files of a version of a purified folder.

    Args:
        folder: a purified folder.
        version: what it will be called.
        parent: what it follows; default: nothing.
        name: `namespace/name` in the card's snippets; default: the folder's name.
        settings: what only its author knows of it, such as the licence.
        benchmarks: whose test questions must not stand in `train`, as `read_benchmark` takes them.
        allow_leaks: publish them all the same; the card says so.
        panel: the panel folder that it was purified from, whose `run.json` knows how the teachers were asked.

    Raises:
        DataError: the folder holds no purified rows, a split has no usable name, a benchmark or the panel cannot be
            read, or the panel is another one.
        LeakError: test questions of a benchmark stand in `train`.
    """
    source = read_source(folder, benchmarks=benchmarks, allow_leaks=allow_leaks, panel=panel)
    version = Version.parse(version) if isinstance(version, str) else version
    parent, name = parent or Previous(), name or Path(folder).resolve().name
    return assemble(source, changes_since(parent, source), version=version, parent=parent, name=name, settings=settings)


def read_source(
    folder: Path, *, benchmarks: Sequence[str] = (), allow_leaks: bool = False, panel: Path | None = None
) -> Source:
    """Read, check and encode a purified folder; arguments and errors as in `build_release`."""
    tables = read_folder(folder)
    tables = replace(tables, report=publishable(tables.report), run=publishable(tables.run))
    if tables.purified is None:
        raise DataError(
            "a panel, not a purified folder; run `kp-data purify` first and push what it writes", place=folder
        )
    if not tables.purified.num_rows:
        raise DataError("no rows to publish; the purified table is empty", place=folder)
    tables = _in_order(tables)
    asked = read_asked(tables, panel)
    train, held_out = _train_and_others(tables.questions)
    leaks = tuple(find_leaks(train, questions, name=name) for name, questions in map(read_benchmark, benchmarks))
    if not allow_leaks:
        refuse_leaks(leaks)
    splits = _split_names(tables.purified, folder)
    configs: list[ConfigFacts] = []
    files: dict[str, bytes] = {}
    rows: dict[str, int] = {}
    for config, table in (("purified", tables.purified), ("panel", _panel_table(tables))):
        if table is None:
            continue
        file_bytes: dict[str, int] = {}
        for own, split in splits.items():
            shards = dict(_shards(config, split, table.filter(pc.equal(table["split"], own))))
            files |= {path: data for path, (data, _) in shards.items()}
            rows |= {path: num_rows for path, (_, num_rows) in shards.items()}
            file_bytes[split] = sum(len(data) for data, _ in shards.values())
        configs.append(ConfigFacts.of(config, table, splits, file_bytes))
    router = _files_under(tables.folder / "router")
    content = {
        "purified": content_hash(tables.purified),
        "panel": content_hash(tables.responses),
        "router": documents_hash(router),
    }
    return Source(
        tables,
        tuple(configs),
        {**files, **router, **_documents(tables)},
        rows,
        content,
        asked,
        find_leaks(train, held_out, name="its own other splits"),
        leaks,
    )


def changes_since(parent: Previous, source: Source, *, message: str | None = None) -> Changes:
    """What publishing a folder after `parent` changes, in rows and beside them."""
    other = tuple(part for part, digest in source.content.items() if parent.content.get(part) != digest)
    rows = diff_rows(parent.purified, source.purified)
    return Changes(parent.version, rows, parent.facts, source.facts, other, message)


def assemble(
    source: Source,
    changes: Changes,
    *,
    version: Version,
    parent: Previous,
    name: str,
    settings: CardSettings | None = None,
) -> Release:
    """The release of an encoded folder after `parent`, with `changes` as `changes_since` found them."""
    card = render_card(
        summarise_tables(source.tables, num_conflicts=2),
        name=name,
        version=version,
        changes=changes,
        configs=source.configs,
        content=source.content,
        asked=source.asked,
        own_leaks=source.own_leaks,
        leaks=source.leaks,
        settings=settings or CardSettings(),
        existing=parent.card,
    )
    changelog = add_entry(parent.changelog, version, write_entry(version, changes))
    manifest = _manifest(source, version, changes)
    files = {CARD: card.encode(), CHANGELOG: changelog.encode(), **source.files, MANIFEST: _json_bytes(manifest)}
    return Release(name, version, dict(sorted(files.items())), changes)


def is_unchanged(source: Source, previous: Previous, settings: CardSettings | None) -> bool:
    """Whether publishing would say nothing that the previous version does not say already."""
    same = previous.version is not None and dict(previous.content) == dict(source.content)
    return same and not settings_differ(previous.card, settings or CardSettings()) and not _tells_more(source, previous)


def _tells_more(source: Source, previous: Previous) -> bool:
    """Whether the card would learn how teachers were asked, or of another benchmark that was looked for."""
    front, _ = split_card(previous.card)
    said = front.get("kp_data")
    if not isinstance(said, dict):
        return False
    checks = [check.as_dict() for check in source.leaks]
    if checks and checks != said.get("benchmarks_checked"):
        return True
    teachers = [teacher for teacher in said.get("teachers") or () if isinstance(teacher, dict)]
    known = {teacher.get("name"): teacher.get("endpoint") for teacher in teachers}
    return any(asked.endpoint is not None and known.get(name) is None for name, asked in source.asked.items())


def _manifest(source: Source, version: Version, changes: Changes) -> dict[str, Any]:
    files = {
        path: {"sha256": _sha256(data), "bytes": len(data)}
        | ({"rows": source.rows[path]} if path in source.rows else {})
        for path, data in sorted(source.files.items())
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "version": str(version),
        "tag": version.tag,
        "parent": str(changes.parent) if changes.parent else None,
        "rows": {config.name: dict(config.num_rows) for config in source.configs},
        "changes": changes.rows.counts,
        "facts": changes.new.as_dict(),
        "files": files,
        "content": dict(source.content),
        "inputs": {name: _sha256(path.read_bytes()) for name, path in sorted(source.tables.inputs.items())},
        "packages": _package_versions(),
    }


def _split_names(table: pa.Table, folder: object) -> dict[str, str]:
    """The split of the rows to its name in the release, in order of first appearance."""
    names: dict[str, str] = {}
    for split in dict.fromkeys(table["split"].to_pylist()):
        name = split.replace("-", "_").replace(" ", "_")
        if not _SPLIT.fullmatch(name) or name == "all":
            remedy = "rename it in questions.parquet to letters, digits and underscores"
            raise DataError(f"split {split!r} cannot be the name of a split on a hub; {remedy}", place=folder)
        if name in names.values():
            raise DataError(f"two splits would both be called {name!r} on a hub; rename {split!r}", place=folder)
        names[split] = name
    return names


def _panel_table(tables: FolderTables) -> pa.Table | None:
    """The responses, each with the split of its question."""
    if tables.responses is None:
        return None
    positions = pc.index_in(tables.responses["question_id"], tables.questions["id"].combine_chunks())
    if positions.null_count:
        row = positions.is_null().to_pylist().index(True)
        lost = tables.responses["question_id"][row].as_py()
        raise DataError(
            f"a response belongs to question {lost!r}, which has no purified row; purify again", place=tables.folder
        )
    return tables.responses.append_column("split", tables.questions["split"].take(positions))


def _encode(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    # Foreign metadata (pandas, older features) would contradict the card; chunks by content let a hub store
    # only what a new version changed.
    table = table.replace_schema_metadata(None).combine_chunks()
    pq.write_table(table, sink, compression="zstd", use_content_defined_chunking=True)
    return bytes(sink.getvalue())


def _shards(config: str, split: str, table: pa.Table) -> Iterator[tuple[str, tuple[bytes, int]]]:
    """Path to bytes and number of rows; files begin at fixed rows, so that appended rows change the last one alone."""
    num = max(1, -(-table.num_rows // ROWS_A_FILE))
    for number in range(num):
        part = table.slice(number * ROWS_A_FILE, ROWS_A_FILE)
        yield f"{config}/{split}-{number:05d}-of-{num:05d}.parquet", (_encode(part), part.num_rows)


def _files_under(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder.parent).as_posix(): path.read_bytes() for path in paths}


def _documents(tables: FolderTables) -> dict[str, bytes]:
    documents = {"report.json": tables.report, "run.json": tables.run}
    return {name: _json_bytes(value) for name, value in documents.items() if value}


def _in_order(tables: FolderTables) -> FolderTables:
    """Purified rows by id; responses by teacher in the order they have now, then mode, sample and question."""
    assert tables.purified is not None
    purified, responses = tables.purified.sort_by("id"), tables.responses
    if responses is not None:
        rank = pc.index_in(responses["teacher"], pc.unique(responses["teacher"]))
        keys = [(name, "ascending") for name in ("#", "mode", "sample", "question_id")]
        responses = responses.append_column("#", rank).sort_by(keys).drop_columns(["#"])
    return replace(tables, purified=purified, responses=responses)


def _train_and_others(questions: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The questions that students learn from, and the others; where no split is for training, all are learned from."""
    learned = pa.array([is_training(split) for split in questions["split"].to_pylist()], pa.bool_())
    if not pc.any(learned).as_py():
        return questions, questions.slice(0, 0)
    return questions.filter(learned), questions.filter(pc.invert(learned))


def _package_versions() -> dict[str, str]:
    versions = {"kp-data": kp_data.__version__}
    return versions | {name: importlib.metadata.version(name) for name in ("datasets", "huggingface-hub", "pyarrow")}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
