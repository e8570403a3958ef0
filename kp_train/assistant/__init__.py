"""Teaching assistant in the loop: few teacher calls, imperfect teachers, and signals that say what to trust."""

from __future__ import annotations

from kp_train.assistant.options import ASSISTANTS, AssistantOptions
from kp_train.assistant.signals import Thresholds, Vote, threshold_at_recall, vote
from kp_train.assistant.strategies import STRATEGIES, Pool, Strategy, strategy_named

__all__ = [
    "ASSISTANTS",
    "STRATEGIES",
    "AssistantOptions",
    "Pool",
    "Strategy",
    "Thresholds",
    "Vote",
    "strategy_named",
    "threshold_at_recall",
    "vote",
]
