"""What a comparison says of its questions: agreement, and examples with what every method keeps."""

import numpy as np
import pytest
from topic_panels import grid, panel_of, response, write_panel

from kp_data.purify import compare_methods
from kp_data.purify.protocol import Purification
from kp_data.purify.split_facts import LONGEST_TEXT, NUM_EXAMPLES, split_facts
from kp_data.schema import Question
from kp_data.tables import read_json


def keeps(panel, teacher):
    return Purification.of_choice(np.zeros(panel.has_rationale_QT.shape), np.full(len(panel), teacher))


def test_agreement_kappa_and_counts_are_those_of_the_answers():
    panel = grid([[0, 0, None], [0, 0, 1], [1, 1, 1], [1, 0, 1]])
    facts = split_facts(panel, "train", {})
    assert facts["agreement"][0] == [1.0, 0.75, pytest.approx(2 / 3)]
    assert facts["both_answered"] == [[4, 4, 3], [4, 4, 3], [3, 3, 3]]
    assert facts["kappa"][0][1] == pytest.approx(0.5)
    # c answers 1 throughout: it agrees with nobody beyond its habit.
    assert facts["kappa"][0][2] == 0.0
    assert facts["conflict_rate"] == 0.5
    assert facts["teacher_accuracy"] == [0.5, 0.75, 0.0]


def test_an_example_shows_every_voice_and_who_keeps_it():
    panel = grid([[0, 1, None], [2, 2, 2]])
    facts = split_facts(panel, "train", {"one": keeps(panel, 0), "two": keeps(panel, 0), "three": keeps(panel, 1)})
    (example,) = facts["examples"]
    assert [(voice["conclusion"], voice["right"], voice["kept_by"]) for voice in example["voices"]] == [
        ("w", True, ["one", "two"]),
        ("x", False, ["three"]),
        (None, None, []),
    ]


def test_a_written_rationale_stands_beside_the_voices():
    panel = grid([[0, 1]])
    text_Q = np.array(["anew"], dtype=object)
    written = Purification(np.zeros((1, 2)), np.zeros((1, 2), dtype=bool), text_Q, np.array([0]))
    (example,) = split_facts(panel, "train", {"writer": written})["examples"]
    assert example["written"] == {"writer": "anew"}
    assert all(voice["kept_by"] == [] for voice in example["voices"])


def test_examples_are_few_spread_evenly_and_cut_short():
    panel = grid([[0, 1]] * 50)
    long = np.array([["z" * 10**6] * 2] * 50, dtype=object)
    examples = split_facts(panel_with(panel, long), "train", {})["examples"]
    assert len(examples) == NUM_EXAMPLES
    assert [examples[0]["id"], examples[-1]["id"]] == ["q0", "q49"]
    assert len(examples[0]["voices"][0]["rationale"]) <= LONGEST_TEXT + 2


def panel_with(panel, rationale_QT):
    from dataclasses import replace

    return replace(panel, rationale_QT=rationale_QT)


def test_open_ended_conclusions_are_shown_in_the_teachers_words(tmp_path):
    questions = [Question(f"q{n}", "How heavy?", (), "5 kg", None, "test" if n else "train") for n in range(3)]
    said = [
        response(question.id, teacher, None, answer=answer)
        for question in questions
        for teacher, answer in (("a", "five kilograms"), ("b", "6 kg"))
    ]
    compare_methods(write_panel(tmp_path / "panel", questions, said), ["majority"], out=tmp_path / "out")
    facts = read_json(tmp_path / "out/split.json")
    voices = facts["examples"][0]["voices"]
    assert [(voice["conclusion"], voice["right"]) for voice in voices] == [("five kilograms", True), ("6 kg", False)]
    # Answers in words have no positions, so chance agreement has no meaning.
    assert facts["kappa"] == [[None, None], [None, None]]
    assert facts["agreement"][0][1] == 0.0


def test_one_teacher_and_no_conflict_give_no_examples():
    facts = split_facts(panel_of([Question("q0", "?", ("w", "x"), "w", 0)], [response("q0", "a", 0)]), "train", {})
    assert (facts["examples"], facts["agreement"]) == ([], [[1.0]])
