"""Tokenise once: every wording of every row before a run starts, and not again when the same rows come another time.

Encoded rows are kept under the user's cache folder by everything that decides about them: tokenizer, limits, rows,
views, orders of choices, seed. The files hold numbers alone (npz without pickle). `KP_CACHE` names another folder, or
switches the cache off (`KP_CACHE=off`). A cache never fails a run: what cannot be read is encoded anew, what cannot be
written is not kept.
"""

from __future__ import annotations

import hashlib
import os
import random
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np

from kp_data.errors import DataError
from kp_data.tables import replacing
from kp_train.batches import Example, Item
from kp_train.students import Student
from kp_train.students.student import Encodes
from kp_train.views import Row, Target, reordered

OFF: Final = ("off", "0", "false", "no")
FORMAT: Final = 1
"""Raised whenever the same rows would be encoded or stored differently."""
KEPT_FILES: Final = 32
"""Encoded datasets that are kept; the one not used for longest goes first."""

Array = np.ndarray[Any, Any]
Assignment = tuple[Row, list[Target]]
_BROKEN: Final = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


def encode_rows(
    student: Student, assigned: Sequence[Assignment], tasks: Sequence[str], *, orders: int, seed: int
) -> list[list[Item]]:
    """Each row in each order of its choices, tokenised once; adds to the student's `truncated`.

    Args:
        student: who will read it.
        assigned: rows, each with its targets.
        tasks: names of the targets' tasks, in the order of their numbers.
        orders: wordings of each row, the first as it is.
        seed: of the orders.

    Raises:
        MethodError: the student cannot learn from one of the rows.
    """
    path = _cache_path(student, assigned, tasks, orders, seed)
    before = student.truncated
    if path is not None and (read := _read(path)) is not None:
        items, cut = read
        student.truncated = before + cut
        return items
    items = list(_encode(student, assigned, tasks, orders, seed))
    if path is not None:
        _keep(path, items, student.truncated - before)
    return items


def cache_folder() -> Path | None:
    """Where encoded rows are kept; None where the cache is switched off."""
    given = os.environ.get("KP_CACHE", "").strip()
    if given.lower() in OFF:
        return None
    if given:
        return Path(given) / "encoded"
    home = os.environ.get("XDG_CACHE_HOME", "").strip()
    try:
        base = Path(home) if home else Path.home() / ".cache"
    except RuntimeError:  # no home folder is known, as in some containers
        return None
    return base / "knowledge-purification" / "encoded"


def _encode(
    student: Student, assigned: Sequence[Assignment], tasks: Sequence[str], orders: int, seed: int
) -> Iterator[list[Item]]:
    number = {task: index for index, task in enumerate(tasks)}
    draw = random.Random(f"choices:{seed}")
    for row, targets in assigned:
        wordings = [row, *(reordered(row, draw) for _ in range(orders - 1))]
        yield [
            tuple(student.encode(wording.question, target, task=number[target.task]) for target in targets)
            for wording in wordings
        ]


def _cache_path(
    student: Student, assigned: Sequence[Assignment], tasks: Sequence[str], orders: int, seed: int
) -> Path | None:
    """The file of exactly these rows for exactly this student; None where nothing is kept."""
    folder = cache_folder()
    identity = student.encoding_identity() if isinstance(student, Encodes) else None
    if folder is None or identity is None:
        return None
    digest = hashlib.sha256(repr((FORMAT, identity, tuple(tasks), orders, seed)).encode())
    for row, targets in assigned:
        digest.update(repr((row, targets)).encode())
    return folder / f"{digest.hexdigest()}.npz"


def _read(path: Path) -> tuple[list[list[Item]], int] | None:
    """Items and the number of cut texts; None where there is no such file, or none that can be read."""
    if not path.is_file():
        return None
    with suppress(*_BROKEN):
        # Opened here, because numpy leaves a broken archive open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            items = _unflatten({name: stored[name] for name in stored.files})
            cut = int(stored["truncated"])
        os.utime(path)  # its turn to go comes later
        return items, cut
    return None


def _keep(path: Path, items: Sequence[Sequence[Item]], truncated: int) -> None:
    with suppress(DataError, *_BROKEN):
        with replacing(path) as temporary, temporary.open("wb") as file:
            arrays: dict[str, Any] = {"truncated": np.array(truncated), **_flatten(items)}
            np.savez(file, **arrays)
        files = sorted(path.parent.glob("*.npz"), key=lambda file: file.stat().st_mtime)
        for old in files[:-KEPT_FILES]:
            old.unlink()


def _flatten(items: Sequence[Sequence[Item]]) -> dict[str, Array]:
    wordings = [item for row in items for item in row]
    examples = [example for item in wordings for example in item]
    inputs = [tokens for example in examples for tokens in example.inputs]
    return {
        "wordings": np.array([len(row) for row in items], np.int64),
        "examples": np.array([len(item) for item in wordings], np.int64),
        "inputs": np.array([len(example.inputs) for example in examples], np.int64),
        "input_lengths": np.array([len(tokens) for tokens in inputs], np.int64),
        "input_tokens": np.array([token for tokens in inputs for token in tokens], np.int32),
        "label_lengths": np.array([len(example.label) for example in examples], np.int64),
        "label_tokens": np.array([token for example in examples for token in example.label], np.int32),
        "second_lengths": np.array([len(example.second) for example in examples], np.int64),
        "second": np.array([place for example in examples for place in example.second], np.int32),
        "task": np.array([example.task for example in examples], np.int64),
        "weight": np.array([example.weight for example in examples], np.float64),
    }


def _unflatten(stored: dict[str, Array]) -> list[list[Item]]:
    tokens = _cut(tuple(stored["input_tokens"].tolist()), stored["input_lengths"])
    inputs = _cut(tuple(tokens), stored["inputs"])
    labels = _cut(tuple(stored["label_tokens"].tolist()), stored["label_lengths"])
    seconds = _cut(tuple(stored["second"].tolist()), stored["second_lengths"])
    tasks, weights = stored["task"].tolist(), stored["weight"].tolist()
    examples = [Example(*each) for each in zip(inputs, labels, tasks, weights, seconds, strict=True)]
    wordings = _cut(tuple(examples), stored["examples"])
    return [list(row) for row in _cut(tuple(wordings), stored["wordings"])]


def _cut(values: tuple[Any, ...], lengths: Array) -> list[tuple[Any, ...]]:
    """Consecutive parts of these lengths, which make up the whole."""
    bounds = [0, *accumulate(lengths.tolist())]
    if bounds[-1] != len(values):
        raise ValueError("lengths and values differ")
    return [values[start:end] for start, end in pairwise(bounds)]
