"""`kp-train push`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kp_data.console import out_json, say, set_quiet
from kp_train.cli.app import USE, app
from kp_train.cli.options import Json, Quiet


@app.command(rich_help_panel=USE)
def push(
    student: Annotated[Path, typer.Argument(metavar="STUDENT", help="Folder of a fitted student.", show_default=False)],
    name: Annotated[str, typer.Argument(metavar="NAME", help="namespace/name on the hub.", show_default=False)],
    version: Annotated[
        str | None, typer.Option("--version", "--tag", metavar="X.Y.Z", help="Tag the commit as this version.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new model private.")] = False,
    endpoint: Annotated[
        str | None, typer.Option(help="Hub to talk to; default: HF_ENDPOINT, or huggingface.co.")
    ] = None,
    message: Annotated[str | None, typer.Option(help="Of the commit.")] = None,
    license_: Annotated[
        str | None, typer.Option("--license", "--licence", help="Of the student, as the Hub writes it.")
    ] = None,
    language: Annotated[list[str] | None, typer.Option(help="ISO code. Repeatable.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be sent.")] = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Publish a fitted student with its card and figures: one commit, read back."""
    from kp_data.hub.front_matter import CardSettings
    from kp_train.publish import push_student, shown

    set_quiet(quiet)
    result = push_student(
        student,
        name,
        version=version,
        private=private,
        endpoint=endpoint,
        message=message,
        dry_run=dry_run,
        settings=CardSettings(license=license_, language=tuple(language) if language else None),
    )
    if json_:
        out_json(result.as_dict())
        return
    for line in shown(result):
        say(line)
