"""How practical a method is: the paper's table of prior, parameters, training and latency, measured and not quoted.

Axes: Q questions, T teachers.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np

from kp_data.errors import KpError
from kp_data.panel import NONE, Panel
from kp_data.purify.protocol import Purification
from kp_data.purify.purified import Run
from kp_data.tables import read_responses

Array = np.ndarray[Any, Any]

REPEATS: Final = 9
"""Questions timed one at a time; the first is thrown away, for it pays for loading."""
LONGEST_S: Final = 5.0
"""A method so slow is timed on fewer questions: from here on no further one is started."""
SECONDS_PER_CALL: Final = "seconds_per_call"
"""In `Fitted.facts` of a method that calls an API while it purifies: mean seconds of a call."""
CALLS: Final = "calls"
COST: Final = "cost_usd"
"""Likewise: how many calls were made, and what they cost together, None where a price is unknown."""


@dataclass(frozen=True)
class Practicality:
    """What using a method takes; None where it is not known.

    Attributes:
        prior: what must exist before a rationale of a new question can be chosen.
        training: what it learns from, "" for a method that learns nothing.
        extra_parameters: of everything beside the teachers.
        seconds_fit: to fit it, measured.
        transferable: whether it works on new questions without their answers.
        seconds_a_question: to choose for one question at a time, the median of several, without the teachers' own
            calls; texts the method has not read before, so that no cache answers. For one that calls an API while it
            purifies: the mean latency of those calls.
        teacher_calls: calls that a new question needs.
        teacher_seconds: how long these take when made at once, from the recorded latencies: median over questions.
        cost_usd: of these calls and the method's own, a question; mean over questions.
    """

    prior: str
    training: str
    extra_parameters: int
    seconds_fit: float
    transferable: bool
    seconds_a_question: float | None
    teacher_calls: float
    teacher_seconds: float | None
    cost_usd: float | None

    def as_dict(self) -> dict[str, Any]:
        """One JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class CallRecords:
    """What the recorded calls took, cell by cell; nan where it is unknown.

    Attributes:
        cost_QT: (Q, T) float, US dollars of all calls of a cell with sample 0 (blind and teacher-forced together).
        latency_QT: (Q, T) float, seconds of the slowest of them.
    """

    cost_QT: Array
    latency_QT: Array

    @classmethod
    def of(cls, panel: Panel) -> CallRecords:
        """The records of a panel that was read from a folder; all nan for one made in memory."""
        cost_QT, latency_QT = (np.full((len(panel), len(panel.teachers)), np.nan) for _ in range(2))
        row_of = {question.id: row for row, question in enumerate(panel.questions)}
        column_of = {teacher: column for column, teacher in enumerate(panel.teachers)}
        for question_id, teacher, cost, latency in _recorded(panel):
            if question_id in row_of and teacher in column_of:
                cell = row_of[question_id], column_of[teacher]
                if cost is not None:
                    cost_QT[cell] = np.nan_to_num(cost_QT[cell]) + cost
                if latency is not None:
                    latency_QT[cell] = np.fmax(latency_QT[cell], latency)
        return cls(cost_QT, latency_QT)

    def take(self, keep_Q: Array) -> CallRecords:
        """Those of some questions."""
        return CallRecords(self.cost_QT[keep_Q], self.latency_QT[keep_Q])


def practicality_of(panel: Panel, run: Run, kept: Purification, records: CallRecords) -> Practicality:
    """The practicality of a method that was fitted and applied.

    Args:
        panel: the questions to measure on.
        run: the method.
        kept: what it kept of these questions.
        records: of these questions.
    """
    info, fitted = run.method.info, run.fitted
    one_call = fitted.router is not None or fitted.calls_per_question == 1
    asked_QT = _asked_QT(panel, kept, one_call, fitted.calls_per_question)
    own_cost = _cost_of_writing(fitted.facts) if info.kind == "writer" else 0.0
    cost = _mean_cost(records.cost_QT, asked_QT)
    return Practicality(
        prior=_prior(one_call, run),
        training=_training(run),
        extra_parameters=fitted.extra_parameters,
        seconds_fit=run.seconds_fit,
        transferable=info.transferable,
        seconds_a_question=_seconds_a_question(panel, run),
        teacher_calls=float(fitted.calls_per_question),
        teacher_seconds=_median_wait(records.latency_QT, asked_QT),
        cost_usd=None if cost is None or own_cost is None else cost + own_cost,
    )


def seconds_a_question(purify: Callable[[Panel], object], panel: Panel, *, repeats: int = REPEATS) -> float | None:
    """Median seconds that purifying one question takes, each with texts not seen before; None for an empty panel.

    Raises: whatever `purify` raises.
    """
    seconds: list[float] = []
    for one in _fresh_questions(panel, repeats):
        start = time.perf_counter()
        purify(one)
        seconds.append(time.perf_counter() - start)
        if sum(seconds) > LONGEST_S:
            break
    return statistics.median(seconds[1:] or seconds) if seconds else None


def _seconds_a_question(panel: Panel, run: Run) -> float | None:
    if run.method.info.kind == "writer":
        # To time it would be to pay for it again: its calls have said how long they took.
        return _number(run.fitted.facts.get(SECONDS_PER_CALL))
    try:
        return seconds_a_question(run.fitted.purify, panel)
    except KpError:
        # Some methods choose for whole panels only; then there is no such time.
        return None


def _cost_of_writing(facts: Mapping[str, Any]) -> float | None:
    calls, cost = _number(facts.get(CALLS)), _number(facts.get(COST))
    return cost / calls if calls and cost is not None else None


def _fresh_questions(panel: Panel, num: int) -> Iterator[Panel]:
    """Panels of one question, spread over the panel, every text marked so that no cache knows it."""
    rows = np.unique(np.linspace(0, len(panel) - 1, min(num, len(panel))).astype(int))
    for number, row in enumerate(rows):
        one = panel.take(np.array([row]))
        mark = f"[{number + 1}] "
        question = replace(one.questions[0], question=mark + one.questions[0].question)
        texts = [None if text is None else mark + text for text in one.rationale_QT[0]]
        rationale_QT = np.array([texts], dtype=object)
        yield replace(one, questions=(question,), rationale_QT=rationale_QT)


def _prior(one_call: bool, run: Run) -> str:
    if one_call:
        return "the question"
    own = ", own answers" if "blind answers" in run.method.info.needs else ""
    gold = "" if run.method.info.transferable else ", gold"
    return f"all rationales{own}{gold}"


def _training(run: Run) -> str:
    labelled = "train labels" in run.method.info.needs
    if run.method.info.trained:
        return "labelled questions" if labelled else "questions, labelled or not"
    return "labelled questions, no training" if labelled else ""


def _asked_QT(panel: Panel, kept: Purification, one_call: bool, calls: float) -> Array | None:
    """(Q, T) bool, whom a new question would be put to; None where that cannot be told from what was kept."""
    if one_call:
        chosen_Q = kept.chosen_Q
        return np.asarray((chosen_Q[:, None] == np.arange(len(panel.teachers))) & (chosen_Q != NONE)[:, None])
    if calls >= len(panel.teachers):
        return np.ones((len(panel), len(panel.teachers)), dtype=bool)
    return None


def _mean_cost(cost_QT: Array, asked_QT: Array | None) -> float | None:
    """Mean dollars a question over those whose every asked cell has a price; None where there is none."""
    total_Q = _over_asked(cost_QT, asked_QT, np.sum)
    return float(total_Q.mean()) if len(total_Q) else None


def _median_wait(latency_QT: Array, asked_QT: Array | None) -> float | None:
    """Median seconds of the slowest asked teacher of a question; None where no latency is known."""
    wait_Q = _over_asked(latency_QT, asked_QT, np.max)
    return float(np.median(wait_Q)) if len(wait_Q) else None


def _over_asked(value_QT: Array, asked_QT: Array | None, gather: Callable[..., Any]) -> Array:
    """One number for each question with an asked teacher and a value in every asked cell."""
    if asked_QT is None:
        return np.zeros(0)
    known_Q = asked_QT.any(1) & ~(np.isnan(value_QT) & asked_QT).any(1)
    return np.asarray(gather(np.where(asked_QT, value_QT, 0.0)[known_Q], axis=1))


def _recorded(panel: Panel) -> Iterator[tuple[str, str, float | None, float | None]]:
    if panel.folder is None or not (panel.folder / "responses.parquet").is_file():
        return
    table = read_responses(panel.folder / "responses.parquet")
    columns = (table[name].to_pylist() for name in ("question_id", "teacher", "sample", "cost_usd", "latency_s"))
    for question_id, teacher, sample, cost, latency in zip(*columns, strict=True):
        if sample == 0:
            yield question_id, teacher, cost, latency


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
