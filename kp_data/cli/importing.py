"""The command that makes a panel of what teachers said elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from kp_data.cli.app import app
from kp_data.cli.options import ASK, Json, Quiet, pairs_of
from kp_data.console import out_json, say, set_quiet
from kp_data.errors import ConfigError

if TYPE_CHECKING:
    from kp_data.importers import ImportReport

SECONDS_BETWEEN_LINES: Final = 5.0
HELP: Final = """Make a panel of questions and teacher outputs that exist already.

[bold]tinyllm[/bold]: a folder datasets/NAME of TinyLLM (teacher-forced)
[bold]step-by-step[/bold]: a folder datasets/NAME of Distilling Step-by-Step
[bold]mmlu-pro[/bold]: MMLU-Pro eval_results: a folder a model, .zip or .json
[bold]gsm8k[/bold]: GSM8K example_model_solutions.jsonl
[bold]jsonl[/bold]: rows of your own, one response each: --map teacher=FIELD --map response=FIELD; or one question each
with a field for each teacher: --teacher NAME=FIELD
[bold]tables[/bold]: a folder with questions.* and responses.* in a panel's columns

What is no row is left out, counted and named; an answer that cannot be read stays unread. Nothing is half-written.
"""


@app.command("import", help=HELP, short_help="Make a panel of teacher outputs that exist already.", rich_help_panel=ASK)
def import_(
    format_name: Annotated[
        str,
        typer.Argument(
            metavar="FORMAT", help="tinyllm, step-by-step, mmlu-pro, gsm8k, jsonl or tables.", show_default=False
        ),
    ],
    source: Annotated[
        list[Path], typer.Argument(metavar="SOURCE…", help="Files or folders, as the format has.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="New panel folder.", show_default=False)],
    teacher: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[=FIELD]", help="Who wrote; or, for jsonl, whose text FIELD holds. Repeatable."),
    ] = None,
    map_: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="OURS=FIELD", help="For jsonl and tables: our name = the source's. Repeatable."),
    ] = None,
    mode: Annotated[
        Literal["blind", "teacher-forced"] | None,
        typer.Option(help="How the teachers were asked, where the source does not say; default: as the format's were."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="NAME, for questions without one; or shares, such as train:70,validation:15,test:15."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Write nothing if any row must be left out.")] = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    from kp_data.importers import ImportOptions, import_panel

    set_quiet(quiet)
    options = ImportOptions(
        teachers=_teachers(teacher or ()),
        fields=pairs_of(map_ or (), "--map"),
        mode=None if mode is None else "blind" if mode == "blind" else "teacher_forced",
    )
    report = import_panel(format_name, source, out, options=options, split=split, strict=strict, progress=_lines())
    if json_:
        out_json(report.as_dict())
    elif not quiet:
        _show(report)
    _say_left_out(report)
    say(f"{'this very panel was there already' if report.unchanged else 'panel'}: {report.out}")


def _lines() -> Callable[[int], None]:
    """Progress as a line every few seconds: how many rows a source has is known at its end."""
    last = time.monotonic()

    def show(rows: int) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            say(f"{rows:,} rows")

    return show


def _teachers(given: list[str] | tuple[str, ...]) -> dict[str, str]:
    """`NAME=FIELD` pairs, and a lone name under the key "".

    Raises:
        ConfigError: both, or several lone names, or an empty one.
    """
    lone = [text for text in given if "=" not in text]
    if len(lone) > 1 or (lone and len(given) > 1) or not all(given):
        raise ConfigError("give one NAME for all, or NAME=FIELD for each", place="--teacher")
    return {"": lone[0]} if lone else pairs_of(given, "--teacher")


def _show(report: ImportReport) -> None:
    from kp_data.report import Column, print_table

    rows = [
        {"teacher": name, **vars(each), "accuracy": each.right / each.judged if each.judged else None}
        for name, each in report.teachers.items()
    ]
    columns = [
        Column("teacher", "teacher"),
        Column("responses", "responses", "number"),
        Column("unparsed", "no answer read", "number"),
        Column("failed", "no rationale", "number"),
        Column("accuracy", "right, where known", "percent"),
    ]
    splits = ", ".join(f"{count:,} {name}" for name, count in report.questions.items())
    print_table(rows, columns, title=f"{sum(report.questions.values()):,} questions ({splits})")


def _say_left_out(report: ImportReport) -> None:
    """What was left out, by reason, the first places named."""
    for reason, left_out in report.left_out.items():
        more = f" and {left_out.count - len(left_out.places):,} more" if left_out.count > len(left_out.places) else ""
        say(f"left out: {left_out.count:,} × {reason} ({'; '.join(left_out.places)}{more})")
