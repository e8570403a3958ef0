"""Commands that tell what there is: `objectives`, `students`."""

from __future__ import annotations

from kp_data.console import out_json
from kp_train.cli.app import LOOK, app
from kp_train.cli.options import Json


@app.command(rich_help_panel=LOOK)
def objectives(json_: Json = False) -> None:
    """What a student can learn from a dataset."""
    from kp_train.objectives import OBJECTIVES

    rows = [
        {"name": item.name, "loss": item.formula, "needs": item.needs, "source": item.source}
        for item in OBJECTIVES.values()
    ]
    _show_rows(rows, json_, "objectives")


@app.command(rich_help_panel=LOOK)
def students(json_: Json = False) -> None:
    """What can be trained."""
    from kp_train.students import STUDENTS

    rows = [
        {"name": item.name, "what": item.what, "objectives": ", ".join(item.objectives), "source": item.source}
        for item in STUDENTS.values()
    ]
    _show_rows(rows, json_, "students")


def _show_rows(rows: list[dict[str, str]], as_json: bool, title: str) -> None:
    if as_json:
        out_json({title: rows})
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=None, show_lines=False)
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*row.values())
    Console().print(table)
