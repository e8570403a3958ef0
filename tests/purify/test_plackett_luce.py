"""Plackett-Luce ranking: fits for each question, on known embeddings and on real ones."""

from dataclasses import replace

import numpy as np
import pytest
from topic_panels import grid, panel_of, topic_answers, topic_questions, write_panel

from kp_data.errors import ConfigError, DataError
from kp_data.purify import Context, Embedder, find_method, load_router, purify_panel
from kp_data.purify.neighbours import build_index
from kp_data.purify.plackett_luce import FITS, PlackettLuceOptions, PlackettLuceRouter
from kp_data.purify.purified import make_report, run_method
from kp_data.purify.registry import make_options

METHOD = find_method("plackett-luce")
NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def embed():
    return Embedder()


@pytest.fixture(scope="module")
def panel():
    questions = topic_questions()
    return panel_of(questions, topic_answers(questions))


def run(panel, embed, **options):
    return run_method(panel, METHOD, make_options(METHOD, options), Context(0, embed))


def router(known, skill, **options):
    return PlackettLuceRouter(NAMES, known, np.asarray(skill, float), PlackettLuceOptions(**options), None)


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def clusters(count=120, *, noise=0.3, seed=0):
    """Three clusters of directions; teacher k is right in its own cluster, in a third of the cases elsewhere."""
    random = np.random.default_rng(seed)
    cluster = np.arange(count) % 3
    vectors = unit(np.eye(8)[cluster] + noise * random.normal(size=(count, 8)))
    chance = np.where(cluster[:, None] == np.arange(3), 0.95, 0.35)
    return vectors, (random.random((count, 3)) < chance).astype(float), cluster


def test_the_closed_form_matches_a_sum_by_hand():
    known = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    score = router(known, [[1, 1, 0], [0, 1, 0]], fit="choice", gamma=10.0).score(np.array([[0.6, 0.8]], np.float32))
    near, far = 10**1.6, 10**1.8
    assert score[0] == pytest.approx(np.array([near / 2, near / 2 + far, 0]) / (near + far), rel=1e-5)


def test_weights_with_normalised_cosines_are_those_of_routellm():
    known = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    given = {"fit": "choice", "normalize": 1}
    score = router(known, [[1, 0, 0], [0, 1, 0]], **given).score(np.array([[0.6, 0.8]], np.float32))
    near, far = 10 ** (1 + 0.6 / 0.8), 10**2
    assert score[0] == pytest.approx(np.array([near, far, 0]) / (near + far), rel=1e-5)


@pytest.mark.parametrize("fit", FITS)
def test_with_gamma_one_every_question_gets_the_same_distribution(fit):
    known, skill, _ = clusters()
    score = router(known, skill, fit=fit, gamma=1.0).score(known[:20])
    assert np.abs(score - score[0]).max() < 1e-6
    assert np.allclose(score.sum(1), 1)


@pytest.mark.parametrize("fit", FITS)
def test_a_training_question_just_like_the_asked_one_counts_more_with_gamma(fit):
    known, skill, _ = clusters()
    # A direction of its own: every other training question has a cosine of 0 with it, whatever gamma is.
    known, asked = np.pad(known, ((0, 0), (0, 1))), np.eye(9, dtype=np.float32)[8:]
    known, skill = np.concatenate([known, asked]), np.concatenate([skill, [[1.0, 0.0, 0.0]]])
    chances = [router(known, skill, fit=fit, gamma=gamma).score(asked)[0, 0] for gamma in (1, 10, 1e3)]
    assert chances[0] < chances[1] < chances[2]


@pytest.mark.parametrize("fit", FITS)
def test_blocks_and_order_do_not_matter(fit, monkeypatch):
    known, skill, _ = clusters()
    fitted = router(known, skill, fit=fit)
    whole = fitted.score(known)
    monkeypatch.setattr("kp_data.purify.plackett_luce.BLOCK_NUMBERS", 7 * len(known))
    assert np.allclose(fitted.score(known[::-1])[::-1], whole, atol=1e-6)
    assert fitted.score(known[:0]).shape == (0, 3)


def test_all_neighbours_by_index_are_all_questions():
    known, skill, _ = clusters()
    every = router(known, skill).score(known[:10])
    assert np.allclose(router(known, skill, top_m=len(known)).score(known[:10]), every, atol=1e-5)
    assert np.allclose(router(known, skill, top_m=10**9).score(known[:10]), every, atol=1e-5)


def test_few_neighbours_follow_the_clusters_more_closely():
    known, skill, _ = clusters(300)
    asked, _, cluster = clusters(90, seed=1)
    far, near = (router(known, skill, top_m=m).score(asked).argmax(1) == cluster for m in (0, 20))
    assert near.mean() > 0.9
    assert near.mean() >= far.mean() > 0.4


def test_graded_scores_rank_where_right_and_wrong_cannot():
    known = np.ones((4, 1), np.float32)
    skill = [[0.9, 0.8, 0.7]] * 4
    score = router(known, skill, fit="full").score(known[:1])[0]
    assert score[0] > score[1] > score[2]
    assert np.allclose(router(known, skill).score(known[:1]), 1 / 3)


def test_above_its_bound_the_index_is_approximate_and_says_how_good_it_is():
    known = unit(np.random.default_rng(0).normal(size=(3000, 8)))
    index = build_index(known, count=20, exact_below=1000)
    again = build_index(known, count=20, exact_below=1000)
    assert index.kind == "inverted lists"
    assert 0.95 <= index.recall <= 1
    assert all(np.array_equal(*pair) for pair in zip(index.search(known, 5), again.search(known, 5), strict=True))
    exact = build_index(known, count=20)
    assert (exact.kind, exact.recall) == ("exact", 1.0)
    assert np.array_equal(exact.search(known[:50], 1)[1][:, 0], np.arange(50))


def test_topics_go_to_their_experts_and_an_index_is_reported(panel, embed):
    found = run(panel, embed, top_m=15)
    test = make_report(panel, found).splits["test"]
    assert test.purified_accuracy >= test.best_single_accuracy + 0.10
    assert found.fitted.facts["index"] == {"kind": "exact", "recall": 1.0}
    assert found.fitted.facts["fallback"] is False


@pytest.mark.parametrize("seed", range(3))
def test_with_shuffled_answers_it_is_no_better_than_the_best_single_teacher(panel, embed, seed):
    rows = np.flatnonzero(panel.split_Q != "test")
    order = np.arange(len(panel))
    order[rows] = np.random.default_rng(seed).permutation(rows)
    shuffled = replace(panel, answer_QT=panel.answer_QT[order], skill_QT=panel.skill_QT[order])
    test = make_report(shuffled, run(shuffled, embed)).splits["test"]
    assert abs(test.purified_accuracy - test.best_single_accuracy) < 0.15


def test_one_teacher_alone_and_teachers_alike_fall_back(embed):
    assert run(grid([[0], [1]] * 20), embed).fitted.facts["fallback_reason"].startswith("there is one teacher")
    alike = run(grid([[0, 0], [1, 1]] * 20), embed)
    assert alike.fitted.facts["fallback_reason"] == "on no training question is one teacher right and another wrong"


@pytest.mark.parametrize("fit", FITS)
def test_a_saved_router_routes_as_the_fitted_one_did(tmp_path, embed, fit):
    questions = topic_questions(20)
    given = write_panel(tmp_path / "panel", questions, topic_answers(questions))
    fitted = run(given, embed, fit=fit, top_m=12).fitted.router
    fitted.save(tmp_path)
    score, teachers = load_router(tmp_path).route(questions)
    assert np.array_equal(score, fitted.route(questions)[0])
    assert set(teachers) <= set(given.teachers)


def test_two_runs_write_the_same_bytes_and_a_broken_file_is_one_message(tmp_path):
    questions = topic_questions(20)
    given = write_panel(tmp_path / "panel", questions, topic_answers(questions))
    for name in ("one", "two"):
        purify_panel(given, method="plackett-luce", out=tmp_path / name, options={"top_m": 12})
    for name in ("purified.parquet", "run.json", "router/router.json", "router/router.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    (tmp_path / "one/router/router.safetensors").write_bytes(b"gone")
    with pytest.raises(DataError, match="a broken router"):
        load_router(tmp_path / "one")


@pytest.mark.parametrize(
    ("name", "value"),
    [("fit", "best"), ("gamma", 0.5), ("ridge", 0.0), ("normalize", 2), ("top_m", -1), ("min_gain_errors", -1.0)],
)
def test_a_value_that_cannot_be_is_refused(name, value):
    with pytest.raises(ConfigError, match=f"plackett-luce option '{name}'"):
        make_options(METHOD, {name: value})
