"""Losses: token losses, and the one place where they are normalised."""

from kp_train.losses.normaliser import REDUCTIONS, Reduction, count_units, normalised_loss

__all__ = ["REDUCTIONS", "Reduction", "count_units", "normalised_loss"]
