"""Experiments: method x number of teachers x student x seed from one YAML file, and what comes out of it.

The door of the room; like the command line, it may ask, purify and train in turn. Loads nothing heavy.
"""

from kp_train.experiments.config import Sweep, load_sweep
from kp_train.experiments.plan import Cell, Plan, Task, plan_sweep

__all__ = ["Cell", "Plan", "Sweep", "Task", "load_sweep", "plan_sweep"]
