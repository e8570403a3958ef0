"""The commands that publish and fetch datasets."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from kp_data.cli.app import app
from kp_data.cli.options import PUBLISH, Endpoint, Json, Quiet
from kp_data.console import out_json, say, set_quiet
from kp_data.errors import ConfigError


@app.command(rich_help_panel=PUBLISH)
def push(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Purified folder.", show_default=False)],
    name: Annotated[str, typer.Argument(metavar="NAME", help="namespace/name on the hub.", show_default=False)],
    version: Annotated[str | None, typer.Option(metavar="X.Y.Z", help="Default: the last one, bumped.")] = None,
    bump: Annotated[
        Literal["patch", "minor", "major", "auto"],
        typer.Option(
            help="Which part of the version rises. auto: major when rows are removed or change split, or columns go; "
            "minor when rows are added or changed; else patch."
        ),
    ] = "patch",
    private: Annotated[bool, typer.Option("--private", help="Make a new dataset private.")] = False,
    endpoint: Endpoint = None,
    message: Annotated[str | None, typer.Option(help="Of the commit, and in the changelog.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be sent.")] = False,
    to: Annotated[Path | None, typer.Option(help="With --dry-run: write it to this folder instead.")] = None,
    benchmark: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE|NAME[:SPLIT]",
            help="Refuse when its test questions stand in train, or nearly. A file, a folder or a hub dataset "
            "(NAME:CONFIG:SPLIT too). Repeatable.",
        ),
    ] = None,
    allow_leaks: Annotated[bool, typer.Option("--allow-leaks", help="Push all the same; the card says so.")] = False,
    panel: Annotated[
        Path | None, typer.Option(help="Panel it was purified from: the card then says how teachers were asked.")
    ] = None,
    license_: Annotated[
        str | None, typer.Option("--license", "--licence", help="Of the dataset, as the Hub writes it.")
    ] = None,
    source_dataset: Annotated[list[str] | None, typer.Option(help="Where the questions come from. Repeatable.")] = None,
    language: Annotated[list[str] | None, typer.Option(help="ISO code. Repeatable.")] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Publish a purified folder as a version: one commit, read back, one tag."""
    from kp_data.hub import CardSettings, LeakError
    from kp_data.hub import push as publish
    from kp_data.hub.shown import show_push

    set_quiet(quiet)
    if to is not None and not dry_run:
        raise ConfigError("--to FOLDER goes together with --dry-run")
    settings = CardSettings(
        license=license_,
        source_datasets=tuple(source_dataset) if source_dataset else None,
        language=tuple(language) if language else None,
    )
    try:
        result = publish(
            folder,
            name,
            version=version,
            bump=bump,
            private=private,
            endpoint=endpoint,
            message=message,
            dry_run=dry_run,
            dry_run_to=to,
            benchmarks=tuple(benchmark or ()),
            allow_leaks=allow_leaks,
            panel=panel,
            settings=settings,
        )
    except LeakError as error:
        if json_:
            out_json(error.as_dict())
        raise
    if json_:
        out_json(result.as_dict())
    else:
        for line in show_push(result, forced=version is not None):
            say(line)


@app.command(rich_help_panel=PUBLISH)
def pull(
    name: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", show_default=False)],
    out: Annotated[Path, typer.Option(help="New folder.", show_default=False)],
    endpoint: Endpoint = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fetch a published version into a folder, every file checked."""
    from kp_data.hub import pull as fetch

    set_quiet(quiet)
    folder = fetch(name, out, endpoint=endpoint)
    if json_:
        out_json({"name": name, "out": str(folder)})
    else:
        say(f"{name}: {folder}")


@app.command(rich_help_panel=PUBLISH)
def versions(
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False)],
    endpoint: Endpoint = None,
    json_: Json = False,
) -> None:
    """List the published versions of a dataset, and what changed in each."""
    from dataclasses import asdict

    from kp_data.hub import versions as published
    from kp_data.hub.shown import show_versions

    found = published(name, endpoint=endpoint)
    if json_:
        out_json([asdict(version) for version in found])
        return
    if not found:
        say(f"{name} has no version yet")
    for line in show_versions(found):
        typer.echo(line)


@app.command(rich_help_panel=PUBLISH)
def diff(
    first: Annotated[str, typer.Argument(metavar="NAME|A", show_default=False)],
    second: Annotated[str, typer.Argument(metavar="V1|B", show_default=False)],
    third: Annotated[str | None, typer.Argument(metavar="[V2]", show_default=False)] = None,
    endpoint: Endpoint = None,
    limit: Annotated[int, typer.Option(min=0, help="Rows shown of each kind.")] = 20,
    json_: Json = False,
) -> None:
    """Compare two published versions row by row: NAME V1 V2, or A B, each a folder or NAME@VERSION."""
    from dataclasses import asdict

    from kp_data.hub import diff_rows, read_rows
    from kp_data.hub.shown import show_diff
    from kp_data.hub.versions import changed_rows

    sources = (first, second) if third is None else (f"{first}@{second}", f"{first}@{third}")
    old, new = (read_rows(source, endpoint=endpoint) for source in sources)
    found = diff_rows(old, new)
    rows = changed_rows(old, new, found)
    if json_:
        out_json({**found.as_dict(), "rows": [asdict(row) for row in rows]})
    else:
        show_diff(found, rows, limit=limit, colour="NO_COLOR" not in os.environ and sys.stdout.isatty())
