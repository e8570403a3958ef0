"""A question's story: what every teacher said, where they part, which rationale was kept, and on what grounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kp_data.hub.explorer.dataset import Dataset, NotFound, Part, joined
from kp_data.hub.explorer.filters import Condition, quoted
from kp_data.hub.explorer.rows import ROW, Rows
from kp_data.panel import normalise_answer
from kp_data.schema import AGGREGATED, RESPONSES
from kp_data.schema import PURIFIED as PURIFIED_SCHEMA
from kp_data.summary import base_id

PURIFIED: Final = "purified"
PANEL: Final = "panel"
QUESTIONS: Final = "questions"

MAX_VOICES: Final = 100

_COLUMNS: Final = tuple(PURIFIED_SCHEMA.names)

SCORES: Final[Mapping[str, str]] = {
    "similarity-router": "probability, by the question alone, that this teacher answers it right",
    "plm-classifier": "probability, by the question alone, that this teacher answers it right",
    "plackett-luce": "strength of this teacher on similar questions; only the order matters",
    "teacher-selection": "probability with which the policy takes this teacher",
    "consensus": "probability that this teacher's conclusion is right, given what all of them say",
    "verifier": "probability that this rationale leads to the right answer",
    "weighted-vote": "weight of the votes for this teacher's conclusion",
    "majority": "share of the votes for this teacher's conclusion",
    "best-single": "accuracy of this teacher on the training questions",
    "oracle": "1 where this teacher is right; needs the gold answer, so it is a bound and no method",
    "random": "nothing: the choice was a draw",
}
"""What the number beside a teacher means, by method."""


@dataclass(frozen=True)
class Voice:
    """What one teacher said to the question.

    Attributes:
        answer: what it concluded, as text; None: no conclusion could be read.
        group: number of its conclusion among those of this question, 0 for what most concluded; None: none.
        correct: None where no gold answer is known, or the gold answer stood in the prompt.
        error: class of the failure where there is no rationale.
        score: what the method gave it; None: it gave none.
        kept: whether its rationale is the one that was kept.
    """

    teacher: str
    mode: str
    sample: int
    rationale: str | None
    answer: str | None
    group: int | None
    correct: bool | None
    error: str | None
    model: str | None
    score: float | None
    kept: bool


@dataclass(frozen=True)
class Story:
    """A question with all its voices.

    Attributes:
        row: the question's columns, and the purified ones where it was purified.
        voices: those whose conclusion most share first; within one, by score.
        groups: (conclusion, teachers that drew it), the most frequent first.
        conflict: whether two teachers conclude differently.
        kept: the rationale that was kept; None: nothing was purified, or nothing was kept.
        kept_from: whose it is; `aggregated` where it was written anew.
        method: by which; None: not purified.
        score_means: what the scores are; empty where unknown.
    """

    row: Mapping[str, Any]
    voices: tuple[Voice, ...]
    groups: tuple[tuple[str, tuple[str, ...]], ...]
    conflict: bool
    kept: str | None
    kept_from: str | None
    method: str | None
    score_means: str


def tell(rows: Rows, dataset: Dataset, question: Found) -> Story:
    """The story of a question that `find_question` found. Raises as `Rows.page`."""
    row, question_id = question.row, str(question.row.get("id"))
    method = row.get("method")
    asked = base_id(question_id, row.get("teacher"), method) if method else question_id
    said = list(_responses(rows, dataset, asked))
    names = _conclusions(row, said)
    scores = _scores(dataset, row)
    voices = [_voice(row, response, names, scores) for response in said]
    voices.sort(key=lambda voice: (voice.mode != "blind", voice.group is None, voice.group, -(voice.score or 0.0)))
    return Story(
        row=row,
        voices=tuple(voices),
        groups=_groups(voices),
        conflict=len({voice.group for voice in voices if voice.group is not None and voice.mode == "blind"}) > 1
        or row.get("conflict") is True,
        kept=row.get("rationale") if method else None,
        kept_from=row.get("teacher") if method else None,
        method=method,
        score_means=_score_means(dataset, method),
    )


@dataclass(frozen=True)
class Found:
    """Where a question stands.

    Attributes:
        part: in which split.
        number: its row there.
        row: its columns.
    """

    part: Part
    number: int
    row: Mapping[str, Any]


def find_question(rows: Rows, dataset: Dataset, question_id: str) -> Found:
    """The row of a question, in the purified part or, before purification, among the questions.

    Raises:
        NotFound: no row has this id.
    """
    for parts in (dataset.of_config(config) for config in (PURIFIED, QUESTIONS)):
        for number, row in _where(rows, parts, "id", question_id, _COLUMNS, length=1):
            return _placed(parts, number, row)
    raise NotFound("no question has this id", place=question_id[:80])


def _placed(parts: Sequence[Part], number: int, row: Mapping[str, Any]) -> Found:
    """Where a row stands whose number counts through all splits."""
    for part in parts[:-1]:
        if number < part.num_rows:
            return Found(part, number, row)
        number -= part.num_rows
    return Found(parts[-1], number, row)


def neighbours(rows: Rows, found: Found) -> tuple[str | None, str | None]:
    """The ids of the rows before and after a question's; None at the ends."""
    around = dict(rows.at(found.part, [found.number - 1, found.number + 1], ["id"]).rows)
    before, after = (around.get(found.number + step, {}).get("id") for step in (-1, 1))
    return before, after


def next_conflict(rows: Rows, found: Found) -> str | None:
    """The id of the next question on which teachers contradict one another; None: there is none, or nobody knows."""
    if found.part.kinds.get("conflict") != "bool":
        return None
    later = Condition(f'("conflict" AND {ROW} > ?)', (found.number,))
    ((number,),) = rows.select(found.part, f"min({ROW})", condition=later)
    page = rows.at(found.part, [] if number is None else [int(number)], ["id"])
    return str(page.rows[0][1]["id"]) if page.rows else None


def _where(
    rows: Rows, parts: Sequence[Part], column: str, value: str, columns: Sequence[str], *, length: int
) -> Sequence[tuple[int, Mapping[str, Any]]]:
    """Rows of any split whose text column holds a value; none where there is no such column."""
    part = joined(parts)
    if part is None or part.kinds.get(column) != "text":
        return ()
    return rows.where(part, Condition(f"({quoted(column)} = ?)", (value,)), columns=columns, length=length)


def _responses(rows: Rows, dataset: Dataset, question_id: str) -> Iterator[Mapping[str, Any]]:
    found = _where(rows, dataset.of_config(PANEL), "question_id", question_id, RESPONSES.names, length=MAX_VOICES)
    yield from (row for _, row in found)


def _conclusions(row: Mapping[str, Any], said: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, str]]:
    """Conclusion's key to (its number, its text); those most teachers drew come first."""
    texts: dict[str, str] = {}
    counts: dict[str, int] = {}
    for response in said:
        key, text = _conclusion(row, response)
        if key is not None:
            texts.setdefault(key, text)
            counts[key] = counts.get(key, 0) + (response.get("mode") == "blind" and not response.get("sample"))
    order = sorted(counts, key=lambda key: -counts[key])
    return {key: (number, texts[key]) for number, key in enumerate(order)}


def _conclusion(row: Mapping[str, Any], response: Mapping[str, Any]) -> tuple[str | None, str]:
    choices, index = row.get("choices") or [], response.get("answer_index")
    if isinstance(index, int) and 0 <= index < len(choices):
        return f"#{index}", choices[index]
    answer = response.get("answer")
    return (normalise_answer(answer), answer) if isinstance(answer, str) and answer and not choices else (None, "")


def _voice(
    row: Mapping[str, Any],
    response: Mapping[str, Any],
    names: Mapping[str, tuple[int, str]],
    scores: Mapping[str, float],
) -> Voice:
    key, _ = _conclusion(row, response)
    number, text = names[key] if key is not None else (None, None)
    teacher, rationale = str(response.get("teacher")), response.get("rationale")
    return Voice(
        teacher=teacher,
        mode=str(response.get("mode") or "blind"),
        sample=int(response.get("sample") or 0),
        rationale=rationale,
        answer=text,
        group=number,
        correct=_correct(row, response),
        error=response.get("error"),
        model=response.get("model"),
        score=scores.get(teacher),
        kept=row.get("teacher") == teacher != AGGREGATED
        and rationale is not None
        and rationale == row.get("rationale"),
    )


def _correct(row: Mapping[str, Any], response: Mapping[str, Any]) -> bool | None:
    """Whether a blind answer is right: as it was noted, else by its choice."""
    noted, gold, index = response.get("correct"), row.get("answer_index"), response.get("answer_index")
    if noted is not None or response.get("mode") != "blind" or gold is None or index is None:
        return noted
    return bool(gold == index)


def _scores(dataset: Dataset, row: Mapping[str, Any]) -> dict[str, float]:
    """Teacher to its score; `scores` has them in the order of the report's `teachers`."""
    teachers, scores = dataset.json("report.json").get("teachers"), row.get("scores")
    if not isinstance(teachers, list) or not isinstance(scores, list) or len(teachers) != len(scores):
        return {}
    return {str(teacher): float(score) for teacher, score in zip(teachers, scores, strict=True) if score is not None}


def _score_means(dataset: Dataset, method: str | None) -> str:
    """What the run itself said of its scores, else what the method's scores are in general."""
    fit = dataset.json("report.json").get("fit")
    said = fit.get("score_meaning") if isinstance(fit, dict) else None
    return said if isinstance(said, str) else SCORES.get(method or "", "")


def _groups(voices: Sequence[Voice]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    found: dict[int, tuple[str, list[str]]] = {}
    for voice in voices:
        if voice.group is not None and voice.answer is not None and voice.mode == "blind" and voice.sample == 0:
            found.setdefault(voice.group, (voice.answer, []))[1].append(voice.teacher)
    return tuple((text, tuple(teachers)) for _, (text, teachers) in sorted(found.items()))
