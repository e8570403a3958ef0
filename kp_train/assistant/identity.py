"""What makes a run of an assistant this run and no other: data, options, and the bytes of every folder."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from kp_train.assistant.options import GOLD, NO_ASSISTANT, SURFACE, VERIFIER, AssistantOptions, is_model
from kp_train.assistant.teachers import TeacherSource
from kp_train.dataset import Dataset, hash_files
from kp_train.fit import hash_checkpoint
from kp_train.fit_options import HOW, FitOptions
from kp_train.students import local_checkpoint

_PACKAGE: Final = "knowledge-purification"


def run_identity(
    dataset: Dataset, fitting: FitOptions, options: AssistantOptions, source: TeacherSource
) -> dict[str, Any]:
    """All that decides about the result of a run.

    A router, an assistant or a student in a folder counts by what the folder holds: changed, it is another one, and
    moved it is the same.
    """
    router = None if options.router is None else _content(options.router)
    # As `hire` reads it: a word that names an assistant means no folder that happens to have that name.
    named = options.assistant in (VERIFIER, SURFACE, GOLD, NO_ASSISTANT) or is_model(options.assistant)
    is_folder = not named and Path(options.assistant).is_dir()
    assistant = _content(Path(options.assistant)) if is_folder else options.assistant
    identity = {
        "dataset": dataset.hashes,
        **{name: value for name, value in asdict(fitting).items() if name not in HOW},
        "assistant": {**asdict(options), "router": router, "assistant": assistant},
        "asked": dict(source.identity),
        _PACKAGE: version(_PACKAGE),
    }
    if (checkpoint := local_checkpoint(fitting.student)) is not None:
        identity["student_files"] = hash_checkpoint(checkpoint)
    return identity


def _content(folder: Path) -> str:
    """One hash over names and bytes of a folder's files; hidden ones are no part of a router or an assistant."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    shown = [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    hashes = sorted(hash_files(folder, shown).items())
    lines = "".join(f"{name}\0{digest}\n" for name, digest in hashes)
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"
