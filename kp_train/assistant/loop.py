"""Teaching assistant in the loop: few teacher calls, spent where they teach most, and only what can be trusted learned.

    warm-up    a share of the calls goes to questions drawn at random; an assistant is trained or calibrated on what
               comes, what it does not trust is dropped, and a first student learns the rest
    round r    the student answers every question that was not asked yet, K times. Where it is consistent (s1) and the
               assistant trusts it (s2), its own answer is kept and no call is spent. Of the others, those that the
               strategy wants most are asked, within the calls of the round; what the assistant trusts (s3) is kept. A
               new student learns all teachers' kept answers and its predecessor's own.

The student that is best on validation is the result. Teachers' answers stay kept or dropped; own answers are decided
anew in each round. Gold answers of the pool are read for the warm-up's questions alone, where the assistant learns from
them, and for the figures of the report.
Source: Zhou and Ai 2024 (arXiv:2406.05322), reconstructed from the abstract; several rounds, the choice among teachers
and the share of the warm-up (of the calls, not of the questions) are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from kp_data.errors import MethodError
from kp_data.purify.verifier_input import Claim
from kp_data.tables import read_json, write_json
from kp_train.assistant.beforehand import can_compare, check_beforehand
from kp_train.assistant.figures import stage_figures
from kp_train.assistant.finishing import Stage, finish_run
from kp_train.assistant.hiring import hire
from kp_train.assistant.identity import run_identity
from kp_train.assistant.judges import Assistant, is_right, without_gold
from kp_train.assistant.lessons import Classroom, kept_rows, lessons_of
from kp_train.assistant.options import AssistantOptions
from kp_train.assistant.records import (
    PLAN,
    PLAN_FACTS,
    SIGNALS,
    STUDENT,
    WARM_UP,
    Signal,
    last_words,
    read_signals,
    write_signals,
)
from kp_train.assistant.routing import Chooser, fit_router, given_router
from kp_train.assistant.staging import (
    COVERAGE,
    Array,
    Judged,
    Look,
    answers_of,
    calibrate_student,
    look_at,
    plan_round,
    plan_warm_up,
    requests_of,
    with_answers,
    write_plan,
)
from kp_train.assistant.teachers import Answered, TeacherSource
from kp_train.dataset import Dataset
from kp_train.fit import fit
from kp_train.fit_options import FitOptions
from kp_train.ranks import ranks_of_environment
from kp_train.run_folder import RunFolder
from kp_train.students import Student, load_student

if TYPE_CHECKING:
    from kp_data.config import Config
    from kp_data.purify.protocol import Router
    from kp_train.schedule import Progress

OBJECTIVE: Final = "teaching-assistant"
Say = Callable[[str], None]
Showing = Callable[[], AbstractContextManager[Callable[["Progress"], None]]]
"""Opens what shows the progress of training."""


def unseen() -> AbstractContextManager[Callable[[Progress], None]]:
    """Progress that nobody watches."""
    return nullcontext(lambda _: None)


def fit_with_assistant(
    dataset: Dataset,
    fitting: FitOptions,
    options: AssistantOptions,
    source: TeacherSource,
    out: Path,
    *,
    config: Config | None = None,
    showing: Showing = unseen,
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """Spend a number of teacher calls and distill a student, or go on where an earlier run of this command stopped.

    Args:
        dataset: questions; the validation split needs gold answers and choices.
        fitting: how each stage's student is trained; its objective is `teaching-assistant`.
        options: everything about calls and signals.
        source: whom to ask.
        out: folder; new, empty, or of the same run.
        config: how an assistant that is a model is asked; None: the defaults.
        showing: what shows the progress of a stage's training; between stages nothing is shown, for asking has a
            display of its own.
        say: called with messages for a person.

    Returns: the record that is also written to run.json.

    Raises:
        ConfigError: an option cannot be, or `out` holds something else.
        DataError: the dataset lacks a split, or answers to validate on.
        MethodError: student, assistant and dataset do not go together.
        Unfinished: some calls were not answered; the same command goes on.
    """
    fitting = replace(fitting, objective=OBJECTIVE, labels="purified")
    fitting.check()
    options.check()
    if ranks_of_environment().size > 1:
        raise MethodError("teachers are asked by one process; start it without torchrun or accelerate launch")
    classroom = Classroom.of(dataset, split=fitting.split, validation_split=fitting.validation_split)
    check_beforehand(classroom, options, source, config)
    folder = RunFolder.open(out, run_identity(dataset, fitting, options, source))
    if (finished := folder.finished) is not None:
        say(f"{folder.path} holds this very run, finished; nothing to do")
        return finished
    with folder.locked(), ExitStack() as stack:
        folder.begin()
        run = _Run(classroom, fitting, options, source, folder.path, config, stack, showing, say)
        stages = [run.stage(number) for number in range(1 + options.rounds)]
        said = run.said([stage.signals for stage in stages])
        return finish_run(folder, dataset, classroom, options, run.assistant, stages, said)


@dataclass
class _Run:
    classroom: Classroom
    fitting: FitOptions
    options: AssistantOptions
    source: TeacherSource
    out: Path
    config: Config | None
    stack: ExitStack
    showing: Showing
    say: Say
    done: list[Stage] = field(default_factory=list)

    def stage(self, number: int) -> Stage:
        """Run a stage, or read what an earlier run left of it."""
        name = WARM_UP if number == 0 else f"round-{number}"
        folder = self.out / name
        if not (folder / PLAN).is_file():
            self.say(f"{name}: looking for what to ask" if number else f"{name}: drawing questions at random")
            self._plan(number, name, folder)
        plan = read_signals(folder / PLAN)
        if not (folder / SIGNALS).is_file():
            self._ask(number, name, folder, plan)
        signals = tuple(read_signals(folder / SIGNALS))
        record = self._teach(name, folder, signals)
        facts = read_json(folder / PLAN_FACTS)
        figures = stage_figures(self.classroom, name, signals, self.said([*self._earlier, signals]), record, facts)
        self.done.append(Stage(name, signals, record, figures))
        self.say(
            f"{name}: {figures['calls_total']} calls spent, {figures['kept']} answers kept for "
            f"{len(self.classroom.pool)} questions, validation accuracy {record['validation_accuracy']:.3f}"
        )
        return self.done[-1]

    def _plan(self, number: int, name: str, folder: Path) -> None:
        options = self.options
        calls = self._calls(number)
        if number == 0:
            signals = plan_warm_up(
                self.classroom, self.source, calls=calls, side_by_side=self._side_by_side, seed=self.fitting.seed
            )
            if not signals:
                raise MethodError("no question to learn from can be asked of any teacher", place=self.classroom.place)
            write_plan(folder, signals, {"calls": len(signals)})
            return
        student, view, seed = self._student, self.fitting.view or "separate", self.fitting.seed + number
        own = calibrate_student(self.assistant, student, self.classroom, options=options, view=view, seed=seed)
        thresholds = replace(options.thresholds, student=own.threshold(options.thresholds.student, options.recall))
        asked = {signal.question_id for signals in self._earlier for signal in signals if signal.decision == "asked"}
        open_ = [question for question in self.classroom.pool if question.id not in asked]
        known = [question for question in self.classroom.pool if question.id in asked]
        seen = look_at(student, open_, own.calibrated, options=options, view=view, seed=seed)
        looks = options.ask_first == COVERAGE
        before = look_at(student, known if looks else [], None, options=options, view=view, seed=seed)
        signals = self._round(name, calls, seen, before, thresholds, seed)
        facts = {"student": own.as_facts(), "tau_student": thresholds.student, "ask_first": self._ask_first}
        write_plan(folder, signals, {"calls": calls, **facts})

    def _round(self, name: str, calls: int, seen: Look, before: Look, thresholds: Any, seed: int) -> list[Signal]:
        return plan_round(
            seen,
            before,
            Chooser(self.source, self.router),
            name=name,
            calls=calls,
            thresholds=thresholds,
            ask_first=self._ask_first,
            seed=seed,
        )

    @property
    def _ask_first(self) -> str:
        """The strategy; where the warm-up taught no router, one cannot say where it is unsure, and chance decides."""
        wanted = self.options.ask_first
        return "random" if wanted == "router" and self.router is None else wanted

    def _ask(self, number: int, name: str, folder: Path, plan: Sequence[Signal]) -> None:
        requests = requests_of(self.classroom, plan)
        if requests:
            self.say(f"{name}: asking {len(requests)} questions")
        answered = self._warm_up_answers if number == 0 else self.source.ask(requests, stage=folder)
        judged = self._judged
        least = judged.threshold(self.options.thresholds.teacher, self.options.recall)
        if number == 0:
            facts = {**read_json(folder / PLAN_FACTS), "teacher": judged.as_facts(), "tau_teacher": least}
            write_json(facts, folder / PLAN_FACTS)
        write_signals(with_answers(plan, answered, judged.calibrated, least=least), folder / SIGNALS)

    def _teach(self, name: str, folder: Path, signals: Sequence[Signal]) -> dict[str, Any]:
        rows = kept_rows(self.classroom, self.said([*self._earlier, signals]), rationales=self._writes)
        if not rows:
            raise MethodError(
                f"{name}: no answer was trusted enough to learn from; give a larger --call-budget, lower --thresholds, "
                "or another --assistant",
                place=self.out,
            )
        lessons = lessons_of(self.classroom, rows, name=name)
        with self.showing() as report:
            return fit(lessons, self.fitting, folder / STUDENT, report=report, say=self.say)

    @cached_property
    def _claims(self) -> tuple[list[Claim], Array]:
        """The warm-up's answers whose questions have gold answers, with these, and (N,) bool, whether each is right."""
        claims = [
            replace(each.claim, question=self.classroom.judged(each.request.question))
            for each in self._warm_up_answers
            if each.claim is not None and each.request.question.id in self.classroom.gold
        ]
        right = [is_right(claim, self.classroom.gold[claim.question.id]) for claim in claims]
        return claims, np.array(right, dtype=bool)

    @cached_property
    def assistant(self) -> Assistant:
        """The one who judges; trained on the warm-up where it has to be."""
        claims, right_N = self._claims
        self.say(f"assistant: {self.options.assistant}, with {len(claims)} answers of the warm-up to learn from")
        return hire(
            self.options,
            self.classroom,
            claims,
            right_N,
            folder=self.out,
            config=self.config,
            stack=self.stack,
            seed=self.fitting.seed,
        )

    @cached_property
    def _judged(self) -> Judged:
        """The assistant's word about the warm-up's answers: crosswise where it learned from them."""
        claims, right_N = self._claims
        return Judged.of(self.assistant, [without_gold(claim) for claim in claims], right_N)

    @cached_property
    def router(self) -> Router | None:
        """What chooses whom to ask."""
        if self.options.router is not None:
            return given_router(self.options.router, self.source.teachers)
        if not self._side_by_side:
            return None
        asked = {signal.question_id for signal in self.done[0].signals}
        questions = [
            self.classroom.judged(one) for one in self.classroom.pool if one.id in asked & {*self.classroom.gold}
        ]
        router = (
            fit_router(questions, self._warm_up_answers, self.source.teachers, seed=self.fitting.seed)
            if questions
            else None
        )
        if router is None:
            questions_too = ", and questions too" if self.options.ask_first == "router" else ""
            self.say(f"the warm-up's answers teach no router whom to ask; teachers are drawn at random{questions_too}")
        return router

    @cached_property
    def _warm_up_answers(self) -> list[Answered]:
        """As the warm-up recorded them, or else from the store or the panel: no call is spent twice."""
        folder = self.out / WARM_UP
        if (folder / SIGNALS).is_file():
            return answers_of(self.classroom, read_signals(folder / SIGNALS))
        return self.source.ask(requests_of(self.classroom, read_signals(folder / PLAN)), stage=folder)

    def _calls(self, number: int) -> int:
        """Calls of a stage: what is left, divided evenly among the rounds to come."""
        if number == 0:
            return self.options.warm_up_calls
        spent = sum(signal.decision == "asked" for signals in self._earlier for signal in signals)
        return (self.options.call_budget - spent) // (self.options.rounds - number + 1)

    @property
    def _side_by_side(self) -> bool:
        """Whether the warm-up asks all teachers the same questions, so that a router can be fitted on them."""
        wanted = self.options.router is None and self.options.rounds > 0
        return wanted and can_compare(self.classroom, self.options, self.source)

    @property
    def _earlier(self) -> list[tuple[Signal, ...]]:
        return [stage.signals for stage in self.done]

    def said(self, stages: Sequence[Sequence[Signal]]) -> list[Signal]:
        """The last word on each question: own answers of an earlier round are no longer kept in a later one."""
        *earlier, last = stages
        asked = [[signal for signal in signals if signal.decision == "asked"] for signals in earlier]
        return last_words([*asked, last])

    @property
    def _student(self) -> Student:
        return load_student(self.out / self.done[-1].name / STUDENT)

    @cached_property
    def _writes(self) -> bool:
        """Whether the student can learn rationales; told by its kind before it is made."""
        return writes_text(self.fitting.student)


def writes_text(student: str) -> bool:
    """Whether a student of that name writes: all but those that score choices."""
    from kp_train.students import STUDENTS, make_student

    if student in STUDENTS:
        return "purified" in STUDENTS[student].objectives
    return make_student(student, texts=["a"], seed=0).writes_text
