"""What `kp-train evaluate` measured, kept beside the student in evaluations.json.

A figure is known by what was asked (the hash of the dataset, its split) and how (the method, and the view where the
student was let write); measured again, it is replaced. Each says by a hash on which student it was measured, and does
not count for another one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from kp_data.errors import DataError
from kp_data.tables import write_json
from kp_train.dataset import Dataset
from kp_train.evaluate import GENERATION, Evaluation, EvaluationOptions
from kp_train.model_card import renew_card
from kp_train.run_folder import LOCK_FILE, RUN_FILE
from kp_train.student_folder import EVALUATIONS_FILE, FORMAT, read_evaluations, read_finished, student_digest

_PACKAGES: Final = ("knowledge-purification", "torch", "transformers")
_LEFT_OUT: Final = ("seconds", "compared", "split", "method")
"""Of this machine, of another student, or in the entry's own words."""
_PATIENCE_S: Final = 30.0


def keep_evaluations(
    folder: Path,
    evaluations: Mapping[str, Evaluation],
    dataset: Dataset,
    options: EvaluationOptions,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> bool:
    """Put figures into a student's evaluations.json, and renew our section of its README.md.

    Args:
        folder: of a student; nothing is written where it is not that of a finished `kp-train fit`.
        evaluations: split to figures.
        dataset: what they were measured on.
        options: how.
        say: told why they could not be kept; the figures themselves are worth no less for that.

    Returns: whether they were kept.
    """
    if not is_fit_folder(folder):
        return False
    try:
        with FileLock(folder / LOCK_FILE, timeout=_PATIENCE_S):
            kept = {**read_evaluations(folder), **_entries(folder, evaluations, dataset, options)}
            write_json({"format": FORMAT, "evaluations": kept}, folder / EVALUATIONS_FILE)
            renew_card(folder)
    except (OSError, Timeout, DataError) as error:
        reason = f"{folder} is in use" if isinstance(error, Timeout) else str(error)
        say(f"these figures are not kept with the student: {reason}")
        return False
    return True


def is_fit_folder(folder: Path) -> bool:
    """Whether a folder was written by a `kp-train fit` that is done, and is no copy in a client's cache."""
    # A cache holds links to files that belong to other versions too.
    if (folder / RUN_FILE).is_symlink():
        return False
    try:
        read_finished(folder)
    except DataError:
        return False
    return True


def _entries(
    folder: Path, evaluations: Mapping[str, Evaluation], dataset: Dataset, options: EvaluationOptions
) -> dict[str, Any]:
    known = dataset.provenance
    source = {"name": known.name, "origin": known.origin, "version": known.version, "commit": known.commit}
    about = {
        "dataset": {**source, "sha256": dataset.digest},
        "student_sha256": student_digest(folder),
        "seed": options.seed,
        "versions": {name: version(name) for name in _PACKAGES},
    }
    entries = {}
    for split, evaluation in evaluations.items():
        view = (options.view or "separate") if evaluation.method == GENERATION else None
        figures = {name: value for name, value in evaluation.as_dict().items() if name not in _LEFT_OUT}
        asked = {"split": split, "method": evaluation.method, "view": view}
        key = ":".join((dataset.digest, split, evaluation.method, *([view] if view else [])))
        entries[key] = {**asked, **figures, **about}
    return entries
