"""The practice world: as many questions as wanted, no leak between splits, an answer that follows from stated rules."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kp_data.errors import ConfigError
from kp_data.practice import HELD_OUT, IN_DOMAIN, SUBJECTS, is_practice_source, make_questions, rules
from kp_data.practice.beliefs import argue_rightly
from kp_data.practice.reading import read_prompt
from kp_data.schema import Question
from kp_data.tables import check_questions, table_of_questions
from kp_data.teachers.prompts import render_question


def core(question: Question) -> tuple[str, str, str]:
    reading = read_prompt(render_question(question))
    assert reading is not None
    return reading.case.subject.name, reading.case.thing, reading.case.when


@given(st.integers(0, 10_000), st.integers(1, 120), st.integers(1, 120))
@settings(max_examples=20, deadline=None)
def test_a_larger_world_begins_with_the_smaller_one(seed: int, some: int, more: int):
    assert make_questions(some + more, seed=seed)[:some] == make_questions(some, seed=seed)


def test_seeds_give_different_worlds():
    assert [q.question for q in make_questions(50, seed=0)] != [q.question for q in make_questions(50, seed=1)]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_splits_have_their_shares_and_the_held_out_subject_stays_out(seed: int):
    questions = make_questions(600, seed=seed)
    assert Counter(q.split for q in questions) == {"train": 372, "test": 78, "ood": 78, "validation": 72}
    assert {q.subject for q in questions if q.split == "ood"} == {HELD_OUT.name}
    assert {q.subject for q in questions if q.split != "ood"} == {subject.name for subject in IN_DOMAIN}
    per_subject = Counter(q.subject for q in questions if q.split == "train")
    assert max(per_subject.values()) - min(per_subject.values()) <= 1


def test_no_core_comes_twice_so_no_split_leaks_into_another():
    questions = make_questions(6000, seed=3)
    assert len({core(question) for question in questions}) == len(questions)
    assert len({(question.question, question.choices) for question in questions}) == len(questions)


def test_ids_of_other_seeds_and_subjects_differ():
    ids = [q.id for world in ({}, {"seed": 1}, {"subjects": ["law"]}) for q in make_questions(9, **world)]
    assert ids[0] == "practice/0/000000"
    assert len(set(ids)) == len(ids)


def test_questions_are_a_valid_table():
    questions = make_questions(600)
    assert check_questions(table_of_questions(questions), "world").num_rows == 600
    assert all(len(set(q.choices)) == 4 for q in questions)
    assert Counter(q.answer_index for q in questions).most_common()[0][1] < 600 * 0.32


@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_answer_follows_from_the_stated_rules_alone(subject: str):
    """Reads the English rules with patterns of its own, and never looks at the tables behind them."""
    stated = rules(subject)
    kinds = dict(m.groups() for rule in stated if (m := re.fullmatch(r"The (\w+) is a (.+)\.", rule)))
    classes = dict(
        m.groups()
        for rule in stated
        if (
            m := re.fullmatch(
                r"We call (.+?) (a \w+ \w+|a \w+|the \w+|great \w+|hard \w+|extra \w+|poor \w+|high \w+|rest)\.", rule
            )
        )
    )
    outcomes = {m.groups()[:2]: m[3] for rule in stated if (m := re.fullmatch(r"\w+ (.+), a (\w+ \w+) (.+)\.", rule))}
    assert (len(kinds), len(classes), len(outcomes)) == (16, 8, 12)
    for question in make_questions(100, subjects=[subject]):
        text = question.question.lower()
        when = next(when for when in classes if when in text)
        thing = next(name for name in kinds if re.search(rf"\b{name}\b", text))
        assert outcomes[classes[when], kinds[thing]] == question.answer


def test_half_of_the_in_domain_questions_and_all_held_out_ones_state_the_kind():
    questions = make_questions(600)
    states = {q.id: states_the_kind(q) for q in questions}
    assert all(states[q.id] for q in questions if q.split == "ood")
    assert 0.4 < sum(states[q.id] for q in questions if q.split != "ood") / 522 < 0.6


def test_things_of_the_test_split_are_known_from_the_training_split():
    questions = make_questions(600)
    trained = {core(q)[:2] for q in questions if q.split == "train"}
    tested = [core(q)[:2] for q in questions if q.split == "test"]
    assert sum(thing in trained for thing in tested) / len(tested) > 0.95


def test_the_held_out_subject_shares_circumstances_outcomes_and_rule_with_animals():
    animals = SUBJECTS["animals"]
    assert (HELD_OUT.classes, HELD_OUT.outcomes) == (animals.classes, animals.outcomes)
    assert [*HELD_OUT.rule.values()] == [*animals.rule.values()]


def test_each_step_of_a_rule_matters():
    """Another kind, or another class, gives another outcome: no step can be skipped."""
    for subject in SUBJECTS.values():
        assert all(len(set(row)) == 3 for row in subject.rule.values())
        assert all(len(set(column)) == 4 for column in zip(*subject.rule.values(), strict=True))
        assert all(kind[0] not in "aeiou" for kind in subject.kinds)


@given(st.sampled_from(sorted(SUBJECTS)), st.integers(0, 10**7), st.integers(0, 10**7))
@settings(max_examples=200, deadline=None)
def test_every_number_has_a_name_of_its_own_that_its_subject_knows(subject: str, one: int, other: int):
    facts = SUBJECTS[subject]
    assert facts.kind_of(facts.name_at(one)) in facts.kinds
    assert (facts.name_at(one) == facts.name_at(other)) == (one == other)


def test_no_name_belongs_to_two_subjects():
    names = [(s.name, s.name_at(index)) for s, index in product(SUBJECTS.values(), range(3000))]
    assert len({name for _, name in names}) == len(names)
    assert all(sum(name in s.kind_of_base or s.is_generated(name) for s in SUBJECTS.values()) == 1 for _, name in names)


def test_generated_names_spread_over_the_kinds():
    kinds = Counter(SUBJECTS["law"].kind_of(SUBJECTS["law"].name_at(index)) for index in range(16, 1016))
    assert min(kinds.values()) > 200


def test_chosen_subjects_alone_are_asked_about():
    assert {(q.subject, q.split) for q in make_questions(40, subjects=["law", "plants"])} >= {
        ("plants", "ood"),
        ("law", "test"),
    }
    assert {q.split for q in make_questions(40, subjects=["law"])} == {"train", "validation", "test"}
    assert {q.split for q in make_questions(40, subjects=["plants"])} == {"ood"}


def states_the_kind(question: Question) -> bool:
    return any(f"a {kind}" in question.question for kind in SUBJECTS[question.subject or ""].kinds)


def test_a_percentage_says_how_many_questions_of_a_subject_state_the_kind():
    questions = make_questions(1200, subjects=["law:20", "plants:50", "stones"])
    stating = Counter(q.subject for q in questions if states_the_kind(q))
    share = {name: stating[name] / number for name, number in Counter(q.subject for q in questions).items()}
    assert abs(share["law"] - 0.2) < 0.05
    assert abs(share["plants"] - 0.5) < 0.1
    assert abs(share["stones"] - 0.5) < 0.05
    assert {q.split for q in questions if q.subject == "plants"} == {"ood"}


@given(st.integers(0, 1000), st.sampled_from(sorted(SUBJECTS)))
@settings(max_examples=30, deadline=None)
def test_none_and_all_mean_none_and_all(seed: int, subject: str):
    assert not any(map(states_the_kind, make_questions(40, seed=seed, subjects=[f"{subject}:0"])))
    assert all(map(states_the_kind, make_questions(40, seed=seed, subjects=[f"{subject}:100"])))


@pytest.mark.parametrize("written", ["animals:50", "plants:100"])
def test_the_usual_percentage_gives_the_usual_questions_under_ids_of_their_own(written: str):
    usual = make_questions(60, seed=4, subjects=[written.partition(":")[0]])
    asked = make_questions(60, seed=4, subjects=[written])
    assert [replace(q, id="") for q in asked] == [replace(q, id="") for q in usual]
    assert asked[0].id == f"practice/4/{written}/000000"


def test_teachers_read_questions_that_leave_the_kind_to_the_name():
    for question in make_questions(100, subjects=["plants:0"]):
        reading = read_prompt(render_question(question))
        assert reading is not None
        assert reading.case.stated_kind is None
        assert argue_rightly(reading.case).outcome == question.answer


@pytest.mark.parametrize(
    ("n", "subjects", "says"),
    [
        (0, None, "ask for 1 or more"),
        (5, ["cooking"], "no subject 'cooking'; there are animals"),
        (5, [], "no subject chosen"),
        (5, ["plants:half"], "subject 'plants:half': behind the colon goes how many in a hundred"),
        (5, ["plants:"], "subject 'plants:': behind the colon"),
        (5, ["plants:101"], "0 to 100"),
        (5, ["plants:²"], "0 to 100"),
        (5, ["plants", "law", "plants:50"], "subject 'plants' stands there twice"),
    ],
)
def test_nonsense_is_refused(n: int, subjects: list[str] | None, says: str):
    with pytest.raises(ConfigError, match=says):
        make_questions(n, subjects=subjects)


@pytest.mark.slow
def test_a_hundred_thousand_questions_are_all_different():
    questions = make_questions(100_000)
    assert len({(q.question, q.choices) for q in questions}) == 100_000
    assert len({core(q) for q in questions}) == 100_000


def test_a_source_is_recognised_by_its_scheme():
    assert is_practice_source("practice:nonsense")
    assert not is_practice_source("practice/ada")
