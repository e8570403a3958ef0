"""The program `kp-train`: one thin function a command; what is heavy is imported only when its command runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from kp_data.console import out_json, run_app, say, set_quiet
from kp_data.errors import ConfigError, HubError

if TYPE_CHECKING:
    from kp_train.dataset import Dataset
    from kp_train.evaluate import Evaluation

app = typer.Typer(
    name="kp-train",
    help="Distill a small student from a panel or a purified dataset, and tell how good it is.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)

TRAIN, USE, LOOK = "1 · Train", "2 · Evaluate and use", "3 · What there is"
HOW_LONG, LOSS, ADAPT = "How long and how fast", "What is learned", "Adapters (extra: lora)"
REPORTED = ("out", "steps", "seconds", "tokens", "flops", "validation_accuracy", "teacher_calls")

_HUB_NAME = re.compile(r"^[\w.-]+/[\w.-]+(@[\w.+-]+)?$")

Source = Annotated[
    str,
    typer.Argument(
        metavar="DATASET",
        help="Panel folder, purified folder, or hub name namespace/name[@version].",
        show_default=False,
    ),
]
StudentDir = Annotated[Path, typer.Argument(metavar="STUDENT", help="Folder of a fitted student.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no messages; errors are shown.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of every random choice.")]


def main() -> None:
    """Entry point of the console command."""
    run_app(app, "kp-train")


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"kp-train {version('knowledge-purification')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Distill a small student from a panel or a purified dataset, and tell how good it is."""


@app.command(rich_help_panel=TRAIN)
def fit(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET",
            help="Panel folder, purified folder, hub name namespace/name[@version], or practice:N (gold answers only).",
            show_default=False,
        ),
    ],
    student: Annotated[str, typer.Option(help="One of `kp-train students`, or a checkpoint.", show_default=False)],
    objective: Annotated[str, typer.Option(help="One of `kp-train objectives`.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for the student: new, or one to go on with.", show_default=False)],
    labels: Annotated[
        str,
        typer.Option(help="gold, or purified: the answers that the kept rationales conclude.", rich_help_panel=LOSS),
    ] = "gold",
    lambda_: Annotated[
        float | None,
        typer.Option(
            "--lambda", help="Weight of each rationale task; the label has 1. Default: 1.", rich_help_panel=LOSS
        ),
    ] = None,
    teachers: Annotated[
        str | None, typer.Option(metavar="A,B", help="Learn from these only; default: all.", rich_help_panel=LOSS)
    ] = None,
    reduction: Annotated[
        str, typer.Option(help="token-mean or sequence-sum; lambda means another thing in each.", rich_help_panel=LOSS)
    ] = "token-mean",
    view: Annotated[
        str | None,
        typer.Option(
            help="How rationales are learned: separate (default), rationale-first or answer-first, as one text with "
            "the answer.",
            rich_help_panel=LOSS,
        ),
    ] = None,
    weight_by: Annotated[
        str | None,
        typer.Option(help="score: purified rationales count by their purifier's score.", rich_help_panel=LOSS),
    ] = None,
    as_published: Annotated[
        bool,
        typer.Option(
            "--as-published",
            help="tinyllm as its published code trains: inputs cut at 100 tokens and padded, a forward pass a task, "
            "fp32.",
            rich_help_panel=LOSS,
        ),
    ] = False,
    split: Annotated[str, typer.Option(help="Rows to learn from.", rich_help_panel=LOSS)] = "train",
    validation_split: Annotated[
        str, typer.Option(help="Rows to select on; 15 % are held out if there is none.", rich_help_panel=LOSS)
    ] = "validation",
    epochs: Annotated[
        float | None,
        typer.Option(help="Passes over the rows; default: the student's recipe.", rich_help_panel=HOW_LONG),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Optimiser steps, instead of epochs.", rich_help_panel=HOW_LONG)
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="Rows a step, with all their targets.", rich_help_panel=HOW_LONG)
    ] = None,
    accumulate: Annotated[
        int, typer.Option(help="Micro-batches a step; saves memory, same gradient.", rich_help_panel=HOW_LONG)
    ] = 1,
    batch_tokens: Annotated[
        int | None,
        typer.Option(
            help="Positions of a micro-batch at most, inputs and labels; saves memory, same gradient.",
            rich_help_panel=HOW_LONG,
        ),
    ] = None,
    pack: Annotated[
        bool,
        typer.Option(
            "--pack/--no-pack",
            help="Put several targets into one sequence where the student can; exact, and saves the padding.",
            rich_help_panel=HOW_LONG,
        ),
    ] = True,
    gradient_checkpointing: Annotated[
        bool,
        typer.Option(
            "--gradient-checkpointing",
            help="Compute activations twice instead of keeping them: less memory, a third more time.",
            rich_help_panel=HOW_LONG,
        ),
    ] = False,
    shard: Annotated[
        bool,
        typer.Option(
            "--shard",
            help="Under torchrun: spread weights and optimiser over the processes (FSDP2).",
            rich_help_panel=HOW_LONG,
        ),
    ] = False,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.", rich_help_panel=HOW_LONG)] = None,
    eval_steps: Annotated[
        int | None, typer.Option(help="Steps between validations, each with a checkpoint.", rich_help_panel=HOW_LONG)
    ] = None,
    bf16: Annotated[
        bool | None,
        typer.Option("--bf16/--fp32", help="Number format; default: the recipe's.", rich_help_panel=HOW_LONG),
    ] = None,
    choice_orders: Annotated[
        int | None,
        typer.Option(help="Show the choices of a row in this many orders, in turn.", rich_help_panel=LOSS),
    ] = None,
    lora_rank: Annotated[
        int | None,
        typer.Option(
            help="Freeze the checkpoint and train adapters of this rank; saved merged.", rich_help_panel=ADAPT
        ),
    ] = None,
    lora_alpha: Annotated[
        float | None, typer.Option(help="Scale of the adapters; default: twice the rank.", rich_help_panel=ADAPT)
    ] = None,
    lora_targets: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Layers to adapt, as q_proj; default: all linear.", rich_help_panel=ADAPT),
    ] = None,
    lora_keep: Annotated[
        bool, typer.Option("--lora-keep", help="Save the adapter alone, not merged.", rich_help_panel=ADAPT)
    ] = False,
    retrieve: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            help="minilm and other encoders: read the K nearest rationales of other training questions with each "
            "choice.",
            rich_help_panel=LOSS,
        ),
    ] = None,
    retrieve_as: Annotated[
        str | None,
        typer.Option(
            help="vectors, which the student learns to look up (default), or text after the choice.",
            rich_help_panel=LOSS,
        ),
    ] = None,
    seed: Seed = 0,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Distill a student. Resumes by itself: after a crash, the same command goes on."""
    from kp_train.fit import FitOptions
    from kp_train.fit import fit as fit_student
    from kp_train.progress import show_progress
    from kp_train.ranks import ranks_of_environment

    ranks = ranks_of_environment()
    set_quiet(quiet or not ranks.first)
    chosen = FitOptions(
        student=student,
        objective=objective,
        labels=_labels(labels),
        rationale_weight=lambda_,
        teachers=_names(teachers),
        split=split,
        validation_split=validation_split,
        epochs=epochs,
        steps=steps,
        lr=lr,
        batch=batch,
        accumulate=accumulate,
        eval_steps=eval_steps,
        bf16=bf16,
        choice_orders=choice_orders,
        reduction=reduction,
        seed=seed,
        view=cast("Any", view),  # checked below, as all options are
        weight_by=cast("Any", weight_by),
        as_published=as_published or None,
        lora_rank=lora_rank,
        lora_alpha=lora_alpha,
        lora_targets=_names(lora_targets, option="--lora-targets", what="layer"),
        lora_keep=lora_keep or None,
        retrieve=retrieve,
        retrieve_as=cast("Any", retrieve_as),
        batch_tokens=batch_tokens,
        pack=pack,
        gradient_checkpointing=gradient_checkpointing,
        shard=shard,
    )
    chosen.check()
    rows = _open_dataset(dataset, teachers=chosen.teachers)
    with show_progress() as report:
        record = fit_student(rows, chosen, out, report=report, say=say)
    if not ranks.first:
        return
    if json_:
        out_json({name: record[name] for name in REPORTED})
    else:
        say(
            f"validation accuracy {record['validation_accuracy']:.3f} at step {record['best_step']} of "
            f"{record['steps']}; {record['seconds']:.0f} s; student in {record['out']}"
        )


@app.command(rich_help_panel=USE)
def evaluate(
    student: StudentDir,
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
        Path | None,
        typer.Option(metavar="STUDENT", help="Another student: the difference, paired question by question."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write every prediction to this .jsonl file.")] = None,
    seed: Seed = 0,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Accuracy with a 95 % interval, per subject, calibration, and agreement with each teacher."""
    from kp_train.evaluate import EvaluationOptions, evaluate_splits, write_predictions

    set_quiet(quiet)
    if not (names := [name.strip() for name in split.split(",") if name.strip()]):
        raise ConfigError("names no split; write one, or several as test,ood", place="--split")
    options = EvaluationOptions(
        score="token" if per_token else score, every_score=all_scores, generate=generate, view=view, seed=seed
    )
    options.check()
    evaluations = evaluate_splits(student, _open_dataset(dataset), names, options, against=against)
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
    student: StudentDir,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Questions: .parquet, .jsonl or .csv.")],
    explain: Annotated[bool, typer.Option("--explain", help="Also write a rationale for each answer.")] = False,
    teacher: Annotated[
        str | None, typer.Option(help="Explain as this teacher, for a student of `tinyllm`; implies --explain.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Answer questions: one JSON object a line on stdout."""
    from kp_train.predict import answer_file

    set_quiet(quiet)
    for answer in answer_file(student, file, explain=explain or teacher is not None, teacher=teacher):
        out_json(answer)


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


def _open_dataset(source: str, *, teachers: tuple[str, ...] | None = None) -> Dataset:
    """A folder, a practice source, or a hub name, as rows."""
    from kp_train.dataset import gold_dataset, read_dataset

    if source.startswith("practice:"):
        from kp_data.practice import parse_practice_source

        return gold_dataset(parse_practice_source(source).questions(), source)
    if Path(source).exists() or not _HUB_NAME.match(source):
        return read_dataset(Path(source), teachers=teachers)
    return read_dataset(_fetch(source), teachers=teachers)


def _fetch(name: str) -> Path:
    try:
        from kp_data.hub.publish import fetch
    except ImportError as error:
        raise HubError("no such folder, and this installation cannot fetch from a hub", place=name) from error
    say(f"no folder {name} here; fetching it from the hub")
    try:
        return fetch(name)
    except HubError as error:
        raise HubError(f"no such folder, and as the name of a hub dataset: {error}", place=name) from error


def _labels(value: str) -> Any:
    if value not in ("gold", "purified"):
        raise ConfigError(f"{value!r} is neither gold nor purified", place="--labels")
    return value


def _names(value: str | None, *, option: str = "--teachers", what: str = "teacher") -> tuple[str, ...] | None:
    if value is None:
        return None
    names = tuple(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))
    if not names:
        raise ConfigError(f"names no {what}; write {option} A,B", place=option)
    return names


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


if __name__ == "__main__":
    main()
