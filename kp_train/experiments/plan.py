"""What a sweep comes to: every task, what it needs first, and a key of all that decides about its result.

    teach   a teacher that is trained here                  one a teacher
    ask     the teachers' answers to a dataset               one a dataset; out of domain, one a dataset and method
    join    all in-domain panels as one                      one
    purify  one rationale a question                         one a method and number of teachers, for all students
    cell    one student, trained and tested                  one a dataset, method, number of teachers, student and seed

With one teacher there is nothing to purify: the lines of all methods begin at the same students, those of
`step-by-step`. A key is made of the file alone (and of the bytes of local data), before anything runs, so that what is
done is found again: a file with one seed more costs that seed, and one with a teacher more what that teacher takes part
in. (Students from random weights read with a tokenizer of everything that was said, so those start anew.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal

from kp_data.errors import ConfigError
from kp_data.teachers.prompts import PROMPT_VERSION
from kp_train.experiments.config import (
    ALL,
    FINE_TUNE,
    INFERENCE,
    ROUTERS,
    STEP_BY_STEP,
    UNTAUGHT,
    Data,
    Sweep,
    digest_of,
)

Kind = Literal["teach", "ask", "join", "purify", "cell"]
OUT_OF_DOMAIN: Final = "out"
IN_DOMAIN: Final = "in"
_PACKAGES: Final = ("knowledge-purification", "torch", "transformers")
_PROTOCOL: Final = 2
"""Of splits and tokenizers; higher whenever the same file gives other students, so that old ones are not taken."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One student: what it learns from, and where it is tested.

    Attributes:
        dataset: its name; trained on its train rows, selected on its validation rows, tested on its test rows.
        domain: `in`, or `out` for a dataset that no router was fitted on.
        method: what made its lessons.
        count: number of teachers, the first of the file's order; 0 where none takes part.
        student: its name.
        seed: of weights and order of rows.
    """

    dataset: str
    domain: str
    method: str
    count: int
    student: str
    seed: int

    @property
    def words(self) -> str:
        """As a person says it."""
        teachers = f", {self.count} teacher{'s' if self.count > 1 else ''}" if self.count else ""
        return f"{self.dataset}: {self.method}{teachers}, {self.student}, seed {self.seed}"

    @property
    def objective(self) -> str:
        """What the student learns, as `kp-train objectives` names it."""
        if self.method in (FINE_TUNE, STEP_BY_STEP):
            return self.method
        return "tinyllm" if self.method == ALL else "purified"


@dataclass(frozen=True, slots=True)
class Task:
    """A piece of work with a folder of its own.

    Attributes:
        kind: what is done.
        name: below the sweep's folder; the last part ends in the key.
        key: of all that decides about the result.
        needs: names of the tasks whose results it reads.
        words: for people.
        cell: of `cell`.
        facts: what the worker is told beyond the sweep: dataset, method, count, teacher.
    """

    kind: Kind
    name: str
    key: str
    needs: tuple[str, ...]
    words: str
    cell: Cell | None = None
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """All tasks of a sweep, each after those that it needs."""

    sweep: Sweep
    tasks: tuple[Task, ...]

    @property
    def cells(self) -> tuple[Task, ...]:
        """The tasks that train a student."""
        return tuple(task for task in self.tasks if task.kind == "cell")


def plan_sweep(sweep: Sweep, *, home: Path) -> Plan:
    """The tasks of a sweep; nothing is asked, read or written but local data, which keys are made of.

    Args:
        sweep: checked.
        home: what relative paths in it start from: the folder of the file.

    Raises:
        ConfigError: the file asks for something that the protocol leaves out, or local data is missing.
    """
    return Plan(sweep, tuple(_Planner(sweep, home).tasks()))


def in_domain_methods(sweep: Sweep) -> list[tuple[str, int]]:
    """(method, number of teachers) of the students in domain, baselines first."""
    named = [method.name for method in sweep.methods]
    pairs: list[tuple[str, int]] = [(name, 0) for name in UNTAUGHT if name in named]
    if 1 in sweep.all_counts or STEP_BY_STEP in named:
        pairs.append((STEP_BY_STEP, 1))
    taught = [name for name in named if name not in (*UNTAUGHT, STEP_BY_STEP)]
    return pairs + [(name, count) for name in taught for count in sweep.all_counts if count > 1]


def out_of_domain_methods(sweep: Sweep) -> list[tuple[str, int]]:
    """(method, number of teachers) of the students out of domain: all teachers of the file, or none."""
    if sweep.out_of_domain is None:
        return []
    fitting = (*UNTAUGHT, ALL, *ROUTERS)
    named = sweep.out_of_domain.methods
    if named is None:
        # Gold answers alone are what lessons have to beat, and cost no teacher.
        named = tuple(dict.fromkeys((FINE_TUNE, *(one.name for one in sweep.methods if one.name in fitting))))
    if unfit := [name for name in named if name not in fitting]:
        raise ConfigError(
            f"{unfit[0]!r} cannot choose before teachers answer, so it is no method out of domain; take of "
            f"{', '.join(fitting)}",
            place="out_of_domain.methods",
        )
    count = sweep.all_counts[-1]
    return [(name, 0 if name in UNTAUGHT else count) for name in named]


class _Planner:
    def __init__(self, sweep: Sweep, home: Path) -> None:
        self._sweep, self._home = sweep, home
        self._versions = tuple(version(name) for name in _PACKAGES)
        self._digests: dict[str, str] = {}

    def tasks(self) -> Iterator[Task]:
        teachers = self._sweep.teachers
        taught = [self._teach(teacher.name) for teacher in teachers if teacher.taught is not None]
        yield from taught
        asked = [self._ask(data, taught) for data in self._sweep.datasets]
        yield from asked
        joined = asked[0] if len(asked) == 1 else self._join(asked)
        if len(asked) > 1:
            yield joined
        purified: dict[tuple[str, int], Task] = {}
        for method, count in self._to_purify():
            purified[method, count] = self._purify(method, count, joined, part=self._part(count, taught))
            yield purified[method, count]
        students = [*self._in_domain(purified, taught, joined), *self._out_of_domain(purified, taught, joined)]
        yield from (task for task in students if task.cell is None)
        yield from sorted((task for task in students if task.cell is not None), key=self._turn)

    def _turn(self, task: Task) -> tuple[int, int]:
        """Seed by seed and student by student, so that a sweep that is stopped has whole comparisons to show."""
        assert task.cell is not None
        return task.cell.seed, [one.name for one in self._sweep.students].index(task.cell.student)

    def _in_domain(self, purified: dict[tuple[str, int], Task], taught: list[Task], panel: Task) -> Iterator[Task]:
        for data in self._sweep.datasets:
            for method, count in in_domain_methods(self._sweep):
                lessons = purified.get((method, count)) or replace(panel, key=self._part(count, taught))
                yield from self._cells(data, IN_DOMAIN, method, count, lessons, panel=panel)

    def _to_purify(self) -> list[tuple[str, int]]:
        """What has to be purified in domain, out-of-domain routers included."""
        wanted = [*in_domain_methods(self._sweep), *out_of_domain_methods(self._sweep)]
        return list(dict.fromkeys(pair for pair in wanted if pair[0] not in (*UNTAUGHT, STEP_BY_STEP, ALL)))

    def _teach(self, name: str) -> Task:
        teacher = next(one for one in self._sweep.teachers if one.name == name)
        assert teacher.taught is not None
        student = self._sweep.student(teacher.taught.student)
        key = digest_of("teach", teacher.taught, student, self._versions, self._bytes_of(student.model))
        return Task("teach", f"teachers/{name}-{key}", key, (), f"teach {name}", facts={"teacher": name})

    def _ask(self, data: Data, taught: list[Task]) -> Task:
        key = digest_of("ask", self._source(data), self._asking(), [task.key for task in taught])
        words = f"ask about {data.name}" if data.source else f"read {data.name}"
        needs = tuple(task.name for task in taught)
        return Task("ask", f"panels/{data.name}-{key}", key, needs, words, facts={"dataset": data.name})

    def _asking(self, count: int | None = None) -> tuple[Any, ...]:
        """What decides about the answers of the first so many teachers, or of all; prices and limits do not."""
        who = [
            (one.name, one.model, one.api_base, one.temperature, one.top_p, one.max_tokens, one.seed, one.logprobs)
            for one in self._sweep.teachers[:count]
        ]
        return who, self._sweep.mode, self._sweep.examples, PROMPT_VERSION

    def _part(self, count: int, taught: list[Task]) -> str:
        """A key of what the first so many teachers said in domain, so that a teacher more changes nothing for them."""
        sources = [self._source(data) for data in self._sweep.datasets]
        return digest_of(
            "part", *self._led_by(), sources, self._asking(count) if count else None, self._taught_keys(count, taught)
        )

    def _led_by(self) -> list[list[str]]:
        """The names that rows of a joined panel are led by, in their order; nothing where a panel stands alone."""
        names = [data.name for data in self._sweep.datasets]
        return [names] if len(names) > 1 else []

    def _taught_keys(self, count: int, taught: list[Task]) -> list[str]:
        names = [teacher.name for teacher in self._sweep.teachers[:count]]
        return [task.key for task in taught if task.facts["teacher"] in names]

    def _join(self, asked: list[Task]) -> Task:
        key = digest_of("join", *self._led_by(), [task.key for task in asked])
        return Task("join", f"panels/all-{key}", key, tuple(task.name for task in asked), "join the panels")

    def _purify(self, name: str, count: int, panel: Task, *, part: str) -> Task:
        chosen = self._sweep.method(name)
        teachers = tuple(teacher.name for teacher in self._sweep.teachers[:count])
        options = sorted(chosen.options.items())
        settings = (options, self._sweep.embedder, self._sweep.purify_seed)
        local = [self._bytes_of(value) for value in (self._sweep.embedder, *(value for _, value in options))]
        key = digest_of("purify", part, name, teachers, settings, local, self._versions)
        return Task(
            "purify",
            f"purified/{name}-{count}t-{key}",
            key,
            (panel.name,),
            f"purify by {name}, {count} teachers",
            facts={"method": name, "count": count},
        )

    def _cells(
        self,
        data: Data,
        domain: str,
        method: str,
        count: int,
        lessons: Task,
        *,
        panel: Task,
        students: tuple[str, ...] | None = None,
        seeds: tuple[int, ...] | None = None,
    ) -> Iterator[Task]:
        for student in students or self._taught_here():
            for seed in seeds or self._sweep.seeds:
                yield self._cell(Cell(data.name, domain, method, count, student, seed), lessons, panel)

    def _taught_here(self) -> list[str]:
        """Students of the sweep; those that only teachers are made of are none."""
        teachers = {teacher.taught.student for teacher in self._sweep.teachers if teacher.taught}
        return [one.name for one in self._sweep.students if one.name not in teachers]

    def _cell(self, cell: Cell, lessons: Task, panel: Task) -> Task:
        sweep = self._sweep
        spec = sweep.student(cell.student).model_dump(exclude={"parameters", "batch_tokens", "gradient_checkpointing"})
        teachers = tuple(teacher.name for teacher in sweep.teachers[: cell.count])
        budget = None if cell.method == INFERENCE else sweep.budget
        tokenizer = panel.key if sweep.student(cell.student).shape is not None else None
        local = self._bytes_of(sweep.student(cell.student).model)
        basis = (asdict(cell), lessons.key, tokenizer, teachers, spec, budget, sweep.score, self._versions, local)
        key = digest_of("cell", *basis)
        teachers_words = f"-{cell.count}t" if cell.count else ""
        name = f"cells/{cell.dataset}-{cell.method}{teachers_words}-{cell.student}-s{cell.seed}-{key}"
        needs = tuple(dict.fromkeys((lessons.name, panel.name)))
        return Task("cell", name, key, needs, cell.words, cell, {"panel": panel.name})

    def _out_of_domain(self, purified: dict[tuple[str, int], Task], taught: list[Task], panel: Task) -> Iterator[Task]:
        ood = self._sweep.out_of_domain
        if ood is None:
            return
        for data in ood.datasets:
            for method, count in out_of_domain_methods(self._sweep):
                ask = self._ask_routed(data, method, count, purified.get((method, count)), taught)
                yield ask
                yield from self._cells(
                    data, OUT_OF_DOMAIN, method, count, ask, panel=panel, students=ood.students, seeds=ood.seeds
                )

    def _ask_routed(self, data: Data, method: str, count: int, router: Task | None, taught: list[Task]) -> Task:
        """The train questions, each asked of the one teacher that a router names; of all for `all`; of none."""
        basis = (self._source(data), self._asking(count) if count else None, count, router.key if router else method)
        key = digest_of("ask routed", basis, self._taught_keys(count, taught))
        needs = tuple(task.name for task in taught) if count else ()
        whom = "nobody" if not count else "all" if router is None else f"whom {method} names"
        return Task(
            "ask",
            f"panels/{data.name}-{method}-{key}",
            key,
            (*needs, *([router.name] if router else [])),
            f"ask about {data.name}: {whom}",
            facts={"dataset": data.name, "method": method, "count": count, "router": router.name if router else None},
        )

    def _bytes_of(self, name: object) -> str | None:
        """Of a checkpoint in a local folder, which may change under its name; None for any other name."""
        from kp_train.student_folder import student_digest

        if not isinstance(name, str) or not name or not Path(name).is_dir():
            return None
        if name not in self._digests:
            self._digests[name] = student_digest(Path(name))
        return self._digests[name]

    def _source(self, data: Data) -> tuple[Any, ...]:
        """A dataset as far as it decides: what it says, and the bytes of local files."""
        place = data.source or data.panel
        assert place is not None
        path = self._home / place
        files = sorted(path.glob("*.parquet")) if path.is_dir() else [path] if path.is_file() else []
        if data.panel is not None and not files and data.expected is None:
            raise ConfigError("no panel folder there; make it with `kp-data generate`, or correct the path", place=path)
        hashes = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
        return place, data.limit, sorted(data.columns.items()), hashes, _PROTOCOL
