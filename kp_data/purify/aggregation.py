"""Aggregation: a language model writes one rationale from those of all teachers.

Axes: Q questions, T teachers.
What the model writes is read as a teacher's reply is. A reply of no use (empty, refused, cut off, too long, without an
answer) is asked for once more with the reason; after that the best teacher's own rationale is kept, and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from kp_data.answers import same_answer
from kp_data.errors import ConfigError, Unfinished
from kp_data.measures import comparable_accuracy_T
from kp_data.panel import NONE, Panel
from kp_data.purify.aggregation_inputs import ExamplePool, aggregator_teacher, explanations_of
from kp_data.purify.asking import Ask, Asker, asker_of
from kp_data.purify.metrics import choose, ranking_T
from kp_data.purify.protocol import Context, FitData, Fitted, Method, MethodInfo, Purification
from kp_data.schema import Question
from kp_data.teachers.aggregation_prompt import (
    AGGREGATION_PROMPT_VERSION,
    COMPLAINTS,
    about_tokens,
    aggregation_messages,
    words_of_tokens,
)

if TYPE_CHECKING:
    from kp_data.config import Teacher
    from kp_data.store import StoredCell

Array = np.ndarray[Any, Any]

NAME: Final = "aggregation"
SHOW_GOLD: Final = ("auto", "yes", "no")
ON_FAILURE: Final = ("stop", "keep-teacher")


@dataclass(frozen=True, slots=True)
class AggregationOptions:
    """Who writes, and what.

    Attributes:
        aggregator: `MODEL` as litellm writes it, `practice/NAME`, or `NAME=MODEL[@URL]`.
        api_key_env: environment variable that holds its key, where it is not the provider's usual one.
        examples: in-context examples, from train.
        show_gold: give the aggregator the gold answer of train questions, and of no other split: `yes`, `no`, or
            `auto`, which does where the rationales themselves were written with it (teacher-forced).
        max_target_tokens: longer replies are of no use: the student would not read their end.
        max_reply_tokens: where the model itself is cut off; above the target, because models count otherwise.
        temperature: of the aggregator.
        on_failure: what to do where a call brings nothing after its retries: `stop`, so that a further run can ask
            again, or `keep-teacher`, for questions that the model will never take.
    """

    aggregator: str = ""
    api_key_env: str = ""
    examples: int = 2
    show_gold: str = "auto"
    max_target_tokens: int = 256
    max_reply_tokens: int = 1024
    temperature: float = 0.0
    on_failure: str = "stop"

    def __post_init__(self) -> None:
        for name, choices in (("show_gold", SHOW_GOLD), ("on_failure", ON_FAILURE)):
            if getattr(self, name) not in choices:
                raise _wrong(name, f"{getattr(self, name)!r} is none of {', '.join(choices)}")
        for name, least in (("examples", 0), ("max_target_tokens", 1), ("max_reply_tokens", 1)):
            if getattr(self, name) < least:
                raise _wrong(name, f"{getattr(self, name)} is too small")
        if not 0 <= self.temperature <= 2:
            raise _wrong("temperature", f"{self.temperature} is not between 0 and 2")


@dataclass(frozen=True, slots=True)
class Draft:
    """What one reply came to.

    Attributes:
        text: the rationale, without the line that states the answer.
        answer: what it concludes, as text and as a choice index; None where it states none.
        problem: why it is of no use, None where it is.
    """

    text: str = ""
    answer: str | None = None
    index: int | None = None
    problem: str | None = None


def fit_aggregation(data: FitData, options: AggregationOptions, context: Context) -> Fitted:
    """Draw the in-context examples from train, and find out whom to fall back on; nothing is trained.

    Source: knowledge aggregation of Knowledge Purification (arXiv:2602.01064): r_P = LLM(instruction, examples, q, O,
    r_1 … r_n). Prompt, examples, retry and fallback are reconstructed.
    Raises: ConfigError, when no aggregator is named or it cannot be one.
    """
    teacher = aggregator_teacher(options, context.partners.config)
    order_T = ranking_T(comparable_accuracy_T(data.whole_train))
    pool = ExamplePool.of_panel(data.whole_train, order_T, options, seed=context.seed)
    facts: dict[str, Any] = {"seed_of_order": context.seed, "prompt_version": AGGREGATION_PROMPT_VERSION}

    def purify(panel: Panel) -> Purification:
        run = _Aggregation(panel, teacher, pool, order_T, options, context)
        purification = run.purify()
        # What the calls brought is known only now; a report is made after it.
        facts.update(run.facts())
        return purification

    notes = ["the aggregator's own parameters are not among the extra parameters: it is not ours to count"]
    if len(pool) < options.examples:
        notes.append(
            f"{len(pool)} of {options.examples} in-context examples: train has no more that a teacher got right"
        )
    # One call of the aggregator beside those of the teachers; a retry is rare.
    return Fitted(purify, calls_per_question=len(data.train.teachers) + 1, facts=facts, notes=tuple(notes))


AGGREGATION = Method(
    MethodInfo(
        name=NAME,
        summary="a language model writes one rationale from all of them",
        kind="writer",
        needs=("rationales",),
        trained=False,
        transferable=True,
        source="Knowledge Purification, arXiv:2602.01064",
        evidence="reconstructed",
        differs="prompt, examples, retry and fallback are ours; any model; a question with one rationale keeps it",
    ),
    fit_aggregation,
    AggregationOptions,
)


class _Aggregation:
    """One panel on its way through the aggregator."""

    def __init__(
        self,
        panel: Panel,
        teacher: Teacher,
        pool: ExamplePool,
        order_T: Array,
        options: AggregationOptions,
        context: Context,
    ) -> None:
        self._panel, self._teacher, self._pool, self._order_T = panel, teacher, pool, order_T
        self._options, self._context = options, context
        count_Q = panel.has_rationale_QT.sum(1)
        self._alone, self._silent = int((count_Q == 1).sum()), int((count_Q == 0).sum())
        self._rows: list[int] = np.flatnonzero(count_Q > 1).tolist()
        self._retried: Counter[str] = Counter()
        self._drafts: dict[int, Draft] = {}
        self._asked: dict[str, Any] = {}

    def purify(self) -> Purification:
        """Every question's rationale: written, or a teacher's own."""
        panel = self._panel
        if self._rows:
            self._write()
        text_Q = np.full(len(panel), None, dtype=object)
        answer_Q = np.full(len(panel), NONE)
        score_QT = np.full(panel.has_rationale_QT.shape, np.nan)
        kept_QT = Purification.of_choice(score_QT, choose(score_QT, panel.has_rationale_QT, self._order_T)).kept_QT
        for row, draft in self._drafts.items():
            if draft.problem is None:
                text_Q[row], answer_Q[row], kept_QT[row] = draft.text, answer_code(panel, row, draft), False
        return Purification(score_QT, kept_QT, text_Q, answer_Q)

    def facts(self) -> dict[str, Any]:
        """How it went, for the report."""
        problems = Counter(draft.problem for draft in self._drafts.values() if draft.problem is not None)
        return {
            "written": len(self._drafts) - problems.total(),
            "fallbacks": dict(sorted(problems.items())),
            "retried": dict(sorted(self._retried.items())),
            "kept_alone": self._alone,
            "without_rationale": self._silent,
            "gold_shown": sum(self._shows_gold(self._panel.questions[row]) for row in self._rows),
            "examples": self._pool.ids,
            **self._asked,
        }

    def _write(self) -> None:
        asking = _asking(self._context)
        with asker_of(
            self._teacher, self._panel.folder, task=NAME, version=AGGREGATION_PROMPT_VERSION, asking=asking
        ) as asker:
            self._drafts = self._round(asker, self._rows, {}, "aggregating")
            # A call that brought nothing has had its own retries; a reply of no use is told why.
            useless = {row: draft.problem for row, draft in self._drafts.items() if draft.problem in COMPLAINTS}
            self._retried = Counter(useless.values())
            self._drafts |= self._round(asker, list(useless), useless, "asking once more")
            self._asked = {"aggregator": asker.identity, **asker.bill.as_facts()}

    def _round(self, asker: Asker, rows: Sequence[int], complaints: Mapping[int, str], stage: str) -> dict[int, Draft]:
        asks = [self._ask(row, complaints.get(row)) for row in rows]
        cells = asker.ask(asks, stage=stage, progress=self._context.progress)
        self._check_failures(cells)
        limit = self._options.max_target_tokens
        return {
            row: read_draft(cell, self._panel.questions[row], max_tokens=limit)
            for row, cell in zip(rows, cells, strict=True)
        }

    def _ask(self, row: int, complaint: str | None) -> Ask:
        question = self._panel.questions[row]
        shows = self._shows_gold(question)
        messages = aggregation_messages(
            question,
            explanations_of(self._panel, row, seed=self._context.seed),
            examples=self._pool.for_question(question),
            show_gold=shows,
            max_words=words_of_tokens(self._options.max_target_tokens),
            complaint=complaint,
        )
        return Ask(question, messages)

    def _shows_gold(self, question: Question) -> bool:
        """Only ever in train: elsewhere it would leak into what is measured."""
        wanted = self._options.show_gold == "yes" or (
            self._options.show_gold == "auto" and self._panel.rationale_mode == "teacher_forced"
        )
        return wanted and question.split == "train" and question.answer is not None

    def _check_failures(self, cells: Sequence[StoredCell | None]) -> None:
        failed = Counter("unasked" if cell is None else cell.error for cell in cells if cell is None or cell.error)
        if failed and self._options.on_failure == "stop":
            said = next((f"; one said: {cell.message}" for cell in cells if cell is not None and cell.error), "")
            shown = ", ".join(f"{count} {name}" for name, count in sorted(failed.items(), key=str))
            raise Unfinished(
                f"{failed.total()} of {len(cells)} calls brought no reply ({shown}{said}); run the same command again "
                "to go on, or take option on_failure=keep-teacher",
                place=f"aggregator {self._teacher.name}",
            )


def read_draft(cell: StoredCell | None, question: Question, *, max_tokens: int) -> Draft:
    """What a stored reply came to.

    Args:
        cell: None where no call was made.
        question: whose choices the answer is read by.
        max_tokens: of a rationale, by `about_tokens`.
    """
    from kp_data.generate.reading import content_error
    from kp_data.teachers.parsing import parse_answer

    if cell is None or cell.error is not None:
        return Draft(problem=cell.error if cell is not None else "unasked")
    parsed = parse_answer(cell.reply or "", question.choices)
    problem = content_error(cell, parsed)
    if problem is None and parsed.answer is None:
        problem = "no_answer"
    elif problem is None and not parsed.rationale.strip():
        problem = "empty"
    elif problem is None and about_tokens(parsed.rationale) > max_tokens:
        problem = "too_long"
    return Draft(parsed.rationale.strip(), parsed.answer, parsed.index, problem)


def answer_code(panel: Panel, row: int, draft: Draft) -> int:
    """What a draft concludes, as the panel numbers the answers of that question.

    An open-ended answer that is not the gold one gets a number of its own.
    """
    question = panel.questions[row]
    if question.choices:
        return NONE if draft.index is None else draft.index
    if draft.answer is None:
        return NONE
    if question.answer is not None and same_answer(draft.answer, question.answer):
        return int(panel.gold_Q[row])
    return 1 + int(max(panel.answer_QT[row].max(), panel.stated_QT[row].max(), panel.gold_Q[row]))


def _asking(context: Context) -> Any:
    from kp_data.config import Generate

    config = context.partners.config
    return Generate() if config is None else config.generate


def _wrong(name: str, message: str) -> ConfigError:
    return ConfigError(message, place=f"{NAME} option '{name}'")
