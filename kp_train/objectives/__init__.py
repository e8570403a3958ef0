"""Objectives: one small file each, from a row to its weighted targets."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from kp_data.errors import ConfigError
from kp_train.objectives.confidence import weigh_by_score
from kp_train.objectives.fine_tune import FINE_TUNE
from kp_train.objectives.objective import Objective, Weights
from kp_train.objectives.purified import PURIFIED
from kp_train.objectives.step_by_step import STEP_BY_STEP
from kp_train.objectives.teaching_assistant import TEACHING_ASSISTANT
from kp_train.objectives.tinyllm import TINYLLM

__all__ = ["OBJECTIVES", "Objective", "Weights", "objective_named", "weigh_by_score"]

OBJECTIVES: Mapping[str, Objective] = MappingProxyType(
    {objective.name: objective for objective in (FINE_TUNE, STEP_BY_STEP, TINYLLM, PURIFIED, TEACHING_ASSISTANT)}
)


def objective_named(name: str) -> Objective:
    """The objective of that name.

    Raises:
        ConfigError: there is none; names those there are.
    """
    if name not in OBJECTIVES:
        raise ConfigError(f"no objective {name!r}; there are {', '.join(OBJECTIVES)}", place="--objective")
    return OBJECTIVES[name]
