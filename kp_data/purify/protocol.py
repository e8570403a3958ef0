"""The one shape of every purification method.

A method is a `MethodInfo` (what it is, what it needs), a frozen dataclass of options, and a function `fit` that turns
`FitData` into a `Fitted`. Fitting sees the splits `train` and `validation` alone: the labels of any other split are not
within its reach. A fitted method purifies a panel into a `Purification`; one that needs only the question also brings a
`Router`, which can choose a teacher before any rationale is paid for.

Axes: Q questions, T teachers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import numpy as np

from kp_data.learner import MakeLearner
from kp_data.panel import NONE, Panel
from kp_data.purify.embedding import Embedder
from kp_data.schema import Question

if TYPE_CHECKING:
    from kp_data.config import Config

Array = np.ndarray[Any, Any]
Labels = Literal["gold", "agreement"]
Kind = Literal["baseline", "router", "selector", "writer"]
Need = Literal["rationales", "blind answers", "train labels", "gold of every question"]
Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total)."""


def quiet(stage: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True, slots=True)
class MethodInfo:
    """What a method is, for people who choose one.

    Attributes:
        name: as given to `--method`.
        summary: one line.
        kind: `router` needs the question only; `selector` chooses among rationales; `writer` writes a new one.
        needs: what the panel must hold.
        trained: whether parameters are fitted.
        transferable: whether it works on new questions without their answers.
        source: paper, or "own".
        evidence: `verified` against the paper or its code, `reconstructed` where these leave gaps, or `own`.
        differs: from the source, in a few words.
    """

    name: str
    summary: str
    kind: Kind
    needs: tuple[Need, ...]
    trained: bool
    transferable: bool
    source: str
    evidence: Literal["verified", "reconstructed", "own"]
    differs: str = ""


@dataclass(frozen=True)
class Purification:
    """What a method keeps of a panel.

    Attributes:
        score_QT: (Q, T) float, the method's score of each teacher (a probability for routers), nan where undefined.
        kept_QT: (Q, T) bool, the rationales kept: at most one a question, save for `all`.
        text_Q: (Q,) object, a rationale written anew, None where a given one is kept; None: no method wrote anything.
        answer_Q: (Q,) int, what a written text concludes, -1 where none; needed with `text_Q`.
        several: whether a question may keep several rationales; each is then a row with an id of its own.
    """

    score_QT: Array
    kept_QT: Array
    text_Q: Array | None = None
    answer_Q: Array | None = None
    several: bool = False

    @classmethod
    def of_choice(cls, score_QT: Array, chosen_Q: Array) -> Purification:
        """One teacher a question.

        Args:
            score_QT: (Q, T) float.
            chosen_Q: (Q,) int, teacher column, -1: nothing is kept.
        """
        return cls(score_QT, chosen_Q[:, None] == np.arange(score_QT.shape[1])[None, :])

    @property
    def chosen_Q(self) -> Array:
        """(Q,) int, the one teacher kept, -1 where none or several are."""
        return np.where(self.kept_QT.sum(1) == 1, self.kept_QT.argmax(1), NONE)

    @property
    def written_Q(self) -> Array:
        """(Q,) bool, whether the rationale is written anew."""
        if self.text_Q is None:
            return np.zeros(len(self.kept_QT), dtype=bool)
        return np.array([text is not None for text in self.text_Q], dtype=bool)


class Router(Protocol):
    """Chooses a teacher from the question alone."""

    @property
    def teachers(self) -> tuple[str, ...]: ...

    def route(self, questions: Sequence[Question]) -> tuple[Array, tuple[str, ...]]:
        """(Q, T) float scores, higher is better; the teacher of the highest for each question."""
        ...

    def save(self, folder: Path) -> None:
        """Write `router.json`, and weights as safetensors where there are any, into an existing folder."""
        ...


@dataclass(frozen=True)
class FitData:
    """What a method may learn from.

    Attributes:
        train: questions to fit on; may be empty.
        validation: questions to select on; may be empty or unlabelled.
        whole_train: all of split `train`, also where a part of it is held out: for methods that select nothing.
        held_out: whether `validation` was taken from `train`, because the panel has no such split.
    """

    train: Panel
    validation: Panel
    whole_train: Panel
    held_out: bool = False


@dataclass(frozen=True)
class Partners:
    """What some methods work with beyond a panel; the command line brings it together.

    Attributes:
        config: kp.yaml: how models are asked (`generate`), and known models (`teachers`); None: the defaults.
        learner: name of a student to what makes it, for rewards; see `kp_data.learner`.
    """

    config: Config | None = None
    learner: Callable[[str], MakeLearner] | None = None


ALONE: Final = Partners()


@dataclass(frozen=True)
class Context:
    """What a run gives every method.

    Attributes:
        seed: of every random choice.
        embed: question texts to unit vectors; remembers what it has embedded.
        progress: told how far each stage is.
        partners: beyond the panel.
    """

    seed: int = 0
    embed: Embedder = field(default_factory=Embedder)
    progress: Progress = quiet
    partners: Partners = ALONE


@dataclass(frozen=True)
class Fitted:
    """A method that is ready to purify.

    Attributes:
        purify: a panel to what is kept of it.
        calls_per_question: teacher calls that one question needs, once fitted.
        extra_parameters: of everything beside the teachers that is needed to purify.
        router: where the choice needs the question only.
        facts: how fitting went, as JSON values; goes into report.json under `fit`.
        notes: what a reader of the figures must know.
    """

    purify: Callable[[Panel], Purification]
    calls_per_question: float
    extra_parameters: int = 0
    router: Router | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NoOptions:
    """The options of a method that has none."""


@dataclass(frozen=True)
class Method:
    """A method as the registry holds it.

    Attributes:
        info: what it is.
        fit: (data, options, context) to a fitted method.
        options: a frozen dataclass whose defaults are the method's.
    """

    info: MethodInfo
    fit: Callable[[FitData, Any, Context], Fitted]
    options: type[Any] = NoOptions
