"""Fitted routers: what they compute, and how they are kept on disk (JSON and safetensors, never pickle).

Axes: Q questions, T teachers, D embedding size, K projected size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from kp_data.errors import DataError
from kp_data.panel import question_text
from kp_data.purify.embedding import Embedder
from kp_data.purify.protocol import Router
from kp_data.schema import SCHEMA_VERSION, Question
from kp_data.tables import read_json, replacing, write_json

Array = np.ndarray[Any, Any]

ROUTER_JSON: Final = "router.json"
WEIGHTS: Final = "router.safetensors"


@dataclass(frozen=True)
class ConstantRouter:
    """Scores every question alike: `best-single`, and what a router without a proven gain falls back to.

    Attributes:
        teachers: T names.
        scores: one number a teacher, accuracy on train; 0 for one that answered too little of it to be chosen.
        method: the method that was asked for.
    """

    teachers: tuple[str, ...]
    scores: tuple[float, ...]
    method: str

    @classmethod
    def of_accuracies(cls, teachers: tuple[str, ...], accuracy_T: Array, *, method: str) -> ConstantRouter:
        """A router of accuracies, nan where a teacher may not be chosen."""
        return cls(teachers, tuple(np.nan_to_num(accuracy_T, nan=0.0).tolist()), method)

    def route(self, questions: Sequence[Question]) -> tuple[Array, tuple[str, ...]]:
        """(Q, T) float, the same row for each question; the teacher with the highest score."""
        score_QT = np.tile(np.array(self.scores, dtype=float), (len(questions), 1))
        return score_QT, _names(self.teachers, score_QT)

    def save(self, folder: Path) -> None:
        """Write `router.json`."""
        _write_config(folder, kind="constant", method=self.method, teachers=self.teachers, scores=list(self.scores))

    @classmethod
    def load(cls, folder: Path, config: dict[str, Any], embed: Embedder) -> ConstantRouter:
        """A router of what `save` wrote."""
        return cls(tuple(config["teachers"]), tuple(float(value) for value in config["scores"]), config["method"])


@dataclass(frozen=True)
class SimilarityHead:
    """A projection of question embeddings and one embedding a teacher.

    Attributes:
        project_KD, bias_K: float32, the projection.
        teacher_TK: float32, teacher embeddings; only their directions matter.
        temperature: divides the cosines.
    """

    project_KD: Array
    bias_K: Array
    teacher_TK: Array
    temperature: float

    def score(self, question_QD: Array) -> Array:
        """(Q, T) float64, softmax over teachers of cosine / temperature; each row sums to 1."""
        similarity_QT = _unit(question_QD @ self.project_KD.T + self.bias_K) @ _unit(self.teacher_TK).T
        shifted_QT = similarity_QT.astype(np.float64) / self.temperature
        weight_QT = np.exp(shifted_QT - shifted_QT.max(axis=1, keepdims=True, initial=-np.inf))
        return np.asarray(weight_QT / weight_QT.sum(axis=1, keepdims=True))

    @property
    def num_parameters(self) -> int:
        """Of projection and teacher embeddings."""
        return self.project_KD.size + self.bias_K.size + self.teacher_TK.size


@dataclass(frozen=True)
class SimilarityRouter:
    """Chooses the teacher whose embedding is nearest to the question's."""

    teachers: tuple[str, ...]
    head: SimilarityHead
    embed: Embedder = field(repr=False)
    method: str = "similarity-router"

    def route(self, questions: Sequence[Question]) -> tuple[Array, tuple[str, ...]]:
        """(Q, T) float, probability of each teacher; the most probable one."""
        question_QD = self.embed([question_text(question) for question in questions])
        if question_QD.shape[1] != self.head.project_KD.shape[1]:
            message = f"fitted on embeddings of size {self.head.project_KD.shape[1]}, but {self.embed.encoder!r} gives"
            raise DataError(f"{message} {question_QD.shape[1]}; fit the router again with this encoder", place="router")
        score_QT = self.head.score(question_QD)
        return score_QT, _names(self.teachers, score_QT)

    def save(self, folder: Path) -> None:
        """Write `router.json` and `router.safetensors`."""
        from safetensors.numpy import save_file

        head = self.head
        weights = {"project": head.project_KD, "bias": head.bias_K, "teacher": head.teacher_TK}
        with replacing(folder / WEIGHTS) as temporary:
            save_file(
                {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in weights.items()}, temporary
            )
        _write_config(
            folder,
            kind="similarity",
            method=self.method,
            teachers=self.teachers,
            encoder=self.embed.encoder,
            temperature=head.temperature,
        )

    @classmethod
    def load(cls, folder: Path, config: dict[str, Any], embed: Embedder) -> SimilarityRouter:
        """A router of what `save` wrote."""
        from safetensors.numpy import load_file

        weights = load_file(folder / WEIGHTS)
        head = SimilarityHead(weights["project"], weights["bias"], weights["teacher"], float(config["temperature"]))
        teachers = tuple(config["teachers"])
        if head.teacher_TK.shape[0] != len(teachers) or head.project_KD.shape[0] != head.teacher_TK.shape[1]:
            raise ValueError(f"{len(teachers)} teachers, but weights for {head.teacher_TK.shape[0]}")
        return cls(teachers, head, embed, config["method"])


_LOADERS: Final[dict[str, Callable[[Path, dict[str, Any], Embedder], Router]]] = {
    "constant": ConstantRouter.load,
    "similarity": SimilarityRouter.load,
}


def load_router(folder: Path, *, batch_size: int = 64, device: str | None = None) -> Router:
    """The router that a purified folder holds.

    Args:
        folder: a purified folder, or its `router/`.
        batch_size, device: for embedding questions.

    Raises:
        DataError: there is no router, or its files are broken or of a later version.
    """
    folder = Path(folder)
    home = folder / "router" if (folder / "router").is_dir() else folder
    if not (home / ROUTER_JSON).is_file():
        raise DataError(
            "no fitted router here; make one with `kp-data purify PANEL --method similarity-router`", place=folder
        )
    config = read_json(home / ROUTER_JSON)
    place = home / ROUTER_JSON
    if not isinstance(config, dict) or config.get("kind") not in _LOADERS:
        raise DataError(f"a router of an unknown kind; known: {', '.join(_LOADERS)}", place=place)
    if config.get("schema_version") != SCHEMA_VERSION:
        raise DataError(
            f"schema version {config.get('schema_version')}, but this program reads {SCHEMA_VERSION}", place=place
        )
    embed = Embedder(str(config.get("encoder", "minilm")), batch_size=batch_size, device=device)
    try:
        return _LOADERS[config["kind"]](home, config, embed)
    except Exception as error:
        # safetensors raises its own kind, and a hand-edited file can fail in many ways: all mean the same to the user.
        raise DataError(f"a broken router ({type(error).__name__}: {error}); fit it again", place=home) from error


def _write_config(folder: Path, *, kind: str, method: str, teachers: tuple[str, ...], **rest: object) -> None:
    head = {"schema_version": SCHEMA_VERSION, "kind": kind, "method": method, "teachers": list(teachers)}
    write_json({**head, **rest}, folder / ROUTER_JSON)


def _names(teachers: tuple[str, ...], score_QT: Array) -> tuple[str, ...]:
    return tuple(teachers[column] for column in score_QT.argmax(axis=1))


def _unit(rows: Array) -> Array:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))
