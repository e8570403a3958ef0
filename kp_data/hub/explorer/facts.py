"""What stands beside a dataset's card: its facts, and how to load it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kp_data.hub.explorer.dataset import Dataset, Version
from kp_data.hub.explorer.story import PURIFIED
from kp_data.report.terminal import format_value

_MOST_CHARS: Final = 300
"""Of a fact: a card may write half a megabyte where a word is expected."""


@dataclass(frozen=True, slots=True)
class CardFact:
    """A line beside the card; `to` is where its value leads."""

    label: str
    value: str
    note: str = ""
    to: str = ""


@dataclass(frozen=True, slots=True)
class Snippet:
    """A few lines to copy."""

    title: str
    code: str


def card_facts(dataset: Dataset) -> list[CardFact]:
    """What a reader wants to know first; what is not known is left out."""
    report, metadata = dataset.json("report.json"), dataset.metadata
    method = report.get("method")
    scores = _headline(report)
    found = [
        CardFact("purified by", str(method)) if isinstance(method, str) else None,
        CardFact("questions", _count(dataset)),
        CardFact("teachers", ", ".join(map(str, teachers))) if (teachers := _teachers(report)) else None,
        _share("teachers disagree on", report.get("conflict_rate"), "of the questions"),
        _share("kept one is right on", scores.get("purified_accuracy"), "of the test questions"),
        _share("best single teacher", scores.get("best_single_accuracy"), "right when asked blind"),
        _share("gap to oracle closed", scores.get("gap_closed"), ""),
        CardFact("licence", words_of(metadata.get("license"))) if metadata.get("license") else None,
        CardFact("size", size_words(sum(part.num_bytes for part in dataset.parts)), "of Parquet"),
    ]
    return [fact for fact in found if fact is not None]


def snippets(dataset: Dataset, versions: Sequence[Version], endpoint: str | None) -> list[Snippet]:
    """How to load it: `datasets`, pandas, and our own programs.

    Args:
        dataset: which.
        versions: its versions, newest first.
        endpoint: of the hub; None: a folder, which needs no hub.
    """
    if endpoint is None:
        files = {part.config: part.paths[0] for part in reversed(dataset.parts) if part.paths}
        first = next(iter(files.values()), "purified.parquet")
        return [Snippet("pandas", f'import pandas as pd\n\nrows = pd.read_parquet("{first}")')]
    tag = next((version.name for version in versions if version.name.startswith("v")), None)
    name = dataset.name
    at = f', revision="{tag}"' if tag else ""
    path = f"hf://datasets/{name}{f'@{tag}' if tag else ''}"
    first = next((part.paths[0] for part in dataset.parts if part.paths), "purified.parquet")
    number = f"@{tag.removeprefix('v')}" if tag else ""
    return [
        Snippet("Once in your shell", f"export HF_ENDPOINT={endpoint}\nexport HF_TOKEN=…   # for private datasets"),
        Snippet("datasets", f'from datasets import load_dataset\n\nrows = load_dataset("{name}"{at})'),
        Snippet("pandas", f'import pandas as pd\n\nrows = pd.read_parquet("{path}/{first}")'),
        Snippet(
            "Distill a student", f"kp-train fit {name}{number} --student tiny-t5 --objective purified --out student"
        ),
        Snippet("All files", f"hf download {name} --repo-type dataset{f' --revision {tag}' if tag else ''}"),
    ]


def size_words(num_bytes: int) -> str:
    """A size as a person reads it.

    >>> size_words(1_300_000), size_words(812)
    ('1.3 MB', '812 B')
    """
    for unit, step in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= step:
            return f"{num_bytes / step:.1f} {unit}"
    return f"{num_bytes} B"


def _count(dataset: Dataset) -> str:
    config = PURIFIED if PURIFIED in dataset.configs else next(iter(dataset.configs), "")
    return f"{sum(part.num_rows for part in dataset.of_config(config)):,}"


def _headline(report: Mapping[str, Any]) -> Mapping[str, Any]:
    splits = report.get("splits")
    test = splits.get("test") if isinstance(splits, dict) else None
    return test if isinstance(test, dict) else report


def _teachers(report: Mapping[str, Any]) -> list[Any]:
    teachers = report.get("teachers")
    shares = report.get("teacher_share")
    return teachers if isinstance(teachers, list) else list(shares) if isinstance(shares, dict) else []


def _share(label: str, value: Any, note: str) -> CardFact | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return CardFact(label, format_value(float(value), "percent"), note) if known else None


def words_of(value: Any) -> str:
    """A value of a card's, or several, the beginning of what is long."""
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= _MOST_CHARS else text[:_MOST_CHARS].rstrip() + " …"
