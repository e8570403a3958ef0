"""One sweep as a YAML file: every error names the file, the key and the remedy.

What decides about a result stands here; where it is computed (`--jobs`, `--engine`) does not.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from kp_data.config import Teacher, line_of, parse_teacher
from kp_data.errors import ConfigError, KpError

NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,40}$"
FINE_TUNE: Final = "fine-tune"
STEP_BY_STEP: Final = "step-by-step"
INFERENCE: Final = "inference"
ALL: Final = "all"
"""TinyLLM's training, on every teacher's rationale: what purification is measured against."""
UNTAUGHT: Final = (INFERENCE, FINE_TUNE)
"""Baselines that no teacher takes part in: the student as it came, and the gold answers alone."""
ROUTERS: Final = ("plackett-luce", "plm-classifier", "similarity-router", "best-single", "random")
"""Methods that can name a teacher before anybody is asked."""

_Positive = Annotated[int, Field(ge=1)]
_Name = Annotated[str, Field(pattern=NAME)]
_Seed = Annotated[int, Field(ge=0, lt=2**32)]


def _once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if twice := [value for value in values if values.count(value) > 1]:
        raise ValueError(f"{twice[0]!r} stands there twice")
    return values


class _Numbers(BaseModel):
    """A section in which YAML's true, yes and on are no numbers: Python would take them for 1."""

    @field_validator("*", mode="before")
    @classmethod
    def _no_truths(cls, value: Any, info: ValidationInfo) -> Any:
        wanted = cls.model_fields[str(info.field_name)].annotation
        listed = value if isinstance(value, list | tuple) else (value,)
        numbers = (_holds(wanted, int) or _holds(wanted, float)) and not _holds(wanted, bool)
        if numbers and any(isinstance(one, bool) for one in listed):
            raise ValueError("should be a number" if listed is not value else "should hold numbers, no truths")
        return value


def _holds(annotation: object, kind: type) -> bool:
    """Whether a type stands in an annotation."""
    return annotation is kind or any(_holds(part, kind) for part in get_args(annotation))


class _Section(_Numbers):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Expected(_Section):
    """How large a dataset is: what `--dry-run` reckons with where the data is not at hand."""

    train: _Positive
    validation: Annotated[int, Field(ge=0)] = 0
    test: _Positive
    question_tokens: _Positive = 60
    rationale_tokens: _Positive = 60
    answer_tokens: _Positive = 4


class Data(_Section):
    """Questions, and where the teachers' answers to them come from."""

    name: _Name
    source: str | None = None
    """What `kp-data generate` takes: practice:N, a file, a hub name. The teachers are asked."""
    panel: str | None = None
    """A panel folder; nobody is asked."""
    columns: dict[str, str] = {}
    limit: _Positive | None = None
    expected: Expected | None = None

    @model_validator(mode="after")
    def _from_one_place(self) -> Data:
        if (self.source is None) == (self.panel is None):
            raise ValueError("needs either source or panel, one of the two")
        if self.panel is not None and self.columns:
            raise ValueError("columns has no effect on a panel, whose columns have our names; leave it out")
        return self


class Lessons(_Section):
    """What a teacher that is trained here learns: questions of the practice world, by subject."""

    knows: Annotated[tuple[str, ...], Field(min_length=1)]
    """Subjects that it is taught as they are; `plants:0` as `practice:` sources have it."""
    questions: _Positive = 4000
    seed: int = 1000
    heard: Annotated[int, Field(ge=0)] = 0
    """Questions of every other subject that it learns from the misconceptions of practice teachers."""
    student: str
    """One of `students`: the language model that becomes a teacher."""
    steps: _Positive = 1000


class SweepTeacher(_Numbers, Teacher):
    """A teacher as kp.yaml has it, or one that is trained here and served from this machine."""

    model: str = ""
    taught: Lessons | None = None

    @model_validator(mode="after")
    def _somebody(self) -> SweepTeacher:
        if bool(self.model) == (self.taught is not None):
            raise ValueError("needs either model or taught, one of the two")
        return self


class Method(_Section):
    """A way to make lessons of what the teachers said."""

    name: str
    options: dict[str, Any] = {}


class Shape(_Section):
    """A student that starts from random weights, with a tokenizer of the questions and rationales it will read."""

    architecture: Literal["t5", "llama"] = "t5"
    width: Annotated[int, Field(ge=8, le=8192)] = 96
    layers: Annotated[int, Field(ge=1, le=128)] = 2
    """Of a T5, as many in the encoder as in the decoder."""
    heads: Annotated[int, Field(ge=1, le=128)] = 8


class StudentSpec(_Section):
    """A student, and how it is trained.

    What is left out is the recipe of the checkpoint; of a `shape`, that of the tiny student of its architecture.
    """

    name: _Name
    model: str | None = None
    shape: Shape | None = None
    parameters: _Positive | None = None
    """For `--dry-run`, where the checkpoint is not at hand."""
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    batch: _Positive | None = None
    accumulate: _Positive = 1
    batch_tokens: _Positive | None = None
    choice_orders: _Positive | None = None
    schedule: Literal["linear", "cosine", "constant"] | None = None
    """Of the learning rate, after its warm-up."""
    warmup: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of the steps over which the learning rate rises."""
    weight_decay: Annotated[float, Field(ge=0, lt=1)] | None = None
    bf16: bool | None = None
    gradient_checkpointing: bool = False
    rationale_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    reduction: Literal["token-mean", "sequence-sum"] = "token-mean"
    view: Literal["separate", "rationale-first", "answer-first"] | None = None
    lora_rank: _Positive | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> StudentSpec:
        if (self.model is None) == (self.shape is None):
            raise ValueError("needs either model or shape, one of the two")
        if self.shape is not None and self.shape.width % self.shape.heads:
            raise ValueError(f"width {self.shape.width} cannot be shared by {self.shape.heads} heads")
        return self


class Budget(_Section):
    """What every student may spend: the same for all, in one of three currencies."""

    steps: _Positive | None = None
    tokens: _Positive | None = None
    """Read and written in training."""
    flops: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    evaluations: _Positive = 6
    """On validation, evenly over the run; the best is kept."""

    @model_validator(mode="after")
    def _one_currency(self) -> Budget:
        if sum(value is not None for value in (self.steps, self.tokens, self.flops)) != 1:
            raise ValueError("needs one of steps, tokens and flops")
        return self

    @property
    def words(self) -> str:
        """As a person says it."""
        if self.steps is not None:
            return f"{self.steps:,} steps"
        return f"{self.tokens:,} tokens" if self.tokens is not None else f"{self.flops:.2g} FLOPs"


class OutOfDomain(_Section):
    """Routers fitted above choose whom to ask here; students are trained and tested here."""

    datasets: Annotated[tuple[Data, ...], Field(min_length=1)]
    methods: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_once)] | None = None
    """Default: the baselines and routers of the sweep. Teacher selection needs gold and every answer: left out."""
    students: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_once)] | None = None
    seeds: Annotated[tuple[_Seed, ...], Field(min_length=1), AfterValidator(_once)] | None = None

    @model_validator(mode="after")
    def _asked_here(self) -> OutOfDomain:
        if taken := [data.name for data in self.datasets if data.source is None]:
            raise ValueError(f"{taken[0]} needs source, not panel: routers choose who is asked here")
        return self


class Hardware(_Section):
    """What `--dry-run` turns FLOPs into hours with; a measured rate, not the maker's."""

    name: str
    flops_per_s: Annotated[float, Field(gt=0)]
    step_s: Annotated[float, Field(ge=0)] = 0.0
    """The least time of a step: what small models are bound by."""
    usd_per_hour: Annotated[float, Field(ge=0)] | None = None


def _as_teacher(value: Any) -> Any:
    """A teacher that is just a name, `practice/NAME` or NAME=MODEL[@URL], in full."""
    if not isinstance(value, str):
        return value
    if value.startswith("practice/") or "=" in value:
        try:
            return parse_teacher(value).model_dump()
        except KpError as error:
            raise ValueError(str(error)) from error
    return {"name": value, "model": value}


def _as_method(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class Sweep(_Section):
    """The whole file."""

    name: _Name
    about: str = ""
    datasets: Annotated[tuple[Data, ...], Field(min_length=1)]
    out_of_domain: OutOfDomain | None = None
    teachers: Annotated[tuple[Annotated[SweepTeacher, BeforeValidator(_as_teacher)], ...], Field(min_length=1)]
    """In the order in which they are added."""
    counts: Annotated[tuple[_Positive, ...], Field(min_length=1), AfterValidator(_once)] | None = None
    """Numbers of teachers; default: 1 to all."""
    methods: Annotated[tuple[Annotated[Method, BeforeValidator(_as_method)], ...], Field(min_length=1)]
    students: Annotated[tuple[StudentSpec, ...], Field(min_length=1)]
    seeds: Annotated[tuple[_Seed, ...], Field(min_length=1), AfterValidator(_once)] = (0,)
    budget: Budget
    mode: Literal["blind", "both"] = "blind"
    """both: rationales are asked for with the gold answer in the prompt, as TinyLLM does; labels stay blind."""
    examples: Annotated[int, Field(ge=0, le=64)] = 0
    embedder: str = "minilm"
    purify_seed: _Seed = 0
    score: Literal["sum", "token", "char", "pmi", "generate"] = "sum"
    """How a student answers: its likeliest choice, or what it writes (the papers' exact match)."""
    keep_students: bool = False
    hardware: Hardware | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Sweep:
        for what, names in _names(self):
            if twice := [name for name in names if names.count(name) > 1]:
                raise ValueError(f"{what}: {twice[0]!r} stands there twice")
        if self.counts is not None and (beyond := [n for n in self.counts if n > len(self.teachers)]):
            raise ValueError(f"counts: {beyond[0]} teachers, but {len(self.teachers)} are named")
        ood = self.out_of_domain
        if ood is not None:
            _check_known("out_of_domain.students", ood.students, [one.name for one in self.students])
            _check_known("out_of_domain.methods", ood.methods, [FINE_TUNE, *(one.name for one in self.methods)])
        _check_known(
            "teachers.taught.student",
            [teacher.taught.student for teacher in self.teachers if teacher.taught],
            [student.name for student in self.students],
        )
        return self

    @property
    def all_counts(self) -> tuple[int, ...]:
        """Numbers of teachers, growing."""
        return tuple(sorted(self.counts)) if self.counts else tuple(range(1, len(self.teachers) + 1))

    @property
    def all_data(self) -> tuple[Data, ...]:
        """The datasets, in domain and out of it."""
        return (*self.datasets, *(self.out_of_domain.datasets if self.out_of_domain else ()))

    def student(self, name: str) -> StudentSpec:
        """The student of a name that stands in the file."""
        return next(one for one in self.students if one.name == name)

    def method(self, name: str) -> Method:
        """The method of a name; baselines need not stand in the file."""
        return next((one for one in self.methods if one.name == name), Method(name=name))


def _names(sweep: Sweep) -> Iterator[tuple[str, list[str]]]:
    yield "datasets", [one.name for one in sweep.all_data]
    yield "teachers", [one.name for one in sweep.teachers]
    yield "methods", [one.name for one in sweep.methods]
    yield "students", [one.name for one in sweep.students]


def _check_known(place: str, names: Sequence[str] | None, known: Sequence[str]) -> None:
    for name in names or ():
        if name not in known:
            raise ValueError(f"{place}: no {name!r} in this file; there are {', '.join(dict.fromkeys(known))}")


def load_sweep(path: Path) -> Sweep:
    """The sweep of a file.

    Raises:
        ConfigError: no such file, not YAML, an unknown key or a value that cannot be; names line and key.
    """
    values, node = _read(path)
    if not isinstance(values, dict):
        raise ConfigError("must hold keys such as 'datasets:' and 'teachers:'; see examples/laptop.yaml", place=path)
    try:
        sweep = Sweep.model_validate(values)
    except ValidationError as error:
        raise _told(error, path, node) from error
    _check_methods(sweep, path)
    return sweep


def digest_of(*parts: object) -> str:
    """A short name of whatever decides about a result."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def _read(path: Path) -> tuple[Any, yaml.Node | None]:
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        _refuse_twice(node, path)
        return yaml.safe_load(text), node
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot be read ({reason}); examples/ holds three such files", place=path) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else path
        raise ConfigError(f"not valid YAML ({getattr(error, 'problem', None) or error})", place=place) from error


def _refuse_twice(node: yaml.Node | None, path: Path) -> None:
    """Raises: ConfigError, when a key stands twice in a section: YAML would pass over the first without a word."""
    waiting, met = [node], set()
    while waiting:
        section = waiting.pop()
        if id(section) in met:  # an alias
            continue
        met.add(id(section))
        if isinstance(section, yaml.SequenceNode):
            waiting += section.value
        elif isinstance(section, yaml.MappingNode):
            waiting += [value for _, value in section.value]
            keys = [str(key.value) for key, _ in section.value]
            for number, (key, _) in enumerate(section.value):
                if keys[number] in keys[:number]:
                    place = f"{path}:{key.start_mark.line + 1}"
                    raise ConfigError(f"key {keys[number]!r} stands twice; keep one", place=place)


def _told(error: ValidationError, path: Path, node: yaml.Node | None) -> ConfigError:
    """The first thing wrong, in one line."""
    first = error.errors()[0]
    location = tuple(part for part in first["loc"] if not str(part).startswith("function-"))
    where = ".".join(str(part) for part in location)
    place = f"{path}:{line_of(node, location)}"
    if first["type"] == "extra_forbidden":
        known = _keys_at(location[:-1])
        close = difflib.get_close_matches(str(location[-1]), known, n=1)
        nearest = f"; did you mean {close[0]!r}?" if close else ""
        return ConfigError(f"unknown key {where!r}{nearest} There are {', '.join(known)}.", place=place)
    message = _PLAIN.get(first["type"]) or first["msg"].removeprefix("Value error, ").replace("Input should", "should")
    if not location and (led := _LED.match(message)):
        # A check of the whole file names the key that it is about.
        place = f"{path}:{line_of(node, tuple(led[1].split('.')))}"
    given = first["input"] if first["type"] != "missing" else None
    shown = f", not {given!r}" if isinstance(given, str | int | float | bool) else ""
    return ConfigError(f"{where}: {message}{shown}"[:400].removeprefix(": "), place=place)


_PLAIN: Final = {
    "missing": "is missing",
    "tuple_type": "must be a list",
    "too_short": "must not be empty",
    "dict_type": "must hold keys",
    "model_type": "must hold keys",
    "model_attributes_type": "must hold keys",
}
"""What people say for what pydantic says."""
_LED: Final = re.compile(r"([a-z_]+(?:\.[a-z_]+)*): ")

_SECTIONS: Final[dict[str, type[_Section] | type[SweepTeacher]]] = {
    "datasets": Data,
    "out_of_domain": OutOfDomain,
    "teachers": SweepTeacher,
    "taught": Lessons,
    "methods": Method,
    "students": StudentSpec,
    "shape": Shape,
    "budget": Budget,
    "hardware": Hardware,
    "expected": Expected,
}


def _keys_at(location: Sequence[int | str]) -> list[str]:
    section: Any = Sweep
    for part in location:
        if part == "students" and section is OutOfDomain:
            continue
        section = _SECTIONS.get(str(part), section)
    return list(section.model_fields)


def _check_methods(sweep: Sweep, path: Path) -> None:
    """Raises: ConfigError, when there is no such method, or it has no such option."""
    from kp_data.purify import METHODS, find_method
    from kp_data.purify.registry import make_options

    for number, method in enumerate(sweep.methods):
        if method.name in (*UNTAUGHT, STEP_BY_STEP):
            continue
        place = f"{path}: methods[{number}]"
        if method.name not in METHODS:
            there = ", ".join((*UNTAUGHT, STEP_BY_STEP, *METHODS))
            close = difflib.get_close_matches(method.name, METHODS, n=1)
            nearest = f"; did you mean {close[0]!r}?" if close else ""
            raise ConfigError(f"no method {method.name!r}{nearest} There are {there}.", place=place)
        try:
            make_options(find_method(method.name), method.options)
        except KpError as error:
            raise ConfigError(str(error), place=place) from error
