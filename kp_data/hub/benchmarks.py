"""The test questions of a benchmark: a file, a panel folder, the practice world, or a dataset on a hub.

Nothing but text is needed of them, so benchmarks are read as they come: an `id`, gold answers or our own column names
are not asked for.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from kp_data.errors import DataError, HubError
from kp_data.questions import load_questions
from kp_data.tables import read_table

_TEXT_COLUMNS: Final = ("question", "question_stem", "query", "problem", "prompt", "sentence", "input", "text")
_CHOICE_COLUMNS: Final = ("choices", "options", "answers", "endings")
_CONTEXT_COLUMNS: Final = ("context", "passage", "article")
_HUB_NAME: Final = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_COLUMNS: Final = ("id", "question", "choices", "context")


def is_training(split: str) -> bool:
    """Whether students learn from a split of this name.

    >>> is_training("train"), is_training("train_hard"), is_training("validation")
    (True, True, False)
    """
    return split.startswith("train")


def read_benchmark(source: str) -> tuple[str, pa.Table]:
    """A benchmark's name and its test questions, with columns id, question, choices and context.

    Args:
        source: `PATH`, `NAME[@REVISION]` or `practice:N`, then `:SPLIT`, or `:CONFIG:SPLIT` for a hub dataset. Without
            a split: every question outside of `train`, or every question where there are no others.

    Raises:
        DataError: there is nothing of that name, it has no column of questions, or no question in that split.
        HubError: the hub has no such dataset, or cannot be reached.
    """
    name, table, split = _find(source)
    if split and "split" not in table.column_names:
        raise DataError(f"no column 'split' to find {split!r} in; leave the split out", place=source)
    if table.num_rows and "split" in table.column_names:
        splits = table["split"].cast(pa.string())
        held_out = pa.array([value is None or not is_training(value) for value in splits.to_pylist()], pa.bool_())
        wanted = pc.equal(splits, split) if split else held_out if pc.any(held_out).as_py() else None
        table = table if wanted is None else table.filter(wanted)
        if not table.num_rows:
            there = ", ".join(sorted({str(value) for value in splits.to_pylist()}))
            raise DataError(f"no question in split {split!r}; splits there: {there}", place=source)
    if not table.num_rows:
        raise DataError("no questions", place=source)
    return (f"{name}:{split}" if split else name), _as_questions(table, source)


def _find(source: str) -> tuple[str, pa.Table, str | None]:
    """Name, rows and the split asked for; a split that was resolved on the way is None no more."""
    base, _, tail = source.rpartition(":")
    if Path(source).exists():
        return Path(source).name, _read_local(Path(source)), None
    if base and Path(base).exists():
        return Path(base).name, _read_local(Path(base)), tail
    if source.startswith("practice:"):
        split = tail if base != "practice" else None
        return (base if split else source), load_questions(base if split else source), split
    parts = source.split(":")
    if len(parts) <= 3 and (match := _HUB_NAME.fullmatch(parts[0])):
        config = parts[1] if len(parts) == 3 else None
        split = parts[-1] if len(parts) > 1 else None
        return parts[0], _read_hub(match["name"], config, match["revision"], split), split
    raise DataError("no such file or folder, nor the name of a hub dataset", place=f"benchmark {source}")


def _read_local(path: Path) -> pa.Table:
    return load_questions(str(path)) if path.is_dir() else read_table(path)


def _read_hub(name: str, config: str | None, revision: str | None, split: str | None) -> pa.Table:
    import datasets

    try:
        found = datasets.load_dataset(name, config, revision=revision, split=split)
    # The library raises a dozen types for "not there", "not allowed" and "no network".
    except Exception as error:
        said = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        remedy = "give a file with its questions instead, or push without this --benchmark"
        raise HubError(f"cannot be loaded ({said}); {remedy}", place=f"benchmark {name}") from error
    parts = {split: found} if split else dict(found)
    tables = []
    for part, dataset in parts.items():
        table = dataset.with_format("arrow")[:]
        kept = [column for column in table.column_names if column != "split"]
        tables.append(table.select(kept).append_column("split", pa.array([str(part)] * table.num_rows)))
    return pa.concat_tables(tables, promote_options="permissive")


def _as_questions(table: pa.Table, source: str) -> pa.Table:
    text = next((name for name in _TEXT_COLUMNS if name in table.column_names), None)
    if text is None:
        has = ", ".join(table.column_names)
        remedy = f"give a file with one of {', '.join(_TEXT_COLUMNS)}"
        raise DataError(f"no column of questions (columns there: {has}); {remedy}", place=f"benchmark {source}")
    ids = table["id"].to_pylist() if "id" in table.column_names else range(1, table.num_rows + 1)
    columns = {
        "id": [str(value) for value in ids],
        "question": [_text_of(value) for value in table[text].to_pylist()],
        "choices": [_choices_of(value) for value in _first(table, _CHOICE_COLUMNS)],
        "context": [value if isinstance(value, str) else None for value in _first(table, _CONTEXT_COLUMNS)],
    }
    types = (pa.string(), pa.string(), pa.list_(pa.string()), pa.string())
    return pa.table({name: pa.array(columns[name], type_) for name, type_ in zip(_COLUMNS, types, strict=True)})


def _first(table: pa.Table, names: tuple[str, ...]) -> list[Any]:
    name = next((name for name in names if name in table.column_names), None)
    return list(table[name].to_pylist()) if name else [None] * table.num_rows


def _text_of(value: Any) -> str:
    # CommonsenseQA and its like keep the text of a question one level down.
    return str(value.get("stem", "")) if isinstance(value, dict) else "" if value is None else str(value)


def _choices_of(value: Any) -> list[str]:
    """A list of texts, of `{text, label}`, or the `{text: [...], label: [...]}` of ARC and OpenBookQA; else nothing."""
    if isinstance(value, dict):
        value = value.get("text", [])
    if not isinstance(value, list):
        return []
    return [str(item.get("text", "")) if isinstance(item, dict) else str(item) for item in value]
