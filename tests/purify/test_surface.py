"""What can be seen of a rationale: by hand, without gold, and on texts that nobody would write."""

from dataclasses import replace

import numpy as np
import pytest
from topic_panels import panel_of, response

from kp_data.purify.surface import CHOICE_KINDS, surface_evidence
from kp_data.schema import Question

QUESTION = Question("q", "How heavy is the red stone?", ("10 kg", "500 kg", "20 kg", "40 kg"), "20 kg", 2, "train")


def seen(*said, question=QUESTION, **switches):
    """Evidence by name, (T,) each, of one question with (rationale, answer) of each teacher."""
    cells = [response(question.id, "abc"[n], index, rationale=text) for n, (text, index) in enumerate(said)]
    evidence = surface_evidence(panel_of([question], cells), **switches)
    return dict(zip(evidence.names, evidence.value_QTF[0].T, strict=True))


def test_an_answer_has_its_place_among_the_numbers_of_the_choices():
    evidence = seen(("so", 0), ("so", 1), ("so", 2))
    assert evidence["value_rank"] == pytest.approx([0, 1, 1 / 3])
    assert evidence["choice_position"] == pytest.approx([0, 1 / 3, 2 / 3])
    assert evidence["num_choices"].tolist() == [4, 4, 4]
    assert evidence["numeric_choices"].tolist() == [1, 1, 1]


def test_a_rationale_names_its_answer_or_a_rival():
    evidence = seen(("It weighs 20 kg, not 40.", 2), ("I hold it for 40 kg.", 2))
    assert evidence["named"] == pytest.approx([1, 0.5])
    assert evidence["rival_named"] == pytest.approx([1, 1])
    assert evidence["result_is_answer"].tolist() == [0, 0]
    assert evidence["result_is_rival"].tolist() == [1, 1]
    assert evidence["named_by_others"] == pytest.approx([0.5, 1])


def test_sums_and_hedges_are_counted():
    evidence = seen(("2 + 2 = 4 and 3 + 3 = 7", 0), ("It is probably one, perhaps two.", 1))
    assert evidence["sums_right"].tolist() == [1, 0]
    assert evidence["sums_wrong"].tolist() == [1, 0]
    assert evidence["num_hedges"].tolist() == [0, 2]


def test_a_rationale_that_repeats_itself_packs_well():
    evidence = seen(("we multiply the mass, " * 40, 0), ("Stones of iron ore differ in density; this is heavy.", 1))
    assert evidence["packed_share"][0] < 0.2 < evidence["packed_share"][1]


def test_the_gold_answer_is_never_read():
    golds = [
        seen(("so", 0), ("therefore 20 kg", 2), question=replace(QUESTION, answer=answer, answer_index=index))
        for answer, index in (("20 kg", 2), ("10 kg", 0), (None, None))
    ]
    for name in golds[0]:
        for other in golds[1:]:
            assert np.array_equal(golds[0][name], other[name], equal_nan=True)


def test_a_missing_rationale_and_a_missing_answer_leave_their_evidence_open():
    evidence = seen((None, 0), ("so be it", None), ("so", 1))
    assert np.isnan(evidence["length"]).tolist() == [True, False, False]
    assert np.isnan(evidence["value_rank"]).tolist() == [False, True, False]
    assert np.isnan(evidence["named"]).tolist() == [True, True, False]


def test_what_is_not_to_be_seen_is_not_there():
    assert set(CHOICE_KINDS) <= set(seen(("so", 0)))
    assert not set(CHOICE_KINDS) & set(seen(("so", 0), choices=False))
    blind = seen(("so 20 kg", 0), ("so", 1), rationales=False)
    assert "length" not in blind
    assert "named" not in blind
    assert "value_rank" in blind


def test_an_open_question_has_looks_but_no_choices():
    open_question = Question("q", "How heavy?", (), "20 kg", None, "train")
    cells = [response("q", "a", None, answer="20 kg", rationale="2 * 10 = 20")]
    evidence = surface_evidence(panel_of([open_question], cells))
    values = dict(zip(evidence.names, evidence.value_QTF[0, 0], strict=True))
    assert values["sums_right"] == 1
    assert "value_rank" not in values


@pytest.mark.parametrize("text", ["x" * 2_000_000, "\x00\ud7ff\u202e", "1" * 300_000, ".", "((((" * 50_000])
def test_enormous_and_odd_rationales_give_numbers(text):
    evidence = seen((text, 0), ("so", 1))
    assert np.isfinite([values[0] for values in evidence.values()]).all()


def test_choices_without_words_or_alone_do_no_harm():
    for choices in (("", "?", "…", "20"), ("only",)):
        question = replace(QUESTION, choices=choices, answer=choices[0], answer_index=0)
        assert np.isfinite(seen(("so", 0), question=question)["choice_resemblance"]).all()
