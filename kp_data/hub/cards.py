"""The dataset card: YAML front matter for machines, a marked section for people, and what the owner wrote kept.

Only what stands between the two marks is ours; prose around it, and front-matter keys that we do not write, survive
every push. Everything that teachers or questions say passes through `markdown.escape`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from kp_data.hub.asked import Asked
from kp_data.hub.changelog import Changes
from kp_data.hub.front_matter import CardSettings, ConfigFacts, dump_front, merged_front, our_front, split_card
from kp_data.hub.leaks import NEAR, LeakCheck
from kp_data.hub.markdown import Safe, escape
from kp_data.hub.sections import card_template, fenced_json, with_section
from kp_data.hub.terms import AS_OF, terms_of
from kp_data.hub.versions import Version
from kp_data.schema import SCHEMA_VERSION
from kp_data.summary import FolderTables, Summary, TeacherFacts

METRICS: Final = (
    "purified_accuracy",
    "best_single_accuracy",
    "majority_accuracy",
    "oracle_accuracy",
    "gap_closed",
    "conflict_rate",
    "calls_per_question",
)

_MOST_TEACHERS: Final = 12
"""A table of every pair says nothing any more beyond that."""


def render_card(
    summary: Summary,
    *,
    name: str,
    version: Version,
    changes: Changes,
    configs: Sequence[ConfigFacts],
    content: Mapping[str, str | None],
    asked: Mapping[str, Asked],
    own_leaks: LeakCheck,
    leaks: Sequence[LeakCheck],
    settings: CardSettings,
    existing: str | None,
) -> str:
    """README.md of a release: `existing` with our keys and our section written anew.

    Args:
        summary: of the folder.
        name: `namespace/name`.
        version: of the release.
        changes: against the version before.
        configs: what the card says of each config, `purified` first.
        content: part to the hash of what it says.
        asked: teacher to how it was asked.
        own_leaks: questions of other splits that stand in train.
        leaks: the same of benchmarks.
        settings: what only the author knows.
        existing: the card as it stands; None where there is none.

    Raises:
        DataError: the front matter of `existing` is not a YAML mapping.
    """
    old_front, body = split_card(existing)
    front = merged_front(old_front, our_front(summary, name, configs), settings)
    front["kp_data"] = {
        **_provenance(summary, asked),
        "version": str(version),
        "parent": str(changes.parent) if changes.parent else None,
        "benchmarks_checked": [check.as_dict() for check in leaks],
        "sha256": dict(content),
    }
    section = card_template("dataset_card.md.j2").render(
        summary=summary,
        name=Safe(name),
        version=Safe(version),
        changes=changes,
        configs=configs,
        front=front,
        own_leaks=own_leaks,
        leaks=leaks,
        near=NEAR,
        asked=asked,
        agreement=_agreement(summary),
        terms=[(teacher, model, terms_of(model)) for teacher, model in _models(summary, asked)],
        terms_as_of=AS_OF,
        command=Safe(_command(front["kp_data"])),
        run_json=Safe(fenced_json(summary.tables.run)),
        samples=[conflict for conflict in summary.conflicts if conflict.kept],
    )
    heading = f"# {escape(front['pretty_name'])}\n\n" if existing is None else ""
    return f"---\n{dump_front(front)}---\n{with_section(heading + body, section)}"


def purified_by(tables: FolderTables) -> str | None:
    """The method of a purified folder, as its report or its rows have it."""
    if isinstance(method := tables.report.get("method"), str):
        return method
    methods = [] if tables.purified is None else list(dict.fromkeys(tables.purified["method"].to_pylist()))
    return ", ".join(methods) or None


def _provenance(summary: Summary, asked: Mapping[str, Asked]) -> dict[str, Any]:
    report, run = summary.tables.report, summary.tables.run
    return {
        "schema_version": SCHEMA_VERSION,
        "method": purified_by(summary.tables),
        "parameters": run.get("options", run.get("parameters")),
        "seed": run.get("seed"),
        "teachers": [_teacher_entry(teacher, asked.get(teacher.name, Asked())) for teacher in summary.teachers],
        "cost_usd": summary.cost_usd,
        "metrics": {name: report[name] for name in METRICS if name in report},
    }


def _teacher_entry(teacher: TeacherFacts, asked: Asked) -> dict[str, Any]:
    return {
        "name": teacher.name,
        "models": list(teacher.models) or ([asked.model] if asked.model else []),
        "endpoint": asked.endpoint,
        "temperature": asked.temperature,
        "max_tokens": asked.max_tokens,
        "first_asked": asked.first,
        "last_asked": asked.last,
        "modes": list(teacher.modes),
        "responses": teacher.num_asked,
        "failed": teacher.num_failed,
        "accuracy": teacher.accuracy,
        "chosen": teacher.num_chosen,
        "cost_usd": teacher.cost_usd,
    }


def _models(summary: Summary, asked: Mapping[str, Asked]) -> list[tuple[str, str]]:
    """Teacher and model, one pair a model: as it was configured, else as its responses name it."""
    found = []
    for teacher in summary.teachers:
        configured = asked.get(teacher.name, Asked()).model
        found += [(teacher.name, model) for model in ((configured,) if configured else teacher.models)]
    return found


def _agreement(summary: Summary) -> list[tuple[str, list[float | None]]]:
    """Per teacher, the share of the questions on which it agrees with each; nothing for too many teachers to show."""
    if summary.agreement_TT is None or len(summary.agreement_TT) > _MOST_TEACHERS:
        return []
    rows = [[None if np.isnan(value) else float(value) for value in row] for row in summary.agreement_TT]
    return [(teacher.name, row) for teacher, row in zip(summary.teachers, rows, strict=False)]


def _command(provenance: Mapping[str, Any]) -> str:
    method, seed = str(provenance["method"]), provenance["seed"]
    # Inside a code span nothing can be escaped: a method of any other form is not repeated there.
    named = method if re.fullmatch(r"[a-z0-9-]+", method) else "METHOD"
    return f"kp-data purify PANEL --method {named}{f' --seed {seed}' if isinstance(seed, int) else ''} --out FOLDER"
