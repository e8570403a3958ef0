"""The models of a hub, for its pages: what was published, what was said of it, and which datasets it learned from.

Cards and records may be anybody's: what has another shape than expected is left out, and is never an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import islice
from typing import Any, Final

from kp_data.hub.explorer.dataset import (
    CARD,
    LISTED,
    AccessDenied,
    Download,
    Listing,
    NotFound,
    Reader,
    Version,
    card_data,
    json_object,
)
from kp_data.hub.explorer.facts import CardFact, Snippet, size_words, words_of
from kp_data.hub.explorer.published import Published, is_private
from kp_data.hub.explorer.render import url
from kp_data.hub.server.commits import Commit, history
from kp_data.hub.server.hub import Hub
from kp_data.hub.server.repositories import MAIN
from kp_data.report.terminal import format_value

RUN: Final = "run.json"
STUDENT: Final = "student.json"
"""By which a student of ours is known."""

MOST_COMMITS: Final = 50
_DOCUMENTS: Final[tuple[str, ...]] = (CARD, RUN)
_OPEN_AT_ONCE: Final = 64
_MOST_NAMED: Final = 20
"""Datasets and results that a page repeats from a card."""


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file of a model; `size` in bytes."""

    path: str
    size: int

    @property
    def words(self) -> str:
        """Its size, as a person reads it."""
        return size_words(self.size)


@dataclass(frozen=True)
class Model:
    """One version of a model.

    Attributes:
        name: `namespace/name`.
        revision: as it was asked for.
        commit: the immutable id of these files.
        files: every file, by path.
        documents: path to bytes, of those that the page reads.
        private: whether not everybody may see it.
    """

    name: str
    revision: str
    commit: str
    files: tuple[ModelFile, ...]
    documents: Mapping[str, bytes] = field(default_factory=dict)
    private: bool = False

    @property
    def address(self) -> tuple[str, ...]:
        """Segments of the address of its page."""
        return tuple(self.name.split("/"))

    @cached_property
    def metadata(self) -> Mapping[str, Any]:
        """The YAML block of its card; empty where there is none that can be read."""
        return card_data(self.document(CARD))

    @cached_property
    def run(self) -> Mapping[str, Any]:
        """The record of the run that made it; empty where there is none that can be read."""
        return json_object(self.document(RUN))

    @property
    def is_student(self) -> bool:
        """Whether `kp-train` can use it."""
        return any(file.path == STUDENT for file in self.files)

    def document(self, path: str) -> str:
        """A document as text; empty where there is none."""
        return self.documents.get(path, b"").decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class LearnedFrom:
    """A dataset that a card names.

    Attributes:
        name: as the card has it.
        version: as the record of the run has it; empty: unknown.
        to: its page; empty: it is not on this hub, as far as the reader may know.
    """

    name: str
    version: str = ""
    to: str = ""


class HubModels:
    """The models of a hub."""

    def __init__(self, hub: Hub) -> None:
        self._published, self._datasets = Published(hub, "model"), Published(hub, "dataset")
        self._opened = lru_cache(maxsize=_OPEN_AT_ONCE)(self._open)

    def find(self, reader: Reader, *, search: str = "", offset: int = 0, length: int = LISTED) -> Listing:
        """The models this reader may see, last changed first, those whose name or card holds the words."""
        return self._published.find(reader, search=search, offset=offset, length=length)

    def open(self, reader: Reader, name: str, revision: str | None = None) -> Model:
        """A version of a model; None: the newest state.

        Raises:
            NotFound: there is none, or this reader may not know of it.
            AccessDenied: this reader knows of it and may not read it.
        """
        repo, commit = self._published.resolved(reader, name, revision)
        opened = self._opened(repo.id, commit)
        return replace(opened, name=str(repo.name), revision=revision or MAIN, private=is_private(repo))

    def versions(self, reader: Reader, name: str) -> Sequence[Version]:
        """Version tags, newest first, then branches and other tags; raises as `open` does."""
        return self._published.versions(reader, name)

    def commits(self, reader: Reader, name: str, revision: str | None = None) -> Sequence[Commit]:
        """Commits of a version and those before it, newest first, one more than are shown; raises as `open` does."""
        repo, commit = self._published.resolved(reader, name, revision)
        return self._published.asked(
            lambda connection: list(islice(history(connection, repo, commit), MOST_COMMITS + 1))
        )

    def download(self, reader: Reader, name: str, revision: str, path: str) -> Download:
        """One of its files; raises as `open` does, and NotFound where there is no such file."""
        return self._published.download(reader, name, revision, path)

    def learned_from(self, reader: Reader, model: Model) -> list[LearnedFrom]:
        """The datasets that its card names, those that this reader may know of with their pages."""
        noted = _mapping(model.run.get("dataset"))
        found = []
        for name in islice(_texts(model.metadata.get("datasets")), _MOST_NAMED):
            version = noted.get("version") if noted.get("name") == name else None
            found.append(self._dataset(reader, name, version if isinstance(version, str) else ""))
        return found

    def _dataset(self, reader: Reader, name: str, version: str) -> LearnedFrom:
        tag = f"v{version}" if version else None
        for revision in (tag, None) if tag else (None,):
            try:
                self._datasets.resolved(reader, name, revision)
            except AccessDenied:
                pass
            except NotFound:
                continue
            return LearnedFrom(name, version, url("datasets", *name.split("/"), revision=revision))
        return LearnedFrom(name, version)

    def _open(self, repo_id: str, commit: str) -> Model:
        """The files of a commit; the reader's right to them is not asked about here."""
        files = self._published.files(repo_id, commit)
        documents = {path: self._published.document(files[path]) for path in _DOCUMENTS if path in files}
        return Model("", commit, commit, tuple(ModelFile(path, file.size) for path, file in files.items()), documents)


def model_facts(model: Model, learned_from: Sequence[LearnedFrom]) -> list[CardFact]:
    """What a reader wants to know first; what is not known is left out."""
    said, run = model.metadata, model.run
    identity, parameters = _mapping(run.get("identity")), run.get("parameters")
    counted = isinstance(parameters, int) and not isinstance(parameters, bool)
    size = sum(file.size for file in model.files)
    datasets = [
        CardFact("learned from", words_of(f"{each.name} v{each.version}" if each.version else each.name), to=each.to)
        for each in learned_from
    ]
    told = [
        ("objective", identity.get("objective")),
        ("task", said.get("pipeline_tag")),
        ("library", said.get("library_name")),
        ("started from", said.get("base_model")),
        ("parameters", f"{parameters:,}" if counted else None),
    ]
    found = [CardFact(label, words_of(value)) for label, value in told if value]
    licence = [CardFact("licence", words_of(said["license"]))] if said.get("license") else []
    results = islice(_results(said), _MOST_NAMED)
    return [*found, *datasets, *results, *licence, CardFact("size", size_words(size), "of all files")]


def model_snippets(model: Model, versions: Sequence[Version], code: str | None, endpoint: str) -> list[Snippet]:
    """How to use it: our program where it is a student of ours, what its card says, and the official client.

    Args:
        model: which.
        versions: its versions, newest first.
        code: in Python, as its card has it; None: it has none.
        endpoint: of the hub.
    """
    tags = [version.name for version in versions if version.name.startswith("v") and version.commit == model.commit]
    asked = model.revision if model.revision != MAIN else None
    revision = asked or next(iter(tags), None)
    at = f"@{revision.removeprefix('v') if revision in tags else revision}" if revision else ""
    found = [
        Snippet("Once in your shell", f"export HF_ENDPOINT={endpoint}\nexport HF_TOKEN=…   # for private models"),
        Snippet("Ask it", f"kp-train predict {model.name}{at} questions.jsonl") if model.is_student else None,
        Snippet("Python, as its card has it", code) if code else None,
        Snippet("All files", f"hf download {model.name}{f' --revision {revision}' if revision else ''}"),
    ]
    return [snippet for snippet in found if snippet is not None]


def _results(metadata: Mapping[str, Any]) -> Iterator[CardFact]:
    """Accuracies that a card's `model-index` holds."""
    index = metadata.get("model-index")
    for entry in map(_mapping, index if isinstance(index, list) else ()):
        results = entry.get("results")
        for result in map(_mapping, results if isinstance(results, list) else ()):
            yield from _accuracies(result)


def _accuracies(result: Mapping[str, Any]) -> Iterator[CardFact]:
    dataset, metrics = _mapping(result.get("dataset")), result.get("metrics")
    place = ", ".join(words_of(dataset[key]) for key in ("name", "split") if dataset.get(key))
    for metric in map(_mapping, metrics if isinstance(metrics, list) else ()):
        value = metric.get("value")
        # Others than shares would have to be written otherwise.
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
            continue
        if metric.get("type") == "accuracy":
            yield CardFact("accuracy", format_value(float(value), "percent"), f"on {place}" if place else "")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _texts(value: Any) -> Iterator[str]:
    return (each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str) and each)
