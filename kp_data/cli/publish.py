"""The commands that publish and fetch datasets."""

from __future__ import annotations

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
        Literal["patch", "minor", "major"], typer.Option(help="Which part of the version rises.")
    ] = "patch",
    private: Annotated[bool, typer.Option("--private", help="Make a new dataset private.")] = False,
    endpoint: Endpoint = None,
    message: Annotated[str | None, typer.Option(help="Of the commit.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write what would be pushed to --to.")] = False,
    to: Annotated[Path | None, typer.Option(help="Folder for --dry-run.")] = None,
    test_questions: Annotated[
        Path | None, typer.Option(help="Questions of a benchmark, none of which may stand in what is published.")
    ] = None,
    license_: Annotated[str | None, typer.Option("--license", help="Of the dataset, as the Hub writes it.")] = None,
    source_dataset: Annotated[list[str] | None, typer.Option(help="Where the questions come from. Repeatable.")] = None,
    language: Annotated[list[str] | None, typer.Option(help="ISO code. Repeatable.")] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Publish a purified folder as a version: one commit, one tag, read back."""
    from kp_data.hub import CardSettings
    from kp_data.hub import push as publish

    set_quiet(quiet)
    if dry_run != (to is not None):
        raise ConfigError("--dry-run and --to FOLDER go together")
    settings = CardSettings(
        license=license_,
        source_datasets=tuple(source_dataset) if source_dataset else None,
        language=tuple(language) if language else None,
    )
    result = publish(
        folder,
        name,
        version=version,
        bump=bump,
        private=private,
        endpoint=endpoint,
        message=message,
        dry_run_to=to,
        test_questions=test_questions,
        settings=settings,
    )
    if json_:
        out_json(result.as_dict())
    elif result.unchanged:
        say(f"{result.repo} is unchanged since v{result.version}: nothing to publish")
    else:
        say(
            f"{result.repo} v{result.version}: {result.rows_added} rows added, {result.rows_removed} removed, "
            f"{result.rows_changed} changed; {result.uploaded_bytes:,} bytes\n{result.url}"
        )


@app.command(rich_help_panel=PUBLISH)
def pull(
    name: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", show_default=False)],
    out: Annotated[Path, typer.Option(help="New folder.", show_default=False)],
    endpoint: Endpoint = None,
) -> None:
    """Fetch a published version into a folder."""
    from kp_data.hub import pull as fetch

    say(f"{name}: {fetch(name, out, endpoint=endpoint)}")


@app.command(rich_help_panel=PUBLISH)
def versions(
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False)],
    endpoint: Endpoint = None,
    json_: Json = False,
) -> None:
    """List the published versions of a dataset."""
    from dataclasses import asdict

    from kp_data.hub import versions as published

    rows = [asdict(version) for version in published(name, endpoint=endpoint)]
    if json_:
        out_json(rows)
    else:
        from kp_data.report import Column, print_table

        print_table(rows, [Column(key, key) for key in ("version", "tag", "commit")])


@app.command(rich_help_panel=PUBLISH)
def diff(
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False)],
    old: Annotated[str, typer.Argument(metavar="V1", show_default=False)],
    new: Annotated[str, typer.Argument(metavar="V2", show_default=False)],
    endpoint: Endpoint = None,
    json_: Json = False,
) -> None:
    """Compare two published versions row by row."""
    from kp_data.hub import diff as compare_versions

    rows = compare_versions(name, old, new, endpoint=endpoint)
    if json_:
        out_json(rows.as_dict())
    else:
        say(f"{len(rows.added)} added, {len(rows.removed)} removed, {len(rows.changed)} changed")
        for sign, ids in (("+", rows.added), ("-", rows.removed), ("~", rows.changed)):
            for row in ids:
                typer.echo(f"{sign} {row}")
