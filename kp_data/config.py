"""kp.yaml as pydantic models: every error names file, line, key and remedy.

Every option of the command line can stand here; the command line wins. Keys and secrets never do: a teacher names the
environment variable that holds its key.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from kp_data.errors import ConfigError

Transport = Literal["auto", "direct", "litellm"]
PRACTICE_PREFIX = "practice/"
"""What the model of a practice teacher begins with."""
TEACHER_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Price(_Section):
    """What a teacher costs, in US dollars per million tokens."""

    input: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    output: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    request: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """On top of the tokens, US dollars per call."""


class Teacher(_Section):
    """One teacher: which model, where, and how it is asked."""

    name: Annotated[str, Field(pattern=TEACHER_NAME.pattern)]
    model: Annotated[str, Field(min_length=1)]
    """As litellm writes it (`openai/gpt-4o-mini`), or `practice/NAME`."""
    api_base: str | None = None
    """URL of an OpenAI-dialect endpoint (vLLM, Ollama, llama.cpp, a gateway)."""
    api_key_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    """Name of the environment variable that holds the key; never the key itself."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 0.0
    """None: not sent, for models that take none."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] = 1024
    seed: int | None = None
    logprobs: bool = False
    concurrency: Annotated[int, Field(ge=1, le=4096)] | None = None
    rpm: Annotated[int, Field(ge=1)] | None = None
    """Requests a minute at most; teachers of one account share the lowest."""
    tpm: Annotated[int, Field(ge=1)] | None = None
    """Tokens a minute at most."""
    timeout_s: Annotated[float, Field(gt=0)] | None = None
    batch: Literal["openai", "anthropic"] | None = None
    """Dialect of the batch API behind a URL, for `--batch`; openai/* and anthropic/* need not say it."""
    price: Price | None = None

    @field_validator("api_base")
    @classmethod
    def _without_secrets(cls, url: str | None) -> str | None:
        # Said without the URL: it would show the password that must not stand there.
        if url is not None and not re.fullmatch(r"https?://[^\s/@?#]+(/[^\s@?#]*)?", url):
            raise ValueError("must be http(s)://HOST/PATH without user, password or query; a key goes to api_key_env")
        return url


class Generate(_Section):
    """How questions are asked."""

    mode: Literal["blind", "teacher-forced", "both"] = "blind"
    examples: Annotated[int, Field(ge=0, le=64)] = 0
    samples: Annotated[int, Field(ge=1, le=1000)] = 1
    split: str | None = None
    limit: Annotated[int, Field(ge=1)] | None = None
    concurrency: Annotated[int, Field(ge=1, le=4096)] = 128
    """Calls in flight at most, per account; the controller finds the level."""
    retries: Annotated[int, Field(ge=0, le=100)] = 6
    timeout_s: Annotated[float, Field(gt=0)] = 120.0
    store: str | None = None
    """SQLAlchemy URL of the cell store; default: a SQLite file in the panel folder."""
    transport: Transport = "auto"
    batch: bool = False
    """Ask teachers whose provider has a batch API through it, at half the price and within a day."""
    budget: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """What the cells of the store may cost in all, over every run, in US dollars; never exceeded."""
    engine: Literal["local", "ray"] = "local"
    """Ask from this process, or from workers on a Ray cluster."""
    workers: Annotated[int, Field(ge=1, le=1024)] | None = None
    """How many there are on a Ray cluster; default: one a node, at least two."""
    seed: int = 0


class Config(_Section):
    """The whole of kp.yaml."""

    teachers: tuple[Teacher, ...] = ()
    generate: Generate = Generate()


def load_config(path: Path | None) -> Config:
    """The configuration of a file; an empty one without a file.

    Raises:
        ConfigError: no such file, not YAML, an unknown key or a value that cannot be; names line and key.
    """
    if path is None:
        return Config()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read ({error}); `kp-data init` writes a commented one", place=path) from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else path
        raise ConfigError(f"not valid YAML ({getattr(error, 'problem', None) or error})", place=place) from error
    if values is None:
        return Config()
    if not isinstance(values, dict):
        raise ConfigError("must hold keys such as 'teachers:' and 'generate:'", place=path)
    return _validate(values, path, node)


def with_options(section: Generate, options: Mapping[str, Any]) -> Generate:
    """A section with the options of the command line laid over it; None means not given.

    Raises:
        ConfigError: an option's value cannot be.
    """
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return Generate(**{**section.model_dump(), **given})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).replace("_s", "").replace("_", "-")
        raise ConfigError(f"--{name} {first['input']}: {first['msg']}") from error


def parse_teacher(text: str) -> Teacher:
    """A teacher as the command line writes it: `NAME=MODEL[@API_BASE]`, or `practice/NAME` for short.

    Raises:
        ConfigError: the text has another form.

    >>> parse_teacher("llama=meta-llama/Llama-3.1-8B-Instruct@http://localhost:8000/v1").api_base
    'http://localhost:8000/v1'
    """
    name, equals, rest = text.partition("=")
    if not equals:
        if not text.startswith("practice/"):
            raise ConfigError(f"--teacher {text}: write NAME=MODEL, such as gpt=openai/gpt-4o-mini, or NAME=MODEL@URL")
        name, rest = text.removeprefix("practice/"), text
    model, _, api_base = rest.partition("@http")
    values: dict[str, Any] = {"name": name.strip(), "model": model.strip()}
    if api_base:
        values["api_base"] = "http" + api_base.strip()
    try:
        return Teacher(**values)
    except ValidationError as error:
        first = error.errors()[0]
        shown = name if api_base else text
        raise ConfigError(f"--teacher {shown}: {first['loc'][0]}: {first['msg']}") from error


def pick_teachers(config: Config, options: Sequence[str]) -> tuple[Teacher, ...]:
    """The teachers of a run: those of `--teacher` where given, else those of kp.yaml.

    An option that is just the name of a teacher in kp.yaml takes that one.

    Raises:
        ConfigError: two teachers share a name, or a name is unknown.
    """
    known = {teacher.name: teacher for teacher in config.teachers}
    picked = tuple(known[text] if text in known else parse_teacher(text) for text in options) or config.teachers
    seen: set[str] = set()
    for teacher in picked:
        if teacher.name in seen:
            raise ConfigError(f"two teachers are called {teacher.name!r}; names must differ")
        seen.add(teacher.name)
    return picked


def set_for_teachers(teachers: Sequence[Teacher], field: str, options: Sequence[str]) -> tuple[Teacher, ...]:
    """Teachers with `NAME=VALUE` options of one field applied, such as `--rpm gpt=500`.

    Raises:
        ConfigError: no such teacher, or a value that cannot be.
    """
    changed = {teacher.name: teacher for teacher in teachers}
    for text in options:
        name, _, value = text.partition("=")
        if name not in changed or not value:
            names = ", ".join(changed) or "none"
            raise ConfigError(f"--{field.replace('_', '-')} {text}: write NAME=VALUE; teachers here: {names}")
        try:
            changed[name] = Teacher(**{**changed[name].model_dump(), field: value})
        except ValidationError as error:
            raise ConfigError(f"--{field.replace('_', '-')} {text}: {error.errors()[0]['msg']}") from error
    return tuple(changed.values())


def _validate(values: dict[str, Any], path: Path, node: yaml.Node | None) -> Config:
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = f"{path}:{line_of(node, first['loc'])}"
        where = _dotted(first["loc"])
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"unknown key {where!r}{_did_you_mean(first['loc'])}", place=place) from error
        shown = "" if first["loc"][-1] == "api_base" else f", not {first['input']!r}"
        raise ConfigError(f"{where}: {first['msg']}{shown}"[:400], place=place) from error


def line_of(node: yaml.Node | None, location: Sequence[int | str]) -> int:
    """The line, from 1, on which the deepest part of a location that exists stands."""
    line = 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == part), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line


def _dotted(location: tuple[int | str, ...]) -> str:
    return re.sub(r"\.(\[)", r"\1", ".".join(f"[{part}]" if isinstance(part, int) else part for part in location))


def _did_you_mean(location: tuple[int | str, ...]) -> str:
    sections: dict[str, type[_Section]] = {"teachers": Teacher, "generate": Generate}
    section = sections.get(str(location[0]), Config) if len(location) > 1 else Config
    known = list((Price if "price" in location[:-1] else section).model_fields)
    close = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known here: {', '.join(known)}"


EXAMPLE = """\
# kp.yaml: every option of `kp-data generate`; the command line wins over this file.
# Keys never stand here: a teacher names the environment variable that holds its key.

teachers:
  # Practice teachers are programs that know the practice world; no key, no network.
  - {name: ada, model: practice/ada}

  # API teachers, written as litellm writes them:
  # - name: gpt
  #   model: openai/gpt-4o-mini        # key from OPENAI_API_KEY
  #   temperature: 0.0
  #   max_tokens: 1024
  #   rpm: 500                         # requests a minute at most
  # - name: claude
  #   model: anthropic/claude-haiku-4-5  # key from ANTHROPIC_API_KEY

  # Local servers that speak the OpenAI dialect (vLLM, Ollama, llama.cpp) take the direct path:
  # - name: llama
  #   model: meta-llama/Llama-3.1-8B-Instruct
  #   api_base: http://localhost:8000/v1
  #   price: {input: 0.0, output: 0.0} # USD per million tokens; unknown where not given
  # - name: qwen
  #   model: qwen3:8b
  #   api_base: http://localhost:11434/v1

generate:
  mode: blind            # blind | teacher-forced | both; routers learn from blind answers
  examples: 0            # in-context examples a prompt
  samples: 1             # answers a cell
  concurrency: 128       # calls in flight at most; the controller finds the level
  retries: 6
  timeout_s: 120
  transport: auto        # auto | direct | litellm
  batch: false           # provider batch APIs where there are any: half the price, answers within a day
  engine: local          # local | ray: workers on a Ray cluster, which need a store that all reach
  # budget: 5.00         # US dollars for everything in this panel's store, over all runs; never exceeded
"""
