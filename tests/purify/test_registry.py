"""The registry: names, options, and a door that is light to open."""

import subprocess
import sys

import pytest

from kp_data.errors import ConfigError
from kp_data.purify import METHODS, find_method, methods
from kp_data.purify.registry import make_options, read_options


def test_every_method_says_what_it_is_and_where_it_comes_from():
    for info in methods():
        assert METHODS[info.name].info is info
        assert info.summary
        assert info.source == "own" or "arXiv:" in info.source
        assert (info.evidence == "own") == (info.source == "own")
        assert info.kind != "baseline" or not info.trained


def test_an_unknown_method_is_answered_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"'best_single'; did you mean 'best-single'\?; there are similarity-router"):
        find_method("best_single")


def test_an_unknown_option_is_answered_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"option 'temprature': unknown; did you mean 'temperature'\?"):
        make_options(find_method("similarity-router"), {"temprature": 1.0})
    with pytest.raises(ConfigError, match="the method has none"):
        make_options(find_method("random"), {"temperature": 1.0})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", "hot"),
        ("max_epochs", 2.5),
        ("patience", True),
        ("temperature", 0),
        ("dropout", 1.0),
        ("patience", -1),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_the_name_of_its_option(name, value):
    with pytest.raises(ConfigError, match=f"similarity-router option '{name}'"):
        make_options(find_method("similarity-router"), {name: value})


def test_a_whole_number_will_do_for_a_fraction():
    options = make_options(find_method("similarity-router"), {"temperature": 2})
    assert isinstance(options.temperature, float)


def test_options_written_as_text_take_the_types_of_their_options():
    method = find_method("teacher-selection")
    read = read_options(method, {"rounds": "2", "policy_rate": "1e-1", "reward": "paper", "unheard": "of"})
    assert read == {"rounds": 2, "policy_rate": 0.1, "reward": "paper", "unheard": "of"}
    with pytest.raises(ConfigError, match=r"teacher-selection option 'rounds': '2.5' is not int"):
        read_options(method, {"rounds": "2.5"})


def test_opening_the_door_loads_no_heavy_library():
    heavy = ["torch", "transformers", "sentence_transformers", "sklearn", "faiss", "pandas", "datasets", "litellm"]
    code = f"import sys, kp_data.purify; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
