"""What several commands share: options and how they are read."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kp_data.console import say
from kp_data.errors import ConfigError, HubError

if TYPE_CHECKING:
    from kp_train.dataset import Dataset

_HUB_NAME = re.compile(r"^[\w.-]+/[\w.-]+(@[\w.+-]+)?$")

Source = Annotated[
    str,
    typer.Argument(
        metavar="DATASET",
        help="Panel folder, purified folder, or hub name namespace/name[@version].",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no messages; errors are shown.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of every random choice.")]


def open_dataset(source: str, *, teachers: tuple[str, ...] | None = None) -> Dataset:
    """A folder, a practice source, or a hub name, as rows."""
    from kp_train.dataset import gold_dataset, read_dataset

    if source.startswith("practice:"):
        from kp_data.practice import parse_practice_source

        return gold_dataset(parse_practice_source(source).questions(), source)
    if Path(source).exists() or not _HUB_NAME.match(source):
        return read_dataset(Path(source), teachers=teachers)
    folder = _fetch(source)
    dataset = read_dataset(folder, teachers=teachers)
    # The client keeps a fetched dataset in a folder named by its commit.
    known = dataset.provenance.on_hub(source.partition("@")[0], folder.name)
    return replace(dataset, provenance=known)


def open_student(source: str) -> tuple[Path, bool]:
    """The folder of a student, and whether it was fetched from a hub, where it is read and never written."""
    if Path(source).exists() or not _HUB_NAME.match(source):
        return Path(source), False
    from kp_train.publish import fetch_student

    say(f"no folder {source} here; fetching it from the hub")
    try:
        return fetch_student(source), True
    except HubError as error:
        raise HubError(f"no such folder, and as the name of a model on a hub: {error}", place=source) from error


def _fetch(name: str) -> Path:
    try:
        from kp_data.hub.publish import fetch
    except ImportError as error:
        raise HubError("no such folder, and this installation cannot fetch from a hub", place=name) from error
    say(f"no folder {name} here; fetching it from the hub")
    try:
        return fetch(name)
    except HubError as error:
        raise HubError(f"no such folder, and as the name of a hub dataset: {error}", place=name) from error


def names(value: str | None, *, option: str = "--teachers", what: str = "teacher") -> tuple[str, ...] | None:
    """The parts of A,B, each once; None where the option is not given."""
    if value is None:
        return None
    found = tuple(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))
    if not found:
        raise ConfigError(f"names no {what}; write {option} A,B", place=option)
    return found
