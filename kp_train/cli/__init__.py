"""The program `kp-train`: one thin function a command; what is heavy is imported only when its command runs."""

# isort: off
# Commands stand in the help in the order in which their modules are loaded.
from kp_train.cli.app import app, main
from kp_train.cli import fit, sweep, use, publish, look, calls

__all__ = ["app", "calls", "fit", "look", "main", "publish", "sweep", "use"]
