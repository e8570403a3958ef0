"""What the questions of a comparison are like, whatever the method: who agrees with whom, and examples of conflicts.

Axes: Q questions, T teachers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from kp_data.measures import accuracy_T, agreement_TT, both_answered_TT, judged_QT, kappa_TT
from kp_data.panel import NONE, Panel
from kp_data.purify.protocol import Purification
from kp_data.schema import AGGREGATED
from kp_data.tables import read_responses

Array = np.ndarray[Any, Any]

SPLIT_FILE: Final = "split.json"
NUM_EXAMPLES: Final = 8
LONGEST_TEXT: Final = 2000
"""Characters of a question or a rationale that an example keeps."""


def split_facts(panel: Panel, split: str, kept: Mapping[str, Purification]) -> dict[str, Any]:
    """One JSON object about the questions that methods were compared on.

    Args:
        panel: these questions.
        split: their split.
        kept: method to what it kept of them.

    Returns: `agreement` (T × T shares of the questions both answered), `both_answered` (T × T counts), `kappa`
        (Cohen's, over choice questions), accuracies, the conflict rate, and `examples` of conflicts, spread evenly over
        the split and never picked by outcome.
    """
    choice_Q = np.array([bool(question.choices) for question in panel.questions], dtype=bool)
    judged = judged_QT(panel)
    return {
        "split": split,
        "n_questions": len(panel),
        "teachers": list(panel.teachers),
        "teacher_accuracy": _numbers(accuracy_T(panel)),
        "teacher_judged": judged.sum(0).tolist(),
        "conflict_rate": float(panel.conflict_Q.mean()) if len(panel) else None,
        "agreement": [_numbers(row) for row in agreement_TT(panel.concluded_QT)],
        "both_answered": both_answered_TT(panel.concluded_QT).tolist(),
        "kappa": [_numbers(row) for row in kappa_TT(panel.concluded_QT[choice_Q])],
        "examples": _examples(panel, kept),
    }


def _examples(panel: Panel, kept: Mapping[str, Purification]) -> list[dict[str, Any]]:
    rows = np.flatnonzero(panel.conflict_Q & (panel.has_rationale_QT.sum(1) >= 2))
    if len(rows):
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(NUM_EXAMPLES, len(rows))).astype(int))]
    spoken = _spoken(panel, [panel.questions[row].id for row in rows])
    return [_example(panel, int(row), kept, spoken) for row in rows]


def _example(
    panel: Panel, row: int, kept: Mapping[str, Purification], spoken: Mapping[tuple[str, str], str]
) -> dict[str, Any]:
    question = panel.questions[row]
    keepers = {name: _kept_by(panel, purification, row) for name, purification in kept.items()}
    written = {
        name: _short(purification.text_Q[row])
        for name, purification in kept.items()
        if purification.text_Q is not None and purification.written_Q[row]
    }
    return {
        "id": question.id,
        "split": question.split,
        "subject": question.subject,
        "question": _short(question.question),
        "choices": [_short(choice) for choice in question.choices],
        "gold": question.answer,
        "voices": [
            _voice(panel, row, column, keepers, spoken.get((question.id, teacher)))
            for column, teacher in enumerate(panel.teachers)
        ],
        "written": written,
    }


def _voice(panel: Panel, row: int, column: int, keepers: Mapping[str, str | None], said: str | None) -> dict[str, Any]:
    question, teacher = panel.questions[row], panel.teachers[column]
    answer, gold = int(panel.concluded_QT[row, column]), int(panel.gold_Q[row])
    judged = gold != NONE and answer != NONE and "blind" in panel.modes
    conclusion = question.choices[answer] if question.choices and answer != NONE else said
    return {
        "teacher": teacher,
        "conclusion": _short(conclusion),
        "right": answer == gold if judged else None,
        "rationale": _short(panel.rationale_QT[row, column]),
        "kept_by": [name for name, keeper in keepers.items() if keeper == teacher],
    }


def _kept_by(panel: Panel, purification: Purification, row: int) -> str | None:
    """The teacher whose rationale a method keeps; None where it keeps none or all."""
    if purification.written_Q[row]:
        return AGGREGATED
    chosen = int(purification.chosen_Q[row])
    return panel.teachers[chosen] if chosen != NONE else None


def _spoken(panel: Panel, ids: Sequence[str]) -> dict[tuple[str, str], str]:
    """What teachers answered to open-ended questions, in their words; {} for a panel that was never on disk."""
    if panel.folder is None or not ids:
        return {}
    table = read_responses(panel.folder / "responses.parquet")
    columns = (table[name].to_pylist() for name in ("question_id", "teacher", "sample", "mode", "answer"))
    spoken: dict[tuple[str, str], str] = {}
    for question_id, teacher, sample, mode, answer in zip(*columns, strict=True):
        if sample != 0 or answer is None or question_id not in ids:
            continue
        if mode == "blind" or (question_id, teacher) not in spoken:
            spoken[question_id, teacher] = answer
    return spoken


def _short(text: str | None) -> str | None:
    return text if text is None or len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT].rstrip()} …"


def _numbers(values: Array) -> list[float | None]:
    return [None if math.isnan(value) else float(value) for value in values]
