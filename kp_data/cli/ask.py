"""The commands that ask teachers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kp_data.cli.app import app
from kp_data.cli.options import ASK, Json, PanelDir, Quiet, names_of, pairs_of
from kp_data.console import is_quiet, out_json, say, set_quiet
from kp_data.errors import ConfigError, Unfinished

if TYPE_CHECKING:
    from kp_data.generate import TeacherEstimate
    from kp_data.schema import Question


@app.command(rich_help_panel=ASK)
def init(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to write it.", show_default=False)] = Path(),
) -> None:
    """Write a commented [bold]kp.yaml[/bold], ready for API teachers, local servers and the practice world."""
    from kp_data.config import EXAMPLE
    from kp_data.tables import replacing

    path = folder / "kp.yaml"
    if path.exists():
        raise ConfigError("is there already; edit it, or name another folder", place=path)
    with replacing(path) as temporary:
        temporary.write_text(EXAMPLE, encoding="utf-8")
    say(f"wrote {path}; next: kp-data generate practice:100 --config {path} --out panel")


@app.command(rich_help_panel=ASK)
def generate(
    source: Annotated[
        str,
        typer.Argument(
            help="A file (.parquet, .jsonl, .csv), a panel folder, a hub dataset, or practice:N.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option(help="Panel folder: new, or one to go on with.", show_default=False)],
    teacher: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=MODEL[@URL]", help="Repeatable. MODEL as litellm writes it, or practice/NAME."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="kp.yaml; the command line wins over it.")] = None,
    mode: Annotated[str | None, typer.Option(help="blind, teacher-forced or both; default blind.")] = None,
    examples: Annotated[int | None, typer.Option(help="In-context examples a prompt; default 0.")] = None,
    samples: Annotated[int | None, typer.Option(help="Answers a cell; default 1.")] = None,
    split: Annotated[str | None, typer.Option(help="Ask only the questions of this split.")] = None,
    limit: Annotated[int | None, typer.Option(help="Ask only the first so many.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Calls in flight at most; default 128.")] = None,
    rpm: Annotated[
        list[str] | None, typer.Option(metavar="NAME=N", help="Requests a minute at most, per teacher.")
    ] = None,
    tpm: Annotated[list[str] | None, typer.Option(metavar="NAME=N", help="Tokens a minute at most.")] = None,
    api_key_env: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VAR", help="Environment variable that holds a teacher's key.")
    ] = None,
    retries: Annotated[int | None, typer.Option(help="Tries after the first; default 6.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds a call; default 120.")] = None,
    store: Annotated[str | None, typer.Option(help="SQLAlchemy URL; default: SQLite in the panel folder.")] = None,
    transport: Annotated[
        str | None, typer.Option(help="auto, direct or litellm; auto: direct for endpoints given by URL.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(metavar="USD", help="Hard limit over all runs on this store; never exceeded.")
    ] = None,
    batch: Annotated[
        bool | None, typer.Option("--batch/--no-batch", help="Provider batch APIs where there are any: half the price.")
    ] = None,
    router: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Ask only the teacher that this fitted router chooses.")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="local, or ray: workers on a Ray cluster; default local.")] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="With --engine ray; default: one a node, at least two.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Cells, tokens and cost per teacher; nothing is asked or written.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Of the draw of in-context examples; default 0.")] = None,
    retry_failed: Annotated[
        str | None, typer.Option(metavar="CLASS,…", help="Ask again what failed as refused, truncated or empty.")
    ] = None,
    map_: Annotated[
        list[str] | None, typer.Option("--map", metavar="COLUMN=FIELD", help="Our column = the source's own.")
    ] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Ask every teacher every question. Resumes by itself: what was answered is never asked again."""
    from kp_data.config import load_config, pick_teachers, set_for_teachers, with_options
    from kp_data.generate import estimate_panel, generate_panel

    set_quiet(quiet)
    settings = load_config(config)
    teachers = pick_teachers(settings, teacher or ())
    teachers = set_for_teachers(teachers, "rpm", rpm or ())
    teachers = set_for_teachers(teachers, "tpm", tpm or ())
    teachers = set_for_teachers(teachers, "api_key_env", api_key_env or ())
    given = {
        "mode": mode,
        "examples": examples,
        "samples": samples,
        "split": split,
        "limit": limit,
        "concurrency": concurrency,
        "retries": retries,
        "timeout_s": timeout,
        "store": store,
        "transport": transport,
        "budget": budget,
        "batch": batch,
        "engine": engine,
        "workers": workers,
        "seed": seed,
    }
    options = with_options(settings.generate, given)
    if workers is not None and options.engine != "ray":
        raise ConfigError("--workers is for --engine ray; one process needs no more, see --concurrency")
    how: dict[str, Any] = {
        "out": out,
        "teachers": teachers,
        "options": options,
        "columns": pairs_of(map_ or (), "--map"),
        "retry_failed": names_of(retry_failed),
        "route": _route_by(router) if router is not None else None,
    }
    if dry_run:
        _show_estimates(estimate_panel(source, **how), json_)
    else:
        _show_generated(generate_panel(source, **how), json_)


@app.command(rich_help_panel=ASK)
def status(
    panel: PanelDir,
    store: Annotated[str | None, typer.Option(help="SQLAlchemy URL, where the cells are not in the folder.")] = None,
    json_: Json = False,
) -> None:
    """Say where a panel stands, per teacher; also while it is being filled."""
    from kp_data.generate import open_jobs, panel_status

    rows = [one.as_dict() for one in panel_status(panel, store_url=store)]
    if json_:
        out_json(rows)
        return
    from kp_data.report import Column, print_table

    for row in rows:
        row["trouble"] = ", ".join(f"{count} {name}" for name, count in row["failed"].items()) or "–"
        row["tokens"] = row["prompt_tokens"] + row["completion_tokens"]
        row["price"] = f"${row['cost_usd']:.4f}" + (" + unknown" if row["cost_unknown"] else "")
    columns = [
        Column("teacher", "teacher"),
        Column("cells", "cells", "number"),
        Column("answered", "answered", "number"),
        Column("trouble", "failed"),
        Column("left", "left", "number"),
        Column("tokens", "tokens", "number"),
        Column("price", "cost", "range"),
    ]
    print_table(rows, columns)
    if jobs := open_jobs(panel, store_url=store):
        say(jobs)


@app.command(rich_help_panel=ASK)
def explain(
    panel: PanelDir,
    question: Annotated[str, typer.Option(help="Id of the question.", show_default=False)],
    teacher: Annotated[str, typer.Option(help="Name of the teacher.", show_default=False)],
    store: Annotated[str | None, typer.Option(help="SQLAlchemy URL, where the cells are not in the folder.")] = None,
    json_: Json = False,
) -> None:
    """Say what went into a cell's key, what became of it, and whether the next run would ask it."""
    from kp_data.generate import explain_cell

    cells = explain_cell(panel, question=question, teacher=teacher, store_url=store)
    if json_:
        out_json(cells)
        return
    for cell in cells:
        for name, value in cell.items():
            typer.echo(f"{name}: {value}")
        typer.echo("")


def _route_by(folder: Path) -> Callable[[Sequence[Question]], Sequence[str]]:
    from kp_data.purify import load_router

    router = load_router(folder)
    return lambda questions: router.route(questions)[1]


def _show_estimates(estimates: Sequence[TeacherEstimate], as_json: bool) -> None:
    if as_json:
        out_json([one.as_dict() for one in estimates])
        return
    from kp_data.report import Column, print_table

    rows = []
    for one in estimates:
        known = one.cost_usd is not None and one.most_usd is not None
        rows.append(
            {
                **one.as_dict(),
                "tokens": f"{one.prompt_tokens:,} + {one.completion_tokens:,}",
                "cost": f"${one.cost_usd:,.4f}" if known else "price unknown",
                "most": f"${one.most_usd:,.4f}" if known else "price unknown",
                "price from": one.price_source or "–",
            }
        )
    columns = [
        Column("teacher", "teacher"),
        Column("cells", "cells", "number"),
        Column("held", "known", "number"),
        Column("to_ask", "to ask", "number"),
        Column("tokens", "tokens, read + written", "range"),
        Column("basis", "from"),
        Column("cost", "cost, about", "range"),
        Column("most", "at most", "range"),
        Column("price from", "price from"),
    ]
    print_table(rows, columns, title="what asking would take")
    if all(one.most_usd is not None for one in estimates):
        about, most = sum(one.cost_usd or 0 for one in estimates), sum(one.most_usd or 0 for one in estimates)
        say(f"in all about ${about:,.4f}, at most ${most:,.4f}; nothing was asked")
    else:
        say("nothing was asked; a price that is not known can be given in kp.yaml: price: {input: …, output: …}")


def _show_generated(summary: Any, as_json: bool) -> None:
    from kp_data.generate.progress import cost_text

    if as_json:
        out_json(summary.as_dict())
    elif not is_quiet():
        from kp_data.report import Column, print_table

        rows = []
        for tally in summary.tallies:
            trouble = {**tally.failed, **summary.unusable[tally.teacher]}
            rows.append(
                {
                    **vars(tally),
                    "trouble": ", ".join(f"{count} {name}" for name, count in trouble.items()) or "–",
                    "tokens": tally.prompt_tokens + tally.completion_tokens,
                    "cost": cost_text(tally),
                }
            )
        columns = [
            Column("teacher", "teacher"),
            Column("total", "cells", "number"),
            Column("reused", "known before", "number"),
            Column("answered", "answered now", "number"),
            Column("trouble", "without a rationale"),
            Column("tokens", "tokens", "number"),
            Column("cost", "cost", "range"),
        ]
        print_table(rows, columns, title=f"{summary.questions} questions")
        for tally in summary.tallies:
            for name, message in tally.messages.items():
                say(f"{tally.teacher}, {name}: {message}")
            for name, count in tally.ignored.items():
                say(f"{tally.teacher}: {count} replies did not follow the {name} asked for")
        if summary.calls_saved:
            say(f"the router saved {summary.calls_saved:.0%} of the calls that asking every teacher would take")
        say(f"panel: {summary.out}")
    stopped = "".join(f"teacher {tally.teacher}: {tally.stopped}\n" for tally in summary.tallies if tally.stopped)
    if summary.left:
        raise Unfinished(f"{stopped}{summary.left} cells have no answer yet; run the same command again to go on")
