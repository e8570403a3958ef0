"""What teachers write, and what is read out of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kp_data.teachers.parsing import is_refusal, parse_answer

CHOICES = ["digs a hole", "turns pale", "swims away", "turns pale green"]


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("Frost is cold. The answer is (B).", 1),
        ("The answer is B because frost is cold.", 1),
        ("**Answer: b**", 1),
        ("Answer: (c)\nIt swims.", 2),
        ("Final answer: \\boxed{C}", 2),
        ("So $\\boxed{\\text{C}}$", 2),
        ("b", 1),
        ("(b)", 1),
        ("b) turns pale", 1),
        ("The answer is: turns pale.", 1),
        ("The answer is turns pale green.", 3),
        ("The correct option is (D) turns pale green.", 3),
        ("(c) is correct, since the others stay dry.", 2),
        ("It might dig (a) or turn pale (b). In the end, option c is the right one.", 2),
        ("It goes for the water: **swims away**.", 2),
        ("Frost is cold.\n\nSwims away", 2),
        ("Cold beasts dig. So it digs a hole.", 0),
        ("Cold beasts dig, therefore (a).", 0),
        ("The answer is (A).\n\nQuestion: And in heat?\nThe answer is (C).", 0),
        ("So the answer is 1. The answer is (A).", 0),
        ("The answer should be C: swims away", 2),
        ("the correct answer is option (D)", 3),
        ("The answer is A great planet: Venus. So the answer is (B).", 1),
        ("The answer is A because it digs.", 0),
        ("The answer is A", 0),
        ("Let me find the answer: (A) it digs, (B) it turns pale. The correct answer is (B).", 1),
        ("The answer is (A), not (B).", 0),
    ],
)
def test_stated_answers_are_read(text: str, index: int) -> None:
    parsed = parse_answer(text, CHOICES)
    assert parsed.index == index
    assert parsed.answer == CHOICES[index]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Frost is cold and beasts are many.",
        "It could be (a) or (b), who knows.",
        "The answer is (Z).",
        "The answer is not (A).",
        "One might think of (A).",
        "The answer is a mystery to me.",
        "Answer: A planet like Jupiter",
        "I'm sorry, but I can't help with that.",
    ],
)
def test_nothing_is_guessed(text: str) -> None:
    assert parse_answer(text, CHOICES).index is None


@pytest.mark.parametrize(
    ("text", "rationale"),
    [
        ("Frost is cold. Cold beasts dig. The answer is (A).", "Frost is cold. Cold beasts dig."),
        ("Since frost is cold, the answer is (A).", "Since frost is cold"),
        ("Frost is cold.\nTherefore, the correct answer is (A).", "Frost is cold."),
        ("The answer is (A). Cold beasts dig.", "Cold beasts dig."),
        ("Cold beasts dig.\n\n**Answer:** (A)", "Cold beasts dig."),
        ("Cold beasts dig. The answer is (A).\n\nQuestion: What next?\nIt swims.", "Cold beasts dig."),
        ("(A)", ""),
    ],
)
def test_the_rationale_is_the_text_without_the_statement(text: str, rationale: str) -> None:
    assert parse_answer(text, CHOICES).rationale == rationale


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("6 times 7 is 42. The answer is 42.", "42"),
        ("So x = 3.5. The answer is 3.5.", "3.5"),
        ("Adding up gives #### 17\n#### 17", "17"),
        ("Thus \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("The final answer is: **Paris**.", "Paris"),
        ("The answer is 42 apples, because 6 times 7 is 42.", "42 apples"),
        ("The answer is 1,000 since it grows.", "1,000"),
        ("No idea.", None),
        ("The answer is U.S. law.", "U.S. law"),
        ("The answer is e.g. water. Or so.", "e.g. water"),
    ],
)
def test_open_ended_answers_are_read(text: str, answer: str | None) -> None:
    assert parse_answer(text).answer == answer


def test_choices_that_read_alike_are_not_told_apart_by_text_but_by_letter() -> None:
    assert parse_answer("The answer is the same.", ["the same", "The same."]).index is None
    assert parse_answer("The answer is (B).", ["the same", "The same."]).index == 1


@pytest.mark.parametrize(
    "text", ["I'm sorry, but I can't help with that.", "I cannot assist with this request.", "Sorry, I can’t answer."]
)
def test_refusals_are_known(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize("text", ["I can see why.", "Frost is cold. I'm sorry for the beast.", ""])
def test_what_only_sounds_like_a_refusal_is_none(text: str) -> None:
    assert not is_refusal(text)


@given(st.text(max_size=400), st.lists(st.text(min_size=1, max_size=20), max_size=30))
def test_any_text_parses_without_an_error(text: str, choices: list[str]) -> None:
    parsed = parse_answer(text, choices)
    assert parsed.index is None or 0 <= parsed.index < len(choices)


@given(st.integers(0, 3), st.sampled_from(["Frost is cold.", "Cold beasts dig. They like it.", "1 + 1 = 2."]))
def test_stating_an_answer_and_reading_it_is_the_identity(index: int, rationale: str) -> None:
    parsed = parse_answer(f"{rationale} The answer is ({'ABCD'[index]}).", CHOICES)
    assert (parsed.index, parsed.rationale) == (index, rationale)
