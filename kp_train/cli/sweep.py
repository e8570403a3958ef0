"""`kp-train sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kp_data.console import is_debug, is_quiet, out_json, say, set_quiet
from kp_data.errors import Unfinished
from kp_train.cli.app import TRAIN, app
from kp_train.cli.options import Json, Quiet


@app.command(rich_help_panel=TRAIN)
def sweep(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="YAML file; examples/laptop.yaml is one.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder for everything: new, or one to go on with.", show_default=False)],
    jobs: Annotated[
        int | None, typer.Option(metavar="N", help="Students at a time; default: one a device, else one a core.")
    ] = None,
    engine: Annotated[str, typer.Option(help="local, or ray: workers on a Ray cluster that shares --out.")] = "local",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="The plan with its tokens, FLOPs and hours; nothing is run or written.")
    ] = False,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Tables and figures of what is done so far; nothing is run.")
    ] = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Methods x teachers x students x seeds from one file: tables, figures, CMV. Resumes by itself."""
    from kp_train.experiments import load_sweep, plan_sweep
    from kp_train.experiments.inputs import check_inputs
    from kp_train.experiments.pool import pool_named
    from kp_train.experiments.report import report_of, write_report
    from kp_train.experiments.results import collect
    from kp_train.experiments.run import run_plan, sweep_folder
    from kp_train.experiments.show import print_estimate, print_results, watching

    set_quiet(quiet)
    home = config.resolve().parent
    plan = plan_sweep(load_sweep(config), home=home)
    if not report_only:
        # Before anybody is asked or trained, and also where nothing is to be run.
        check_inputs(plan, out, home=home, only_local=dry_run)
    if dry_run:
        from kp_train.experiments.estimate import estimate_sweep

        estimate = estimate_sweep(plan, out, home=home)
        out_json(estimate.as_dict()) if json_ else print_estimate(estimate)
        return
    out, standing = out.resolve(), None
    if report_only:
        # Without the lock: what is marked as done is whole, also while the sweep goes on.
        results = report_of(plan, out)
    else:
        workers = pool_named(engine, out, home, jobs)  # refused before anything is written
        with sweep_folder(out, config):
            with workers as pool, watching() as watch:
                standing = run_plan(plan, out, pool, watch=watch)
            results = collect(plan, out, standing)
            write_report(results, out)
    if json_:
        out_json(results.as_dict())
    elif not is_quiet():
        print_results(results, out)
    if standing is not None and (standing.failed or standing.blocked):
        for outcome in standing.failed.values():
            say(f"failed: {outcome.task.words}: {outcome.error}")
            if outcome.trace and is_debug():
                say(outcome.trace.rstrip())
        raise Unfinished(
            f"{len(standing.failed)} tasks failed and {len(standing.blocked)} that need them were left out; mend what "
            "is said above and run the same command again"
        )
