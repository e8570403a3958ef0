"""Fitted routers: what they compute, and how they are kept on disk (JSON and safetensors, never pickle).

Axes: Q questions, T teachers, D embedding size, K projected size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from kp_data.errors import DataError, KpError
from kp_data.panel import question_text
from kp_data.purify.embedding import Embedder
from kp_data.purify.local_skill import LocalSkill
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
        return score_QT, names_of_best(self.teachers, score_QT)

    def save(self, folder: Path) -> None:
        """Write `router.json`."""
        write_config(folder, kind="constant", method=self.method, teachers=self.teachers, scores=list(self.scores))

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
        return softmax(similarity_QT.astype(np.float64) / self.temperature)

    @property
    def num_parameters(self) -> int:
        """Of projection and teacher embeddings."""
        return self.project_KD.size + self.bias_K.size + self.teacher_TK.size


class TextEncoder(Protocol):
    """Texts to (N, D) float32: a frozen `Embedder`, or a fine-tuned encoder."""

    @property
    def num_parameters(self) -> int: ...

    encoder: str

    def __call__(self, texts: Sequence[str]) -> Array: ...


@dataclass(frozen=True)
class SimilarityRouter:
    """Chooses the teacher whose embedding is nearest to the question's.

    Attributes:
        teachers: T names.
        head: projection and teacher embeddings.
        embed: question texts to vectors.
        skill: added to the cosines, where the router has it.
        method: the method that was asked for.
    """

    teachers: tuple[str, ...]
    head: SimilarityHead
    embed: TextEncoder = field(repr=False)
    skill: LocalSkill | None = field(default=None, repr=False)
    method: str = "similarity-router"

    def route(self, questions: Sequence[Question]) -> tuple[Array, tuple[str, ...]]:
        """(Q, T) float, probability of each teacher; the most probable one."""
        question_QD = self.embed([question_text(question) for question in questions])
        check_size(self.head.project_KD.shape[1], question_QD, self.embed.encoder)
        score_QT = self.score(question_QD)
        return score_QT, names_of_best(self.teachers, score_QT)

    def score(self, question_QD: Array) -> Array:
        """(Q, T) float64, probability of each teacher: softmax of cosine / temperature, plus local skill."""
        score_QT = self.head.score(question_QD)
        return score_QT if self.skill is None else softmax(np.log(score_QT) + self.skill.log_odds(question_QD))

    def save(self, folder: Path) -> None:
        """Write `router.json` and `router.safetensors`."""
        head = self.head
        weights = {"project": head.project_KD, "bias": head.bias_K, "teacher": head.teacher_TK}
        skill: dict[str, Any] = {}
        if self.skill is not None:
            weights |= {"known": self.skill.known_KD, "right": self.skill.right_KT, "wrong": self.skill.wrong_KT}
            skill = {"skill": {"count": self.skill.count, "weight": self.skill.weight}}
        write_weights(folder, weights)
        write_config(
            folder,
            kind="similarity",
            method=self.method,
            teachers=self.teachers,
            temperature=head.temperature,
            **skill,
            **reader_config(self.embed, folder),
        )

    @classmethod
    def load(cls, folder: Path, config: dict[str, Any], embed: TextEncoder) -> SimilarityRouter:
        """A router of what `save` wrote."""
        teachers = tuple(config["teachers"])
        axes = {"project": "KD", "bias": "K", "teacher": "TK"}
        if given := config.get("skill"):
            axes |= {"known": "ND", "right": "NT", "wrong": "NT"}
        weights = read_weights(folder, axes, T=len(teachers))
        skill = None
        if given:
            known_KD, right_KT, wrong_KT = weights["known"], weights["right"], weights["wrong"]
            skill = LocalSkill(known_KD, right_KT, wrong_KT, int(given["count"]), float(given["weight"]))
        head = SimilarityHead(weights["project"], weights["bias"], weights["teacher"], float(config["temperature"]))
        return cls(teachers, head, embed, skill, config["method"])


def _loaders() -> Mapping[str, Callable[[Path, dict[str, Any], Any], Router]]:
    # Imported here, because these modules themselves need this one.
    from kp_data.purify.plackett_luce import PlackettLuceRouter
    from kp_data.purify.plm_classifier import ClassifierRouter

    return {
        "constant": ConstantRouter.load,
        "similarity": SimilarityRouter.load,
        "plackett-luce": PlackettLuceRouter.load,
        "plm-classifier": ClassifierRouter.load,
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
    loaders = _loaders()
    if not isinstance(config, dict) or config.get("kind") not in loaders:
        raise DataError(f"a router of an unknown kind; known: {', '.join(loaders)}", place=place)
    if config.get("schema_version") != SCHEMA_VERSION:
        raise DataError(
            f"schema version {config.get('schema_version')}, but this program reads {SCHEMA_VERSION}", place=place
        )
    try:
        return loaders[config["kind"]](home, config, _reader(home, config, batch_size, device))
    except KpError:
        raise
    except Exception as error:
        # safetensors raises its own kind, and a hand-edited file can fail in many ways: all mean the same to the user.
        raise DataError(f"a broken router ({type(error).__name__}: {error}); fit it again", place=home) from error


def _reader(home: Path, config: dict[str, Any], batch_size: int, device: str | None) -> Any:
    """What turns questions into vectors: an encoder by name, or the fine-tuned one that was saved along."""
    if "tuned" not in config:
        return Embedder(str(config.get("encoder", "minilm")), batch_size=batch_size, device=device)
    from kp_data.purify.fine_tuning import TunedEncoder

    return TunedEncoder.load(home, config["tuned"], device=device, batch_size=batch_size)


def reader_config(embed: TextEncoder, folder: Path) -> dict[str, Any]:
    """How a router's own reader is found again: the encoder's name, or a fine-tuned one, which is saved along."""
    save = getattr(embed, "save", None)
    return {"tuned": save(folder)} if save is not None else {"encoder": embed.encoder}


def write_config(folder: Path, *, kind: str, method: str, teachers: tuple[str, ...], **rest: object) -> None:
    """Write `router.json`."""
    head = {"schema_version": SCHEMA_VERSION, "kind": kind, "method": method, "teachers": list(teachers)}
    write_json({**head, **rest}, folder / ROUTER_JSON)


def write_weights(folder: Path, weights: Mapping[str, Array]) -> None:
    """Write `router.safetensors`, as float32."""
    from safetensors.numpy import save_file

    arrays = {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in weights.items()}
    with replacing(folder / WEIGHTS) as temporary:
        save_file(arrays, temporary)


def read_weights(folder: Path, axes: Mapping[str, str], **sizes: int) -> dict[str, Array]:
    """What `write_weights` wrote.

    Args:
        folder: of the router.
        axes: name to its axes, a letter each; axes of the same letter must have the same size.
        sizes: of axes that are known beforehand.

    Raises: ValueError, when an array is missing or its shape does not fit the others.
    """
    from safetensors.numpy import load_file

    weights: dict[str, Array] = load_file(folder / WEIGHTS)
    for name, letters in axes.items():
        shape = weights[name].shape if name in weights else None
        if shape is None or len(shape) != len(letters):
            raise ValueError(f"{name!r} is missing or has other axes than {letters}")
        for letter, size in zip(letters, shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                raise ValueError(f"{name!r} has {size} along {letter}, but {sizes[letter]} is expected")
    return weights


def check_size(size: int, question_QD: Array, encoder: str) -> None:
    """Refuse embeddings of another size than a router was fitted on.

    Raises: DataError.
    """
    if question_QD.shape[1] != size:
        message = f"fitted on embeddings of size {size}, but {encoder!r} gives {question_QD.shape[1]}"
        raise DataError(f"{message}; fit the router again with this encoder", place="router")


def softmax(logit_QT: Array) -> Array:
    """(Q, T) float, each row to shares that sum to 1."""
    weight_QT = np.exp(logit_QT - logit_QT.max(axis=1, keepdims=True, initial=-np.inf))
    return np.asarray(weight_QT / weight_QT.sum(axis=1, keepdims=True))


def names_of_best(teachers: tuple[str, ...], score_QT: Array) -> tuple[str, ...]:
    """The teacher of the highest score for each question; of equals the first."""
    return tuple(teachers[column] for column in score_QT.argmax(axis=1))


def _unit(rows: Array) -> Array:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))
