"""The commands that purify, and that show what there is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kp_data.cli.app import app
from kp_data.cli.options import (
    PURIFY,
    Aggregator,
    BatchSize,
    Budget,
    Config,
    Device,
    Embedder,
    Engine,
    Json,
    Labels,
    MethodOptions,
    PanelDir,
    Quiet,
    Seed,
    Workers,
    names_of,
    pairs_of,
)
from kp_data.console import out_json, say, set_quiet, stage_lines
from kp_data.errors import ConfigError

if TYPE_CHECKING:
    from kp_data.purify import Partners
    from kp_data.purify.encoders import LoadEncoder


@app.command(rich_help_panel=PURIFY)
def purify(
    panel: PanelDir,
    method: Annotated[str, typer.Option(help="One of `kp-data methods`.", show_default=False)],
    out: Annotated[Path, typer.Option(help="New folder for the purified dataset.", show_default=False)],
    teachers: Annotated[str | None, typer.Option(metavar="A,B", help="Only these teachers.")] = None,
    aggregator: Aggregator = None,
    option: MethodOptions = None,
    config: Config = None,
    budget: Budget = None,
    labels: Labels = "gold",
    embedder: Embedder = "minilm",
    device: Device = None,
    batch_size: BatchSize = 64,
    engine: Engine = "local",
    workers: Workers = None,
    seed: Seed = 0,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Keep one rationale a question."""
    from kp_data.panel import Panel
    from kp_data.purify import purify_panel

    set_quiet(quiet)
    partners = _partners(config, budget)
    with _loader(engine, workers) as load:
        result = purify_panel(
            Panel.read(panel, teachers=names_of(teachers) or None),
            method=method,
            out=out,
            seed=seed,
            labels=labels,
            embedder=embedder,
            device=device,
            batch_size=batch_size,
            options=_options_of([method], option or (), aggregator, partners).get(method),
            progress=stage_lines(),
            partners=partners,
            load=load,
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
    aggregator: Aggregator = None,
    option: MethodOptions = None,
    config: Config = None,
    budget: Budget = None,
    labels: Labels = "gold",
    embedder: Embedder = "minilm",
    device: Device = None,
    batch_size: BatchSize = 64,
    engine: Engine = "local",
    workers: Workers = None,
    seed: Seed = 0,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Set methods side by side, with 95 % intervals."""
    from kp_data.panel import Panel
    from kp_data.purify import compare_methods

    set_quiet(quiet)
    partners, names = _partners(config, budget), names_of(methods)
    with _loader(engine, workers) as load:
        compared = compare_methods(
            Panel.read(panel, teachers=names_of(teachers) or None),
            names,
            split=split,
            seed=seed,
            out=out,
            labels=labels,
            embedder=embedder,
            device=device,
            batch_size=batch_size,
            options=_options_of(names, option or (), aggregator, partners),
            progress=stage_lines(),
            partners=partners,
            load=load,
        )
    rows = [row.as_dict() for row in compared]
    if out is not None:
        from kp_data.report import page_of_folder, write_html

        write_html(page_of_folder(out), out / "report.html")
        say(f"comparison: {out / 'compare.json'}, with pictures: {out / 'report.html'}")
    if json_:
        out_json(rows)
    elif not quiet:
        from kp_data.report import print_comparison

        print_comparison(rows, title=f"methods on {split}")
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
    serve: Annotated[bool, typer.Option("--serve", help="Browse it: every question with every rationale.")] = False,
    port: Annotated[int | None, typer.Option(help="With --serve; default: any free one.", min=0, max=65535)] = None,
    open_: Annotated[bool, typer.Option("--open", help="With --serve: open the browser, too.")] = False,
) -> None:
    """Tables and pictures of a panel, a purified folder or a comparison; or browse it."""
    if serve:
        _browse(folder, html=html, students=students, port=port, open_=open_)
        return
    if port is not None or open_:
        raise ConfigError("--port and --open belong to --serve")
    from kp_data.report import page_of_folder, print_page, read_students, write_html

    page = page_of_folder(folder, students=read_students(pairs_of(students or (), "--students")))
    if html is not None:
        write_html(page, html)
        say(f"report: {html}")
    else:
        print_page(page)


def _browse(folder: Path, *, html: Path | None, students: list[str] | None, port: int | None, open_: bool) -> None:
    """Show a folder in the browser until interrupted."""
    import webbrowser

    from kp_data.hub.explorer.serve import index_folder, serve_folder

    if html is not None or students:
        raise ConfigError("--serve shows the folder itself; leave out --html and --students")

    def ready(url: str) -> None:
        say(f"browse at {url}; Ctrl-C stops")
        if open_:
            webbrowser.open(url)

    with index_folder() as indexes:
        serve_folder(folder, indexes, port=port or 0, on_ready=ready)


@contextmanager
def _loader(engine: str, workers: int | None) -> Iterator[LoadEncoder]:
    """How encoders are loaded while the block runs: in this process, or on the workers of a Ray cluster."""
    if engine == "local":
        if workers is not None:
            raise ConfigError("--workers is for --engine ray; one process uses every core by itself")
        from kp_data.purify.encoders import load_encoder

        yield load_encoder
        return
    from kp_data.generate.cluster import how_many, joined_cluster
    from kp_data.purify.embedding_cluster import loader_on_cluster

    with joined_cluster(workers) as cluster:
        room = sum(int(cpus) for _, cpus in cluster.nodes)
        yield loader_on_cluster(how_many(cluster.nodes, workers, at_most=room))


def _partners(config: Path | None, budget: float | None) -> Partners:
    """What methods may work with: models as kp.yaml says, and students of kp-train."""
    from kp_data.config import load_config, with_options
    from kp_data.purify import Partners
    from kp_train.reward import learner_named

    settings = load_config(config)
    asking = with_options(settings.generate, {"budget": budget})
    return Partners(config=settings.model_copy(update={"generate": asking}), learner=learner_named)


def _options_of(
    methods: Sequence[str], given: Sequence[str], aggregator: str | None, partners: Partners
) -> dict[str, dict[str, Any]]:
    """Method name to its options; `NAME=VALUE` goes to the one method, `METHOD.NAME=VALUE` to that of several."""
    from kp_data.purify import aggregator_text, find_method, read_options

    texts: dict[str, dict[str, str]] = {name: {} for name in methods}
    for name, value in pairs_of(given, "--option").items():
        method, dot, option = name.rpartition(".")
        if not dot and len(methods) > 1:
            raise ConfigError(f"--option {name}={value}: write METHOD.{name}={value}, there are several methods")
        if (method := method or methods[0]) not in texts:
            raise ConfigError(f"--option {name}={value}: {method} is not among the methods {', '.join(methods)}")
        texts[method][option] = value
    options = {name: read_options(find_method(name), text) for name, text in texts.items()}
    if aggregator is not None:
        if "aggregation" not in options:
            raise ConfigError("--aggregator is for the method 'aggregation'; leave it out")
        options["aggregation"]["aggregator"] = aggregator_text(aggregator, partners.config)
    return options
