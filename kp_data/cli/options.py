"""Options that several commands have, and how their texts are read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import typer

from kp_data.errors import ConfigError

ASK, PURIFY, PUBLISH = "1 · Ask the teachers", "2 · Purify", "3 · Publish"

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no messages; errors are shown.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of every random choice.")]
PanelDir = Annotated[Path, typer.Argument(metavar="PANEL", help="Panel folder.", show_default=False)]
Embedder = Annotated[str, typer.Option(help="Sentence encoder: minilm (packaged), a path or a hub id.")]
Labels = Annotated[Literal["gold", "agreement"], typer.Option(help="What routers learn from.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, …; default: what is there.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Texts embedded at a time.")]
Engine = Annotated[Literal["local", "ray"], typer.Option(help="local, or ray: workers on a Ray cluster embed.")]
Workers = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="With --engine ray; default: one a node, at least two.")
]
Config = Annotated[Path | None, typer.Option(help="kp.yaml: models, and how they are asked.")]
Aggregator = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="Who writes, for aggregation: as for --teacher, or a name in kp.yaml."),
]
MethodOptions = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE", help="Of the method, see `kp-data methods --json`; METHOD.NAME=VALUE for several."
    ),
]
Budget = Annotated[float | None, typer.Option(metavar="USD", help="Hard limit over all runs on the panel's store.")]
Endpoint = Annotated[str | None, typer.Option(help="Hub to talk to; default: HF_ENDPOINT, or huggingface.co.")]


_FORMS = {"--students": "NAME=FILE", "--option": "NAME=VALUE"}


def names_of(text: str | None) -> list[str]:
    """The names of a comma-separated option.

    >>> names_of("a, b,")
    ['a', 'b']
    """
    return [name.strip() for name in text.split(",") if name.strip()] if text else []


def pairs_of(options: Iterable[str], flag: str) -> dict[str, str]:
    """The `NAME=VALUE` pairs of a repeatable option.

    Raises:
        ConfigError: one has another form.
    """
    pairs = {}
    for text in options:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise ConfigError(f"{flag} {text}: write {_FORMS.get(flag, 'COLUMN=FIELD')}")
        pairs[name] = value
    return pairs
