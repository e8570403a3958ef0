"""Examples of conflicts: what each teacher concludes, and which rationale each method keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kp_data.errors import DataError
from kp_data.report.html import Section
from kp_data.report.readings import items, part


@dataclass(frozen=True, slots=True)
class ComparedVoice:
    """What one teacher said, and who keeps it; under the names that a page gives a `kp_data.summary.Voice`."""

    teacher: str
    rationale: str | None
    conclusion: str | None
    correct: bool | None
    kept_by: tuple[str, ...]

    @property
    def chosen(self) -> bool:
        """Whether a method keeps it."""
        return bool(self.kept_by)


@dataclass(frozen=True, slots=True)
class ComparedConflict:
    """A question on which teachers conclude differently, under the names of a `kp_data.summary.Conflict`."""

    question_id: str
    split: str
    question: str
    choices: tuple[str, ...]
    gold: str | None
    voices: tuple[ComparedVoice, ...]
    written: Mapping[str, str]


def examples_section(facts: Mapping[str, Any], place: Path) -> list[Section]:
    """The examples of a `split.json`; nothing where it holds none.

    Raises: DataError, when an example is not what `kp-data compare` writes.
    """
    found = facts.get("examples") or []
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise DataError("'examples' is no list of questions; write it again with `kp-data compare`", place=place)
    conflicts = tuple(_conflict(one) for one in found)
    if not conflicts:
        return []
    lead = f"{len(conflicts)} questions on which teachers conclude differently, spread evenly over the data."
    return [Section("Where they contradict one another, and what is kept", lead, conflicts=conflicts)]


def _conflict(example: Mapping[str, Any]) -> ComparedConflict:
    return ComparedConflict(
        question_id=str(example.get("id")),
        split=str(example.get("split")),
        question=str(example.get("question")),
        choices=tuple(str(choice) for choice in items(example, "choices")),
        gold=_text(example.get("gold")),
        voices=tuple(_voice(voice) for voice in items(example, "voices") if isinstance(voice, dict)),
        written={str(name): str(text) for name, text in part(example, "written").items()},
    )


def _voice(voice: Mapping[str, Any]) -> ComparedVoice:
    right = voice.get("right")
    return ComparedVoice(
        teacher=str(voice.get("teacher")),
        rationale=_text(voice.get("rationale")),
        conclusion=_text(voice.get("conclusion")),
        correct=right if isinstance(right, bool) else None,
        kept_by=tuple(str(name) for name in items(voice, "kept_by")),
    )


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
