"""`kp-train calls`: what teacher calls bought, over several runs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from kp_data.console import out_json, say
from kp_train.cli.app import LOOK, app
from kp_train.cli.options import Json


@app.command(rich_help_panel=LOOK)
def calls(
    runs: Annotated[
        list[Path], typer.Argument(metavar="DIR…", help="Folders of `fit --objective teaching-assistant`.")
    ],
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write a page with the curves.")] = None,
    json_: Json = False,
) -> None:
    """Accuracy against teacher calls and dollars, by how they were spent."""
    from kp_data.report import print_table
    from kp_data.report.html import write_html
    from kp_train.assistant.curves import COLUMNS, curves_page, read_curves

    points = read_curves(runs)
    if html is not None:
        write_html(curves_page(points), html)
        say(f"the page: {html}")
    if json_:
        out_json({"points": [asdict(point) for point in points]})
    else:
        print_table([asdict(point) for point in points], COLUMNS)
