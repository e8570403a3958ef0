"""`kp-train fit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from kp_data.console import out_json, say, set_quiet
from kp_data.errors import ConfigError
from kp_train.cli import assistant as few
from kp_train.cli.app import TRAIN, app
from kp_train.cli.options import Json, Quiet, Seed, names, open_dataset

HOW_LONG, LOSS, ADAPT = "How long and how fast", "What is learned", "Adapters (extra: lora)"
REPORTED = ("out", "steps", "seconds", "tokens", "flops", "validation_accuracy", "teacher_calls")


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
    log_to: Annotated[
        str,
        typer.Option(
            metavar="A,B",
            help="Also log to tensorboard (OUT/logs), wandb, mlflow or trackio, as these are set up; or to none.",
            rich_help_panel=HOW_LONG,
        ),
    ] = "tensorboard",
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.", rich_help_panel=HOW_LONG)] = None,
    lr_schedule: Annotated[
        str | None,
        typer.Option(
            help="How the learning rate goes on after its warm-up: linear (down to 0), cosine or constant; default: "
            "the student's recipe.",
            rich_help_panel=HOW_LONG,
        ),
    ] = None,
    lr_warmup: Annotated[
        float | None, typer.Option(help="Share of the steps over which it rises.", rich_help_panel=HOW_LONG)
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of AdamW.", rich_help_panel=HOW_LONG)] = None,
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
    call_budget: few.CallBudget = None,
    teacher: few.Teachers = None,
    config: few.Config = None,
    assistant: few.Assistant = None,
    ask_first: few.AskFirst = None,
    rounds: few.Rounds = None,
    warm_up: few.WarmUp = None,
    samples: few.Samples = None,
    thresholds: few.ThresholdsText = None,
    keep_recall: few.KeepRecall = None,
    router: few.RouterDir = None,
    seed: Seed = 0,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Distill a student. Resumes by itself: after a crash, the same command goes on."""
    from kp_train.fit import fit as fit_student
    from kp_train.fit_options import FitOptions
    from kp_train.progress import show_progress
    from kp_train.ranks import ranks_of_environment

    ranks = ranks_of_environment()
    set_quiet(quiet or not ranks.first)
    chosen = FitOptions(
        student=student,
        objective=objective,
        labels=_labels(labels),
        rationale_weight=lambda_,
        teachers=names(teachers),
        split=split,
        validation_split=validation_split,
        epochs=epochs,
        steps=steps,
        lr=lr,
        schedule=cast("Any", lr_schedule),
        warmup=lr_warmup,
        weight_decay=weight_decay,
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
        lora_targets=names(lora_targets, option="--lora-targets", what="layer"),
        lora_keep=lora_keep or None,
        retrieve=retrieve,
        retrieve_as=cast("Any", retrieve_as),
        batch_tokens=batch_tokens,
        pack=pack,
        gradient_checkpointing=gradient_checkpointing,
        shard=shard,
        log_to=() if log_to == "none" else names(log_to, option="--log-to", what="logger") or (),
    )
    chosen.check()
    calls = few.FewCalls(
        call_budget,
        teacher,
        config,
        assistant,
        ask_first,
        rounds,
        warm_up,
        samples,
        thresholds,
        keep_recall,
        router,
    )
    calls.check(objective)
    rows = open_dataset(dataset, teachers=chosen.teachers)
    if objective == few.OBJECTIVE:
        record = few.fit_few_calls(dataset, rows, chosen, calls, out)
    else:
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


def _labels(value: str) -> Any:
    if value not in ("gold", "purified"):
        raise ConfigError(f"{value!r} is neither gold nor purified", place="--labels")
    return value
