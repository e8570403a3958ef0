"""`kp-train fit --objective teaching-assistant`: its options, and what they mean together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kp_data.console import say
from kp_data.errors import ConfigError, DataError, MethodError

if TYPE_CHECKING:
    from kp_train.assistant.options import AssistantOptions
    from kp_train.assistant.signals import Thresholds
    from kp_train.assistant.teachers import TeacherSource
    from kp_train.dataset import Dataset
    from kp_train.fit_options import FitOptions

FEW_CALLS = "Few teacher calls (objective teaching-assistant)"
OBJECTIVE = "teaching-assistant"

CallBudget = Annotated[
    int | None,
    typer.Option(metavar="N", help="Teacher calls at most, over all runs; never exceeded.", rich_help_panel=FEW_CALLS),
]
Teachers = Annotated[
    list[str] | None,
    typer.Option(
        "--teacher",
        metavar="NAME=MODEL[@API_BASE]",
        help="Whom to ask, as in `kp-data generate`; repeatable. Default: those of --config, or the recorded answers "
        "of the panel.",
        rich_help_panel=FEW_CALLS,
    ),
]
Config = Annotated[
    Path | None, typer.Option(help="kp.yaml: teachers, and how they are asked.", rich_help_panel=FEW_CALLS)
]
Assistant = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Who judges answers: verifier (default) or surface, both trained on the warm-up, which needs gold "
        "answers; gold; none; a folder of a verifier or of a checkpoint that writes; or NAME=MODEL.",
        rich_help_panel=FEW_CALLS,
    ),
]
AskFirst = Annotated[
    str | None,
    typer.Option(
        help="Which questions calls go to: self-consistency (default: where the student contradicts itself), "
        "assistant, coverage, router or random.",
        rich_help_panel=FEW_CALLS,
    ),
]
Rounds = Annotated[
    int | None, typer.Option(metavar="N", help="Stages after the warm-up; default 1.", rich_help_panel=FEW_CALLS)
]
WarmUp = Annotated[
    float | None,
    typer.Option(metavar="SHARE", help="Share of the calls spent at random first; 0.3.", rich_help_panel=FEW_CALLS),
]
Samples = Annotated[
    int | None,
    typer.Option(metavar="K", help="Answers that the student is sampled for; default 8.", rich_help_panel=FEW_CALLS),
]
ThresholdsText = Annotated[
    str | None,
    typer.Option(
        metavar="S1,S2,S3",
        help="From when on an answer is kept: self-consistency, the assistant's word about the student's answer, and "
        "about the teacher's; default 0.6,0.5,0.5.",
        rich_help_panel=FEW_CALLS,
    ),
]
KeepRecall = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Instead of S2 and S3: the highest thresholds that keep this share of the right answers.",
        rich_help_panel=FEW_CALLS,
    ),
]
RouterDir = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="A fitted router that chooses whom to ask.", rich_help_panel=FEW_CALLS),
]


@dataclass(frozen=True, slots=True)
class FewCalls:
    """What the options say; None: not given."""

    call_budget: int | None
    teacher: list[str] | None
    config: Path | None
    assistant: str | None
    ask_first: str | None
    rounds: int | None
    warm_up: float | None
    samples: int | None
    thresholds: str | None
    keep_recall: float | None
    router: Path | None

    def check(self, objective: str) -> None:
        """Refuse these options where they have no effect, and their objective without a number of calls.

        Raises: MethodError, ConfigError.
        """
        # A zero is given, too.
        given = [name for name in self.__slots__ if getattr(self, name) not in (None, [])]
        if objective != OBJECTIVE and given:
            flag = given[0].replace("_", "-")
            raise MethodError(
                f"--{flag} has no effect on objective {objective}; leave it out, or take --objective {OBJECTIVE}"
            )
        if objective == OBJECTIVE and self.call_budget is None:
            raise ConfigError("how many teacher calls may be spent? Give --call-budget N", place="--call-budget")

    def options(self) -> AssistantOptions:
        """As the library takes them.

        Raises: ConfigError, when a value cannot be.
        """
        from kp_train.assistant.options import AssistantOptions

        names = {"keep_recall": "recall"}
        taken = ("call_budget", "assistant", "ask_first", "rounds", "warm_up", "samples", "keep_recall", "router")
        given: dict[str, Any] = {
            names.get(name, name): getattr(self, name) for name in taken if getattr(self, name) is not None
        }
        if self.thresholds is not None:
            given["thresholds"] = _thresholds(self.thresholds)
        # All calls in the warm-up leave nothing for a round, unless rounds are asked for.
        if self.warm_up == 1 and self.rounds is None:
            given["rounds"] = 0
        options = AssistantOptions(**given)
        options.check()
        return options


def fit_few_calls(source: str, dataset: Dataset, chosen: FitOptions, few: FewCalls, out: Path) -> dict[str, Any]:
    """Run the objective; see `kp_train.assistant`.

    Raises: KpError, as `fit_with_assistant`.
    """
    from kp_data.config import load_config
    from kp_train.assistant.loop import fit_with_assistant
    from kp_train.progress import show_progress

    options = few.options()
    settings = load_config(few.config)
    teachers = _source(source, dataset, chosen, few, out)
    record = fit_with_assistant(
        dataset, chosen, options, teachers, out, config=settings, showing=show_progress, say=say
    )
    cost = record["teacher_cost_usd"]
    price = "at a price that is not known" if cost is None else f"for ${cost:.4f}"
    say(f"{record['teacher_calls']} of {record['call_budget']} calls spent, {price}; report in {out}/report.html")
    return record


def _source(source: str, dataset: Dataset, chosen: FitOptions, few: FewCalls, out: Path) -> TeacherSource:
    """Teachers that are named, those of the practice world for its questions, or the panel's recorded answers."""
    from kp_data.config import load_config, pick_teachers
    from kp_data.generate.prepare import known_teachers
    from kp_train.assistant.lessons import Classroom
    from kp_train.assistant.teachers import AskedTeachers, ReplayedTeachers

    settings = load_config(few.config)
    named = pick_teachers(settings, few.teacher or ())
    pool = Classroom.of(dataset, split=chosen.split, validation_split=chosen.validation_split).pool
    if named or source.startswith("practice:"):
        return AskedTeachers(known_teachers(source, named), settings.generate, pool, out)
    if not (Path(source) / "responses.parquet").is_file():
        raise DataError(
            "holds no recorded answers to replay; name whom to ask with --teacher NAME=MODEL, or give a panel folder",
            place=source,
        )
    return ReplayedTeachers(Path(source), pool, teachers=chosen.teachers)


def _thresholds(text: str) -> Thresholds:
    from kp_train.assistant.signals import Thresholds

    try:
        consistency, student, teacher = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"{text!r} is not three numbers, as in 0.6,0.5,0.5", place="--thresholds") from error
    return Thresholds(consistency, student, teacher)
