"""The front matter of a dataset card: YAML for hubs and programs.

Our keys are written anew with every version; keys that we do not write, entries of lists that people added and configs
of others survive.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from kp_data.errors import DataError
from kp_data.summary import Summary

TAGS: Final = ("synthetic", "knowledge-distillation", "kp-data")
SIZES: Final = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"),
    (10**9, "100M<n<1B"),
    (10**10, "1B<n<10B"),
    (10**11, "10B<n<100B"),
    (10**12, "100B<n<1T"),
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

_FRONT: Final = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)(?:\r?\n)?^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)


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


def our_front(summary: Summary, name: str, configs: Sequence[ConfigFacts]) -> dict[str, Any]:
    """The front matter that a release writes, before the author's word and what stands there already."""
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

    >>> size_category(999), size_category(1000), size_category(10**12)
    ('n<1K', '1K<n<10K', 'n>1T')
    """
    return next((name for limit, name in SIZES if num_rows < limit), "n>1T")


def merged_front(old: Mapping[str, Any], ours: Mapping[str, Any], settings: CardSettings) -> dict[str, Any]:
    """`old` with our keys written anew: lists joined, configs of others kept, and the author's word above all."""
    given = settings.as_front()
    merged = {**old, **ours}
    # The author's word stands until the author says otherwise.
    merged |= {key: old[key] for key in ("pretty_name", "license") if old.get(key)}
    if "license" in given:
        merged.pop("license_name", None)
    merged |= given
    for key in ("tags", "task_categories", "annotations_creators"):
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


def dump_front(front: Mapping[str, Any]) -> str:
    """As YAML."""
    return str(yaml.dump(front, Dumper=_CardDumper, sort_keys=False, allow_unicode=True, width=10_000))


class _CardDumper(yaml.SafeDumper):
    """No anchors: two equal lists are written twice, as people would."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


class _CardLoader(yaml.SafeLoader):
    """As hubs read YAML (1.2): `language: no` is Norwegian, not false."""


_CardLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool" or first in "tTfF"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
