"""The dataset card: YAML front matter for machines, a marked section for people, and what the owner wrote kept.

Only what stands between the two marks is ours; prose around it, and front-matter keys that we do not write, survive
every push. Everything that teachers or questions say passes through `markdown.escape`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import jinja2
import pyarrow as pa
import pyarrow.compute as pc
import yaml

import kp_data
from kp_data.errors import DataError
from kp_data.hub.markdown import Safe, escape, excerpt, money, percent
from kp_data.hub.versions import RowDiff, Version
from kp_data.schema import SCHEMA_VERSION
from kp_data.summary import Summary, TeacherFacts

BEGIN: Final = "<!-- kp-data:begin -->"
END: Final = "<!-- kp-data:end -->"

TAGS: Final = ("synthetic", "knowledge-distillation", "kp-data")
SIZES: Final = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"),
)
METRICS: Final = (
    "purified_accuracy",
    "best_single_accuracy",
    "majority_accuracy",
    "oracle_accuracy",
    "gap_closed",
    "conflict_rate",
    "calls_per_question",
)

# The identifiers of https://huggingface.co/docs/hub/repositories-licenses that data is published under; a hub takes any
# other licence as `other` with a name. "unknown" is on that list too: it is the honest word for "nobody said".
LICENSES: Final = frozenset(
    """
    unknown other apache-2.0 mit cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0
    cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
    cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 odbl odc-by pddl cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 c-uda
    gfdl gpl gpl-2.0 gpl-3.0 agpl-3.0 lgpl lgpl-2.1 lgpl-3.0 bsd bsd-2-clause bsd-3-clause isc mpl-2.0 unlicense
    wtfpl zlib openrail bigscience-openrail-m llama2 llama3 llama3.1 llama3.2 llama3.3 gemma
    """.split()  # noqa: SIM905  A list of sixty words reads better as words.
)

_FRONT = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)(?:\r?\n)?^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class CardSettings:
    """What only the author knows. None: keep what the card says already, else leave it open.

    Attributes:
        license: identifier of a licence on the hub's list, or any name.
        language: language codes.
        source_datasets: where the questions come from.
        pretty_name: heading of a new card.
    """

    license: str | None = None
    language: tuple[str, ...] | None = None
    source_datasets: tuple[str, ...] | None = None
    pretty_name: str | None = None

    def as_front(self) -> dict[str, Any]:
        """The front-matter keys that were given."""
        front: dict[str, Any] = {}
        if self.pretty_name is not None:
            front["pretty_name"] = self.pretty_name
        if self.license is not None:
            listed = self.license.lower() in LICENSES
            front |= {"license": self.license.lower()} if listed else {"license": "other", "license_name": self.license}
        if self.language is not None:
            front["language"] = list(self.language)
        if self.source_datasets is not None:
            front["source_datasets"] = list(self.source_datasets)
        return front


@dataclass(frozen=True)
class ConfigFacts:
    """What a card says of one config (`purified` or `panel`); every mapping is by split name."""

    name: str
    schema: pa.Schema
    num_rows: Mapping[str, int]
    num_bytes: Mapping[str, int]
    file_bytes: Mapping[str, int]

    @classmethod
    def of(cls, name: str, table: pa.Table, splits: Mapping[str, str], file_bytes: Mapping[str, int]) -> ConfigFacts:
        """The facts of a table whose split values are published under the names that `splits` maps them to."""
        parts = {there: table.filter(pc.equal(table["split"], here)) for here, there in splits.items()}
        num_rows = {split: part.num_rows for split, part in parts.items()}
        num_bytes = {split: part.nbytes for split, part in parts.items()}
        return cls(name, table.schema.remove_metadata(), num_rows, num_bytes, file_bytes)

    def as_config(self) -> dict[str, Any]:
        """Its entry under `configs`."""
        files = [{"split": split, "path": f"{self.name}/{split}-*"} for split in self.num_rows]
        entry: dict[str, Any] = {"config_name": self.name, "data_files": files}
        return entry | ({"default": True} if self.name == "purified" else {})


def render_card(
    summary: Summary,
    *,
    name: str,
    version: Version,
    parent: Version | None,
    diff: RowDiff,
    configs: Sequence[ConfigFacts],
    content: Mapping[str, str | None],
    num_recurring: int,
    settings: CardSettings,
    existing: str | None,
) -> str:
    """README.md of a release: `existing` with our keys and our section written anew.

    Raises:
        DataError: the front matter of `existing` is not a YAML mapping.
    """
    old_front, body = split_card(existing)
    front = _merged_front(old_front, _our_front(summary, name, configs), settings)
    front["kp_data"] = _provenance(summary, version, parent, content)
    section = _template("dataset_card.md.j2").render(
        summary=summary,
        name=Safe(name),
        version=Safe(version),
        parent=Safe(parent) if parent else None,
        diff=diff,
        configs=configs,
        front=front,
        num_recurring=num_recurring,
        command=Safe(_command(front["kp_data"])),
        run_json=Safe(_fenced_json(summary.tables.run)),
        samples=[conflict for conflict in summary.conflicts if conflict.kept],
    )
    heading = f"# {escape(front['pretty_name'])}\n\n" if existing is None else ""
    return f"---\n{_dump(front)}---\n{_with_section(heading + body, section)}"


def split_card(text: str | None) -> tuple[dict[str, Any], str]:
    """Front matter and body of a README.md; ({}, "") for None.

    Raises:
        DataError: the front matter is not a YAML mapping.
    """
    if text is None or (match := _FRONT.match(text)) is None:
        return {}, text or ""
    try:
        front = _CardLoader(match.group(1)).get_single_data()
    except yaml.YAMLError as error:
        problem = str(error).splitlines()[0]
        raise DataError(f"its front matter is not valid YAML ({problem}); mend it first", place="README.md") from error
    if front is not None and not isinstance(front, dict):
        raise DataError("its front matter is not a mapping of keys to values; mend it first", place="README.md")
    return front or {}, text[match.end() :]


def settings_differ(existing: str | None, settings: CardSettings) -> bool:
    """Whether the author said something that the card does not say yet."""
    front, _ = split_card(existing)
    return any(front.get(key) != value for key, value in settings.as_front().items())


def template_folder() -> Path:
    """Where the card templates are: `cards/` of the repository, or inside the installed package.

    Raises:
        DataError: in neither place.
    """
    package = Path(kp_data.__file__).resolve().parent
    for folder in (package / "cards", package.parent / "cards"):
        if (folder / "dataset_card.md.j2").is_file():
            return folder
    raise DataError("the card templates are missing; install the package again", place=package / "cards")


class _CardLoader(yaml.SafeLoader):
    """As hubs read YAML (1.2): `language: no` is Norwegian, not false."""


_CardLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool" or first in "tTfF"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


@cache
def _template(name: str) -> jinja2.Template:
    # What a template prints is escaped unless it is marked Safe: forgetting a filter cannot open a hole.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template_folder()),
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701  Markdown, not HTML: `finalize` does the escaping.
    )
    environment.filters |= {"percent": percent, "money": money, "excerpt": excerpt, "safe": Safe}
    return environment.get_template(name)


def _finalize(value: Any) -> Any:
    # Numbers have nothing to escape, and macros return text that was finalised inside.
    return value if isinstance(value, int | float | Safe) else "unknown" if value is None else escape(value)


def _our_front(summary: Summary, name: str, configs: Sequence[ConfigFacts]) -> dict[str, Any]:
    has_choices = any(summary.tables.questions["choices"].to_pylist())
    return {
        "pretty_name": name.split("/")[-1],
        "license": "unknown",
        "annotations_creators": ["machine-generated"],
        "task_categories": ["question-answering", *(["multiple-choice"] if has_choices else [])],
        "size_categories": [size_category(sum(configs[0].num_rows.values()))],
        "tags": list(TAGS),
        "configs": [config.as_config() for config in configs],
        "dataset_info": _dataset_info(configs),
    }


def size_category(num_rows: int) -> str:
    """The hub's word for a number of rows.

    >>> size_category(999), size_category(1000), size_category(10**9)
    ('n<1K', '1K<n<10K', 'n>100M')
    """
    return next((name for limit, name in SIZES if num_rows < limit), "n>100M")


def _merged_front(old: Mapping[str, Any], ours: Mapping[str, Any], settings: CardSettings) -> dict[str, Any]:
    given = settings.as_front()
    merged = {**old, **ours}
    # The author's word stands until the author says otherwise.
    merged |= {key: old[key] for key in ("pretty_name", "license") if old.get(key)}
    if "license" in given:
        merged.pop("license_name", None)
    merged |= given
    for key in ("tags", "task_categories"):
        merged[key] = list(dict.fromkeys([*_as_list(old.get(key)), *ours[key]]))
    merged["configs"] = _by_config(old.get("configs"), ours["configs"])
    merged["dataset_info"] = _by_config(old.get("dataset_info"), ours["dataset_info"])
    return {
        key: merged[key]
        for key in [*(key for key in ours if key in merged), *(key for key in merged if key not in ours)]
    }


def _by_config(old: Any, ours: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Foreign configs kept, ours (`purified` and `panel`) written anew; nobody else's is the default any more."""
    entries = [{"config_name": "default", **entry} for entry in _as_list(old) if isinstance(entry, dict)]
    foreign = [entry for entry in entries if entry["config_name"] not in ("purified", "panel")]
    kept = [{key: value for key, value in entry.items() if key != "default"} for entry in foreign]
    if any(entry["config_name"] == "default" for entry in kept):
        # A config of that name is the default by itself, and two defaults cannot be loaded.
        ours = [{key: value for key, value in entry.items() if key != "default"} for entry in ours]
    return [*ours, *kept]


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [] if value is None else [value]


def _dataset_info(configs: Sequence[ConfigFacts]) -> list[dict[str, Any]]:
    from datasets import DatasetInfo, Features, SplitDict, SplitInfo
    from datasets.info import DatasetInfosDict
    from huggingface_hub import DatasetCardData

    entries = []
    for config in configs:
        splits = SplitDict()
        for split, num_rows in config.num_rows.items():
            splits.add(SplitInfo(name=split, num_bytes=config.num_bytes[split], num_examples=num_rows))
        info = DatasetInfo(
            features=Features.from_arrow_schema(config.schema),
            splits=splits,
            download_size=sum(config.file_bytes.values()),
            dataset_size=sum(config.num_bytes.values()),
        )
        data = DatasetCardData()
        DatasetInfosDict({config.name: info}).to_dataset_card_data(data)
        entries.append(data["dataset_info"])
    return entries


def _provenance(
    summary: Summary, version: Version, parent: Version | None, content: Mapping[str, str | None]
) -> dict[str, Any]:
    report, run = summary.tables.report, summary.tables.run
    return {
        "schema_version": SCHEMA_VERSION,
        "version": str(version),
        "parent": str(parent) if parent else None,
        "method": report.get("method") or ", ".join(_methods(summary)),
        "parameters": run.get("options", run.get("parameters")),
        "seed": run.get("seed"),
        "teachers": [_teacher_entry(teacher) for teacher in summary.teachers],
        "metrics": {name: report[name] for name in METRICS if name in report},
        "sha256": dict(content),
    }


def _methods(summary: Summary) -> list[str]:
    purified = summary.tables.purified
    return list(dict.fromkeys(purified["method"].to_pylist())) if purified is not None else []


def _teacher_entry(teacher: TeacherFacts) -> dict[str, Any]:
    return {
        "name": teacher.name,
        "models": list(teacher.models),
        "modes": list(teacher.modes),
        "responses": teacher.num_asked,
        "failed": teacher.num_failed,
        "accuracy": teacher.accuracy,
        "chosen": teacher.num_chosen,
        "cost_usd": teacher.cost_usd,
    }


def _command(provenance: Mapping[str, Any]) -> str:
    method, seed = str(provenance["method"]), provenance["seed"]
    # Inside a code span nothing can be escaped: a method of any other form is not repeated there.
    named = method if re.fullmatch(r"[a-z0-9-]+", method) else "METHOD"
    return f"kp-data purify PANEL --method {named}{f' --seed {seed}' if isinstance(seed, int) else ''} --out FOLDER"


def _fenced_json(value: Mapping[str, Any]) -> str:
    # "<" as an escape, so that no string can hold our end mark or a tag; JSON has no line starting with a fence.
    return (
        json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True).replace("<", "\\u003c").replace("`", "\\u0060")
    )


def _with_section(body: str, section: str) -> str:
    block = f"{BEGIN}\n{section.strip()}\n{END}"
    begin, end = body.find(BEGIN), body.rfind(END)
    if 0 <= begin < end:
        return body[:begin] + block + body[end + len(END) :]
    separator = "" if not body or body.endswith("\n\n") else "\n" if body.endswith("\n") else "\n\n"
    return f"{body}{separator}{block}\n"


def _dump(front: Mapping[str, Any]) -> str:
    return str(yaml.dump(front, Dumper=_CardDumper, sort_keys=False, allow_unicode=True, width=10_000))


class _CardDumper(yaml.SafeDumper):
    """No anchors: two equal lists are written twice, as people would."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
