"""Losses: of tokens through the head, and the one place where they are normalised."""

from kp_train.losses.head import head_losses
from kp_train.losses.normaliser import REDUCTIONS, Reduction, count_units, losses_of_tasks, normalised_loss

__all__ = ["REDUCTIONS", "Reduction", "count_units", "head_losses", "losses_of_tasks", "normalised_loss"]
