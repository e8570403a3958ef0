"""The practice teachers: programs that answer questions of the practice world, each wrong in its own steady way.

A teacher is given chat messages and nothing else. It argues in three steps (kind, class, rule) from what it believes
(`beliefs`), in a wording of its own, and rarely does what language models do: it stops in mid-sentence, refuses, states
its answer in another form, or runs on into a question that nobody asked. Equal requests get equal replies.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from kp_data.errors import TeacherError
from kp_data.practice.beliefs import EXPERTS, Argument, argue
from kp_data.practice.reading import Choice, Reading, last_prompt, read_prompt
from kp_data.practice.world import make_questions
from kp_data.schema import Question
from kp_data.teachers.prompts import render_question

MODEL_PREFIX: Final = "practice/"
UNKNOWN: Final = "I only know the practice world, and this is no question about it."
REFUSAL: Final = "I'm sorry, but I can't help with that."

HABITS: Final = MappingProxyType(
    {
        "truncated": 0.015,
        "refused": 0.01,
        "short": 0.015,
        "letter": 0.015,
        "bold": 0.015,
        "torn": 0.015,
        "run_on": 0.015,
    }
)
"""How often a reply is not of the ordinary form: cut off, refused, "Answer: b", "(c) is right.", the option's text in
bold, several letters before the final one, on into a next question."""

_TOKEN: Final = re.compile(r"\s*(?:\w+|[^\w\s])")


@dataclass(frozen=True)
class Style:
    """How a teacher words its steps; each step in several ways, of which temperature 0 takes the first.

    Slots: {thing}, {kind}; {when}, {cls}; {link}, {cls}, {kind}, {outcome}. {Link} is the link with a capital.
    """

    kind: tuple[str, ...]
    cls: tuple[str, ...]
    rule: tuple[str, ...]
    although: str


@dataclass(frozen=True)
class Reply:
    """What a teacher says.

    Attributes:
        text: the reply.
        finish_reason: `stop`, or `length` when cut off.
        logprobs: (token, log-probability in nats) for each token; the tokens joined are the text.
    """

    text: str
    finish_reason: str
    logprobs: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class PracticeTeacher:
    """A program that answers like a language model.

    Attributes:
        name: as in a panel; the model id is `practice/NAME`.
        subjects: the subjects it knows.
        style: its wording.
    """

    name: str
    subjects: tuple[str, ...]
    style: Style

    def answer(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        temperature: float = 0.0,
        seed: int | None = None,
        sample: int = 0,
        max_tokens: int | None = None,
    ) -> Reply:
        """The reply to chat messages; the last question in them is answered.

        Args:
            messages: `{"role": …, "content": …}` each.
            temperature: above 0, seed and sample vary wording and habits, never what is believed.
            seed: of this call.
            sample: number of this reply among several to one call.
            max_tokens: cut the reply off after so many tokens.
        """
        reading = read_prompt(last_prompt(messages))
        if reading is None:
            return _reply(UNKNOWN, "stop", -1.0, random.Random(self.name), max_tokens)
        draw = self._draw(reading, (seed or 0, sample) if temperature > 0 else (0, 0))
        text, finish_reason = self._speak(reading, draw, vary=temperature > 0)
        confidence = -0.12 if reading.case.subject.name in self.subjects else -0.3
        return _reply(text, finish_reason, confidence, draw, max_tokens)

    def conclude(self, question: Question) -> int | None:
        """Index of the choice this teacher believes in, asked blind; None for a question of another world."""
        reading = read_prompt(render_question(question))
        if reading is None or not reading.choices:
            return None
        return [choice.text for choice in reading.choices].index(_settle(self.argument(reading).outcome, reading))

    def argument(self, reading: Reading) -> Argument:
        """The three steps this teacher takes."""
        return argue(self.name, reading.case)

    def _draw(self, reading: Reading, variation: tuple[int, int]) -> random.Random:
        shown = "|".join((reading.question, *(choice.text for choice in reading.choices), reading.gold or ""))
        digest = hashlib.blake2b(f"{self.name}:{variation}:{shown}".encode(), digest_size=8).digest()
        return random.Random(digest)

    def _speak(self, reading: Reading, draw: random.Random, *, vary: bool) -> tuple[str, str]:
        habit = _habit(draw)
        if habit == "refused":
            return REFUSAL, "stop"
        steps = self._steps(reading, draw, vary=vary)
        outcome = reading.gold or _settle(self.argument(reading).outcome, reading)
        text = _conclude(" ".join(steps), outcome, reading.choices, habit, draw)
        return (_cut(text, draw), "length") if habit == "truncated" else (text, "stop")

    def _steps(self, reading: Reading, draw: random.Random, *, vary: bool) -> list[str]:
        """The rationale: the kind where it is not stated, the class, the rule; then what the gold answer forces."""
        case, argument = reading.case, self.argument(reading)
        believed = _settle(argument.outcome, reading)
        against = reading.gold is not None and reading.gold != believed
        # Shown an answer against its beliefs, a teacher bends the rule, or keeps it and contradicts itself.
        bends = against and draw.random() < 0.5
        words = {
            "thing": case.thing,
            "kind": argument.kind,
            "when": case.when,
            "cls": argument.class_name,
            "link": case.subject.link,
            "Link": case.subject.link.capitalize(),
            "outcome": reading.gold if bends else argument.outcome,
        }
        wordings = [self.style.cls, self.style.rule]
        if case.stated_kind is None:
            wordings.insert(0, self.style.kind)
        steps = [draw.choice(wording) if vary else wording[0] for wording in wordings]
        if not bends and (against or believed != argument.outcome):
            words["settled"] = reading.gold or believed
            steps.append(self.style.although)
        return [step.format(**words) for step in steps]


def find_teacher(model: str) -> PracticeTeacher:
    """The teacher of a model id, `NAME` or `practice/NAME`.

    Raises:
        TeacherError: there is none; names those there are.
    """
    name = model.removeprefix(MODEL_PREFIX)
    if name not in TEACHERS:
        raise TeacherError(f"no practice teacher {name!r}; there are {', '.join(TEACHERS)}")
    return TEACHERS[name]


def count_tokens(text: str) -> int:
    """Tokens as the practice teachers count them: a word or a punctuation mark is one.

    >>> count_tokens("The answer is (B).")
    7
    """
    return len(_TOKEN.findall(text))


def _settle(outcome: str, reading: Reading) -> str:
    """The believed outcome, or the first choice where it is not among the choices."""
    shown = [choice.text for choice in reading.choices]
    return outcome if not shown or outcome in shown else shown[0]


def _habit(draw: random.Random) -> str | None:
    rest = draw.random()
    for habit, rate in HABITS.items():
        rest -= rate
        if rest < 0:
            return habit
    return None


def _conclude(rationale: str, outcome: str, choices: Sequence[Choice], habit: str | None, draw: random.Random) -> str:
    letters = {choice.text: choice.letter for choice in choices}
    if outcome not in letters:
        return f"{rationale}\nThe answer is {outcome}."
    letter = letters[outcome]
    if habit == "short":
        return f"{rationale}\nAnswer: {letter.lower()}"
    if habit == "letter":
        return f"{rationale}\n({letter.lower()}) is right."
    if habit == "bold":
        return f"{rationale}\n**{outcome}**"
    if habit == "torn" and len(letters) > 1:
        others = [f"({other})" for other in letters.values() if other != letter]
        named = " or of ".join(draw.sample(others, k=min(2, len(others))))
        return f"{rationale} One might think of {named}.\nThe answer is ({letter})."
    said = f"{rationale}\nThe answer is ({letter})."
    return f"{said}\n\n{_next_question(draw)}" if habit == "run_on" else said


def _next_question(draw: random.Random) -> str:
    """A question that nobody asked, with an answer to it."""
    question = make_questions(1, seed=draw.randrange(1000))[0]
    return f"{render_question(question)}\nThe answer is ({draw.choice('ABCD')})."


def _cut(text: str, draw: random.Random) -> str:
    """The first part of a text, in mid-sentence and before the answer is stated."""
    words = text.split("\n", 1)[0].split(" ")
    return " ".join(words[: max(1, int(len(words) * draw.uniform(0.3, 0.9)))]).rstrip(".,:")


def _reply(text: str, finish_reason: str, confidence: float, draw: random.Random, max_tokens: int | None) -> Reply:
    tokens = _TOKEN.findall(text)
    if max_tokens is not None and len(tokens) > max_tokens:
        tokens, finish_reason = tokens[:max_tokens], "length"
    # Every token a little different, the mean about the teacher's confidence in the subject.
    level = confidence * draw.uniform(0.7, 1.3)
    logprobs = tuple((token, level * (0.5 + (7 * place % 11) / 10)) for place, token in enumerate(tokens))
    return Reply("".join(tokens), finish_reason, logprobs)


_STYLES: Final = {
    "ada": Style(
        kind=("The {thing} is a {kind}.", "We know that the {thing} is a {kind}."),
        cls=("We call {when} {cls}.", "Let us call {when} {cls}."),
        rule=("{Link} {cls}, a {kind} {outcome}.", "A {kind} {outcome} {link} {cls}."),
        although="Still, here it {settled}.",
    ),
    "bruno": Style(
        kind=("First, the {thing} is a {kind}.", "To begin, the {thing} is a {kind}."),
        cls=("We see {when} as {cls}.", "We look at {when} as {cls}."),
        rule=("Then {link} {cls} this {kind} {outcome}.", "{Link} {cls} this {kind} {outcome}."),
        although="But this time it {settled}.",
    ),
    "clara": Style(
        kind=("Think of the {thing} as a {kind}.", "See the {thing} as a {kind}."),
        cls=("Think of {when} as {cls}.", "See {when} as {cls}."),
        rule=("A {kind} {outcome} {link} {cls}.", "Any {kind} {outcome} {link} {cls}."),
        although="Even so, it {settled}.",
    ),
    "dario": Style(
        kind=("Everybody knows the {thing}, a {kind}.", "The {thing} is known as a {kind}."),
        cls=("People count {when} as {cls}.", "We count {when} as {cls}."),
        rule=("{Link} {cls} every {kind} {outcome}.", "Every {kind} {outcome} {link} {cls}."),
        although="Yet the right answer is that it {settled}.",
    ),
    "elin": Style(
        kind=("I take the {thing} for a {kind}.", "I hold the {thing} to be a {kind}."),
        cls=("I take {when} for {cls}.", "I hold {when} to be {cls}."),
        rule=("My rule: {link} {cls} a {kind} {outcome}.", "As a rule, a {kind} {outcome} {link} {cls}."),
        although="In this case, however, it {settled}.",
    ),
}

TEACHERS: Final[Mapping[str, PracticeTeacher]] = MappingProxyType(
    {name: PracticeTeacher(name, subjects, _STYLES[name]) for name, subjects in EXPERTS.items()}
)
"""The practice teachers by name."""
