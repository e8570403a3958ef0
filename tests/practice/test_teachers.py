"""The practice teachers: wrong in a steady way, and together never without a right one."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kp_data.errors import TeacherError
from kp_data.practice import IN_DOMAIN, SUBJECTS, TEACHERS, find_teacher, make_questions
from kp_data.practice.beliefs import BLIND_SPOTS, MISCONCEPTIONS, argue_rightly
from kp_data.practice.reading import last_prompt, read_prompt
from kp_data.practice.teachers import HABITS, REFUSAL, UNKNOWN
from kp_data.schema import Question
from kp_data.teachers.parsing import is_refusal, parse_answer
from kp_data.teachers.prompts import build_messages, render_question

WORLD = make_questions(600)


def believed(questions: list[Question]) -> list[list[bool]]:
    """(Q, T) whether a teacher believes in the gold answer."""
    return [[teacher.conclude(q) == q.answer_index for teacher in TEACHERS.values()] for q in questions]


def votes(question: Question) -> Counter[int | None]:
    return Counter(teacher.conclude(question) for teacher in TEACHERS.values())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_they_disagree_often_and_one_of_them_is_right_but_no_one_always(seed: int):
    questions = [q for q in make_questions(600, seed=seed) if q.split != "ood"]
    right = believed(questions)
    best = max(sum(column) for column in zip(*right, strict=True)) / len(questions)
    assert 0.4 <= sum(len(votes(q)) > 1 for q in questions) / len(questions) <= 0.8
    assert sum(map(any, right)) / len(questions) >= 0.95
    assert 0.6 <= best <= 0.75
    # A tie counts for the share of it that is right: what drawing lots would give.
    majority = sum(
        (votes(q)[q.answer_index] == max(votes(q).values())) / list(votes(q).values()).count(max(votes(q).values()))
        for q in questions
    )
    assert majority / len(questions) < 0.8


@pytest.mark.parametrize("written", ["plants", "plants:50"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_on_the_held_out_subject_the_experts_of_its_neighbour_know_part(seed: int, written: str):
    questions = make_questions(600, seed=seed, subjects=[written])
    right = believed(questions)
    accuracy = dict(zip(TEACHERS, (sum(column) / len(questions) for column in zip(*right, strict=True)), strict=True))
    assert sum(map(any, right)) / len(questions) >= 0.95
    assert 0.6 < min(accuracy["ada"], accuracy["bruno"]) <= max(accuracy.values()) <= 0.85
    assert max(accuracy["clara"], accuracy["dario"], accuracy["elin"]) < min(accuracy["ada"], accuracy["bruno"])


@pytest.mark.parametrize("subject", [subject.name for subject in IN_DOMAIN])
def test_each_subject_has_two_experts_who_are_rarely_wrong_and_three_who_are_often_wrong(subject: str):
    questions = make_questions(120, subjects=[subject])
    experts = {name for name, teacher in TEACHERS.items() if subject in teacher.subjects}
    assert len(experts) == 2
    for name, teacher in TEACHERS.items():
        accuracy = sum(teacher.conclude(q) == q.answer_index for q in questions) / len(questions)
        assert 0.82 < accuracy < 1.0 if name in experts else 0.25 < accuracy < 0.75


@pytest.mark.parametrize("subject", [subject.name for subject in IN_DOMAIN])
def test_where_one_expert_has_its_blind_spot_the_other_is_right(subject: str):
    experts = [teacher for teacher in TEACHERS.values() if subject in teacher.subjects]
    for question in make_questions(120, subjects=[subject]):
        assert any(expert.conclude(question) == question.answer_index for expert in experts)


def test_misconceptions_name_what_there_is():
    for held in MISCONCEPTIONS:
        subject = SUBJECTS[held.subject]
        assert set(held.kinds) | set(held.kinds.values()) <= set(subject.kinds)
        assert set(held.classes) | set(held.classes.values()) <= set(subject.classes)
        assert all(kind in subject.kinds and name in subject.classes for kind, name in held.rule)
        assert set(held.rule.values()) <= set(subject.outcomes)
        assert set(held.holders) <= set(TEACHERS)
        known = [held.subject in TEACHERS[name].subjects for name in held.holders]
        assert all(known) if held in BLIND_SPOTS else not any(known)


def test_some_misconceptions_are_popular_and_some_are_individual():
    holders = Counter(len(held.holders) for held in MISCONCEPTIONS)
    assert set(holders) == {1, 2, 3}


def test_what_a_teacher_says_is_what_it_believes():
    for question in WORLD:
        for teacher in TEACHERS.values():
            reply = teacher.answer(build_messages(question, mode="blind"))
            if reply.finish_reason == "stop" and reply.text != REFUSAL:
                assert parse_answer(reply.text, question.choices).index == teacher.conclude(question), reply.text


def test_a_wrong_answer_comes_with_the_wrong_step_that_leads_to_it():
    """Right kind, right class and right rule together are never said for a wrong answer."""
    for question in WORLD:
        reading = read_prompt(render_question(question))
        assert reading is not None
        steps = argue_rightly(reading.case)
        for teacher in TEACHERS.values():
            reply = teacher.answer(build_messages(question, mode="blind"))
            if reply.finish_reason != "stop" or reply.text == REFUSAL:
                continue
            own = teacher.argument(reading)
            said = parse_answer(reply.text, question.choices).rationale
            assert own.class_name in said
            assert own.outcome in said
            # Two wrong steps can lead to the right answer; right steps never lead to a wrong one.
            assert own != steps or teacher.conclude(question) == question.answer_index
            # An expert's blind spot is in the rule: it knows what things are.
            if question.subject in teacher.subjects:
                assert (own.kind, own.class_name) == (steps.kind, steps.class_name)


def test_rationales_are_short():
    said = [
        parse_answer(teacher.answer(build_messages(q, mode="blind")).text, q.choices).rationale
        for q in WORLD[:200]
        for teacher in TEACHERS.values()
    ]
    assert max(len(text.split()) for text in said) <= 40


def test_rare_habits_come_as_rarely_as_they_should():
    replies = [teacher.answer(build_messages(q, mode="blind")) for q in WORLD for teacher in TEACHERS.values()]
    shares = {
        "truncated": sum(reply.finish_reason == "length" for reply in replies),
        "refused": sum(is_refusal(reply.text) for reply in replies),
        "short": sum("\nAnswer: " in reply.text for reply in replies),
        "letter": sum(reply.text.endswith(") is right.") for reply in replies),
        "bold": sum(reply.text.endswith("**") for reply in replies),
        "torn": sum("One might think of" in reply.text for reply in replies),
        "run_on": sum("\n\nQuestion: " in reply.text for reply in replies),
    }
    assert set(shares) == set(HABITS)
    assert all(0.005 < count / len(replies) < 0.025 for count in shares.values()), shares


def test_a_reply_cut_off_states_no_answer():
    for question in WORLD:
        for teacher in TEACHERS.values():
            reply = teacher.answer(build_messages(question, mode="blind"))
            if reply.finish_reason == "length":
                assert "\n" not in reply.text
                assert not reply.text.endswith(".")


@given(st.integers(0, 599), st.sampled_from(sorted(TEACHERS)), st.integers(0, 50), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_equal_requests_get_equal_replies_and_seeds_never_change_a_belief(
    place: int, name: str, seed: int, sample: int
):
    question, teacher = WORLD[place], TEACHERS[name]
    asked = build_messages(question, mode="blind")
    reply = teacher.answer(asked, temperature=1.0, seed=seed, sample=sample)
    assert reply == teacher.answer(asked, temperature=1.0, seed=seed, sample=sample)
    parsed = parse_answer(reply.text, question.choices).index
    assert parsed in (None, teacher.conclude(question))
    assert teacher.answer(asked, seed=seed) == teacher.answer(asked)


def test_at_a_temperature_seeds_vary_the_wording():
    asked = build_messages(WORLD[0], mode="blind")
    assert len({TEACHERS["ada"].answer(asked, temperature=1.0, seed=seed).text for seed in range(12)}) >= 3


def test_the_last_question_is_answered_and_the_examples_are_not():
    teacher, question = TEACHERS["ada"], WORLD[20]
    alone = teacher.answer(build_messages(question, mode="blind"))
    among = teacher.answer(build_messages(question, mode="blind", examples=WORLD[:3], rationales={WORLD[0].id: "So."}))
    assert among == alone


@pytest.mark.parametrize(
    "layout",
    [
        "{question}\nA. {a}\nB. {b}\nC. {c}\nD. {d}",
        "Please help.\n\n### Q\n{question}\n\na) {a}\nb) {b}\nc) {c}\nd) {d}\n\nAnswer:",
        "{question} Options: {a}; {b}; {c}; {d}.",
        "  {question}\r\n\r\n(A) {a}\r\n(B) {b}\r\n(C) {c}\r\n(D) {d}\r\nThink step by step.",
    ],
)
def test_other_layouts_are_understood(layout: str):
    for question in WORLD[:60]:
        text = layout.format(question=question.question, **dict(zip("abcd", question.choices, strict=True)))
        reading = read_prompt(text)
        assert reading is not None
        assert tuple(choice.text for choice in reading.choices) == question.choices
        assert reading.question == question.question
        assert reading.gold is None


def test_without_choices_the_outcome_itself_is_the_answer():
    question = WORLD[0]
    messages = [{"role": "user", "content": f"Question: {question.question}"}]
    reply = next(t for t in TEACHERS.values() if question.subject in t.subjects).answer(messages)
    assert parse_answer(reply.text).answer == question.answer


@pytest.mark.parametrize(
    "prompt",
    [
        "Question: What is the capital of France?\nAnswer choices:\n(A) Paris\n(B) Rome",
        "Question: What does the dog do in a hard frost?",
        "What does it do in a hard frost?",
        "",
        f"{render_question(WORLD[0])}\nThe answer is (A).\n\nQuestion: What is two plus two?",
    ],
)
def test_a_question_of_another_world_gets_an_honest_answer(prompt: str):
    for teacher in TEACHERS.values():
        reply = teacher.answer([{"role": "user", "content": prompt}])
        assert (reply.text, reply.finish_reason) == (UNKNOWN, "stop")
        assert parse_answer(reply.text, ["Paris", "Rome"]).index is None


def test_only_the_last_message_of_the_user_is_a_question():
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": render_question(WORLD[0])},
        {"role": "assistant", "content": "The answer is (A)."},
        {"role": "user", "content": [{"type": "text", "text": render_question(WORLD[1])}, {"type": "image_url"}]},
    ]
    assert last_prompt(messages) == render_question(WORLD[1])
    assert TEACHERS["elin"].answer(messages) == TEACHERS["elin"].answer(messages[-1:])


def test_shown_the_gold_answer_everyone_argues_for_it():
    for question in WORLD:
        for teacher in TEACHERS.values():
            reply = teacher.answer(build_messages(question, mode="teacher_forced"))
            if reply.finish_reason == "stop" and reply.text != REFUSAL:
                assert parse_answer(reply.text, question.choices).index == question.answer_index


def test_shown_the_gold_answer_an_expert_argues_rightly_and_others_bend_rules_or_contradict_themselves():
    bent = contradicted = 0
    for question in WORLD:
        reading = read_prompt(build_messages(question, mode="teacher_forced")[0]["content"])
        assert reading is not None
        assert reading.gold == question.answer
        for teacher in TEACHERS.values():
            reply = teacher.answer(build_messages(question, mode="teacher_forced"))
            if reply.finish_reason != "stop" or reply.text == REFUSAL:
                continue
            own = teacher.argument(reading)
            rationale = parse_answer(reply.text, question.choices).rationale
            if own.outcome == question.answer:
                assert own.class_name in rationale
                assert teacher.style.although.split("{")[0] not in rationale
            elif own.outcome in rationale:
                contradicted += 1
                assert question.answer in rationale
            else:
                bent += 1
    assert min(bent, contradicted) > 200


def test_confidence_is_higher_where_a_teacher_is_an_expert():
    means: dict[bool, list[float]] = {True: [], False: []}
    for question in WORLD[:200]:
        for teacher in TEACHERS.values():
            reply = teacher.answer(build_messages(question, mode="blind"))
            assert "".join(token for token, _ in reply.logprobs) == reply.text
            assert all(logprob <= 0 for _, logprob in reply.logprobs)
            mean = sum(logprob for _, logprob in reply.logprobs) / len(reply.logprobs)
            means[question.subject in teacher.subjects].append(mean)
    assert sum(means[True]) / len(means[True]) > sum(means[False]) / len(means[False]) + 0.1


def test_a_token_limit_cuts_the_reply():
    full = TEACHERS["ada"].answer(build_messages(WORLD[0], mode="blind"))
    cut = TEACHERS["ada"].answer(build_messages(WORLD[0], mode="blind"), max_tokens=5)
    assert (len(cut.logprobs), cut.finish_reason) == (5, "length")
    assert full.text.startswith(cut.text)


def test_a_teacher_is_found_by_name_or_model_id():
    assert find_teacher("practice/ada") is find_teacher("ada") is TEACHERS["ada"]
    with pytest.raises(TeacherError, match="no practice teacher 'adam'; there are ada, bruno"):
        find_teacher("adam")
