"""The program `kp-data`: one thin function a command; a room is imported only when its command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from kp_data.console import is_quiet, out_json, run_app, say, set_quiet
from kp_data.errors import ConfigError, Unfinished

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

ASK, PURIFY, PUBLISH = "1 · Ask the teachers", "2 · Purify", "3 · Publish"

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no messages; errors are shown.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of every random choice.")]
PanelDir = Annotated[Path, typer.Argument(metavar="PANEL", help="Panel folder.", show_default=False)]
Embedder = Annotated[str, typer.Option(help="Sentence encoder: minilm (packaged), a path or a hub id.")]
Labels = Annotated[Literal["gold", "agreement"], typer.Option(help="What routers learn from.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, …; default: what is there.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Texts embedded at a time.")]
Endpoint = Annotated[str | None, typer.Option(help="Hub to talk to; default: HF_ENDPOINT, or huggingface.co.")]


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
    from kp_data.generate import generate_panel

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
        "seed": seed,
    }
    summary = generate_panel(
        source,
        out=out,
        teachers=teachers,
        options=with_options(settings.generate, given),
        columns=_pairs(map_ or (), "--map"),
        retry_failed=_names(retry_failed),
    )
    _show_generated(summary, json_)


@app.command(rich_help_panel=ASK)
def status(
    panel: PanelDir,
    store: Annotated[str | None, typer.Option(help="SQLAlchemy URL, where the cells are not in the folder.")] = None,
    json_: Json = False,
) -> None:
    """Say where a panel stands, per teacher; also while it is being filled."""
    from kp_data.generate import panel_status

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


@app.command(rich_help_panel=PURIFY)
def purify(
    panel: PanelDir,
    method: Annotated[str, typer.Option(help="One of `kp-data methods`.", show_default=False)],
    out: Annotated[Path, typer.Option(help="New folder for the purified dataset.", show_default=False)],
    teachers: Annotated[str | None, typer.Option(metavar="A,B", help="Only these teachers.")] = None,
    labels: Labels = "gold",
    embedder: Embedder = "minilm",
    device: Device = None,
    batch_size: BatchSize = 64,
    seed: Seed = 0,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Keep one rationale a question."""
    from kp_data.panel import Panel
    from kp_data.purify import purify_panel

    set_quiet(quiet)
    result = purify_panel(
        Panel.read(panel, teachers=_names(teachers) or None),
        method=method,
        out=out,
        seed=seed,
        labels=labels,
        embedder=embedder,
        device=device,
        batch_size=batch_size,
    )
    if json_:
        out_json(result.as_dict())
    elif not quiet:
        from kp_data.report import Column, print_table

        columns = [
            Column("split", "split"),
            Column("n_questions", "questions", "number"),
            Column("best_single_accuracy", "best single teacher", "percent"),
            Column("majority_accuracy", "majority", "percent"),
            Column("purified_accuracy", "kept", "percent"),
            Column("oracle_accuracy", "oracle", "percent"),
            Column("gap_closed", "gap closed", "percent"),
        ]
        rows = [{"split": name, **vars(figures)} for name, figures in result.splits.items()]
        print_table(rows, columns, title=f"{method}: accuracy of what is kept")
        for note in result.notes:
            say(f"note: {note}")
        say(f"purified dataset: {out}")


@app.command(rich_help_panel=PURIFY)
def compare(
    panel: PanelDir,
    methods: Annotated[str, typer.Option(metavar="A,B,…", help="Methods to set side by side.", show_default=False)],
    split: Annotated[
        str, typer.Option(help="Where they are compared; fitted on train, selected on validation.")
    ] = "test",
    out: Annotated[Path | None, typer.Option(help="Folder for compare.json and report.html.")] = None,
    teachers: Annotated[str | None, typer.Option(metavar="A,B", help="Only these teachers.")] = None,
    labels: Labels = "gold",
    embedder: Embedder = "minilm",
    device: Device = None,
    batch_size: BatchSize = 64,
    seed: Seed = 0,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Set methods side by side, with 95 % intervals."""
    from kp_data.panel import Panel
    from kp_data.purify import compare_methods

    set_quiet(quiet)
    compared = compare_methods(
        Panel.read(panel, teachers=_names(teachers) or None),
        _names(methods),
        split=split,
        seed=seed,
        out=out,
        labels=labels,
        embedder=embedder,
        device=device,
        batch_size=batch_size,
    )
    rows = [row.as_dict() for row in compared]
    if out is not None:
        from kp_data.report import page_of_folder, write_html

        write_html(page_of_folder(out), out / "report.html")
        say(f"comparison: {out / 'compare.json'}, with pictures: {out / 'report.html'}")
    if json_:
        out_json(rows)
    elif not quiet:
        from kp_data.report import COMPARE_COLUMNS, compare_rows, print_table

        print_table(compare_rows(rows), COMPARE_COLUMNS, title=f"methods on {split}")
        for note in dict.fromkeys(note for row in compared for note in row.notes):
            say(f"note: {note}")


@app.command(rich_help_panel=PURIFY)
def methods(json_: Json = False) -> None:
    """List every method: what it needs, whether it is trained, and where it comes from."""
    from dataclasses import asdict

    from kp_data.purify import methods as known

    rows = [asdict(info) for info in known()]
    if json_:
        out_json(rows)
    else:
        from kp_data.report import Column, print_table

        shown = [
            {
                **row,
                "needs": ", ".join(row["needs"]) or "nothing",
                "trained": "yes" if row["trained"] else "no",
                "transferable": "yes" if row["transferable"] else "no",
            }
            for row in rows
        ]
        names = ("name", "summary", "needs", "trained", "transferable", "source", "evidence")
        print_table(shown, [Column(name, name) for name in names])


@app.command(rich_help_panel=PURIFY)
def route(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Purified folder, or its router/.", show_default=False)],
    questions: Annotated[
        list[str] | None, typer.Argument(metavar="[QUESTION…]", help="Default: lines of stdin.")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="Questions file (.parquet, .jsonl, .csv).")] = None,
    json_: Json = False,
) -> None:
    """Say which teacher a fitted router would ask, before anything is paid."""
    import sys

    from kp_data.purify import load_router
    from kp_data.schema import Question
    from kp_data.tables import questions_of, read_questions

    if file is not None:
        asked = questions_of(read_questions(file))
    else:
        lines = questions or [line.strip() for line in sys.stdin if line.strip()]
        asked = [Question(id=str(number), question=line) for number, line in enumerate(lines, start=1)]
    if not asked:
        raise ConfigError("no question; give one, --file, or lines on stdin")
    router = load_router(folder)
    score_QT, chosen = router.route(asked)
    rows = [
        {"id": question.id, "teacher": teacher, "scores": dict(zip(router.teachers, score_T.tolist(), strict=True))}
        for question, teacher, score_T in zip(asked, chosen, score_QT, strict=True)
    ]
    if json_:
        out_json(rows)
    else:
        from kp_data.report import Column, print_table

        columns = [Column("id", "question"), Column("teacher", "routed to")]
        columns += [Column(f"scores {name}", name, "percent") for name in router.teachers]
        shown = [
            row | {f"scores {name}": float(score) for name, score in zip(router.teachers, score_T, strict=True)}
            for row, score_T in zip(rows, score_QT, strict=True)
        ]
        print_table(shown, columns)


@app.command(rich_help_panel=PURIFY)
def report(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Panel, purified folder or comparison.", show_default=False)
    ],
    html: Annotated[Path | None, typer.Option(help="Write a self-contained page here.")] = None,
    students: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FILE", help="Results of `kp-train evaluate --json`. Repeatable.")
    ] = None,
) -> None:
    """Tables and pictures of a panel, a purified folder or a comparison."""
    from kp_data.report import page_of_folder, print_page, read_students, write_html

    page = page_of_folder(folder, students=read_students(_pairs(students or (), "--students")))
    if html is not None:
        write_html(page, html)
        say(f"report: {html}")
    else:
        print_page(page)


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


@practice_app.command("serve")
def practice_serve(
    port: Annotated[int, typer.Option(help="0 takes any free one.")] = 8800,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    replay: Annotated[
        Path | None, typer.Option(help="Serve the recorded answers of this panel; teacher by model name.")
    ] = None,
    latency: Annotated[float, typer.Option(help="Seconds every answer takes.")] = 0.0,
    faults: Annotated[
        str | None, typer.Option(help="Such as '429:0.1,500:0.05,hang:0.01,broken:0.02', or a sequence '500,429,ok'.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Serve the practice teachers, or a panel's recorded answers, as an OpenAI-compatible server."""
    import asyncio

    from kp_data.practice import ServerSettings, run_server

    settings = ServerSettings(host=host, port=port, replay=replay, latency_s=latency, faults=faults or "", seed=seed)
    asyncio.run(run_server(settings, lambda url: say(f"serving at {url}; Ctrl-C stops")))


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
        say(f"panel: {summary.out}")
    stopped = [f"teacher {tally.teacher}: {tally.stopped}" for tally in summary.tallies if tally.stopped]
    if stopped:
        from kp_data.errors import TeacherError

        raise TeacherError("\n".join(stopped) + "\nthe other teachers' answers are saved; mend this, then run again")
    if summary.left:
        raise Unfinished(f"{summary.left} cells have no answer yet; run the same command again to go on")


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()] if text else []


def _pairs(options: Any, flag: str) -> dict[str, str]:
    pairs = {}
    for text in options:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise ConfigError(f"{flag} {text}: write {'NAME=FILE' if flag == '--students' else 'COLUMN=FIELD'}")
        pairs[name] = value
    return pairs
