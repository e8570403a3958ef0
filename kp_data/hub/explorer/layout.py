"""Which files of a dataset make up which part: as its card says, else as they are named."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final

_FIRST: Final = ("purified", "questions", "panel")
_SPLITS: Final = ("train", "validation", "test")
_SHARD: Final = re.compile(r"(?P<split>[\w.]+?)(-\d{5}-of-\d{5}(-[0-9a-f]+)?)?\.parquet")


def parts_of(paths: Sequence[str], metadata: Mapping[str, Any]) -> list[tuple[str, str, tuple[str, ...]]]:
    """(config, split, paths) of each part, from the card's `configs` or, without them, from the paths.

    Args:
        paths: every path of the dataset.
        metadata: the YAML block of its card.

    >>> parts_of(["purified/train-00000-of-00001.parquet"], {})
    [('purified', 'train', ('purified/train-00000-of-00001.parquet',))]
    """
    tables = sorted(path for path in paths if path.endswith(".parquet"))
    configs = metadata.get("configs")
    named = (
        [part for config in configs if isinstance(config, dict) for part in _declared(config, tables)]
        if isinstance(configs, list)
        else []
    )
    # Splits stand as people name them, whatever order the card or the alphabet has.
    parts = named or _by_path(tables)
    configs = list(dict.fromkeys(config for config, _, _ in parts))
    return sorted(parts, key=lambda part: (configs.index(part[0]), _rank(_SPLITS, part[1])))


def _rank(order: Sequence[str], name: str) -> int:
    return order.index(name) if name in order else len(order)


def _declared(config: Mapping[str, Any], tables: Sequence[str]) -> list[tuple[str, str, tuple[str, ...]]]:
    """The parts of one entry of `configs`; patterns that fit nothing are left out."""
    name, files = config.get("config_name"), config.get("data_files")
    entries = files if isinstance(files, list) else [{"split": "train", "path": files}]
    parts = []
    for entry in entries:
        if not isinstance(name, str) or not isinstance(entry, dict):
            continue
        split, patterns = entry.get("split", "train"), entry.get("path")
        patterns = [patterns] if isinstance(patterns, str) else patterns
        if not isinstance(split, str) or not isinstance(patterns, list):
            continue
        globs = [pattern for pattern in patterns if isinstance(pattern, str) and pattern]
        fitting = tuple(path for path in tables if any(_fits(path, pattern) for pattern in globs))
        if fitting:
            parts.append((name, split, fitting))
    return parts


def _fits(path: str, pattern: str) -> bool:
    try:
        return PurePosixPath(path).match(pattern)
    except ValueError:
        return False


def _by_path(tables: Sequence[str]) -> list[tuple[str, str, tuple[str, ...]]]:
    """A folder is a config; a shard's name begins with its split."""
    found: dict[tuple[str, str], list[str]] = {}
    for path in tables:
        folder, _, file = path.rpartition("/")
        match = _SHARD.fullmatch(file)
        split = match["split"] if match else "train"
        found.setdefault((folder or "default", split), []).append(path)
    # What was purified is what a reader came for; what it was made of comes after.
    names = sorted(found, key=lambda name: _rank(_FIRST, name[0]))
    return [(config, split, tuple(found[config, split])) for config, split in names]
