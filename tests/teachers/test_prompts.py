"""Prompts: what is shown, and what never is."""

from hypothesis import given
from hypothesis import strategies as st

from kp_data.schema import Question
from kp_data.teachers.prompts import build_messages, last_question_block, pick_examples, render_question

ICE = Question("ice", "Is ice cold?", ("hot", "cold"), "cold", 1)
SUN = Question("sun", "Is the sun cold?", ("hot", "cold"), "hot", 0)


def prompt(question: Question = ICE, **options: object) -> str:
    (message,) = build_messages(question, **options)  # type: ignore[arg-type]
    return message["content"]


def test_a_blind_prompt_never_shows_the_gold_answer() -> None:
    text = prompt(mode="blind")
    assert render_question(ICE) in text
    assert "Correct answer" not in text
    assert "The answer is (B)" not in text


def test_a_teacher_forced_prompt_shows_it() -> None:
    assert "Correct answer: (B) cold" in prompt(mode="teacher_forced")


def test_examples_stand_before_the_question_with_their_rationales() -> None:
    text = prompt(mode="blind", examples=[SUN], rationales={"sun": "It burns."})
    assert text.index("It burns.") < text.index("The answer is (A).") < text.index("Is ice cold?")
    assert last_question_block(text) == render_question(ICE)


def test_the_last_question_is_found_without_its_gold_line() -> None:
    assert last_question_block(prompt(mode="teacher_forced", examples=[SUN])) == render_question(ICE)


pools = st.lists(st.integers(0, 12), max_size=20, unique=True)


@given(pools, st.integers(0, 8), st.integers(0, 3))
def test_examples_never_contain_the_question_itself_and_are_stable(ids: list[int], k: int, seed: int) -> None:
    pool = [Question(str(n), f"question {n % 9}", (), None if n == 5 else "x") for n in ids]
    asked = Question("3", "question 3", (), "x")
    picked = pick_examples(pool, asked, k=k, seed=seed)
    assert picked == pick_examples(pool, asked, k=k, seed=seed)
    usable = [q for q in pool if q.answer is not None and q.id != asked.id and q.question != asked.question]
    assert len(picked) == min(k, len(usable))
    assert all(question in usable for question in picked)
    assert len({question.id for question in picked}) == len(picked)
