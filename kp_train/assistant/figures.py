"""What a stage came to, for reports: calls, dollars, what was kept, and how right it is where gold is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kp_data.answers import same_answer
from kp_train.assistant.lessons import Classroom, kept_rows
from kp_train.assistant.records import Signal


def stage_figures(
    classroom: Classroom,
    name: str,
    signals: Sequence[Signal],
    said: Sequence[Signal],
    record: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """The figures of one stage.

    Args:
        classroom: the questions.
        name: of the stage.
        signals: its table.
        said: the last word on each question, up to this stage.
        record: of the fit.
        facts: how it was planned.

    Returns: JSON values. `label_accuracy` is the share of the kept answers that equal gold, null where no gold is
        known; gold decides about nothing here.
    """
    asked = [signal for signal in signals if signal.decision == "asked"]
    ever = [signal for signal in said if signal.decision == "asked"]
    kept = kept_rows(classroom, said, rationales=False)
    own = {signal.question_id for signal in said if signal.decision == "own"}
    return {
        "stage": name,
        "calls": len(asked),
        "calls_total": len(ever),
        "cost_usd": _sum(asked),
        "cost_usd_total": _sum(ever),
        "kept": len(kept),
        "kept_own": len(own),
        "dropped": sum(not signal.kept for signal in ever),
        "waiting": len(classroom.pool) - len({signal.question_id for signal in said if signal.decision != "waiting"}),
        "teacher_accuracy": _accuracy(classroom, [(one.question_id, one.teacher_answer) for one in ever]),
        "label_accuracy": _accuracy(classroom, [(row.question.id, row.purified_answer) for row in kept]),
        "own_accuracy": _accuracy(
            classroom, [(row.question.id, row.purified_answer) for row in kept if row.question.id in own]
        ),
        "validation_accuracy": record["validation_accuracy"],
        **{key: value for key, value in facts.items() if key != "calls"},
    }


def _accuracy(classroom: Classroom, answers: Sequence[tuple[str, str | None]]) -> float | None:
    choices = {question.id: question.choices for question in classroom.pool}
    right = [
        _same(said, classroom.gold[question_id], bool(choices[question_id]))
        for question_id, said in answers
        if question_id in classroom.gold
    ]
    return sum(right) / len(right) if right else None


def _same(said: str | None, gold: str, of_choices: bool) -> bool:
    return said is not None and (said == gold if of_choices else same_answer(said, gold))


def _sum(signals: Sequence[Signal]) -> float | None:
    """Dollars, or None where a call's price is not known."""
    costs = [signal.cost_usd for signal in signals]
    return None if any(cost is None for cost in costs) else round(sum(cost or 0.0 for cost in costs), 9)
