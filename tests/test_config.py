"""kp.yaml and teacher options: what is said of a mistake."""

from pathlib import Path

import pytest

from kp_data.config import (
    EXAMPLE,
    Generate,
    load_config,
    parse_teacher,
    pick_teachers,
    set_for_teachers,
    with_options,
)
from kp_data.errors import ConfigError


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "kp.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_example_that_init_writes_is_valid(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, EXAMPLE))
    assert [teacher.model for teacher in config.teachers] == ["practice/ada"]
    uncommented = EXAMPLE.replace("# - name", "- name").replace("  #   ", "    ")
    assert len(load_config(write(tmp_path, uncommented)).teachers) == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "teachers:\n  - name: a\n    model: m\n    temprature: 1\n",
            "kp.yaml:4: unknown key 'teachers[0].temprature'; did you mean 'temperature'?",
        ),
        ("generate:\n  concurency: 3\n", "kp.yaml:2: unknown key 'generate.concurency'; did you mean 'concurrency'?"),
        ("generate:\n  samples: 0\n", "kp.yaml:2: generate.samples: "),
        ("teachers:\n- name: a b\n  model: m\n", "kp.yaml:2: teachers[0].name: "),
        ("teachers: [\n", "not valid YAML"),
        ("- 1\n", "must hold keys"),
        ("generate:\n  mode: loud\n", "kp.yaml:2: generate.mode: "),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_line_and_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text))
    assert message in str(caught.value)


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="kp-data init"):
        load_config(tmp_path / "none.yaml")


def test_yaml_never_builds_objects(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        load_config(write(tmp_path, "teachers: !!python/object/apply:os.system [echo]\n"))


@pytest.mark.parametrize(
    ("text", "name", "model", "base"),
    [
        ("gpt=openai/gpt-4o-mini", "gpt", "openai/gpt-4o-mini", None),
        ("l=meta-llama/L@http://localhost:8000/v1", "l", "meta-llama/L", "http://localhost:8000/v1"),
        ("v=vertex/claude@20250101", "v", "vertex/claude@20250101", None),
        ("practice/ada", "ada", "practice/ada", None),
    ],
)
def test_teacher_options_are_read(text: str, name: str, model: str, base: str | None) -> None:
    teacher = parse_teacher(text)
    assert (teacher.name, teacher.model, teacher.api_base) == (name, model, base)


@pytest.mark.parametrize("text", ["gpt", "=openai/x", "a=", "a b=m", "a=m@http://"])
def test_a_teacher_option_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--teacher"):
        parse_teacher(text)


def test_the_command_line_wins_and_names_pick_from_the_file(tmp_path: Path) -> None:
    config = load_config(
        write(tmp_path, "teachers: [{name: a, model: m, rpm: 5}, {name: b, model: n}]\ngenerate: {samples: 3}\n")
    )
    assert with_options(config.generate, {"samples": 2, "split": None}) == Generate(samples=2)
    assert [t.name for t in pick_teachers(config, [])] == ["a", "b"]
    assert [t.model for t in pick_teachers(config, ["b", "c=o"])] == ["n", "o"]
    with pytest.raises(ConfigError, match="two teachers are called 'a'"):
        pick_teachers(config, ["a", "a=x"])


def test_options_for_one_teacher_reach_only_that_one() -> None:
    teachers = [parse_teacher("a=m"), parse_teacher("b=n")]
    assert [t.rpm for t in set_for_teachers(teachers, "rpm", ["b=60"])] == [None, 60]
    for wrong in ("c=60", "b", "b=many", "b=0"):
        with pytest.raises(ConfigError, match=f"--rpm {wrong}"):
            set_for_teachers(teachers, "rpm", [wrong])


def test_an_option_that_cannot_be_is_named() -> None:
    with pytest.raises(ConfigError, match="--concurrency 0"):
        with_options(Generate(), {"concurrency": 0})
    with pytest.raises(ConfigError, match="--timeout -1"):
        with_options(Generate(), {"timeout_s": -1})
