"""The PLM classifier: targets and losses by hand, training on a tiny encoder, and what is kept on disk."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tiny_encoder import make_tiny_encoder
from topic_panels import TEACHERS, TOPICS, grid, panel_of, topic_answers, topic_questions, write_panel

from kp_data.errors import ConfigError, DataError
from kp_data.panel import question_text
from kp_data.purify import Context, Embedder, find_method, load_router, purify_panel
from kp_data.purify.fine_tuning import TunedEncoder
from kp_data.purify.gate import Lesson
from kp_data.purify.labels import routing_signal
from kp_data.purify.plm_classifier import ClassifierOptions, ClassifierRouter, targets
from kp_data.purify.plm_training import Classifier, classifier_loss, train_classifier
from kp_data.purify.purified import make_report, run_method
from kp_data.purify.registry import make_options

METHOD = find_method("plm-classifier")
QUICK = {
    "encoder_learning_rate": 3e-3,
    "max_epochs": 8,
    "patience": 8,
    "hidden": 32,
    "batch_size": 16,
    "pooling": "mean",
}


@pytest.fixture(autouse=True)
def one_thread():
    """Networks as small as these only lose by more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def questions():
    return topic_questions()


@pytest.fixture(scope="module")
def panel(questions):
    return panel_of(questions, topic_answers(questions))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, questions):
    return make_tiny_encoder(tmp_path_factory.mktemp("tiny"), [question_text(question) for question in questions])


def run(panel, **options):
    return run_method(panel, METHOD, make_options(METHOD, options), Context(0, Embedder(device="cpu")))


def lesson(rows, validation=((0, 0, 1),)):
    train, later = grid(rows), grid(validation, split="validation")
    return Lesson(train, later, *routing_signal(train.skill_QT))


def test_soft_targets_share_the_probability_among_the_right_teachers():
    target, counts = targets(lesson([[0, 0, 1], [0, 1, 1], [1, 1, 1], [0, 0, 0]]), "soft")
    assert target[:2].tolist() == [[0.5, 0.5, 0], [1, 0, 0]]
    assert counts.all(1).tolist() == [True, True, False, False]


def test_the_single_target_is_the_right_teacher_that_is_best_on_validation():
    target, _ = targets(lesson([[0, 0, 1], [0, 1, 1]], validation=[[1, 0, 0], [1, 0, 1]]), "single")
    assert target.tolist() == [[0, 1, 0], [1, 0, 0]]


def test_multilabel_targets_count_every_known_cell_and_no_other():
    target, counts = targets(lesson([[0, 1, 1], [1, 1, 1]]), "multilabel")
    assert target.tolist() == [[1, 0, 0], [0, 0, 0]]
    assert counts.all()
    given = lesson([[0, 1, 1]])
    unknown = replace(given, good_QT=np.zeros((1, 3), bool), bad_QT=np.array([[False, True, False]]))
    assert targets(unknown, "multilabel")[1].tolist() == [[False, True, False]]


def test_the_losses_match_the_formulas():
    logit, whole = torch.tensor([[1.0, 0.0], [5.0, -5.0]]), torch.tensor([[True, True], [False, False]])
    log_z = math.log(math.e + 1)
    expected = -(0.25 * (1 - log_z) + 0.75 * (0 - log_z))
    soft = classifier_loss(logit, torch.tensor([[0.25, 0.75], [1.0, 0.0]]), whole, multilabel=False)
    assert soft.item() == pytest.approx(expected, rel=1e-6)
    cells = torch.tensor([[True, False], [False, False]])
    each = classifier_loss(logit, torch.tensor([[1.0, 0.0], [1.0, 0.0]]), cells, multilabel=True)
    assert each.item() == pytest.approx(math.log1p(math.exp(-1)), rel=1e-6)


def test_a_batch_in_which_nothing_counts_has_a_loss_of_exactly_nothing():
    logit = torch.ones(2, 3, requires_grad=True)
    for multilabel in (True, False):
        loss = classifier_loss(logit, torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool), multilabel=multilabel)
        loss.backward()
        assert loss.item() == 0.0
        assert logit.grad.abs().sum() == 0


def test_scores_of_a_router_are_those_of_the_network_it_was_trained_as():
    head = Classifier(4, 3, hidden=5, dropout=0.5).eval()
    state = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    with torch.no_grad():
        logit = head(torch.from_numpy(state)).double()
    routers = {kind: ClassifierRouter(TEACHERS, head.layers(), kind, None) for kind in (False, True)}
    assert np.allclose(routers[False].score(state), logit.softmax(1).numpy(), atol=1e-6)
    assert np.allclose(routers[True].score(state), logit.sigmoid().numpy(), atol=1e-6)


@pytest.mark.parametrize("target", ["soft", "multilabel"])
def test_fine_tuned_it_sends_each_topic_to_its_expert(panel, tiny, target):
    found = run(panel, encoder=tiny, target=target, **QUICK)
    test = make_report(panel, found).splits["test"]
    assert found.fitted.facts["fallback"] is False
    assert test.purified_accuracy >= test.best_single_accuracy + 0.10
    assert test.gap_closed >= 0.5


def test_frozen_it_trains_the_two_layers_alone(panel):
    found = run(panel, frozen=1, max_epochs=12, batch_size=16)
    expert = np.array([list(TOPICS).index(subject) for subject in panel.subject_Q])
    assert (found.purification.chosen_Q == expert)[panel.split_Q == "test"].mean() > 0.9
    assert found.fitted.facts["training"]["frozen"] is True


@pytest.mark.parametrize("seed", range(3))
def test_with_shuffled_answers_it_falls_back_to_the_best_single_teacher(panel, tiny, seed):
    order = np.arange(len(panel))
    for split in ("train", "validation"):
        rows = np.flatnonzero(panel.split_Q == split)
        order[rows] = np.random.default_rng(seed).permutation(rows)
    shuffled = replace(panel, answer_QT=panel.answer_QT[order], skill_QT=panel.skill_QT[order])
    found = run(shuffled, encoder=tiny, **QUICK)
    best = panel.teachers.index(make_report(shuffled, found).best_single_teacher)
    assert found.fitted.facts["fallback"] is True
    assert set(found.purification.chosen_Q) == {best}


def test_one_teacher_alone_is_the_best_single_teacher():
    assert run(grid([[0], [1]] * 20)).fitted.facts["fallback_reason"].startswith("there is one teacher")


def test_saved_it_routes_alike_wherever_it_lies_and_twice_the_same_bytes(tmp_path, panel, tiny):
    routers = [brief(panel, tiny) for _ in range(2)]
    for name, router in zip(("one", "two"), routers, strict=True):
        router.save(tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert {"encoder/model.safetensors", "encoder/config.json"} <= {path.as_posix() for path in files}
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".pkl")]
    for path in files:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes(), path
    home = (tmp_path / "one").rename(tmp_path / "moved")
    assert tiny not in (home / "encoder/config.json").read_text()
    loaded = load_router(home)
    assert np.array_equal(loaded.route(panel.questions)[0], routers[0].route(panel.questions)[0])
    assert loaded.route([])[1] == ()


def test_a_broken_encoder_is_one_message(tmp_path, panel, tiny):
    brief(panel, tiny).save(tmp_path)
    config = json.loads((tmp_path / "router.json").read_text())
    (tmp_path / "router.json").write_text(json.dumps(config | {"teachers": ["a"]}))
    with pytest.raises(DataError, match="a broken router"):
        load_router(tmp_path)
    (tmp_path / "encoder/model.safetensors").write_bytes(b"gone")
    with pytest.raises(DataError, match="a broken router"):
        load_router(tmp_path)


def test_a_purified_folder_holds_all_that_its_router_needs(tmp_path, questions, tiny):
    given = write_panel(tmp_path / "panel", questions, topic_answers(questions))
    purify_panel(given, method="plm-classifier", out=tmp_path / "pure", options={"encoder": tiny, **QUICK})
    scores, _ = load_router(tmp_path / "pure").route(questions)
    written = pq.read_table(tmp_path / "pure/purified.parquet")["scores"].to_pylist()
    assert np.allclose(scores, np.array(written), atol=1e-6)


def test_long_questions_are_cut_on_the_left(tiny):
    encoder = TunedEncoder.start(tiny, "cpu", max_tokens=8, pooling="cls", batch_size=4)
    (ids,) = encoder.prepare(["how long does one boil rice in salted water ? right wrong"])
    assert len(ids) == 8
    assert encoder.tokenizer.decode(ids).endswith("right wrong [SEP]")
    assert encoder([]).shape == (0, 32)


def test_weights_that_a_checkpoint_lacks_are_the_same_every_time_and_attention_drops_nothing(tmp_path, tiny):
    from safetensors.torch import load_file, save_file

    bare = Path(shutil.copytree(tiny, tmp_path / "bare"))
    weights = load_file(bare / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not name.startswith("pooler.")}
    assert len(kept) < len(weights)
    save_file(kept, bare / "model.safetensors", metadata={"format": "pt"})
    one, two = (TunedEncoder.start(str(bare), "cpu", max_tokens=8, pooling="cls", batch_size=4) for _ in range(2))
    for name, weight in one.network.state_dict().items():
        assert torch.equal(weight, two.network.state_dict()[name]), name
    one.network.train()
    dropping = {name for name, part in one.network.named_modules() if isinstance(part, torch.nn.Dropout) and part.p}
    assert dropping
    assert not any(name.endswith("attention.self.dropout") for name in dropping)


def test_frozen_layers_do_not_move(tiny):
    given, options = (
        lesson([[0, 1, 0]] * 20),
        ClassifierOptions(encoder=tiny, frozen_layers=1, target="single", **QUICK),
    )
    router, facts = train_classifier(given, options, Context(0, Embedder(device="cpu")))
    start = TunedEncoder.start(tiny, "cpu", max_tokens=64, pooling="cls", batch_size=4).network.state_dict()
    weights = router.embed.network.state_dict()
    moved = {name for name, weight in weights.items() if not torch.equal(weight, start[name])}
    assert facts["num_questions"] == 20
    assert any(name.startswith("encoder.layer.1.") for name in moved)
    assert not any(name.startswith(("embeddings.", "encoder.layer.0.")) for name in moved)
    with pytest.raises(ConfigError, match="the encoder has 2 layers"):
        train_classifier(given, replace(options, frozen_layers=3), Context(0, Embedder(device="cpu")))


@pytest.mark.parametrize(
    ("name", "value"),
    [("target", "hard"), ("pooling", "max"), ("frozen", 2), ("dropout", 1.0), ("hidden", 0), ("max_epochs", -1)],
)
def test_a_value_that_cannot_be_is_refused(name, value):
    with pytest.raises(ConfigError, match=f"plm-classifier option '{name}'"):
        make_options(METHOD, {name: value})


def test_an_encoder_that_is_not_there_is_one_message(panel, tmp_path):
    with pytest.raises(ConfigError, match=r"encoder '.*nothing': cannot load the encoder"):
        run(panel, encoder=str(tmp_path / "nothing"))


def brief(panel, tiny):
    """A router after one epoch, whatever it is worth."""
    train, validation = (panel.take(panel.split_Q == split) for split in ("train", "validation"))
    given = Lesson(train, validation, *routing_signal(train.skill_QT))
    options = ClassifierOptions(encoder=tiny, **{**QUICK, "max_epochs": 1})
    return train_classifier(given, options, Context(0, Embedder(device="cpu")))[0]
