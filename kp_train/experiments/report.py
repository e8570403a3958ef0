"""What a sweep found, as files: tables and figures of what is done, also while the rest goes on."""

from __future__ import annotations

from pathlib import Path

from kp_data.console import say
from kp_data.errors import ConfigError, KpError
from kp_train.experiments.figures import write_figures
from kp_train.experiments.plan import Plan
from kp_train.experiments.pool import SWEEP_FILE
from kp_train.experiments.results import Results, collect, write_results
from kp_train.experiments.work import is_done


def report_of(plan: Plan, root: Path) -> Results:
    """Collect and write what is done so far; holds no lock, so a sweep may be running there.

    A folder that cannot be written is no hindrance: what was found is said all the same.

    Raises:
        ConfigError: no sweep was begun there.
    """
    if not (root / SWEEP_FILE).is_file():
        raise ConfigError("no sweep was begun here, so there is nothing to report; correct --out", place=root)
    results = collect(plan, root)
    if not results.outcomes.num_students:
        done = sum(is_done(root, task) for task in plan.tasks)
        say(f"no student is done yet; {done} of {len(plan.tasks)} tasks are")
    try:
        write_report(results, root)
    except (KpError, OSError) as error:
        say(f"tables and figures are not written: {error}")
    return results


def write_report(results: Results, root: Path) -> None:
    """Write tables and figures into a sweep's folder.

    Raises:
        DataError: the disk is full or the folder cannot be written.
    """
    write_results(results, root)
    write_figures(results, root)
