"""What can be known to fail before a call is paid for, and is refused then."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from kp_data.errors import DataError, MethodError
from kp_train.assistant.judges import load_assistant
from kp_train.assistant.lessons import Classroom
from kp_train.assistant.options import GOLD, NO_ASSISTANT, SURFACE, VERIFIER, AssistantOptions, is_model
from kp_train.assistant.routing import given_router
from kp_train.assistant.surface import LEAST
from kp_train.assistant.teachers import TeacherSource

if TYPE_CHECKING:
    from kp_data.config import Config

LEAST_TO_ROUTE: Final = 12
"""Questions below which answers side by side say nothing about who knows what."""


def check_beforehand(
    classroom: Classroom, options: AssistantOptions, source: TeacherSource, config: Config | None
) -> None:
    """Refuse what would fail only after calls were spent.

    Raises:
        ConfigError: the model that is to assist cannot be, or the router does not know a teacher.
        DataError: nothing to validate on, or a folder holds neither a verifier nor a checkpoint.
        MethodError: assistant or strategy need what is not there.
    """
    if not classroom.validation:
        raise DataError(
            f"no choice question with a gold answer in {classroom.validation_split!r} to select and calibrate on",
            place=classroom.place,
        )
    _check_gold(classroom, options)
    _check_loadable(options, source, config)
    if options.rounds > 0:
        _check_strategy(classroom, options, source)


def can_compare(classroom: Classroom, options: AssistantOptions, source: TeacherSource) -> bool:
    """Whether the warm-up can ask all teachers the same questions, and gold answers tell who was right."""
    enough = options.warm_up_calls >= LEAST_TO_ROUTE * len(source.teachers)
    return len(source.teachers) > 1 and enough and bool(classroom.gold)


def _check_gold(classroom: Classroom, options: AssistantOptions) -> None:
    name = options.assistant
    if name == GOLD and (bare := [one.id for one in classroom.pool if one.id not in classroom.gold]):
        raise MethodError(
            f"question {bare[0]} has no gold answer to verify by, and {len(bare) - 1} others; take another --assistant",
            place="--assistant gold",
        )
    if name in (VERIFIER, SURFACE) and not classroom.gold:
        raise MethodError(
            f"it learns from questions of split {classroom.split!r} that have gold answers, and none has; add answers "
            "to some, or take another --assistant",
            place=f"--assistant {name}",
        )
    if name == SURFACE and options.warm_up_calls < LEAST:
        raise MethodError(
            f"it learns from {LEAST} answers of the warm-up or more, which has {options.warm_up_calls} calls; give a "
            "larger --call-budget or --warm-up, or another --assistant",
            place="--assistant surface",
        )


def _check_loadable(options: AssistantOptions, source: TeacherSource, config: Config | None) -> None:
    name = options.assistant
    if is_model(name):
        from kp_data.config import Config, pick_teachers

        pick_teachers(config or Config(), (name,))
    elif name not in (VERIFIER, SURFACE, GOLD, NO_ASSISTANT):
        load_assistant(Path(name))
    if options.router is not None:
        given_router(options.router, source.teachers)


def _check_strategy(classroom: Classroom, options: AssistantOptions, source: TeacherSource) -> None:
    if options.ask_first == "coverage" and not any(question.choices for question in classroom.pool):
        raise MethodError(
            "coverage compares answers over choices, and these questions have none; take another --ask-first",
            place="--ask-first coverage",
        )
    if options.ask_first == "router" and options.router is None and not can_compare(classroom, options, source):
        least = LEAST_TO_ROUTE * max(2, len(source.teachers))
        raise MethodError(
            f"a router is fitted on gold answers and {least} calls of the warm-up to two teachers or more; there are "
            f"{len(classroom.gold)} gold answers, {options.warm_up_calls} calls and {len(source.teachers)} teachers: "
            "give a fitted one by --router, or take another --ask-first",
            place="--ask-first router",
        )
