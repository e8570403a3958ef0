"""The methods by name, their options, and whether a panel holds what one needs."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final, get_type_hints

from kp_data.errors import ConfigError, MethodError
from kp_data.panel import NONE, Panel
from kp_data.purify.baselines import ALL, BEST_SINGLE, MAJORITY, ORACLE, RANDOM
from kp_data.purify.protocol import FitData, Method, MethodInfo
from kp_data.purify.similarity_router import SIMILARITY_ROUTER

METHODS: Final[Mapping[str, Method]] = {
    method.info.name: method for method in (SIMILARITY_ROUTER, RANDOM, BEST_SINGLE, MAJORITY, ORACLE, ALL)
}


def methods() -> tuple[MethodInfo, ...]:
    """What there is, for `kp-data methods`."""
    return tuple(method.info for method in METHODS.values())


def find_method(name: str) -> Method:
    """The method of a name.

    Raises: ConfigError, when there is none; names the nearest and all there are.
    """
    if name not in METHODS:
        raise ConfigError(f"unknown method {name!r}{_nearest(name, list(METHODS))}; there are {', '.join(METHODS)}")
    return METHODS[name]


def make_options(method: Method, given: Mapping[str, Any]) -> Any:
    """The options of a method, checked.

    Args:
        method: whose options.
        given: option name to value; the rest take the method's defaults.

    Raises: ConfigError, when an option is unknown or of another type.
    """
    types = get_type_hints(method.options)
    names = [option.name for option in fields(method.options)]
    for name, value in given.items():
        place = f"{method.info.name} option '{name}'"
        if name not in names:
            there = f"there are {', '.join(names)}" if names else "the method has none"
            raise ConfigError(f"unknown{_nearest(name, names)}; {there}", place=place)
        accepted = (int, float) if types[name] is float else types[name]
        if isinstance(value, bool) or not isinstance(value, accepted):
            raise ConfigError(f"{value!r} is not {types[name].__name__}", place=place)
    # An integer given for a float must not make another run.json than the float.
    return method.options(**{name: float(value) if types[name] is float else value for name, value in given.items()})


def check_needs(method: Method, panel: Panel, data: FitData) -> None:
    """Refuse a method on a panel that lacks what it needs.

    Raises: MethodError; says what is missing and what to do instead.
    """
    needs, name = method.info.needs, method.info.name
    if "rationales" in needs and not panel.has_rationale_QT.any():
        raise MethodError("no teacher gave a rationale to any question; see `kp-data status`", place=name)
    if "blind answers" in needs and "blind" not in panel.modes:
        raise MethodError(
            "this panel has teacher-forced rationales only: their stated answers equal the gold and carry no signal; "
            "run `kp-data generate` with --mode blind (or both), or take method 'random' or 'all'",
            place=name,
        )
    if "train labels" in needs and not (data.whole_train.gold_Q != NONE).any():
        splits = ", ".join(sorted(set(panel.split_Q)))
        raise MethodError(
            f"no question of split 'train' has a label to learn from (splits here: {splits}); add gold answers, "
            "learn from --labels agreement, or take method 'majority', 'random' or 'all'",
            place=name,
        )
    if "gold of every question" in needs and not (panel.gold_Q != NONE).any():
        raise MethodError("no question has a gold answer; take method 'majority', 'random' or 'all'", place=name)


def _nearest(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
