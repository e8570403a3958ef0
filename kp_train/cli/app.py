"""The program itself: what its commands hang on, and how it starts and ends."""

from __future__ import annotations

from typing import Annotated

import typer

from kp_data.console import run_app

app = typer.Typer(
    name="kp-train",
    help="Distill a small student from a panel or a purified dataset, and tell how good it is.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)

TRAIN, USE, LOOK = "1 · Train", "2 · Evaluate and use", "3 · What there is"


def main() -> None:
    """Entry point of the console command."""
    run_app(app, "kp-train")


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"kp-train {version('knowledge-purification')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Distill a small student from a panel or a purified dataset, and tell how good it is."""
