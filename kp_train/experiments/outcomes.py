"""What the students of a sweep answered, as arrays, with means and intervals over seeds and questions.

Seeds and questions are crossed: every seed's student answers the same questions. The bootstrap draws both, S - 1 of S
seeds, because S of S would make the part of the variance that is due to seeds too small by (S - 1) / S (the rescaling
bootstrap of Rao and Wu 1988 with one unit less); with one seed it knows nothing of seeds. The draws are the same for
everything that is compared, so that differences are paired.

Axes: S seeds, Q questions of a dataset's test split, B draws.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from kp_data.errors import DataError
from kp_train.experiments.config import STEP_BY_STEP, UNTAUGHT
from kp_train.experiments.plan import IN_DOMAIN, Plan, Task
from kp_train.experiments.training import ANSWERS
from kp_train.experiments.work import is_done, read_done

Array = np.ndarray[Any, Any]

DRAWS: Final = 2000
EDGES: Final = (0.025, 0.975)


@dataclass(frozen=True, slots=True)
class Group:
    """The students of all seeds of one line of the table.

    Attributes:
        domain, dataset, method, count, student: see `kp_train.experiments.plan.Cell`.
    """

    domain: str
    dataset: str
    method: str
    count: int
    student: str


@dataclass(frozen=True)
class Measured:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def certain(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Outcomes:
    """All finished students of a sweep.

    Attributes:
        right: group to (S, Q) bool, seeds and questions in one order for all groups of a dataset.
        seeds: S, those of which every group of a comparison has a student.
        figures: group to what each of its students took, a record a seed.
        planned, planned_counts: domain to its datasets and numbers of teachers, also those whose students are
            missing: a mean without them would be another number under the same name. Default: those there are.
    """

    right: dict[Group, Array]
    seeds: dict[Group, tuple[int, ...]]
    figures: dict[Group, tuple[dict[str, Any], ...]]
    planned: dict[str, tuple[str, ...]] = field(default_factory=dict)
    planned_counts: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def groups(self, domain: str) -> list[Group]:
        """Groups of a domain, in the order of the plan."""
        return [group for group in self.right if group.domain == domain]

    def names(self, what: str, domain: str) -> list[str]:
        """Different datasets, methods or students of a domain, in the order of the plan."""
        return list(dict.fromkeys(getattr(group, what) for group in self.groups(domain)))

    def counts(self, domain: str) -> list[int]:
        """Different numbers of teachers of a domain, growing, without 0."""
        return sorted({*self.planned_counts.get(domain, ()), *(group.count for group in self.groups(domain))} - {0})

    def find(self, domain: str, dataset: str, method: str, count: int, student: str) -> Group | None:
        """The group of a line's point; with one teacher, that of step by step for every method."""
        # Out of domain a router of one teacher asks it anew, so there every method has students of its own.
        name = STEP_BY_STEP if count == 1 and domain == IN_DOMAIN and method not in UNTAUGHT else method
        group = Group(domain, dataset, name, 0 if method in UNTAUGHT else count, student)
        return group if group in self.right else None

    def mean(self, domain: str, method: str, count: int, student: str) -> Measured | None:
        """Accuracy, mean over datasets; None where a dataset is missing."""
        return self.combined([(domain, method, count, student, 1.0)])

    def difference(
        self, domain: str, one: tuple[str, int], other: tuple[str, int], students: Sequence[str]
    ) -> Measured | None:
        """Mean over datasets and students of the accuracy of one (method, count) minus that of another, paired."""
        share = 1 / len(students)
        return self.combined(
            [
                (domain, method, count, student, sign * share)
                for student in students
                for (method, count), sign in ((one, 1.0), (other, -1.0))
            ]
        )

    def combined(self, terms: Iterable[tuple[str, str, int, str, float]]) -> Measured | None:
        """A weighted sum of accuracies, each (domain, method, count, student, weight) a mean over datasets.

        Returns: with its interval; None where a student is missing, or the groups have no seed in common.
        """
        listed = list(terms)
        datasets = self.planned.get(listed[0][0]) or self.names("dataset", listed[0][0])
        value, draws_B = 0.0, np.zeros(DRAWS)
        for dataset in datasets:
            found = [(self.find(domain, dataset, *rest), weight) for domain, *rest, weight in _each(listed)]
            groups = [(group, weight) for group, weight in found if group is not None]
            seeds = self._shared_seeds([group for group, _ in groups])
            if len(groups) < len(found) or not seeds:
                return None
            sum_SQ = sum(weight * self._of_seeds(group, seeds) for group, weight in groups) / len(datasets)
            value += float(np.mean(sum_SQ))
            draws_B += _draws(np.asarray(sum_SQ), dataset)
        low, high = np.quantile(draws_B, EDGES)
        return Measured(value, float(low), float(high))

    def rights(self, group: Group, seeds: Sequence[int]) -> Array:
        """(S, Q) float, of these seeds alone."""
        return self._of_seeds(group, seeds)

    def _shared_seeds(self, groups: Sequence[Group]) -> list[int]:
        shared = set.intersection(*(set(self.seeds[group]) for group in groups)) if groups else set()
        return sorted(shared)

    def _of_seeds(self, group: Group, seeds: Sequence[int]) -> Array:
        rows = [self.seeds[group].index(seed) for seed in seeds]
        return np.asarray(self.right[group][rows], dtype=float)

    def spent(self, group: Group, what: str) -> float | None:
        """Mean over seeds of what a student took; None where it is not known."""
        values = [record.get(what) for record in self.figures[group]]
        known = [float(value) for value in values if value is not None]
        return float(np.mean(known)) if known else None

    @cached_property
    def num_students(self) -> int:
        """Students trained and tested."""
        return sum(len(seeds) for seeds in self.seeds.values())


def _each(terms: Sequence[tuple[str, str, int, str, float]]) -> Iterable[tuple[Any, ...]]:
    return [(domain, method, count, student, weight) for domain, method, count, student, weight in terms]


def _draws(sum_SQ: Array, dataset: str) -> Array:
    """(B,) float, the mean of what is given under draws of seeds and questions; the same draws for one dataset."""
    seed_BS, question_BQ = _weights(dataset, *sum_SQ.shape)
    return np.asarray((question_BQ @ sum_SQ.T.astype(np.float32) * seed_BS).sum(axis=1))


@lru_cache(maxsize=16)
def _weights(dataset: str, num_seeds: int, num_questions: int) -> tuple[Array, Array]:
    """(B, S) and (B, Q) float32, how much each seed and each question counts in each draw; rows sum to 1."""
    random = np.random.default_rng([len(dataset), *dataset.encode()])
    drawn = max(1, num_seeds - 1)
    seed_BS = random.multinomial(drawn, np.full(num_seeds, 1 / num_seeds), size=DRAWS) / drawn
    question_BQ = random.multinomial(num_questions, np.full(num_questions, 1 / num_questions), size=DRAWS)
    return seed_BS.astype(np.float32), (question_BQ / num_questions).astype(np.float32)


def read_outcomes(plan: Plan, root: Path) -> Outcomes:
    """The finished students of a plan.

    Raises:
        DataError: the students of one dataset answered different questions.
    """
    found: dict[Group, list[tuple[int, Array, dict[str, Any]]]] = {}
    order: dict[str, list[str]] = {}
    cells = [task.cell for task in plan.cells if task.cell is not None]
    domains = dict.fromkeys(cell.domain for cell in cells)
    for task in plan.cells:
        if task.cell is not None and is_done(root, task):
            cell = task.cell
            right = _right(root, task)
            ids = order.setdefault(cell.dataset, list(right))
            if set(ids) != set(right):
                raise DataError("its students answered other questions than those before", place=root / task.name)
            group = Group(cell.domain, cell.dataset, cell.method, cell.count, cell.student)
            right_Q = np.array([right[id_] for id_ in ids])
            found.setdefault(group, []).append((cell.seed, right_Q, read_done(root, task)))
    return Outcomes(
        {group: np.stack([right_Q for _, right_Q, _ in rows]) for group, rows in found.items()},
        {group: tuple(seed for seed, _, _ in rows) for group, rows in found.items()},
        {group: tuple(record for _, _, record in rows) for group, rows in found.items()},
        {one: tuple(dict.fromkeys(cell.dataset for cell in cells if cell.domain == one)) for one in domains},
        {one: tuple(sorted({cell.count for cell in cells if cell.domain == one})) for one in domains},
    )


def _right(root: Path, task: Task) -> dict[str, bool]:
    lines = (root / task.name / ANSWERS).read_text(encoding="utf-8").splitlines()
    answers = [json.loads(line) for line in lines]
    return {answer["id"]: bool(answer["correct"]) for answer in answers}
