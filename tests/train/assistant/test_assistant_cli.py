"""The options of the command line, and what they mean together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from scripted import world

from kp_data.config import Teacher
from kp_data.errors import ConfigError, DataError, KpError, MethodError
from kp_train.assistant import Thresholds
from kp_train.assistant.teachers import AskedTeachers
from kp_train.cli.assistant import FewCalls, fit_few_calls
from kp_train.fit_options import FitOptions

NOTHING = dict.fromkeys(FewCalls.__slots__)


def few(**given: Any) -> FewCalls:
    """Options, those given."""
    return FewCalls(**{**NOTHING, **given})


@pytest.mark.parametrize(
    ("given", "objective", "error", "says"),
    [
        ({}, "teaching-assistant", ConfigError, "Give --call-budget N"),
        ({"call_budget": 5}, "purified", MethodError, "--call-budget has no effect on objective purified"),
        ({"ask_first": "random"}, "fine-tune", MethodError, "--ask-first has no effect"),
    ],
)
def test_options_and_objective_must_go_together(
    given: dict[str, Any], objective: str, error: type[KpError], says: str
) -> None:
    with pytest.raises(error, match=says):
        few(**given).check(objective)


def test_what_is_not_given_is_the_default_and_what_is_given_holds() -> None:
    options = few(call_budget=7, thresholds="0.7,0.6,0", keep_recall=0.8, samples=3).options()
    assert (options.call_budget, options.samples, options.recall, options.rounds) == (7, 3, 0.8, 1)
    assert options.thresholds == Thresholds(0.7, 0.6, 0.0)
    assert options.assistant == "verifier"


def test_all_calls_in_the_warm_up_need_no_rounds() -> None:
    assert few(call_budget=7, warm_up=1.0).options().rounds == 0
    assert few(call_budget=7, warm_up=1.0, rounds=2).options().rounds == 2


@pytest.mark.parametrize("text", ["0.5", "a,b,c", "0.5,0.5", "1,1,2"])
def test_thresholds_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--thresholds"):
        few(call_budget=7, thresholds=text).options()


def test_a_dataset_without_answers_to_replay_says_whom_to_name(tmp_path: Path) -> None:
    chosen = FitOptions("tiny-t5", "teaching-assistant", log_to=())
    with pytest.raises(DataError, match="name whom to ask with --teacher"):
        fit_few_calls(str(tmp_path), world(120), chosen, few(call_budget=7), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_zero_is_an_option_that_was_given() -> None:
    with pytest.raises(MethodError, match="--rounds has no effect on objective purified"):
        few(rounds=0).check("purified")


def test_what_a_run_is_known_by_holds_no_key(tmp_path: Path) -> None:
    from kp_data.config import Generate

    teacher = Teacher(name="gpt", model="openai/gpt-4o-mini", api_key_env="SECRET_KEY")
    assert "SECRET" not in str(AskedTeachers([teacher], Generate(), [], tmp_path).identity)
