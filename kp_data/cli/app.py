"""The program itself: what its commands hang on, and how it starts and ends."""

from __future__ import annotations

from typing import Annotated

import typer

from kp_data.console import run_app

app = typer.Typer(
    name="kp-data",
    help="Ask many teacher LLMs, purify their rationales into one, publish the dataset.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)
practice_app = typer.Typer(help="Made-up questions, and teachers that are programs.", no_args_is_help=True)
app.add_typer(practice_app, name="practice", rich_help_panel="Try it without a key")


def main() -> None:
    """Entry point of the console command."""
    run_app(app, "kp-data")


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"kp-data {version('knowledge-purification')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Ask many teacher LLMs, purify their rationales into one, publish the dataset."""
