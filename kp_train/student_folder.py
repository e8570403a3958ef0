"""What lies in the folder of a fitted student: which files are the student, and what its records say.

    student.json, config.json, *.safetensors, tokenizer…   the student: these bytes decide how it answers
    run.json                                               how it was made
    evaluations.json                                       what was measured since
    README.md                                              its card

Locks, logs and checkpoints may lie there too and are no part of it.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Final

from kp_data.errors import DataError
from kp_data.tables import read_json
from kp_train.dataset import hash_files
from kp_train.run_folder import RUN_FILE
from kp_train.students.student import STUDENT_FILE

CARD_FILE: Final = "README.md"
EVALUATIONS_FILE: Final = "evaluations.json"
FORMAT: Final = 1
"""Of evaluations.json."""

_STUDENT: Final = re.compile(
    r"student\.json|[\w.-]+\.safetensors|[\w.-]+\.safetensors\.index\.json|retrieval\.parquet"
    r"|(config|generation_config|adapter_config)\.json"
    r"|(tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|chat_template)\.json"
    r"|vocab\.txt|merges\.txt|(spiece|tokenizer|sentencepiece\.bpe)\.model|chat_template\.jinja"
)


def is_student_file(name: str) -> bool:
    """Whether a file of that name, directly in a student's folder, is part of the student.

    >>> is_student_file("model.safetensors"), is_student_file("run.json"), is_student_file(".lock")
    (True, False, False)
    """
    return name[0] != "." and _STUDENT.fullmatch(name) is not None


def student_paths(folder: Path) -> list[Path]:
    """The files of a student, by name."""
    return sorted(path for path in folder.iterdir() if path.is_file() and is_student_file(path.name))


def student_digest(folder: Path) -> str:
    """One SHA-256 over the names and bytes of a student's files."""
    return hashlib.sha256(json.dumps(hash_files(folder, student_paths(folder)), sort_keys=True).encode()).hexdigest()


def read_finished(folder: Path) -> dict[str, Any]:
    """The record of the run that made a student.

    Raises:
        DataError: it is no folder of a `kp-train fit` that is done.
    """
    if not (folder / RUN_FILE).is_file():
        raise DataError("no run.json here; give the --out folder of `kp-train fit`", place=folder)
    run = read_json(folder / RUN_FILE)
    if not isinstance(run, dict) or not isinstance(run.get("identity"), dict):
        raise DataError("is not the record of a `kp-train fit`; give the --out folder of one", place=folder / RUN_FILE)
    if run.get("state") != "done" or not (folder / STUDENT_FILE).is_file():
        raise DataError("this run is not finished; run the same `kp-train fit` again", place=folder)
    return run


def read_card(path: Path) -> str | None:
    """A README.md as it stands; None where there is none.

    Raises:
        DataError: it is not UTF-8 text, so that what its owner wrote could not be kept.
    """
    if not path.is_file():
        return None
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError("is not UTF-8 text; save it as UTF-8", place=path) from error


def read_evaluations(folder: Path) -> dict[str, Any]:
    """What was measured on a student, by dataset, split and method; empty where nothing was.

    Raises:
        DataError: evaluations.json is something else.
    """
    path = folder / EVALUATIONS_FILE
    if not path.is_file():
        return {}
    stored = read_json(path)
    entries = stored.get("evaluations") if isinstance(stored, dict) and stored.get("format") == FORMAT else None
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise DataError("is not a file that kp-train writes; remove it, or rename it", place=path)
    return entries
