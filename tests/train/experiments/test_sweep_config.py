from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from small_sweep import SMALL

from kp_data.errors import ConfigError
from kp_train.experiments.config import load_sweep

EXAMPLES = Path(__file__).parents[3] / "examples"


def written(folder: Path, **changes: object) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({**SMALL, **changes}, sort_keys=False), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["laptop", "gpu", "paper"])
def test_the_examples_are_sweeps(name: str) -> None:
    sweep = load_sweep(EXAMPLES / f"{name}.yaml")
    assert sweep.name == name
    assert len(sweep.teachers) == 4
    assert (sweep.all_counts[0], sweep.all_counts[-1]) == (1, 4)


def test_the_paper_is_planned_with_its_teachers_students_and_datasets() -> None:
    sweep = load_sweep(EXAMPLES / "paper.yaml")
    assert [student.parameters for student in sweep.students] == [77_000_000, 248_000_000, 783_000_000]
    assert [data.name for data in sweep.datasets] == ["obqa", "arc", "riddle", "pubmedqa"]
    assert sweep.out_of_domain is not None
    assert [data.name for data in sweep.out_of_domain.datasets] == ["piqa", "bioasq"]
    assert {(student.lr, student.batch) for student in sweep.students} == {(5e-5, 16)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budged": {}}, r"unknown key 'budged'; did you mean 'budget'\? There are name, about, datasets"),
        ({"budget": {"stepz": 3}}, r"unknown key 'budget.stepz'; did you mean 'steps'\?"),
        ({"budget": {"steps": 3, "tokens": 4}}, "needs one of steps, tokens and flops"),
        ({"budget": {"steps": 0}}, "budget.steps: should be greater than or equal to 1, not 0"),
        ({"budget": {"steps": True}}, "budget.steps: should be a number, not True"),
        ({"seeds": [True]}, "seeds: should hold numbers, no truths"),
        ({"students": [{"name": "x", "model": "y", "lr": True}]}, "students.0.lr: should be a number, not True"),
        ({"teachers": [{"name": "x", "model": "y", "max_tokens": True}]}, "max_tokens: should be a number, not True"),
        ({"teachers": ["ada", "ada"]}, "teachers: 'ada' stands there twice"),
        ({"counts": [1, 3]}, "counts: 3 teachers, but 2 are named"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [0, 0]}, "seeds: 0 stands there twice"),
        ({"seeds": [2**70]}, "seeds.0: should be less than"),
        ({"purify_seed": -1}, "purify_seed: should be greater than or equal to 0, not -1"),
        ({"budget": {"flops": float("inf")}}, "budget.flops: should be a finite number"),
        ({"out_of_domain": {"datasets": [{"name": "y", "panel": "p"}]}}, "y needs source, not panel"),
        (
            {"out_of_domain": {"datasets": [{"name": "y", "source": "p"}], "methods": ["all", "all"]}},
            "out_of_domain.methods: 'all' stands there twice",
        ),
        ({"methods": ["similarity-ruoter"]}, "no method 'similarity-ruoter'; did you mean 'similarity-router'"),
        ({"methods": [{"name": "plackett-luce", "options": {"gama": 1}}]}, "did you mean 'gamma'"),
        ({"datasets": [{"name": "x"}]}, "needs either source or panel"),
        ({"students": [{"name": "x"}]}, "needs either model or shape"),
        ({"students": [{"name": "x", "shape": {"width": 30, "heads": 8}}]}, "width 30 cannot be shared by 8 heads"),
        ({"students": [{"name": "x", "shape": {"wide": 30}}]}, "unknown key 'students.0.shape.wide'"),
        (
            {"out_of_domain": {"datasets": [{"name": "y", "source": "p"}], "students": ["big"]}},
            "out_of_domain.students: no 'big' in this file; there are tiny",
        ),
    ],
)
def test_a_file_that_cannot_be_gets_one_message(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        load_sweep(written(tmp_path, **changes))
    assert "sweep.yaml" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_unknown_key_is_found_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text("name: x\nbudget:\n  steps: 3\n  pace: 4\n", encoding="utf-8")
    path.write_text(path.read_text() + yaml.safe_dump({k: v for k, v in SMALL.items() if k not in ("name", "budget")}))
    with pytest.raises(ConfigError, match=r"sweep.yaml:4: unknown key 'budget.pace'"):
        load_sweep(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not valid YAML"),
        ("- 1", "must hold keys"),
        ("", "must hold"),
        ("? [a]\n: b", "not valid YAML"),
        ("a: !!python/object:os.system x", "not valid YAML"),
        ("name: x\nseeds: [0]\nname: y", "sweep.yaml:3: key 'name' stands twice"),
        ("name: x\nbudget: {steps: 1, steps: 2}", "sweep.yaml:2: key 'steps' stands twice"),
        ("name: &again [*again]", "name: should be"),
    ],
)
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_sweep(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.yaml: cannot be read"):
        load_sweep(tmp_path / "nowhere.yaml")
