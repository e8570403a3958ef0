"""The methods by name, their options, and whether a panel holds what one needs."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final, get_type_hints

from kp_data.errors import ConfigError, MethodError
from kp_data.panel import NONE, Panel
from kp_data.purify.aggregation import AGGREGATION
from kp_data.purify.baselines import ALL, BEST_SINGLE, MAJORITY, ORACLE, RANDOM
from kp_data.purify.consensus import CONSENSUS
from kp_data.purify.plackett_luce import PLACKETT_LUCE
from kp_data.purify.plm_classifier import PLM_CLASSIFIER
from kp_data.purify.protocol import FitData, Method, MethodInfo
from kp_data.purify.similarity_router import SIMILARITY_ROUTER
from kp_data.purify.teacher_selection import TEACHER_SELECTION
from kp_data.purify.verified import VERIFIER
from kp_data.purify.weighted_vote import WEIGHTED_VOTE

METHODS: Final[Mapping[str, Method]] = {
    method.info.name: method
    for method in (
        SIMILARITY_ROUTER,
        PLACKETT_LUCE,
        PLM_CLASSIFIER,
        RANDOM,
        BEST_SINGLE,
        MAJORITY,
        WEIGHTED_VOTE,
        ORACLE,
        ALL,
        AGGREGATION,
        TEACHER_SELECTION,
        CONSENSUS,
        VERIFIER,
    )
}


_TRUTH: Final = {"true": True, "yes": True, "false": False, "no": False}


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
        if isinstance(value, bool) != (accepted is bool) or not isinstance(value, accepted):
            raise ConfigError(f"{value!r} is not {types[name].__name__}", place=place)
    # An integer given for a float must not make another run.json than the float.
    return method.options(**{name: float(value) if types[name] is float else value for name, value in given.items()})


def read_options(method: Method, given: Mapping[str, str]) -> dict[str, Any]:
    """Options as the command line writes them, as values of the types that `make_options` wants.

    Raises: ConfigError, when a text cannot be of its option's type. Unknown names are left to `make_options`.

    >>> read_options(METHODS["aggregation"], {"examples": "3", "show_gold": "no"})
    {'examples': 3, 'show_gold': 'no'}
    """
    types = get_type_hints(method.options)
    read: dict[str, Any] = {}
    for name, text in given.items():
        wanted = types.get(name, str)
        try:
            read[name] = _TRUTH[text.lower()] if wanted is bool else wanted(text) if wanted in (int, float) else text
        except (ValueError, KeyError) as error:
            raise ConfigError(
                f"{text!r} is not {wanted.__name__}", place=f"{method.info.name} option '{name}'"
            ) from error
    return read


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
