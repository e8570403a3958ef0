"""How a run ends: the best stage's student moves into place, beside the tables and the report."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from kp_data.tables import write_json
from kp_train.assistant.judges import AskedAssistant, Assistant
from kp_train.assistant.lessons import Classroom
from kp_train.assistant.options import AssistantOptions
from kp_train.assistant.records import SIGNALS, STUDENT, Signal, write_signals
from kp_train.assistant.report import write_report
from kp_train.dataset import Dataset
from kp_train.model_card import write_card
from kp_train.run_folder import LOCK_FILE, LOGS, RUN_FILE, RunFolder
from kp_train.student_folder import CARD_FILE

REPORT: Final = "report.json"
EVIDENCE: Final = "reconstructed from the abstract of arXiv:2406.05322"


@dataclass(frozen=True)
class Stage:
    """A stage that is done.

    Attributes:
        name: `warm-up` or `round-N`.
        signals: its table.
        record: of the fit of its student.
        figures: for the report.
    """

    name: str
    signals: tuple[Signal, ...]
    record: Mapping[str, Any]
    figures: Mapping[str, Any]


def finish_run(
    folder: RunFolder,
    dataset: Dataset,
    classroom: Classroom,
    options: AssistantOptions,
    assistant: Assistant,
    stages: Sequence[Stage],
    said: Sequence[Signal],
) -> dict[str, Any]:
    """Select the student that is best on validation, of equals the last, and write everything.

    Args:
        folder: of the run, held.
        dataset: what the user gave.
        classroom, options, assistant: of the run.
        stages: all, in order.
        said: the last word on each question.

    Returns: the record as stored in run.json.
    """
    best = max(range(len(stages)), key=lambda number: (stages[number].record["validation_accuracy"], number))
    saving = folder.prepare_saving()
    for path in sorted((folder.path / stages[best].name / STUDENT).iterdir()):
        # The card and the log are of one stage, and the card is written anew below.
        if path.name not in (RUN_FILE, LOCK_FILE, CARD_FILE, LOGS):
            (shutil.copytree if path.is_dir() else shutil.copy2)(path, saving / path.name)
    write_signals(said, folder.path / SIGNALS)
    record = {
        "out": str(folder.path),
        **_totals(stages),
        **_best(stages[best]),
        **_calls(options, assistant, stages[-1]),
        "stages": [dict(stage.figures) for stage in stages],
        "dataset": dataset.as_record(),
        "dataset_path": classroom.place,
    }
    write_json(record, folder.path / REPORT)
    write_report(record, folder.path)
    write_card(saving, {**record, "identity": folder.identity}, existing=folder.path / CARD_FILE)
    return folder.finish(record)


def _totals(stages: Sequence[Stage]) -> dict[str, Any]:
    """What all stages took together."""
    totals = {name: sum(stage.record[name] for stage in stages) for name in ("steps", "seconds", "tokens", "flops")}
    return {**totals, "seconds": round(totals["seconds"], 3)}


def _best(stage: Stage) -> dict[str, Any]:
    taken = ("best_step", "validation_accuracy", "parameters", "rows", "schedule", "base", "device", "mfu", "versions")
    return {"best_stage": stage.name, **{name: stage.record[name] for name in taken}}


def _calls(options: AssistantOptions, assistant: Assistant, last: Stage) -> dict[str, Any]:
    return {
        "teacher_calls": last.figures["calls_total"],
        "call_budget": options.call_budget,
        "teacher_cost_usd": last.figures["cost_usd_total"],
        "assistant": options.assistant,
        "assistant_bill": assistant.asker.bill.as_facts() if isinstance(assistant, AskedAssistant) else None,
        "ask_first": options.ask_first,
        "thresholds": list(asdict(options.thresholds).values()),
        "keep_recall": options.recall,
        "evidence": EVIDENCE,
    }
