"""The options of the similarity router, apart from it so that reading them does not load torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

from kp_data.errors import ConfigError

NAME: Final = "similarity-router"


@dataclass(frozen=True, slots=True)
class SimilarityOptions:
    """How the router is built and trained.

    Temperature, cluster weight and the number of negatives are RouterDC's; for the rest, values were compared by
    cross-validation on training and validation questions of MMLU-Pro. Sharing labels and local skill mattered most.

    Attributes:
        projected_size: dimensions of the space that questions and teachers share.
        temperature: divides the cosines, in the loss and in the scores.
        dropout: on question embeddings, while training.
        cluster_weight: of the loss that pulls questions of one cluster together; 0 leaves it out.
        num_clusters: text clusters, by k-means on the question embeddings.
        num_negatives: questions of other clusters that a question is compared with.
        learning_rate, weight_decay, batch_size, max_epochs: of AdamW.
        patience: epochs without a better validation accuracy before training stops.
        neighbour_share: share of the training questions, at most 200 of them, over whose nearest the labels of a
            question are averaged; 0: every question has its own labels alone, as in the papers.
        skill_weight: of the log-odds with which each teacher was right on the nearest training questions (the same
            share, at most 100), added to the cosines; 0 leaves them out, as in the papers. Not used with `tuned`.
        tuned: 1 trains the encoder too, as in the papers: minutes instead of seconds.
        encoder: that is tuned; `minilm` (packaged), or a path or hub id, such as `microsoft/mdeberta-v3-base`.
        encoder_learning_rate, tuned_epochs, frozen_layers, max_tokens: of a tuned encoder.
        min_gain_errors: standard errors by which the router must beat the best single teacher on validation.
    """

    projected_size: int = 128
    temperature: float = 1.0
    dropout: float = 0.1
    cluster_weight: float = 1.0
    num_clusters: int = 8
    num_negatives: int = 3
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    batch_size: int = 64
    max_epochs: int = 20
    patience: int = 8
    neighbour_share: float = 0.05
    skill_weight: float = 1.0
    tuned: int = 0
    encoder: str = "minilm"
    encoder_learning_rate: float = 5e-5
    tuned_epochs: int = 4
    frozen_layers: int = 0
    max_tokens: int = 512
    min_gain_errors: float = 1.0

    def __post_init__(self) -> None:
        may_be_zero = (
            "dropout",
            "cluster_weight",
            "weight_decay",
            "neighbour_share",
            "skill_weight",
            "tuned",
            "frozen_layers",
            "min_gain_errors",
        )
        for option in fields(self):
            value = getattr(self, option.name)
            if not isinstance(value, str) and (value < 0 or (value == 0 and option.name not in may_be_zero)):
                raise ConfigError(f"{value} is too small", place=f"{NAME} option '{option.name}'")
        if self.tuned > 1:
            raise ConfigError(f"{self.tuned} is neither 0 nor 1", place=f"{NAME} option 'tuned'")
        if self.neighbour_share > 1:
            raise ConfigError("more than all questions; give at most 1", place=f"{NAME} option 'neighbour_share'")
        if self.dropout >= 1:
            raise ConfigError(f"{self.dropout} drops everything; give less than 1", place=f"{NAME} option 'dropout'")
