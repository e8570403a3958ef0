"""The formats by name, and the one function that imports any of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from kp_data.errors import ConfigError, DataError
from kp_data.importers.gsm8k import read_gsm8k
from kp_data.importers.mmlu_pro import read_mmlu_pro
from kp_data.importers.own_rows import read_jsonl, read_tables
from kp_data.importers.prefix_tasks import read_step_by_step, read_tinyllm
from kp_data.importers.records import Imported, ImportOptions, Reader
from kp_data.importers.writing import (
    ImportReport,
    PanelWriter,
    SplitOf,
    check_out,
    panel_folder,
    put_in_place,
    tables_of,
    write_run,
)

ROWS_BETWEEN: Final = 1_000
"""Rows between two words of progress."""


@dataclass(frozen=True, slots=True)
class Format:
    """One line of the help.

    Attributes:
        name: as given on the command line.
        what: one line.
        source: what a source of it is.
        one_teacher: whether `--teacher NAME` names the teacher of every response.
        wide: whether `--teacher NAME=FIELD` names fields.
        mapped: whether `--map` has something to map.
        read: sources to rows.
    """

    name: str
    what: str
    source: str
    read: Reader
    one_teacher: bool = False
    wide: bool = False
    mapped: bool = False


FORMATS: Final[Mapping[str, Format]] = MappingProxyType(
    {
        each.name: each
        for each in (
            Format(
                "tinyllm",
                "TinyLLM's rationales of FLAN-T5 and Llama 2, teacher-forced",
                "folder datasets/NAME",
                read_tinyllm,
            ),
            Format(
                "step-by-step",
                "Distilling Step-by-Step's rationales of PaLM and GPT-NeoX",
                "folder datasets/NAME",
                read_step_by_step,
            ),
            Format(
                "mmlu-pro",
                "MMLU-Pro evaluation results, one model a folder or archive",
                "eval_results, a folder in it, a .zip or a .json",
                read_mmlu_pro,
                one_teacher=True,
            ),
            Format(
                "gsm8k",
                "GSM8K example solutions of several models",
                "example_model_solutions.jsonl",
                read_gsm8k,
            ),
            Format(
                "jsonl",
                "JSON lines or arrays with fields of your own, told by --map and --teacher",
                "file, folder or .zip",
                read_jsonl,
                one_teacher=True,
                wide=True,
                mapped=True,
            ),
            Format(
                "tables",
                "questions.* and responses.* in the columns of a panel (Parquet, JSONL, CSV)",
                "folder",
                read_tables,
                one_teacher=True,
                mapped=True,
            ),
        )
    }
)


def import_panel(
    format_name: str,
    sources: Sequence[Path],
    out: Path,
    *,
    options: ImportOptions | None = None,
    split: str | None = None,
    strict: bool = False,
    progress: Callable[[int], None] = lambda rows: None,
) -> ImportReport:
    """Make a panel folder of what teachers said elsewhere.

    The folder appears whole, by a rename. The same sources and options give the same bytes.

    Args:
        format_name: one of `FORMATS`.
        sources: files or folders, as the format has them.
        out: the panel folder to make.
        options: names, fields and mode, where the sources do not say.
        split: of questions whose source names none: a name, or shares such as `train:70,validation:15,test:15`, drawn
            by the hash of a question's id, which are then for all questions. None: the source's, else `train`.
        strict: write nothing if any row must be left out.
        progress: told now and then how many rows have been read.

    Returns: what was imported, and what was left out and why.
    Raises:
        ConfigError: an unknown format, or an option that it has no use for.
        DataError: a source is missing or malformed, nothing could be imported, or `out` holds something else.
    """
    chosen, options = find_format(format_name), options or ImportOptions()
    _check_options(chosen, options)
    split_of = read_split(split)
    if not sources:
        raise ConfigError(f"no source; {chosen.name} reads: {chosen.source}")
    check_out(out)
    with panel_folder(out) as folder:
        with tables_of(folder, split_of=split_of) as writer:
            for number, row in enumerate(chosen.read(sources, options), start=1):
                writer.add(row)
                if number % ROWS_BETWEEN == 0:
                    progress(number)
                if strict and writer.left_out:
                    raise _left_out_refused(writer)
            _check_any(writer, chosen, sources)
        write_run(folder, writer, told=_told(chosen, sources, options, split))
        changed = put_in_place(folder, out)
    return ImportReport(out, chosen.name, dict(writer.questions), writer.teachers, writer.left_out, not changed)


def find_format(name: str) -> Format:
    """The format of a name.

    Raises:
        ConfigError: there is none; names all.
    """
    if name not in FORMATS:
        raise ConfigError(f"unknown format {name!r}; there are {', '.join(FORMATS)}")
    return FORMATS[name]


def read_split(text: str | None) -> SplitOf:
    """How each question gets its split; see `import_panel`.

    Raises:
        ConfigError: shares that are none.
    """
    if text is None:
        return lambda row: row.question.split
    if ":" not in text:
        return lambda row: row.question.split if row.own_split else text
    names, bounds = _shares(text)

    def drawn(row: Imported) -> str:
        digest = hashlib.sha256(f"split:{row.question.id}".encode("utf-8", "replace")).digest()
        place = int.from_bytes(digest[:8], "big") / 2**64
        return next((name for name, bound in zip(names, bounds, strict=True) if place < bound), names[-1])

    return drawn


def _shares(text: str) -> tuple[list[str], list[float]]:
    """Names of splits, and where each ends between 0 and 1.

    >>> _shares("train:3,test:1")
    (['train', 'test'], [0.75, 1.0])
    """
    names, sizes = [], []
    for part in text.split(","):
        name, _, size = part.strip().partition(":")
        if not name or not size.strip().isdecimal() or not int(size):
            raise ConfigError(
                f"{part.strip()!r} is no share; write such as train:70,validation:15,test:15", place="--split"
            )
        names.append(name)
        sizes.append(int(size))
    return names, [sum(sizes[: end + 1]) / sum(sizes) for end in range(len(sizes))]


def _check_options(chosen: Format, options: ImportOptions) -> None:
    """Refuse options that a format has no use for.

    Raises:
        ConfigError: names the option.
    """
    if options.fields and not chosen.mapped:
        raise ConfigError(f"format {chosen.name} knows its fields; leave --map out", place="--map")
    if options.single_teacher is not None and not chosen.one_teacher:
        raise ConfigError(f"format {chosen.name} names its teachers itself; leave --teacher out", place="--teacher")
    if any(options.teachers) and not chosen.wide:
        raise ConfigError("NAME=FIELD is for format jsonl; others know their fields", place="--teacher")


def _check_any(writer: PanelWriter, chosen: Format, sources: Sequence[Path]) -> None:
    place = ", ".join(str(source) for source in sources)
    if not writer.questions or not writer.teachers:
        lacking = "question" if not writer.questions else "response"
        first = next(iter(writer.left_out.items()), None)
        why = f"; left out: {first[1].count:,} × {first[0]} ({first[1].places[0]})" if first else ""
        raise DataError(f"no {lacking} that can be imported as {chosen.name}{why}", place=place)


def _left_out_refused(writer: PanelWriter) -> DataError:
    (reason, left_out) = next(iter(writer.left_out.items()))
    return DataError(f"{reason}; nothing is written because of --strict", place=left_out.places[0])


def _told(chosen: Format, sources: Sequence[Path], options: ImportOptions, split: str | None) -> dict[str, Any]:
    return {
        "format": chosen.name,
        "sources": [{"name": source.name, "sha256": _digest(source)} for source in sources],
        "options": {
            "teachers": dict(options.teachers),
            "fields": dict(options.fields),
            "mode": options.mode,
            "split": split,
        },
    }


def _digest(source: Path) -> str:
    """Hash of a file, or of the names and bytes of a folder's files."""
    if source.is_file():
        return _digest_file(source)
    found = {path.relative_to(source).as_posix(): path for path in source.rglob("*") if path.is_file()}
    lines = [f"{name}\0{_digest_file(found[name])}\n" for name in sorted(found)]
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _digest_file(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
