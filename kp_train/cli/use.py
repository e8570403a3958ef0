"""Commands that use a fitted student: `evaluate`, `predict`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kp_data.console import out_json, say, set_quiet
from kp_data.errors import ConfigError
from kp_train.cli.app import USE, app
from kp_train.cli.options import Json, Quiet, Seed, Source, open_dataset, open_student

if TYPE_CHECKING:
    from kp_train.evaluate import Evaluation

StudentName = Annotated[
    str,
    typer.Argument(
        metavar="STUDENT",
        help="Folder of a fitted student, or hub name namespace/name[@version].",
        show_default=False,
    ),
]


@app.command(rich_help_panel=USE)
def evaluate(
    student: StudentName,
    dataset: Source,
    split: Annotated[str, typer.Option(help="Questions to answer; several as test,ood.")] = "test",
    score: Annotated[
        str,
        typer.Option(
            help="What makes a choice the student's: its log-probability (sum, default), that per token or per "
            "character, or how much the question raises it (pmi)."
        ),
    ] = "sum",
    per_token: Annotated[bool, typer.Option("--per-token", help="The same as --score token.", hidden=True)] = False,
    all_scores: Annotated[
        bool, typer.Option("--all-scores", help="Also tell the accuracy by each of these scores.")
    ] = False,
    generate: Annotated[
        bool, typer.Option("--generate", help="Let the student write its answer and read that; also open questions.")
    ] = False,
    view: Annotated[
        str | None,
        typer.Option(help="With --generate: ask for rationale-first or answer-first, as the student was fitted."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="STUDENT", help="Another student: the difference, paired question by question."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write every prediction to this .jsonl file.")] = None,
    seed: Seed = 0,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Accuracy with a 95 % interval, per subject, calibration, and agreement with each teacher."""
    from kp_train.evaluate import EvaluationOptions, evaluate_splits, write_predictions
    from kp_train.evaluations import keep_evaluations
    from kp_train.student_folder import EVALUATIONS_FILE

    set_quiet(quiet)
    if not (names := [name.strip() for name in split.split(",") if name.strip()]):
        raise ConfigError("names no split; write one, or several as test,ood", place="--split")
    options = EvaluationOptions(
        score="token" if per_token else score, every_score=all_scores, generate=generate, view=view, seed=seed
    )
    options.check()
    folder, fetched = open_student(student)
    other = None if against is None else open_student(against)[0]
    asked = open_dataset(dataset)
    evaluations = evaluate_splits(folder, asked, names, options, against=other)
    if against is not None:
        evaluations = {name: _beside(evaluation, against) for name, evaluation in evaluations.items()}
    if not fetched and keep_evaluations(folder, evaluations, asked, options, say=say):
        say(f"kept in {folder / EVALUATIONS_FILE}, and in its README.md")
    if out is not None:
        write_predictions([each for evaluation in evaluations.values() for each in evaluation.predictions], out)
    if json_:
        parts = {name: evaluation.as_dict() for name, evaluation in evaluations.items()}
        out_json(parts[names[0]] if len(names) == 1 else {"splits": parts})
        return
    for evaluation in evaluations.values():
        _print_evaluation(evaluation)


@app.command(rich_help_panel=USE)
def predict(
    student: StudentName,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Questions: .parquet, .jsonl or .csv.")],
    explain: Annotated[bool, typer.Option("--explain", help="Also write a rationale for each answer.")] = False,
    teacher: Annotated[
        str | None, typer.Option(help="Explain as this teacher, for a student of `tinyllm`; implies --explain.")
    ] = None,
    view: Annotated[
        str | None,
        typer.Option(help="rationale-first or answer-first: let it write both in one text, as it was fitted."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Answer questions: one JSON object a line on stdout."""
    from kp_train.predict import answer_file
    from kp_train.views import VIEWS

    set_quiet(quiet)
    if view not in (None, *VIEWS):
        raise ConfigError(f"{view!r} is none of {', '.join(VIEWS)}", place="--view")
    explain = explain or teacher is not None
    for answer in answer_file(open_student(student)[0], file, explain=explain, teacher=teacher, view=view):
        out_json(answer)


def _beside(evaluation: Evaluation, other: str) -> Evaluation:
    """The comparison under the other student's name as it was given, not where a client keeps it."""
    compared = evaluation.compared
    return evaluation if compared is None else replace(evaluation, compared=replace(compared, other=other))


def _print_evaluation(evaluation: Evaluation) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    low, high = evaluation.ci95
    table = Table("", "accuracy", "questions")
    table.add_row(escape(evaluation.split), f"{evaluation.accuracy:.3f} ({low:.3f} to {high:.3f})", str(evaluation.n))
    for subject, figures in evaluation.per_subject.items():
        table.add_row(f"  {escape(subject)}", f"{figures['accuracy']:.3f}", str(int(figures["n"])))
    for teacher, fidelity in evaluation.fidelity.items():
        kappa = "" if fidelity.kappa is None else f", kappa {fidelity.kappa:.2f}"
        table.add_row(f"  agrees with {escape(teacher)}", f"{fidelity.agreement:.3f}{kappa}", str(fidelity.n))
    for name, accuracy in (evaluation.by_score or {}).items():
        table.add_row(f"  by score {name}", f"{accuracy:.3f}", "")
    if evaluation.exact_match is not None:
        table.add_row("  to the letter", f"{evaluation.exact_match:.3f}", "")
        table.add_row("  no answer to be read", "", str(evaluation.unreadable))
    if evaluation.calibration is not None:
        table.add_row("  calibration error", f"{evaluation.calibration.ece:.3f}", "")
    if (paired := evaluation.compared) is not None:
        low, high = paired.ci95
        table.add_row(
            f"  beside {escape(paired.other)}",
            f"{paired.difference:+.3f} ({low:+.3f} to {high:+.3f}), p {paired.p_value:.3f}",
            f"{paired.only_this} : {paired.only_other}",
        )
    Console().print(table)
    if evaluation.skipped:
        say(f"{evaluation.skipped} questions without choices or gold answer are not counted")
