"""The program `kp-data`: one thin function a command; a room is imported only when its command runs."""

# isort: off
# Commands stand in the help in the order in which their modules are loaded.
from kp_data.cli.app import app, main
from kp_data.cli import ask, importing, purify, publish, hub, practice

__all__ = ["app", "ask", "hub", "importing", "main", "practice", "publish", "purify"]
