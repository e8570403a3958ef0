from __future__ import annotations

import pytest
from small_rows import write_panel, write_tiny_t5_checkpoint

from kp_train.dataset import Dataset, read_dataset
from kp_train.experiments.config import Budget, StudentSpec
from kp_train.experiments.plan import Cell
from kp_train.experiments.training import cost_of_row, fit_options, steps_of
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
