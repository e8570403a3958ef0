"""What every objective is: from a row to the weighted targets that a student learns from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kp_data.errors import MethodError
from kp_train.dataset import Dataset
from kp_train.views import Labels, Row, Target, View, combined_view


@dataclass(frozen=True, slots=True)
class Weights:
    """What the options of an objective say.

    Attributes:
        teachers: whose rationales are learned, in this order.
        rationale: lambda, the factor of each rationale task beside the label task, which has 1.
        labels: which answers the label task predicts.
        view: how rationales are learned.
    """

    teachers: tuple[str, ...] = ()
    rationale: float = 1.0
    labels: Labels = "gold"
    view: View = "separate"

    def seen(self, row: Row, rationales: list[Target]) -> list[Target]:
        """A row's rationales in the view that was chosen."""
        return combined_view(row, rationales, self.view, self.labels)


@dataclass(frozen=True, slots=True)
class Objective:
    """One way to distill.

    Attributes:
        name: as on the command line.
        targets: the objective itself; an empty list: nothing can be learned from the row.
        formula: the loss, each L a mean over the tokens of its task.
        needs: what a dataset must hold, in words.
        check: raises MethodError when a dataset does not hold it.
        source: where it comes from.
        options: those of `FitOptions` that it reads and another objective may not.
    """

    name: str
    targets: Callable[[Row, Weights], list[Target]]
    formula: str
    needs: str
    check: Callable[[Dataset, Weights], None]
    source: str
    options: tuple[str, ...] = ()


def need_nothing(dataset: Dataset, weights: Weights) -> None:
    """Any dataset will do."""


def need_teachers(dataset: Dataset, weights: Weights) -> None:
    """The dataset must hold rationales of the chosen teachers.

    Raises:
        MethodError: it holds none; names the remedy.
    """
    if not weights.teachers:
        raise MethodError(
            "this objective learns from the teachers' own rationales, and the dataset holds none; give the panel "
            "folder, or a purified folder with responses.parquet",
            place=dataset.place,
        )


def need_purified(dataset: Dataset, weights: Weights) -> None:
    """The dataset must hold purified rationales.

    Raises:
        MethodError: it holds none; names the remedy.
    """
    if not any(row.purified for row in dataset.rows):
        raise MethodError(
            "this objective learns from one purified rationale a question, and the dataset holds none; make them with "
            "`kp-data purify PANEL --method NAME --out DIR` and give DIR",
            place=dataset.place,
        )
