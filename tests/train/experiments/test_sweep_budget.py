from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from small_rows import write_panel, write_tiny_t5_checkpoint

from kp_data.errors import ConfigError
from kp_train.dataset import Dataset, read_dataset
from kp_train.experiments.config import Budget, Shape, StudentSpec
from kp_train.experiments.plan import Cell
from kp_train.experiments.training import cost_of_row, fit_options, steps_of
from kp_train.fit import _schedule
from kp_train.fit_options import FitOptions


@pytest.fixture(scope="module")
def lessons(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, str]:
    folder = tmp_path_factory.mktemp("budget")
    return read_dataset(write_panel(folder / "panel")), str(write_tiny_t5_checkpoint(folder / "t5"))


def options(student: str, method: str, teachers: tuple[str, ...] = ()) -> FitOptions:
    spec = StudentSpec(name="tiny", model=student, batch=4, rationale_weight=0.5)
    return fit_options(spec, Cell("d", "in", method, len(teachers), "tiny", 0), student, teachers)


def test_steps_are_steps_whatever_is_learned(lessons: tuple[Dataset, str]) -> None:
    assert steps_of(Budget(steps=7), lessons[0], options(lessons[1], "fine-tune")) == 7


@pytest.mark.parametrize("currency", ["tokens", "flops"])
def test_equal_budgets_buy_fewer_steps_of_longer_lessons(lessons: tuple[Dataset, str], currency: str) -> None:
    dataset, student = lessons
    both = options(student, "all", ("ada", "bruno"))
    plain = options(student, "fine-tune")
    cost = {
        name: dict(zip(("tokens", "flops", "batch"), cost_of_row(dataset, one), strict=True))
        for name, one in (("all", both), ("plain", plain))
    }
    amount = 400 * cost["plain"]["batch"] * cost["plain"][currency]
    budget = Budget.model_validate({currency: round(amount) if currency == "tokens" else amount})
    assert steps_of(budget, dataset, plain) == pytest.approx(400, abs=1)
    ratio = cost["all"][currency] / cost["plain"][currency]
    assert ratio > 2
    assert steps_of(budget, dataset, both) == pytest.approx(400 / ratio, abs=1)


def test_tokens_are_those_of_inputs_and_labels(lessons: tuple[Dataset, str]) -> None:
    from kp_train.students import make_student
    from kp_train.views import label_view

    dataset, name = lessons
    student = make_student(name, texts=[], seed=0)
    rows = dataset.split("train").rows
    examples = [student.encode(row.question, label_view(row)[0], task=0) for row in rows]
    mean = sum(len(one.inputs[0]) + len(one.label) for one in examples) / len(examples)
    assert cost_of_row(dataset, options(name, "fine-tune"))[0] == pytest.approx(mean)


def test_an_objective_is_told_only_what_it_reads() -> None:
    spec = StudentSpec(name="tiny", model="tiny-t5", rationale_weight=0.5, view="rationale-first")
    plain = fit_options(spec, Cell("d", "in", "fine-tune", 0, "tiny", 3), "tiny-t5", ())
    assert (plain.rationale_weight, plain.view, plain.teachers, plain.seed) == (None, None, None, 3)
    plain.check()
    taught = fit_options(spec, Cell("d", "in", "plackett-luce", 2, "tiny", 3), "tiny-t5", ())
    assert (taught.objective, taught.rationale_weight, taught.view) == ("purified", 0.5, "rationale-first")
    taught.check()


@pytest.mark.parametrize("architecture", ["t5", "llama"])
def test_random_weights_are_trained_by_the_recipe_of_the_tiny_student_of_their_architecture(architecture: str) -> None:
    from kp_train.students import tiny_llama, tiny_t5
    from kp_train.students.seq2seq import CHECKPOINT_RECIPE

    tiny = tiny_t5.RECIPE if architecture == "t5" else tiny_llama.RECIPE
    shape = Shape.model_validate({"architecture": architecture})
    cell = Cell("d", "in", "fine-tune", 0, "small", 0)
    plain = fit_options(StudentSpec(name="small", shape=shape), cell, "fresh", ())
    # What a checkpoint's recipe would have been is gone, but for the passes, which the budget decides.
    assert replace(_schedule(CHECKPOINT_RECIPE, replace(plain, steps=9), 40).recipe, epochs=tiny.epochs) == tiny
    told = {"lr": 0.002, "batch": 4, "schedule": "constant", "warmup": 0.0, "weight_decay": 0.0, "bf16": False}
    spec = StudentSpec.model_validate({"name": "small", "shape": shape, "choice_orders": 2, **told})
    given = fit_options(spec, cell, "fresh", ())
    assert {name: getattr(given, name) for name in told} == told
    assert given.choice_orders == 2


def test_a_checkpoint_keeps_its_own_recipe_where_the_file_says_nothing(lessons: tuple[Dataset, str]) -> None:
    from kp_train.students import make_student

    own = make_student(lessons[1], texts=[], seed=0).recipe
    assert _schedule(own, replace(options(lessons[1], "fine-tune"), steps=9), 40).recipe == replace(own, batch=4)


@pytest.mark.parametrize(
    ("change", "told"),
    [({"schedule": "sudden"}, "'sudden' is none of linear, cosine"), ({"warmup": 1.5}, "1.5 is not")],
)
def test_a_recipe_that_cannot_be_is_refused(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        FitOptions(student="tiny-t5", objective="fine-tune", **change).check()
