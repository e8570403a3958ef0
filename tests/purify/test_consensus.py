"""Consensus on panels as they come: what it learns from, what it keeps, what it says, and what it never reads."""

from dataclasses import replace

import numpy as np
import pytest
from topic_panels import grid, panel_of, response

from kp_data.errors import ConfigError
from kp_data.panel import NONE
from kp_data.purify import Context, Embedder, find_method
from kp_data.purify.consensus import ConsensusOptions, fit_consensus
from kp_data.purify.figures import outcome_of
from kp_data.purify.labels import fit_data
from kp_data.purify.registry import make_options
from kp_data.schema import Question

EMBED = Embedder()
ALONE = ConsensusOptions(neighbours=0, surface=False, choice_prior=False)
"""Answers alone: gold stands at the same place in most panels here, which a choice prior would see."""


def fit(panel, options=ALONE, *, labels="gold", seed=0):
    return fit_consensus(fit_data(panel, labels=labels), options, Context(seed=seed, embed=EMBED))


def accuracy(panel, fitted):
    return outcome_of(panel, fitted.purify(panel)).figures().purified_accuracy


def skilled(skills, num=400, *, seed=0, family=0):
    """Teachers of these skills, who err on their own save the first few, who always say the same; gold is choice 0."""
    random = np.random.default_rng(seed)
    right = random.random((num, len(skills))) < np.array(skills)
    answer_QT = np.where(right, 0, random.integers(1, 4, (num, len(skills))))
    answer_QT[:, 1:family] = answer_QT[:, :1]
    return grid(answer_QT.tolist())


def test_a_family_that_outvotes_a_better_teacher_does_not_outvote_it_here():
    panel = skilled([0.4, 0.4, 0.4, 0.7], family=3)
    vote = find_method("weighted-vote")
    voted = accuracy(panel, vote.fit(fit_data(panel), make_options(vote, {}), Context()))
    fitted = fit(panel)
    assert fitted.facts["model"] != "vote"
    assert accuracy(panel, fitted) > voted + 0.2


def test_a_teacher_that_is_always_wrong_counts_against_what_it_says():
    random = np.random.default_rng(0)
    other = np.where(random.random(200) < 0.5, 0, 1)
    liar = np.where(random.random(200) < 0.5, 1, 2)
    panel = grid(np.stack([other, liar], axis=1).tolist())
    score_QT = fit(panel, replace(ALONE, model="vote")).purify(panel).score_QT
    joined_Q = (other == 1) & (liar == 1)
    assert score_QT[joined_Q].max() < score_QT[(other == 1) & (liar == 2), 0].min()


def test_scores_come_true_as_often_as_they_say():
    panel = skilled([0.8, 0.6, 0.5, 0.4], num=3000)
    purification = fit(panel, replace(ALONE, model="vote")).purify(panel)
    chosen_Q = purification.chosen_Q
    score_Q = purification.score_QT[np.arange(len(panel)), chosen_Q]
    right_Q = panel.answer_QT[np.arange(len(panel)), chosen_Q] == 0
    for low, high in ((0.3, 0.6), (0.6, 0.8), (0.8, 1.0)):
        part_Q = (score_Q >= low) & (score_Q < high)
        assert part_Q.sum() > 50
        assert right_Q[part_Q].mean() == pytest.approx(score_Q[part_Q].mean(), abs=0.06)


def test_who_gives_one_answer_has_one_score():
    panel = skilled([0.7, 0.6, 0.5], num=300)
    score_QT = fit(panel).purify(panel).score_QT
    for answers, scores in zip(panel.answer_QT.tolist(), score_QT.tolist(), strict=True):
        assert len(set(zip(answers, scores, strict=True))) == len(set(answers))


def test_without_gold_skill_comes_from_agreement_and_it_says_so():
    labelled = skilled([0.85, 0.6, 0.5, 0.3], num=1000)
    questions = [replace(question, answer=None, answer_index=None) for question in labelled.questions]
    panel = replace(labelled, questions=tuple(questions), gold_Q=np.full(len(labelled), NONE))
    fitted = fit(panel, replace(ALONE, verifier=True))
    assert fitted.facts["learned_from"] == "agreement"
    assert "score_meaning" not in fitted.facts
    assert any("no verifier is heard" in note for note in fitted.notes)
    assert any("no gold answers to learn from" in note for note in fitted.notes)
    assert outcome_of(labelled, fitted.purify(panel)).figures().purified_accuracy > 0.8


def test_votes_in_the_place_of_gold_are_not_learned_from():
    # A selector of the votes would find the majority always right, whoever it is.
    fitted = fit(skilled([0.4, 0.4, 0.4, 0.7], family=3), labels="agreement")
    assert fitted.facts["learned_from"] == "agreement"


def test_without_questions_to_fit_on_agreement_is_taken_where_it_is_found():
    panel = skilled([0.85, 0.6, 0.5, 0.3], num=1000)
    test_only = replace(panel, questions=tuple(replace(question, split="test") for question in panel.questions))
    fitted = fit(test_only)
    assert fitted.facts["learned_from"] == "agreement"
    assert accuracy(test_only, fitted) > 0.8


def test_teacher_forced_rationales_are_kept_by_their_likeness_and_it_says_so():
    question = Question("q", "Why is the sky blue?", ("w", "x"), "w", 0, "train")
    texts = {"a": "Air scatters blue light.", "b": "Blue light is scattered by air.", "c": "A recipe for onion soup."}
    panel = panel_of([question], [response("q", t, 0, mode="teacher_forced", rationale=texts[t]) for t in "cab"])
    fitted = fit(panel)
    purification = fitted.purify(panel)
    assert panel.teachers[purification.chosen_Q[0]] in "ab"
    assert purification.score_QT[0].argmin() == 0
    assert any("carry no signal" in note for note in fitted.notes)


def test_teacher_forced_rationales_are_not_read_where_blind_answers_stand_beside_them():
    panel = skilled([0.7, 0.6, 0.3])
    forced = replace(panel, modes=("blind", "teacher_forced"), rationale_mode="teacher_forced")
    telling = np.array([[f"certainly {n} {t} 2 + 2 = 5" for t in range(3)] for n in range(len(panel))], dtype=object)
    options = ConsensusOptions(model="logistic", neighbours=0)
    fits = [fit(each, options) for each in (forced, replace(forced, rationale_QT=telling))]
    assert np.array_equal(*(fitted.purify(panel).score_QT for fitted in fits))
    assert any("not read" in note for note in fits[0].notes)


def test_the_gold_of_the_question_that_is_purified_is_never_used():
    panel = skilled([0.7, 0.6, 0.5, 0.4], num=300)
    gold_Q = panel.gold_Q.copy()
    gold_Q[11] = 3
    questions = list(panel.questions)
    questions[11] = replace(questions[11], answer=questions[11].choices[3], answer_index=3)
    flipped = replace(panel, gold_Q=gold_Q, questions=tuple(questions))
    first, second = (fit(each, replace(ALONE, model="logistic")).purify(each) for each in (panel, flipped))
    assert first.chosen_Q[11] == second.chosen_Q[11]
    # Calibration sees all labels of train at once; it moves scores together and never their order.
    assert np.argsort(first.score_QT[11]).tolist() == np.argsort(second.score_QT[11]).tolist()


def test_missing_cells_and_ties_go_to_the_better_teacher_that_is_there():
    rows = [[0, 0, 1]] * 30 + [[0, 1, 1]] * 15 + [[1, 2, None]] * 3 + [[None, None, None]] * 2
    panel = grid(rows)
    rationale_QT = panel.rationale_QT.copy()
    rationale_QT[0] = [None, "b", "c"]
    rationale_QT[1] = [None, None, None]
    rationale_QT[2] = [None, None, "c"]
    panel = replace(panel, rationale_QT=rationale_QT)
    purification = fit(panel, replace(ALONE, model="vote")).purify(panel)
    assert purification.chosen_Q[:3].tolist() == [1, NONE, 2]
    assert purification.chosen_Q[-2:].tolist() == [0, 0]
    assert (purification.score_QT[-2:] == 0).all()


def test_one_teacher_is_kept_throughout():
    panel = grid([[0], [1], [None], [0]] * 20)
    purification = fit(panel).purify(panel)
    assert (purification.chosen_Q == 0).all()
    assert purification.score_QT[0, 0] == pytest.approx(2 / 3, abs=0.1)


def test_local_skill_finds_the_expert_of_each_topic():
    from topic_panels import topic_answers, topic_questions

    questions = topic_questions()
    panel = panel_of(questions, topic_answers(questions))
    near, far = (
        accuracy(panel, fit(panel, ConsensusOptions(model="vote", neighbours=neighbours))) for neighbours in (32, 0)
    )
    assert near > far + 0.1


def test_similarity_breaks_ties_in_favour_of_the_rationale_nearest_to_its_group():
    texts = ("Onion soup needs onions.", "Air scatters blue light.", "Blue light is scattered by the air.", "No idea.")
    cells = [response(f"q{n}", "abcd"[t], int(t == 3), rationale=texts[t]) for n in range(4) for t in range(4)]
    questions = [Question(f"q{n}", "Why is the sky blue?", ("w", "x"), None, None) for n in range(4)]
    panel = panel_of(questions, cells)
    kept = fit(panel, ConsensusOptions(neighbours=0, similarity=True)).purify(panel).chosen_Q
    assert set(kept.tolist()) <= {1, 2}


def test_the_same_seed_gives_the_same_scores():
    panel = skilled([0.7, 0.6, 0.5, 0.4], num=300)
    scores = [fit(panel).purify(panel).score_QT for _ in range(2)]
    assert np.array_equal(*scores)


@pytest.mark.parametrize("given", [{"model": "forest"}, {"neighbours": -1}, {"verifier": 1}, {"similarity": "yes"}])
def test_an_option_that_cannot_be_is_refused(given):
    with pytest.raises(ConfigError, match=f"consensus option '{next(iter(given))}'"):
        make_options(find_method("consensus"), given)
