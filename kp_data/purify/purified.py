"""Purify a panel into a folder: fit, choose, measure, and write it whole or not at all.

Axes: Q questions, T teachers.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kp_data import __version__
from kp_data.errors import ConfigError, DataError
from kp_data.panel import NONE, Panel
from kp_data.purify.embedding import MINILM, Embedder
from kp_data.purify.encoders import LoadEncoder, load_encoder
from kp_data.purify.figures import Report, agreement_matrix, by_split, by_subject, outcome_of, panel_notes
from kp_data.purify.labels import fit_data
from kp_data.purify.protocol import ALONE, Context, Fitted, Labels, Method, Partners, Progress, Purification, quiet
from kp_data.purify.registry import check_needs, find_method, make_options
from kp_data.schema import AGGREGATED, PURIFIED, PURIFIED_COLUMNS, SCHEMA_VERSION
from kp_data.tables import read_json, read_responses, table_of_questions, write_json, write_parquet

Array = np.ndarray[Any, Any]

PURIFIED_FILE: Final = "purified.parquet"
RESPONSES_FILE: Final = "responses.parquet"
REPORT_FILE: Final = "report.json"
RUN_FILE: Final = "run.json"
_TOLD: Final = ("name", "model", "temperature", "max_tokens")
SCORE_DIGITS: Final = 6
"""Scores are rounded: the last bits of a matrix product, which depend on the number of threads, are seldom seen."""

VERSIONED: Final = ("numpy", "pyarrow", "scikit-learn", "sentence-transformers", "torch", "transformers")


@dataclass(frozen=True)
class Run:
    """A method, fitted and applied to a panel, with the time it took."""

    method: Method
    fitted: Fitted
    purification: Purification
    seconds_fit: float
    seconds_score: float


def purify_panel(
    panel: Panel,
    *,
    method: str,
    out: Path,
    seed: int = 0,
    labels: Labels = "gold",
    embedder: str = MINILM,
    device: str | None = None,
    batch_size: int = 64,
    options: Mapping[str, Any] | None = None,
    progress: Progress = quiet,
    partners: Partners = ALONE,
    load: LoadEncoder = load_encoder,
) -> Report:
    """Keep one rationale a question and write the purified folder.

    The folder appears whole, by a rename; a crash leaves nothing half. If `out` already holds what this very run would
    write, nothing is done and its report comes back; where one of its files is missing, it is made whole. What the run
    did not write is never removed.

    Args:
        panel: as `Panel.read` gives it; methods fit on its split `train` and select on `validation`.
        method: a name of `methods()`.
        out: the folder to make. With method `all` it has one row a question and teacher, with id `{id}#{teacher}`.
        seed: of every random choice.
        labels: learn from `gold`, or from `agreement` between teachers where there is no gold.
        embedder: `minilm`, or a path or hub id; for methods that read questions.
        device, batch_size: for embedding.
        options: the method's own, by name.
        progress: called with (stage, done, total).
        partners: models and students, for methods that work with one.
        load: how the embedder's encoder is made, here or on a cluster.

    Returns: the report, as it stands in `report.json`.
    Raises:
        ConfigError: an unknown method or option.
        MethodError: the panel lacks what the method needs.
        DataError: `out` holds something else or a file changed since it was written, or cannot be written.
    """
    out, chosen = Path(out), find_method(method)
    settings = make_options(chosen, options or {})
    if labels not in get_args(Labels):
        raise ConfigError(f"{labels!r} is none of {', '.join(get_args(Labels))}", place="labels")
    source = _source(panel)
    identity = _identity(panel, source, chosen, settings, {"seed": seed, "labels": labels, "embedder": embedder})
    if (report := _standing(out, identity)) is not None:
        return report
    embed = Embedder(
        embedder, batch_size, device, lambda done, total: progress("embedding questions", done, total), load=load
    )
    run = run_method(panel, chosen, settings, Context(seed, embed, progress, partners), labels=labels)
    report = make_report(panel, run)
    with _folder(out) as temporary:
        write_parquet(purified_table(panel, run.purification, method), temporary / PURIFIED_FILE)
        _copy_responses(panel, source, temporary)
        if run.fitted.router is not None:
            (temporary / "router").mkdir()
            run.fitted.router.save(temporary / "router")
        write_json(report.as_dict(), temporary / REPORT_FILE)
        written = sorted(path for path in temporary.rglob("*") if path.is_file() and path.name != REPORT_FILE)
        outputs = {path.relative_to(temporary).as_posix(): _sha256(path) for path in written}
        write_json({**identity, "outputs": outputs}, temporary / RUN_FILE)
    return report


def run_method(panel: Panel, method: Method, settings: Any, context: Context, *, labels: Labels = "gold") -> Run:
    """Fit a method on `train` and `validation` of a panel and purify all of it.

    Raises: MethodError, when the panel lacks what the method needs.
    """
    data = fit_data(panel, labels=labels, seed=context.seed)
    check_needs(method, panel, data)
    start = time.perf_counter()
    fitted = method.fit(data, settings, context)
    between = time.perf_counter()
    purification = fitted.purify(panel)
    return Run(method, fitted, purification, between - start, time.perf_counter() - between)


def make_report(panel: Panel, run: Run) -> Report:
    """What is to be said about a run."""
    outcome = outcome_of(panel, run.purification)
    overall = outcome.figures()
    return Report(
        method=run.method.info.name,
        teachers=panel.teachers,
        rationale_mode=panel.rationale_mode,
        best_single_teacher=outcome.best_single,
        overall=overall,
        splits=by_split(panel, outcome),
        subjects=by_subject(panel, outcome),
        agreement=agreement_matrix(panel),
        calls_per_question=float(run.fitted.calls_per_question),
        extra_parameters=run.fitted.extra_parameters,
        seconds_fit=run.seconds_fit,
        seconds_score=run.seconds_score,
        fit=dict(run.fitted.facts),
        notes=(*run.fitted.notes, *_notes(panel, overall.n_without_rationale), *panel_notes(panel, overall)),
    )


def purified_table(panel: Panel, purification: Purification, method: str) -> pa.Table:
    """The purified table of `kp_data.schema`, in the order of the panel.

    A question has one row; where several rationales are kept, one row each, with id `{id}#{teacher}`.
    """
    cells = list(_cells(purification))
    table = table_of_questions(panel.questions).take(pa.array([row for row, _ in cells]))
    if purification.several:
        ids = [_cell_id(panel, row, teacher) for row, teacher in cells]
        table = table.set_column(0, PURIFIED.field("id"), pa.array(ids, pa.string()))
    added = [_purified_cell(panel, purification, method, row, teacher) for row, teacher in cells]
    columns = zip(PURIFIED_COLUMNS, zip(*added, strict=True), strict=True)
    arrays = [pa.array(column, field.type) for field, column in columns]
    return pa.Table.from_arrays([*table.columns, *arrays], schema=PURIFIED)


def _cells(purification: Purification) -> Iterator[tuple[int, int | None]]:
    """(question, teacher) of each row; teacher None where nothing is kept or the rationale is written anew."""
    written_Q = purification.written_Q
    for row, kept_T in enumerate(purification.kept_QT):
        if written_Q[row] or not kept_T.any():
            yield row, None
        else:
            yield from ((row, int(teacher)) for teacher in np.flatnonzero(kept_T))


def _cell_id(panel: Panel, row: int, teacher: int | None) -> str:
    own = panel.questions[row].id
    return own if teacher is None else f"{own}#{panel.teachers[teacher]}"


def _purified_cell(
    panel: Panel, purification: Purification, method: str, row: int, teacher: int | None
) -> tuple[Any, ...]:
    """What a row says beside its question, in the order of PURIFIED_COLUMNS."""
    scores = [_number(value) for value in purification.score_QT[row]]
    conflict = bool(panel.conflict_Q[row])
    if teacher is not None:
        concluded = _index(panel, row, panel.stated_QT[row, teacher])
        rationale = panel.rationale_QT[row, teacher]
        return rationale, panel.teachers[teacher], method, scores[teacher], scores, concluded, conflict
    if purification.text_Q is None or purification.answer_Q is None or purification.text_Q[row] is None:
        return None, None, method, None, scores, None, conflict
    concluded = _index(panel, row, purification.answer_Q[row])
    return purification.text_Q[row], AGGREGATED, method, None, scores, concluded, conflict


def _index(panel: Panel, row: int, answer: int) -> int | None:
    """An answer as a choice index; None where there is none, or the question is open-ended."""
    return int(answer) if answer != NONE and panel.questions[row].choices else None


def _number(value: float) -> float | None:
    # Adding 0 turns a rounded -0.0 into 0.0.
    return None if np.isnan(value) else round(float(value), SCORE_DIGITS) + 0.0


def _notes(panel: Panel, num_empty: int) -> Iterator[str]:
    if "blind" not in panel.modes:
        yield (
            "no accuracies: teacher-forced rationales argue for the gold answer they were given, so their correctness "
            "says nothing; run `kp-data generate` with --mode both to measure"
        )
    elif (panel.gold_Q == NONE).all():
        yield "no accuracies: no question has a gold answer"
    if num_empty:
        yield f"{num_empty} questions have no rationale by any teacher; their rationale is null"


def _source(panel: Panel) -> Path:
    if panel.folder is None:
        raise DataError("this panel was never on disk; write it as a panel folder and read it with Panel.read")
    return panel.folder


def _identity(panel: Panel, source: Path, method: Method, settings: Any, rest: dict[str, Any]) -> dict[str, Any]:
    """Everything that decides what the folder will hold: no times, no machine."""
    inputs = {name: _sha256(source / name) for name in ("questions.parquet", RESPONSES_FILE)}
    ids = "\n".join(question.id for question in panel.questions)
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "purified",
        "method": method.info.name,
        "options": _options(settings),
        **rest,
        "embedder": _by_content(rest["embedder"]),
        "teachers": list(panel.teachers),
        "n_questions": len(panel),
        "question_ids": hashlib.sha256(ids.encode()).hexdigest(),
        "inputs": inputs,
        "panel": {"teachers": _how_asked(source, panel.teachers)},
        "versions": {"knowledge-purification": __version__, **{name: metadata.version(name) for name in VERSIONED}},
    }


def _how_asked(source: Path, teachers: Sequence[str]) -> list[dict[str, Any]]:
    """How the panel's teachers were asked, as far as its run.json tells; addresses stay at home."""
    path = source / RUN_FILE
    run = read_json(path) if path.is_file() else {}
    entries = run.get("teachers") if isinstance(run, dict) else None
    known = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return [
        {name: entry[name] for name in _TOLD if name in entry} | {"by_url": bool(entry.get("api_base"))}
        for entry in known
        if entry.get("name") in teachers
    ]


def _options(settings: Any) -> dict[str, Any]:
    """A method's options; what is not as by default may be the path of a checkpoint."""
    given = {option.name: (getattr(settings, option.name), option.default) for option in fields(settings)}
    return {name: value if value == default else _by_content(value) for name, (value, default) in given.items()}


def _by_content(value: Any) -> Any:
    """A file or folder by what it holds: moved it is the same, changed another. Any other value as it is."""
    try:
        is_path = isinstance(value, str) and value not in ("", MINILM) and Path(value).exists()
    except (OSError, ValueError):  # longer than a path may be, or with a null byte
        return value
    return f"sha256:{_content(Path(value))}" if is_path else value


def _content(path: Path) -> str:
    """Hash of a file, or of the names and bytes of a folder's files; hidden ones are no part of a checkpoint."""
    if path.is_file():
        return _sha256(path)
    found = {file.relative_to(path): file for file in path.rglob("*") if file.is_file()}
    shown = sorted(name for name in found if not any(part.startswith(".") for part in name.parts))
    lines = [f"{name.as_posix()}\0{_sha256(found[name])}\n" for name in shown]
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _standing(out: Path, identity: dict[str, Any]) -> Report | None:
    """The report of what already stands in `out`, None where there is nothing, or a part of this very run.

    Raises: DataError, when `out` holds anything that this run did not write: it would be lost.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    refusal = DataError("holds something else; choose another --out or remove it", place=out)
    if not (out / RUN_FILE).is_file():
        raise refusal
    found = read_json(out / RUN_FILE)
    if not isinstance(found, dict) or not isinstance(outputs := found.pop("outputs", None), dict) or found != identity:
        raise refusal
    present = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_symlink() or not path.is_dir()}
    if present - {*outputs, RUN_FILE, REPORT_FILE}:
        raise refusal
    for name in sorted(present & {*outputs}):
        if _sha256(out / name) != outputs[name]:
            raise _changed(out / name)
    if {*outputs, REPORT_FILE} - present:
        return None
    try:
        return Report.from_dict(read_json(out / REPORT_FILE))
    except (DataError, KeyError, TypeError, AttributeError) as error:
        raise _changed(out / REPORT_FILE) from error


def _changed(path: Path) -> DataError:
    return DataError("was changed since it was written; choose another --out, or remove it", place=path)


@contextmanager
def _folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place when the block ends without an error.

    Raises: DataError, when it cannot be written.
    """
    temporary, aside = (out.with_name(f".{out.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        if out.exists():
            out.rename(aside)
        temporary.rename(out)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"cannot be written ({reason}); free space or choose another --out", place=out) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)


def _copy_responses(panel: Panel, source: Path, folder: Path) -> None:
    """The panel's responses: the same bytes, or without what the panel leaves out."""
    table = read_responses(source / RESPONSES_FILE)
    ids = pa.array([question.id for question in panel.questions], pa.string())
    belongs = pc.and_(pc.is_in(table["question_id"], ids), pc.is_in(table["teacher"], pa.array(panel.teachers)))
    if pc.all(belongs).as_py():
        shutil.copyfile(source / RESPONSES_FILE, folder / RESPONSES_FILE)
    else:
        write_parquet(table.filter(belongs), folder / RESPONSES_FILE)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", place=path) from error
