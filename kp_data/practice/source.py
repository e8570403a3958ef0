"""The practice world as a source of questions, written `practice:N[?seed=1&subjects=a,b:50]`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl

from kp_data.errors import ConfigError
from kp_data.practice.subjects import SUBJECTS
from kp_data.practice.world import choose_subjects, make_questions
from kp_data.schema import Question

SCHEME: Final = "practice:"
_USAGE: Final = "write practice:N, such as practice:600?seed=1&subjects=animals,law"


@dataclass(frozen=True)
class PracticeSource:
    """What a practice source asks for; `subjects`, as `make_questions` takes them: None means all of them."""

    n: int
    seed: int = 0
    subjects: tuple[str, ...] | None = None

    def questions(self) -> list[Question]:
        """The questions of this source."""
        return make_questions(self.n, seed=self.seed, subjects=self.subjects)


def is_practice_source(text: str) -> bool:
    """Whether a source is of the practice world, well written or not."""
    return text.startswith(SCHEME)


def parse_practice_source(text: str) -> PracticeSource:
    """A practice source from its text.

    Raises:
        ConfigError: the text is not one, a number is none, or an option or subject is unknown.

    >>> parse_practice_source("practice:600?seed=1&subjects=animals,law")
    PracticeSource(n=600, seed=1, subjects=('animals', 'law'))
    """
    if not is_practice_source(text):
        raise ConfigError(f"not a practice source; {_USAGE}", place=text)
    number, _, query = text.removeprefix(SCHEME).partition("?")
    options: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in ("seed", "subjects") or key in options:
            problem = "given twice" if key in options else "unknown; there are seed and subjects"
            raise ConfigError(f"option {key!r} is {problem}", place=text)
        options[key] = value
    n = _number(number, "the number of questions", text)
    if n < 1:
        raise ConfigError(f"{n} questions asked for; {_USAGE}", place=text)
    return PracticeSource(n, _number(options.get("seed", "0"), "seed", text), _subjects(options.get("subjects"), text))


def _number(value: str, what: str, place: str) -> int:
    if not (value.isascii() and value.isdigit()):
        raise ConfigError(f"{what} must be a whole number, not {value!r}; {_USAGE}", place=place)
    return int(value)


def _subjects(value: str | None, place: str) -> tuple[str, ...] | None:
    if value is None:
        return None
    names = tuple(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))
    if not names:
        raise ConfigError(f"no subject named; there are {', '.join(SUBJECTS)}", place=place)
    choose_subjects(names, place=place)
    return names
