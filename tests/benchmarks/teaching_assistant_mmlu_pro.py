"""Few calls to real teachers: the recorded answers of a panel, one call each, and how right the kept labels are.

    python tests/benchmarks/teaching_assistant_mmlu_pro.py FOLDER --report tests/benchmarks/results/FILE.md

No student is trained: this is about labels. A warm-up asks all teachers the same questions; on these a router and an
assistant are fitted (gold answers of the warm-up's questions alone). The rest of the calls goes to one teacher a
question. Everything happens on split `train`; no other split is read. Gold answers of the other questions count what
was kept, and decide nothing.

Axes: S seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from kp_data.purify.protocol import Router
from kp_data.tables import questions_of, read_questions
from kp_train.assistant import Pool
from kp_train.assistant.judges import Assistant, TrustingAssistant, without_gold
from kp_train.assistant.lessons import Classroom
from kp_train.assistant.routing import Chooser, fit_router
from kp_train.assistant.staging import Judged, plan_warm_up, requests_of
from kp_train.assistant.strategies import strategy_named
from kp_train.assistant.surface import SurfaceAssistant
from kp_train.assistant.teachers import Answered, ReplayedTeachers, Request
from kp_train.dataset import gold_dataset

Array = np.ndarray[Any, Any]

BUDGETS: Final = (600, 1200, 2400)
SEEDS: Final = (0, 1, 2)
WARM_UP: Final = 0.3
RECALL: Final = 0.6
"""Chosen beforehand, by nothing."""


@dataclass(frozen=True)
class Way:
    """One way to spend the calls.

    Attributes:
        name: in the table.
        routed: whether a router chooses whom to ask; else a teacher is drawn.
        ask_first: the strategy.
        filters: whether only what the assistant trusts is kept.
    """

    name: str
    routed: bool
    ask_first: str
    filters: bool


WAYS: Final = (
    Way("random teacher, all kept", False, "random", False),
    Way("random teacher, s3", False, "random", True),
    Way("router, all kept", True, "random", False),
    Way("router, s3", True, "random", True),
    Way("router, coverage, all kept", True, "coverage", False),
    Way("router, least routable first, all kept", True, "router", False),
)


@dataclass(frozen=True)
class WarmedUp:
    """What a warm-up leaves behind.

    Attributes:
        answered: its calls.
        router: None: nothing to learn from.
        judged: the assistant, calibrated on the warm-up crosswise.
    """

    answered: tuple[Answered, ...]
    router: Router | None
    judged: Judged


@dataclass(frozen=True)
class Kept:
    """The outcome of one run: calls, labels kept, and how many of them are right."""

    calls: int
    kept: int
    right: int


def main() -> int:
    options = _options()
    room = _room(options.folder)
    source = ReplayedTeachers(options.folder, room.pool)
    rows = []
    for budget in BUDGETS:
        found: dict[str, list[Kept]] = {way.name: [] for way in WAYS}
        judged: list[Judged] = []
        for seed in SEEDS:
            warm = warm_up(room, source, budget=budget, seed=seed)
            judged.append(warm.judged)
            for way in WAYS:
                found[way.name].append(spend(room, source, warm, way, budget=budget, seed=seed))
        rows += [_row(budget, name, each) for name, each in found.items()]
        rows.append(_assistant_row(budget, judged))
        print("\n".join(rows[-len(WAYS) - 1 :]), flush=True)
    text = page(room, source.teachers, rows)
    if options.report is not None:
        options.report.write_text(text, encoding="utf-8")
    return 0


def warm_up(room: Classroom, source: ReplayedTeachers, *, budget: int, seed: int) -> WarmedUp:
    """Ask all teachers the same questions, and learn from their gold answers."""
    plan = plan_warm_up(room, source, calls=round(WARM_UP * budget), side_by_side=True, seed=seed)
    answered = source.ask(requests_of(room, plan), stage=Path())
    asked = {one.request.question.id for one in answered}
    questions = [room.judged(question) for question in room.pool if question.id in asked]
    claims = [replace(one.claim, question=room.judged(one.request.question)) for one in answered if one.claim]
    right_N = np.array([claim.answer == claim.question.answer for claim in claims])
    bare = [without_gold(claim) for claim in claims]
    assistant: Assistant = SurfaceAssistant.fit(bare, right_N) if len(bare) else TrustingAssistant()
    router = fit_router(questions, answered, source.teachers, seed=seed)
    return WarmedUp(tuple(answered), router, Judged.of(assistant, bare, right_N))


def spend(room: Classroom, source: ReplayedTeachers, warm: WarmedUp, way: Way, *, budget: int, seed: int) -> Kept:
    """Spend what is left; of the warm-up, a question counts with one answer, chosen as the way chooses."""
    chooser = Chooser(source, warm.router if way.routed else None)
    asked = {one.request.question.id for one in warm.answered}
    open_ = [question for question in room.pool if question.id not in asked]
    score_QT = _scores(warm.router, tuple(open_), source.teachers)
    pool = Pool(
        tuple(question.id for question in open_),
        np.ones(len(open_)),
        np.ones(len(open_)),
        score_QT,
        teacher_QT=score_QT,
        seed=seed,
    )
    rows = strategy_named(way.ask_first)(pool, budget - len(warm.answered))
    questions = [open_[row] for row in rows]
    requests = [
        Request(question, teacher)
        for question, teacher in zip(questions, chooser.choose(questions, seed=seed), strict=True)
    ]
    before = [question for question in room.pool if question.id in asked]
    chosen = dict(zip((one.id for one in before), chooser.choose(before, seed=seed), strict=True))
    answers = [one for one in warm.answered if one.request.teacher == chosen[one.request.question.id]]
    answers += source.ask(requests, stage=Path())
    claims = [one.claim for one in answers if one.claim is not None]
    least = warm.judged.threshold(0.0, RECALL) if way.filters else 0.0
    trusted_N = warm.judged.calibrated([without_gold(claim) for claim in claims]) >= least
    kept = [claim for claim, trusted in zip(claims, trusted_N, strict=True) if trusted]
    right = sum(claim.answer == room.gold[claim.question.id] for claim in kept)
    return Kept(len(warm.answered) + len(requests), len(kept), right)


_known_scores: dict[tuple[int, int], Array] = {}


def _scores(router: Router | None, questions: tuple[Any, ...], teachers: Sequence[str]) -> Array:
    """(Q, T) float, a router's scores; equal ones without a router."""
    if router is None:
        return np.ones((len(questions), len(teachers)))
    key = (id(router), len(questions))
    if key not in _known_scores:
        score_QT, _ = router.route(questions)
        _known_scores[key] = score_QT[:, [router.teachers.index(name) for name in teachers]]
    return _known_scores[key]


def _room(folder: Path) -> Classroom:
    """The questions of split train, of which a part is held out and not used."""
    questions = questions_of(read_questions(folder / "questions.parquet"))
    train = [question for question in questions if question.split == "train"]
    return Classroom.of(gold_dataset(train, str(folder)), split="train", validation_split="none held out")


def page(room: Classroom, teachers: Sequence[str], rows: Sequence[str]) -> str:
    """Markdown."""
    lines = [
        "# Few calls to real teachers: labels of MMLU-Pro",
        "",
        f"{len(room.pool)} questions of split train that are not held out, ten choices each; teachers, replayed: "
        f"{', '.join(teachers)}. Warm-up: {WARM_UP:.0%} of the calls, all teachers side by side; on it a similarity "
        "router and an assistant (`surface`: a regression on how rationales look) are fitted. The other calls go to "
        "one teacher a question. `s3`: kept is what the assistant trusts most, by the threshold that keeps "
        f"{RECALL:.0%} of the right answers of the warm-up. Labels only, no student; means over {len(SEEDS)} seeds, "
        "with the standard deviation. Prices are not recorded, so there are no dollars.",
        "",
        "| calls | way | labels kept | of them right | right labels |",
        "| --- | --- | --- | --- | --- |",
        *rows,
    ]
    return "\n".join(lines) + "\n"


def _row(budget: int, name: str, found: Sequence[Kept]) -> str:
    assert all(one.calls <= budget for one in found)
    share_S = np.array([one.right / one.kept for one in found if one.kept])
    share = f"{100 * share_S.mean():.1f} ± {100 * share_S.std():.1f} %" if len(share_S) else ""
    kept, right = (np.mean([getattr(one, key) for one in found]) for key in ("kept", "right"))
    return f"| {budget} | {name} | {kept:.0f} | {share} | {right:.0f} |"


def _assistant_row(budget: int, judged: Sequence[Judged]) -> str:
    from sklearn.metrics import roc_auc_score

    aucs = [roc_auc_score(one.right_N, one.probability_N) for one in judged]
    facts = [one.as_facts() for one in judged]
    eces = [fact["reliability"]["ece"] for fact in facts]
    right = np.mean([fact["right"] for fact in facts])
    return (
        f"| {budget} | the assistant on the warm-up, crosswise | {np.mean([fact['n'] for fact in facts]):.0f} judged | "
        f"{100 * right:.1f} % | area under the curve {np.mean(aucs):.3f}, calibration error {np.mean(eces):.3f} |"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="panel folder with blind answers")
    parser.add_argument("--report", type=Path, help="write the page here")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
