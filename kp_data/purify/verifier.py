"""Verifier: a cross-encoder that reads question, answer and rationale, and says how likely the answer is right.

`fit_verifier` and `Verifier.score` stand on their own: they take claims and give probabilities. As a method, verifiers
are fitted crosswise, each on a part of the training questions, so that no question is judged by one that has seen its
gold answer.

Axes: N claims, Q questions, T teachers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from kp_data.errors import ConfigError, DataError, MethodError
from kp_data.purify.calibration import Platt, fit_platt, log_loss
from kp_data.purify.encoders import MINILM
from kp_data.purify.protocol import Progress, quiet
from kp_data.purify.verifier_input import LEAST_TOKENS, Claim, ClaimReader
from kp_data.schema import SCHEMA_VERSION, Question
from kp_data.tables import read_json, write_json

if TYPE_CHECKING:
    from kp_data.purify.fine_tuning import Schedule
    from kp_data.purify.verifier_network import VerifierNetwork

Array = np.ndarray[Any, Any]

NAME: Final = "verifier"
VERIFIER_JSON: Final = "verifier.json"
HEAD_RATE: Final = 1e-3
LEAST_TO_CALIBRATE: Final = 50
"""Validation claims below which probabilities are left as the network gives them."""


@dataclass(frozen=True, slots=True)
class VerifierOptions:
    """How a verifier is built and trained.

    Attributes:
        encoder: `minilm`, or a path or hub id of an encoder of transformers.
        max_tokens: of question, answer, other choices and rationale together; the end of the rationale is kept.
        frozen_layers: lowest layers that keep their weights.
        epochs: at most; the one with the lowest validation loss is kept.
        learning_rate, weight_decay: of AdamW.
        batch_size: claims a step, whole questions together.
        choice_weight: of the loss of choosing among the claims about one question; 0: claims alone.
        max_questions: drawn from the training questions on which some claim is right and another wrong; 0: all.
        folds: verifiers that are fitted crosswise when it is used as a method.
    """

    encoder: str = MINILM
    max_tokens: int = 128
    frozen_layers: int = 3
    epochs: int = 2
    learning_rate: float = 2e-4
    weight_decay: float = 0.01
    batch_size: int = 32
    choice_weight: float = 1.0
    max_questions: int = 0
    folds: int = 2

    def __post_init__(self) -> None:
        may_be_zero = ("frozen_layers", "weight_decay", "choice_weight", "max_questions")
        least = {"max_tokens": LEAST_TOKENS, "folds": 2}
        for option in fields(self):
            value = getattr(self, option.name)
            if option.name == "encoder":
                continue
            low = value < 0 or (value == 0 and option.name not in may_be_zero) or value < least.get(option.name, value)
            if low:
                raise ConfigError(f"{value} is too small", place=f"{NAME} option '{option.name}'")


@dataclass(frozen=True)
class Verifier:
    """A fitted verifier.

    Attributes:
        network: the trained network.
        reader: from claims to tokens.
        platt: from its scores to probabilities.
        options: how it was fitted.
        facts: how fitting went, as JSON values.
    """

    network: VerifierNetwork
    reader: ClaimReader
    platt: Platt
    options: VerifierOptions
    facts: dict[str, Any]

    def score(
        self, questions: Sequence[Question], rationales: Sequence[str | None], answers: Sequence[str | None]
    ) -> Array:
        """How likely each answer is right.

        Args:
            questions: N questions, one a claim; gold answers are not read.
            rationales: N texts; None or "": no rationale.
            answers: N answer texts; None: none was read.

        Returns: (N,) float, probabilities.
        """
        triples = zip(questions, rationales, answers, strict=True)
        claims = [Claim(question, rationale or "", answer or "") for question, rationale, answer in triples]
        return self.platt(self.log_odds(claims))

    def log_odds(self, claims: Sequence[Claim], progress: Progress = quiet) -> Array:
        """(N,) float, uncalibrated log-odds of each claim."""
        rows = self.reader.encode(claims)
        return self.network.score(rows, lambda done, total: progress("verifying", done, total))

    @property
    def num_parameters(self) -> int:
        """Parameters of the network."""
        return self.network.num_parameters

    def save(self, folder: Path) -> None:
        """Write `verifier.json`, `verifier.safetensors`, and the encoder with its tokenizer.

        Args:
            folder: an existing folder.
        """
        reader = self.network.save(folder)
        described = {"options": asdict(self.options), "platt": asdict(self.platt), "facts": self.facts}
        write_json(
            {"schema_version": SCHEMA_VERSION, "kind": NAME, "reader": reader, **described}, folder / VERIFIER_JSON
        )


def load_verifier(folder: Path, *, device: str | None = None) -> Verifier:
    """The verifier that `Verifier.save` wrote; nothing in the folder is run.

    Raises: DataError, when there is none, or its files are broken or of a later version.
    """
    folder = Path(folder)
    if not (folder / VERIFIER_JSON).is_file():
        raise DataError("no verifier here; fit one and save it with Verifier.save", place=folder)
    described = read_json(folder / VERIFIER_JSON)
    if not isinstance(described, dict) or described.get("kind") != NAME:
        raise DataError("not the description of a verifier", place=folder / VERIFIER_JSON)
    if described.get("schema_version") != SCHEMA_VERSION:
        raise DataError(
            f"schema version {described.get('schema_version')}, but this program reads {SCHEMA_VERSION}",
            place=folder / VERIFIER_JSON,
        )
    from kp_data.purify.verifier_network import VerifierNetwork

    try:
        options = VerifierOptions(**described["options"])
        network = VerifierNetwork.load(folder, described["reader"], device=device)
        reader = ClaimReader(network.encoder.tokenizer, network.encoder.max_tokens)
        return Verifier(network, reader, Platt(**described["platt"]), options, dict(described["facts"]))
    except Exception as error:
        # safetensors and transformers raise their own kinds: all mean the same to the user.
        raise DataError(f"a broken verifier ({type(error).__name__}: {error}); fit it again", place=folder) from error


def fit_verifier(
    train: Sequence[Claim],
    right_N: Array,
    validation: Sequence[Claim],
    validation_right_N: Array,
    *,
    options: VerifierOptions | None = None,
    seed: int = 0,
    device: str | None = None,
    progress: Progress = quiet,
) -> Verifier:
    """Train a verifier, keep its best epoch on validation, and calibrate it there.

    Only questions with a right and a wrong claim are trained on: they teach what sets the two apart, at half the cost.
    How often claims are right at large is put back by the calibration.

    Args:
        train: claims; those about one question compete.
        right_N: (N,) bool, whether each is right.
        validation: claims about other questions.
        validation_right_N: bool, whether each is right.
        options: how; default: `VerifierOptions()`.
        seed: of drawing, dropout and the order of training.
        device: torch device; default: CUDA where there is one, else CPU.
        progress: told how far training is.

    Raises:
        MethodError: no training question has a right and a wrong claim.
        ConfigError: the encoder cannot be loaded.
    Source: own; a verifier that ranks solutions, Cobbe et al. 2021 (arXiv:2110.14168).
    """
    options = options or VerifierOptions()
    chosen = contested(train, right_N, options.max_questions, seed)
    if not len(chosen):
        raise MethodError(
            "on no training question is one rationale right and another wrong; ask more questions or more teachers",
            place=NAME,
        )
    from kp_data.purify.verifier_network import Lesson, VerifierNetwork

    network = VerifierNetwork.start(options.encoder, device, max_tokens=options.max_tokens)
    reader = ClaimReader(network.encoder.tokenizer, network.encoder.max_tokens)
    groups = {question_id: number for number, question_id in enumerate(dict.fromkeys(c.question.id for c in train))}
    lesson = Lesson(
        reader.encode([train[row] for row in chosen]),
        np.asarray(right_N, dtype=bool)[chosen],
        np.array([groups[train[row].question.id] for row in chosen]),
    )
    checked_rows, checked_N = reader.encode(validation), np.asarray(validation_right_N, dtype=bool)
    calibrates = len(validation) >= LEAST_TO_CALIBRATE
    fits: list[Platt] = []

    def validate() -> float:
        if not calibrates:
            # Nothing to select on: each epoch passes for better than the last.
            fits.append(Platt())
            return -float(len(fits))
        score_N = network.score(checked_rows, lambda done, total: None)
        if not np.isfinite(score_N).all():
            fits.append(Platt())
            return float("nan")
        fits.append(fit_platt(score_N, checked_N))
        return log_loss(fits[-1](score_N), checked_N)

    history = network.fit(
        lesson,
        _schedule(options),
        choice_weight=options.choice_weight,
        seed=seed,
        validate=validate,
        progress=lambda done, total: progress("training the verifier", done, total),
    )
    best = int(np.nanargmin(history))
    facts = {
        "num_claims": len(chosen),
        "num_questions": len(np.unique(lesson.group_N)),
        "best_epoch": best + 1,
        "validation_log_loss": [round(loss, 6) for loss in history] if calibrates else None,
        "calibrated_on": len(validation) if calibrates else 0,
    }
    return Verifier(network, reader, fits[best], options, facts)


def contested(claims: Sequence[Claim], right_N: Array, max_questions: int, seed: int) -> Array:
    """Numbers of the claims about questions on which one is right and another wrong.

    Args:
        claims, right_N: as for `fit_verifier`.
        max_questions: draw no more questions; 0: take all.
        seed: of the draw.
    """
    outcomes: dict[str, set[bool]] = {}
    for claim, right in zip(claims, right_N, strict=True):
        outcomes.setdefault(claim.question.id, set()).add(bool(right))
    mixed = [question_id for question_id, seen in outcomes.items() if len(seen) == 2]
    if max_questions and len(mixed) > max_questions:
        drawn = np.random.default_rng(seed).permutation(len(mixed))[:max_questions]
        mixed = [mixed[number] for number in sorted(drawn.tolist())]
    taken = set(mixed)
    return np.array([number for number, claim in enumerate(claims) if claim.question.id in taken], dtype=int)


def _schedule(options: VerifierOptions) -> Schedule:
    from kp_data.purify.fine_tuning import Schedule

    return Schedule(
        encoder_learning_rate=options.learning_rate,
        head_learning_rate=HEAD_RATE,
        weight_decay=options.weight_decay,
        batch_size=options.batch_size,
        max_epochs=options.epochs,
        patience=options.epochs,
        frozen_layers=options.frozen_layers,
        decay="cosine",
    )
