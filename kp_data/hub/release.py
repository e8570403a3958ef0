"""From a purified folder to the files of a release: Parquet per split, card, manifest. Nothing here touches a network.

A release holds `README.md`, `purified/{split}-00000-of-00001.parquet`, the same under `panel/` where the folder holds
the teachers' responses, `router/`, `report.json`, `run.json` and `manifest.json`. The same folder, version and parent
give the same bytes.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import kp_data
from kp_data.errors import DataError
from kp_data.hub.cards import CardSettings, ConfigFacts, render_card, settings_differ
from kp_data.hub.versions import RowDiff, Version, content_hash, diff_rows, documents_hash
from kp_data.panel import normalise_answer
from kp_data.schema import SCHEMA_VERSION
from kp_data.summary import FolderTables, read_folder, summarise_tables
from kp_data.tables import read_questions

MANIFEST: Final = "manifest.json"
CARD: Final = "README.md"
OURS: Final = re.compile(
    r"(purified|panel)/[^/]+-\d{5}-of-\d{5}\.parquet|router/.+|report\.json|run\.json|manifest\.json"
)
"""The paths that a release writes and a later one may delete; everything else in a repository belongs to its owner."""

_SPLIT = re.compile(r"\w+(\.\w+)*")
_LOCAL_PATH = re.compile(r"(/|~/|file:/|[A-Za-z]:\\)[^\n]*\Z")


@dataclass(frozen=True)
class Source:
    """A purified folder, read and encoded once; whatever version it becomes.

    Attributes:
        tables: the folder's tables.
        configs: per config (`purified`, `panel`) what its card entry needs.
        files: path to bytes, all files but the card and the manifest.
        rows: path to number of rows, for the Parquet files.
        content: per part a hash of what it says, None where the folder lacks it; equal hashes are equal data.
        num_recurring: questions outside `train` whose text and choices stand in `train` too.
    """

    tables: FolderTables
    configs: tuple[ConfigFacts, ...]
    files: Mapping[str, bytes]
    rows: Mapping[str, int]
    content: Mapping[str, str | None]
    num_recurring: int

    @property
    def purified(self) -> pa.Table:
        """The purified rows."""
        assert self.tables.purified is not None
        return self.tables.purified


@dataclass(frozen=True)
class Previous:
    """What a repository or a folder holds already.

    Attributes:
        version: the version of its manifest; None where there is no release yet.
        content: the content hashes of its manifest.
        purified: its purified rows; None: no release, or rows that cannot be compared.
        card: its README.md, None where there is none.
    """

    version: Version | None = None
    content: Mapping[str, Any] = field(default_factory=dict)
    purified: pa.Table | None = None
    card: str | None = None


@dataclass(frozen=True)
class Release:
    """Every file of one version, ready to be written or pushed.

    Attributes:
        files: path to bytes.
        parent: the version this one follows.
        diff: rows by id against the parent.
    """

    name: str
    version: Version
    parent: Version | None
    files: Mapping[str, bytes]
    diff: RowDiff


def build_release(
    folder: Path,
    *,
    version: Version | str,
    parent: Previous | None = None,
    name: str | None = None,
    settings: CardSettings | None = None,
    test_questions: Path | None = None,
) -> Release:
    """The files of a version of a purified folder.

    Args:
        folder: a purified folder.
        version: what it will be called.
        parent: what it follows; default: nothing.
        name: `namespace/name` in the card's snippets; default: the folder's name.
        settings: what only its author knows of it, such as the licence.
        test_questions: a questions file of which no question may stand in the release.

    Raises:
        DataError: the folder holds no purified rows, a split has no usable name, or a test question would be published.
    """
    source = read_source(folder, test_questions=test_questions)
    version = Version.parse(version) if isinstance(version, str) else version
    return assemble(source, version=version, parent=parent, name=name or Path(folder).resolve().name, settings=settings)


def read_source(folder: Path, *, test_questions: Path | None = None) -> Source:
    """Read, check and encode a purified folder; arguments and errors as in `build_release`."""
    tables = read_folder(folder)
    tables = replace(tables, report=_publishable(tables.report), run=_publishable(tables.run))
    if tables.purified is None:
        raise DataError(
            "a panel, not a purified folder; run `kp-data purify` first and push what it writes", place=folder
        )
    if not tables.purified.num_rows:
        raise DataError("no rows to publish; the purified table is empty", place=folder)
    if test_questions is not None:
        _refuse_test_questions(tables.questions, test_questions)
    splits = _split_names(tables.purified, folder)
    configs: list[ConfigFacts] = []
    files: dict[str, bytes] = {}
    rows: dict[str, int] = {}
    for config, table in (("purified", tables.purified), ("panel", _panel_table(tables))):
        if table is None:
            continue
        encoded = {split: _encode(table.filter(pc.equal(table["split"], own))) for own, split in splits.items()}
        facts = ConfigFacts.of(config, table, splits, {split: len(data) for split, data in encoded.items()})
        configs.append(facts)
        files |= {_path(config, split): data for split, data in encoded.items()}
        rows |= {_path(config, split): facts.num_rows[split] for split in encoded}
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
        _num_recurring(tables.questions),
    )


def assemble(
    source: Source,
    *,
    version: Version,
    parent: Previous | None,
    name: str,
    settings: CardSettings | None = None,
) -> Release:
    """The release of an encoded folder after `parent`."""
    parent = parent or Previous()
    diff = diff_rows(parent.purified, source.purified)
    card = render_card(
        summarise_tables(source.tables, num_conflicts=2),
        name=name,
        version=version,
        parent=parent.version,
        diff=diff,
        configs=source.configs,
        content=source.content,
        num_recurring=source.num_recurring,
        settings=settings or CardSettings(),
        existing=parent.card,
    )
    manifest = _manifest(source, version, parent.version, diff)
    files = {CARD: card.encode(), **source.files, MANIFEST: _json_bytes(manifest)}
    return Release(name, version, parent.version, dict(sorted(files.items())), diff)


def is_unchanged(source: Source, previous: Previous, settings: CardSettings | None) -> bool:
    """Whether publishing would say nothing that the previous version does not say already."""
    same = previous.version is not None and dict(previous.content) == dict(source.content)
    return same and not settings_differ(previous.card, settings or CardSettings())


def _manifest(source: Source, version: Version, parent: Version | None, diff: RowDiff) -> dict[str, Any]:
    files = {
        path: {"sha256": _sha256(data), "bytes": len(data)}
        | ({"rows": source.rows[path]} if path in source.rows else {})
        for path, data in sorted(source.files.items())
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "version": str(version),
        "tag": version.tag,
        "parent": str(parent) if parent else None,
        "rows": {config.name: dict(config.num_rows) for config in source.configs},
        "changes": diff.counts,
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


def _path(config: str, split: str) -> str:
    return f"{config}/{split}-00000-of-00001.parquet"


def _files_under(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder.parent).as_posix(): path.read_bytes() for path in paths}


def _documents(tables: FolderTables) -> dict[str, bytes]:
    documents = {"report.json": tables.report, "run.json": tables.run}
    return {name: _json_bytes(value) for name, value in documents.items() if value}


def _publishable(value: Any) -> Any:
    """A document with absolute paths reduced to their last part, and nan to null.

    Where files lay on the author's machine is nobody's business, and nan is not JSON.
    """
    if isinstance(value, dict):
        return {_publishable(key): _publishable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_publishable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str) and _LOCAL_PATH.match(value):
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1]
    return value


def _refuse_test_questions(questions: pa.Table, path: Path) -> None:
    held_out = set(_texts(read_questions(path)))
    for question_id, text in zip(questions["id"].to_pylist(), _texts(questions), strict=True):
        if text in held_out:
            message = (
                f"question {question_id} stands in {path}, which must not be published; leave it out and purify again"
            )
            raise DataError(message, place="test questions")


def _num_recurring(questions: pa.Table) -> int:
    splits, texts = questions["split"].to_pylist(), list(_texts(questions))
    train = {text for split, text in zip(splits, texts, strict=True) if split == "train"}
    return sum(split != "train" and text in train for split, text in zip(splits, texts, strict=True))


def _texts(questions: pa.Table) -> list[tuple[str, str, frozenset[str]]]:
    """What makes two questions the same: context, question and choices, in whatever order and case."""
    columns = (questions[name].to_pylist() for name in ("context", "question", "choices"))
    return [
        (normalise_answer(context or ""), normalise_answer(question), frozenset(map(normalise_answer, choices or ())))
        for context, question, choices in zip(*columns, strict=True)
    ]


def _package_versions() -> dict[str, str]:
    versions = {"kp-data": kp_data.__version__}
    return versions | {name: importlib.metadata.version(name) for name in ("datasets", "huggingface-hub", "pyarrow")}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
