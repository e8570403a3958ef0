"""Which assistant an option means, made or loaded."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kp_data.errors import MethodError
from kp_data.purify.verifier_input import Claim
from kp_train.assistant.judges import (
    CROSS_JSON,
    JUDGE_TASK,
    JUDGE_VERSION,
    AskedAssistant,
    Assistant,
    GoldAssistant,
    TrustingAssistant,
    VerifierAssistant,
    bare_claims,
    fit_verifier_assistant,
    load_assistant,
    without_gold,
)
from kp_train.assistant.lessons import Classroom
from kp_train.assistant.options import GOLD, NO_ASSISTANT, SURFACE, VERIFIER, AssistantOptions, is_model
from kp_train.assistant.records import ASSISTANT
from kp_train.assistant.surface import SurfaceAssistant

if TYPE_CHECKING:
    from kp_data.config import Config

Array = np.ndarray[Any, Any]


def hire(
    options: AssistantOptions,
    classroom: Classroom,
    claims: Sequence[Claim],
    right_N: Array,
    *,
    folder: Path,
    config: Config | None,
    stack: ExitStack,
    seed: int,
) -> Assistant:
    """The assistant of a run: trained on the warm-up where it has to be, once, and loaded after that.

    Args:
        options: which.
        classroom: the questions, and their gold answers where they are known.
        claims: the teachers' answers of the warm-up whose questions have gold answers, with these.
        right_N: (N,) bool, whether each is right.
        folder: of the run.
        config: how a model is asked.
        stack: what closes what an assistant keeps open, when the run ends.
        seed: of training.

    Raises:
        DataError: a folder holds neither a verifier nor a checkpoint.
        MethodError: it needs gold answers that are not there.
    """
    name = options.assistant
    if name == NO_ASSISTANT:
        return TrustingAssistant()
    if name == GOLD:
        return GoldAssistant({**classroom.gold, **{one.id: str(one.answer) for one in classroom.validation}})
    if name == SURFACE:
        return SurfaceAssistant.fit([without_gold(claim) for claim in claims], right_N)
    if name == VERIFIER:
        return _verifier(options, classroom, claims, right_N, folder=folder / ASSISTANT, seed=seed)
    return _asked(name, folder, config, stack) if is_model(name) else load_assistant(Path(name))


def _verifier(
    options: AssistantOptions,
    classroom: Classroom,
    claims: Sequence[Claim],
    right_N: Array,
    *,
    folder: Path,
    seed: int,
) -> Assistant:
    if (folder / CROSS_JSON).is_file():
        return VerifierAssistant.load(folder)
    if not claims:
        raise MethodError(
            "a verifier learns from questions of the warm-up that have gold answers, and none has; add answers to some "
            "questions to learn from, or take another --assistant",
            place="--assistant verifier",
        )
    checked, checked_right_N = bare_claims(classroom.validation)
    assistant = fit_verifier_assistant(
        claims,
        right_N,
        checked,
        checked_right_N,
        epochs=options.epochs,
        max_tokens=options.max_tokens,
        seed=seed,
    )
    assistant.save(folder)
    return assistant


def _asked(name: str, folder: Path, config: Config | None, stack: ExitStack) -> Assistant:
    from kp_data.config import Config, pick_teachers
    from kp_data.purify.asking import asker_of
    from kp_train.assistant.teachers import CALLS

    settings = config or Config()
    (model,) = pick_teachers(settings, (name,))
    asker = asker_of(model, folder / CALLS, task=JUDGE_TASK, version=JUDGE_VERSION, asking=settings.generate)
    return AskedAssistant(stack.enter_context(asker))
