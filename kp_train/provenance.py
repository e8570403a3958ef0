"""Where a dataset comes from, as far as its folder tells: for the record of a run and for the card of its student.

    purified folder   run.json, report.json
    panel folder      run.json
    pushed folder     the front matter of README.md, manifest.json, run.json

Training needs none of it, so what is missing or has another shape counts as unknown and is never an error: such a
folder may be anybody's. For the same reason every text of it is somebody else's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from kp_train.foreign import front_matter, json_object, list_of, mapping_of, text_of, whole_characters, whole_of

Origin = Literal["hub", "folder", "practice", "memory"]

_LONGEST: Final = 100_000
"""Characters of what a folder says of its purifier's parameters; more is no parameters."""


@dataclass(frozen=True, slots=True)
class Teacher:
    """A teacher of a dataset.

    Attributes:
        name: as the dataset calls it.
        models: as it was configured, or as its responses name it; empty: unknown.
    """

    name: str
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Provenance:
    """What is known of a dataset beside its rows. None: unknown.

    Attributes:
        name: `namespace/name` of a hub, the folder's own name, or `practice:N`.
        origin: where that name means something.
        version: of a published dataset, X.Y.Z.
        commit: of a dataset that was fetched from a hub.
        method: purifier; None for a panel.
        parameters: of the purifier.
        seed: of the purifier.
        teachers: those who were asked.
        license: of the dataset, as its card says.
        source_datasets: where the questions come from, as its card says.
    """

    name: str | None = None
    origin: Origin = "memory"
    version: str | None = None
    commit: str | None = None
    method: str | None = None
    parameters: Mapping[str, Any] | None = None
    seed: int | None = None
    teachers: tuple[Teacher, ...] = ()
    license: str | None = None
    source_datasets: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As a JSON object, and equal to what is read back of it."""
        return dict(json.loads(json.dumps(asdict(self))))

    def on_hub(self, name: str, commit: str) -> Provenance:
        """The same, fetched from a hub under this name."""
        return replace(self, name=name, origin="hub", commit=commit)

    def with_models(self, pairs: Iterable[tuple[str, str | None]]) -> Provenance:
        """The same with the teachers of some responses, and their models where they are not known otherwise.

        >>> Provenance(teachers=(Teacher("ada", ("m",)),)).with_models([("ada", "x"), ("bo", "y")]).teachers
        (Teacher(name='ada', models=('m',)), Teacher(name='bo', models=('y',)))
        """
        said: dict[str, list[str]] = {}
        for teacher, model in pairs:
            said.setdefault(teacher, []).extend([model] if model else [])
        known = {teacher.name: teacher.models for teacher in self.teachers}
        names = dict.fromkeys([*known, *said])
        return replace(
            self, teachers=tuple(Teacher(name, known.get(name) or tuple(sorted(said.get(name, ())))) for name in names)
        )


def read_provenance(folder: Path) -> Provenance:
    """What a panel folder, a purified folder or a pushed one says of itself."""
    run, report, manifest = (json_object(folder / name) for name in ("run.json", "report.json", "manifest.json"))
    front = front_matter(folder / "README.md")
    card = mapping_of(front.get("kp_data"))
    method = card.get("method") or run.get("method") or report.get("method")
    return Provenance(
        name=folder.resolve().name,
        origin="folder",
        version=text_of(card.get("version")) or text_of(manifest.get("version")),
        method=text_of(method),
        parameters=_parameters(card.get("parameters") or run.get("options") or run.get("parameters")),
        seed=whole_of(card.get("seed")) if "seed" in card else whole_of(run.get("seed")) if method else None,
        # As they were configured before as responses name them: terms are told by the configured name.
        teachers=_teachers(mapping_of(run.get("panel")).get("teachers"), run.get("teachers"), card.get("teachers")),
        license=text_of(front.get("license_name")) or text_of(front.get("license")),
        source_datasets=tuple(filter(None, map(text_of, list_of(front.get("source_datasets"))))),
    )


def _teachers(*lists: Any) -> tuple[Teacher, ...]:
    """Teachers in the order in which the lists name them; the first list that knows a teacher's model tells it."""
    models: dict[str, tuple[str, ...]] = {}
    for entry in (entry for listed in lists for entry in list_of(listed)):
        facts = {"name": entry} if isinstance(entry, str) else mapping_of(entry)
        if name := text_of(facts.get("name")):
            told = [*list_of(facts.get("models")), facts.get("model")]
            models[name] = models.get(name) or tuple(filter(None, map(text_of, told)))
    return tuple(Teacher(name, found) for name, found in models.items())


def _parameters(value: Any) -> dict[str, Any] | None:
    """As plain JSON: YAML has dates and cycles, and nan is no JSON."""
    if not isinstance(value, Mapping):
        return None
    try:
        text = whole_characters(json.dumps(value, default=str, ensure_ascii=False))
        return dict(json.loads(text, parse_constant=str)) if len(text) <= _LONGEST else None
    except (ValueError, TypeError, RecursionError):
        return None
