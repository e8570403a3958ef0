"""The card of a student: YAML front matter for hubs, a marked section for people, and what the owner wrote kept.

Every figure is read from run.json and evaluations.json; nothing is claimed that they do not say. Names, subjects and
parameters come from datasets and teachers and are escaped wherever they are printed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from kp_data.hub.front_matter import CardSettings, dump_front, split_card
from kp_data.hub.markdown import Safe, escape
from kp_data.hub.publishable import publishable
from kp_data.hub.sections import around_section, card_template, with_section
from kp_data.hub.terms import AS_OF
from kp_data.tables import read_json, replacing
from kp_train.card_facts import StudentFacts, read_facts
from kp_train.student_folder import CARD_FILE, read_card, read_evaluations, read_finished, student_digest
from kp_train.students.lora import ADAPTER_CONFIG
from kp_train.students.student import STUDENT_FILE

TAGS: Final = ("knowledge-distillation", "multi-teacher", "kp-train")
OURS: Final = "kp-train evaluate"
"""Marks the results that are ours among those that people added to a card."""
TOLD: Final = "told from the licence of the model that it started from"
"""Marks a licence that nobody wrote, so that it goes with the student that it was told of."""


def write_card(folder: Path, run: Mapping[str, Any], *, existing: Path | None = None) -> None:
    """README.md of a student that has just been saved into a folder, before its run.json is there.

    Args:
        folder: with the student's files; the card goes there too.
        run: the record that run.json will hold.
        existing: an earlier README.md whose other prose is kept, where there is such a file.
    """
    old = None if existing is None else read_card(existing)
    facts = facts_of(folder, run, {})
    _write(folder / CARD_FILE, render_card(facts, name=None, existing=old))


def renew_card(folder: Path) -> None:
    """Write our part of a finished student's README.md anew from its records.

    Raises:
        DataError: it is no finished student, its records or its card cannot be read, or its front matter is not YAML.
    """
    path = folder / CARD_FILE
    _write(path, render_card(read_folder_facts(folder), name=None, existing=read_card(path)))


def read_folder_facts(folder: Path) -> StudentFacts:
    """What the records of a finished student say; figures that were measured on other weights are left out.

    Raises:
        DataError: it is no finished student, or its records cannot be read.
    """
    run, measured = read_finished(folder), read_evaluations(folder)
    digest = student_digest(folder) if measured else None
    return facts_of(folder, run, {key: it for key, it in measured.items() if it.get("student_sha256") == digest})


def facts_of(folder: Path, run: Mapping[str, Any], evaluations: Mapping[str, Any]) -> StudentFacts:
    """What a card tells of the student in a folder, whose run and figures are these."""
    described = read_json(folder / STUDENT_FILE)
    tokenizer = folder / "tokenizer_config.json"
    settings = read_json(tokenizer) if tokenizer.is_file() else {}
    chats = (folder / "chat_template.jinja").is_file() or "chat_template" in settings
    return read_facts(
        publishable(dict(run)),
        described if isinstance(described, dict) else {},
        list(publishable(dict(evaluations)).values()),
        adapter=(folder / ADAPTER_CONFIG).is_file(),
        chats=chats,
    )


def render_card(
    facts: StudentFacts,
    *,
    name: str | None,
    existing: str | None,
    settings: CardSettings | None = None,
) -> str:
    """A README.md: `existing` with our keys and our section written anew.

    Args:
        facts: of the student.
        name: `namespace/name` on a hub, checked to be one; None: the card of a folder.
        existing: the card as it stands; None where there is none.
        settings: what only the owner knows.

    Raises:
        DataError: the front matter of `existing` is not a YAML mapping.
    """
    old_front, body = split_card(existing)
    title = name.split("/")[-1] if name else _title(facts)
    owners, settings = owners_front(old_front, body), settings or CardSettings()
    front = _merged(owners, _our_front(facts, title), settings)
    section = card_template("model_card.md.j2").render(
        facts=facts,
        place=Safe(name or "path/to/this/folder"),
        name=Safe(name) if name else None,
        license=front.get("license_name") or front.get("license"),
        license_told=TOLD if settings.license is None and not owners.get("license") else None,
        terms_as_of=AS_OF,
    )
    heading = "" if body.strip() else f"# {escape(title)}\n\n"
    return f"---\n{dump_front(front)}---\n{with_section(heading + body, section)}"


def license_warning(facts: StudentFacts, card: str) -> str | None:
    """What the owner should know of a card's licence: teachers' terms may not allow it. None: nothing.

    Raises:
        DataError: the front matter of the card is not a YAML mapping.
    """
    front, _ = split_card(card)
    said, against = front.get("license_name") or front.get("license"), facts.teachers_against
    if not said or not against:
        return None
    told = "; ".join(f"{each.name} ({each.model}): {each.terms.training}" for each in against)
    return (
        f"the card says {said}, as its owner wrote, and the terms of teachers' outputs may not allow that: {told}; "
        "look at the terms, and set another with --license where they ask for it"
    )


def heading_of(facts: StudentFacts) -> str:
    """The heading of a folder's card, as it is written where there is none."""
    return f"# {escape(_title(facts))}"


def _title(facts: StudentFacts) -> str:
    return f"{facts.student}, {facts.objective}"


def _our_front(facts: StudentFacts, title: str) -> dict[str, Any]:
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="question-answering",
            dataset_type=measured.dataset_name or "unknown",
            dataset_name=measured.dataset_name or "unknown",
            dataset_split=measured.split,
            dataset_revision=f"v{measured.dataset_version}" if measured.dataset_version else None,
            metric_type="accuracy",
            metric_value=measured.accuracy,
            metric_name=f"accuracy by {measured.how} ({OURS})",
        )
        for measured in facts.measured
        if measured.held_out
    ]
    data = ModelCardData(
        library_name="peft" if facts.adapter else "transformers",
        pipeline_tag="multiple-choice" if facts.kind == "encoder" else "text-generation",
        tags=[*TAGS, facts.objective],
        datasets=[facts.dataset_name] if facts.dataset_on_hub and facts.dataset_name else None,
        base_model=facts.base_hub,
        license=facts.license,
        model_name=title if results else None,
        eval_results=results or None,
    )
    return dict(data.to_dict())  # type: ignore[no-untyped-call]


def owners_front(old: Mapping[str, Any], body: str) -> dict[str, Any]:
    """The front matter of a card without what our section in it says of the student that it was written for.

    Another student may stand there now, which did not start from that model or learn from that dataset; what our
    section does not say was written by the owner.
    """
    before, after = around_section(body)
    section = "" if after is None else body[len(before) : len(body) - len(after)]
    kept = dict(old)
    if any(f"This student: {escape(name)}, {TOLD}" in section for name in _texts(old.get("license"))):
        del kept["license"]
    if any(f"It started from {escape(name)}, licence" in section for name in _texts(old.get("base_model"))):
        del kept["base_model"]
    for key, said in (("datasets", "on the dataset"), ("tags", "with the objective")):
        if key in kept:
            kept[key] = [name for name in _texts(kept[key]) if f"{said} “{escape(name)}”" not in section]
    return {key: value for key, value in kept.items() if key not in ("datasets", "tags") or value}


def _merged(old: Mapping[str, Any], ours: Mapping[str, Any], settings: CardSettings) -> dict[str, Any]:
    """`old` with our keys written anew, lists joined, results of others kept, and the owner's word above all."""
    # Ours first, so that a card written anew for the same student has the same bytes.
    merged = {**ours, **old, **ours}
    if old.get("license"):
        merged["license"] = old["license"]
    for key in ("tags", "datasets"):
        if key in ours:
            merged[key] = list(dict.fromkeys([*_texts(old.get(key)), *ours[key]]))
    if index := _joined_index(old.get("model-index"), ours.get("model-index")):
        merged["model-index"] = index
    else:
        merged.pop("model-index", None)
    if settings.license is not None:
        merged.pop("license_name", None)
    return merged | settings.as_front()


def _joined_index(old: Any, ours: Any) -> list[dict[str, Any]]:
    """Our results, then those that people added: of a `model-index`, which holds one model."""
    mine = ours[0]["results"] if ours else []
    entry = old[0] if isinstance(old, list) and old and isinstance(old[0], dict) else {}
    listed = entry.get("results")
    theirs = [result for result in listed if not _is_ours(result)] if isinstance(listed, list) else []
    if not mine and not theirs:
        return []
    return [{"name": ours[0]["name"] if ours else entry.get("name", "model"), "results": [*mine, *theirs]}]


def _is_ours(result: Any) -> bool:
    metrics = result.get("metrics") if isinstance(result, dict) else None
    names = [metric.get("name") for metric in metrics if isinstance(metric, dict)] if isinstance(metrics, list) else []
    return any(isinstance(name, str) and OURS in name for name in names)


def _texts(value: Any) -> list[str]:
    listed: Sequence[Any] = value if isinstance(value, list) else [value]
    return [text for text in listed if isinstance(text, str)]


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
