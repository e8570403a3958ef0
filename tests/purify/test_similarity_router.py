"""The similarity router on real embeddings: it learns what there is to learn, and falls back where there is nothing."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from tiny_encoder import make_tiny_encoder
from topic_panels import TEACHERS, TOPICS, grid, panel_of, response, topic_answers, topic_questions, write_panel

from kp_data.errors import DataError
from kp_data.panel import Panel, question_text
from kp_data.practice import TEACHERS as PRACTICE_TEACHERS
from kp_data.practice import make_questions
from kp_data.purify import Context, Embedder, compare_methods, find_method, load_router, purify_panel
from kp_data.purify.purified import make_report, run_method
from kp_data.purify.registry import make_options
from kp_data.purify.similarity_router import smoothed_labels
from kp_data.schema import Question

ROUTER = find_method("similarity-router")
DEFAULTS = make_options(ROUTER, {})


@pytest.fixture(scope="module")
def embed():
    return Embedder()


@pytest.fixture(scope="module")
def panel():
    questions = topic_questions()
    return panel_of(questions, topic_answers(questions))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("router")
    questions = topic_questions()
    purify_panel(
        write_panel(home / "panel", questions, topic_answers(questions)), method="similarity-router", out=home / "pure"
    )
    return home


def route(panel, embed, *, seed=0, **rest):
    return run_method(panel, ROUTER, DEFAULTS, Context(seed, embed), **rest)


def test_each_topic_goes_to_its_expert(panel, embed):
    run = route(panel, embed)
    test = make_report(panel, run).splits["test"]
    assert run.fitted.facts["fallback"] is False
    assert test.purified_accuracy >= test.best_single_accuracy + 0.10
    assert test.gap_closed >= 0.5
    chosen = np.array(TEACHERS)[run.purification.chosen_Q]
    expert = np.array([TEACHERS[list(TOPICS).index(subject)] for subject in panel.subject_Q])
    assert (chosen == expert)[panel.split_Q == "test"].mean() > 0.9
    assert np.allclose(run.purification.score_QT.sum(1), 1)
    assert run.fitted.extra_parameters > 22_000_000


@pytest.mark.parametrize("seed", range(4))
def test_with_shuffled_answers_it_falls_back_to_the_best_single_teacher(panel, embed, seed):
    order = np.arange(len(panel))
    for split in ("train", "validation"):
        rows = np.flatnonzero(panel.split_Q == split)
        order[rows] = np.random.default_rng(seed).permutation(rows)
    shuffled = replace(panel, answer_QT=panel.answer_QT[order], skill_QT=panel.skill_QT[order])
    run = route(shuffled, embed, seed=seed)
    best = panel.teachers.index(make_report(shuffled, run).best_single_teacher)
    assert run.fitted.facts["fallback"] is True
    assert "no proven gain" in run.fitted.notes[0]
    assert set(run.purification.chosen_Q) == {best}
    assert run.fitted.extra_parameters == 0


def test_answers_outside_train_and_validation_change_nothing(panel, embed):
    outside = (panel.split_Q == "test")[:, None]
    blinded = replace(
        panel,
        answer_QT=np.where(outside, -1, panel.answer_QT),
        skill_QT=np.where(outside, np.nan, panel.skill_QT),
        gold_Q=np.where(outside[:, 0], -1, panel.gold_Q),
    )
    scores = [route(given, embed).purification.score_QT for given in (panel, blinded)]
    assert np.array_equal(*scores)


def test_without_a_validation_split_part_of_train_is_held_out(embed):
    questions = topic_questions(splits=("train", "train", "train", "test"))
    run = route(panel_of(questions, topic_answers(questions)), embed)
    assert run.fitted.facts["fallback"] is False
    assert run.fitted.facts["validation"]["held_out_of_train"] is True
    assert "held out for selection" in run.fitted.notes[0]


def test_unlabelled_validation_cannot_show_a_gain_and_says_so(embed):
    questions = [
        replace(question, answer=None, answer_index=None) if question.split == "validation" else question
        for question in topic_questions(20)
    ]
    run = route(panel_of(questions, topic_answers(topic_questions(20))), embed)
    assert run.fitted.facts["fallback"] is True
    assert "fewer than two validation questions have a gold answer" in run.fitted.notes[0]


def test_a_failed_cell_is_never_chosen(panel, embed):
    missing = replace(panel, rationale_QT=panel.rationale_QT.copy())
    row = next(n for n, question in enumerate(panel.questions) if question.subject == "cooking")
    missing.rationale_QT[row, 0] = None
    run = route(missing, embed)
    assert run.purification.score_QT[row].argmax() == 0
    assert run.purification.chosen_Q[row] in (1, 2)


def test_it_learns_from_agreement_where_there_is_no_gold(embed):
    questions = [replace(question, answer=None, answer_index=None) for question in topic_questions(30)]
    # On each topic another teacher is the odd one out.
    said = [
        response(question.id, teacher, int(teacher == TEACHERS[list(TOPICS).index(question.subject)]))
        for question in questions
        for teacher in TEACHERS
    ]
    panel = panel_of(questions, said)
    run = route(panel, embed, labels="agreement")
    concluded = panel.answer_QT[np.arange(len(panel)), run.purification.chosen_Q]
    assert run.fitted.facts["fallback"] is False
    assert (concluded == 0)[panel.split_Q == "test"].mean() > 0.9
    assert make_report(panel, run).overall.purified_accuracy is None


def test_one_teacher_alone_is_the_best_single_teacher(embed):
    run = route(grid([[0], [1]] * 20), embed)
    assert run.fitted.facts["fallback_reason"] == "there is one teacher, so there is nothing to choose"
    assert set(run.purification.chosen_Q) == {0}


def test_teachers_that_are_right_and_wrong_together_teach_nothing(embed):
    run = route(grid([[0, 0], [1, 1]] * 20), embed)
    assert run.fitted.facts["fallback_reason"] == "on no training question is one teacher right and another wrong"


def test_what_carries_no_signal_is_counted(embed):
    golds = [0, 0, 0, None] * 10
    rows = [[0, 0], [1, 1], [0, 1], [0, 1]] * 10
    facts = route(grid(rows, golds=golds), embed).fitted.facts
    train = facts["num_train"]
    assert facts["num_with_signal"] + sum(facts["dropped"].values()) == train
    assert all(count > 0 for count in facts["dropped"].values())


def test_a_teacher_that_is_always_wrong_is_never_routed_to(embed):
    questions = topic_questions()
    said = topic_answers(questions) + [response(question.id, "fool", 1) for question in questions]
    run = route(panel_of(questions, said), embed)
    assert (run.purification.chosen_Q != 3).all()


def test_questions_that_all_read_alike_do_not_break_it(embed):
    questions = [
        Question(f"q{n}", "Same?", ("w", "x"), "w", 0, "validation" if n % 5 == 0 else "train") for n in range(40)
    ]
    said = [
        response(question.id, teacher, (n + k) % 2)
        for n, question in enumerate(questions)
        for k, teacher in enumerate("ab")
    ]
    run = route(panel_of(questions, said), embed)
    assert np.isfinite(run.purification.score_QT).all()
    assert run.fitted.facts["fallback"] is True


def test_a_saved_router_routes_as_the_fitted_one_did(folder):
    panel = Panel.read(folder / "panel")
    written = purify_panel(panel, method="similarity-router", out=folder / "pure")
    for place in (folder / "pure", folder / "pure/router"):
        scores, teachers = load_router(place).route(panel.questions[:12])
        assert scores.shape == (12, 3)
        assert list(teachers) == [TEACHERS[list(TOPICS).index(question.subject)] for question in panel.questions[:12]]
    assert written.splits["test"].gap_closed > 0.5
    assert not list(folder.rglob("*.pkl"))
    assert load_router(folder / "pure").route([])[1] == ()


def test_two_runs_write_the_same_bytes(folder):
    purify_panel(Panel.read(folder / "panel"), method="similarity-router", out=folder / "again")
    for name in ("purified.parquet", "run.json", "router/router.json", "router/router.safetensors"):
        assert (folder / "pure" / name).read_bytes() == (folder / "again" / name).read_bytes(), name


def test_best_single_leaves_a_router_too(folder):
    purify_panel(Panel.read(folder / "panel"), method="best-single", out=folder / "best")
    report = json.loads((folder / "best/report.json").read_text())
    router = load_router(folder / "best")
    assert set(router.route(topic_questions(2))[1]) == {report["best_single_teacher"]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("router.json", b"{", "not valid JSON"),
        ("router.json", b'{"kind": "oracle"}', "a router of an unknown kind"),
        ("router.json", b'{"kind": "similarity", "schema_version": 99}', "schema version 99"),
        ("router.json", b'{"kind": "similarity", "schema_version": 1}', "a broken router"),
        ("router.safetensors", b"gone", "a broken router"),
    ],
)
def test_a_broken_router_is_one_message(folder, tmp_path, name, content, message):
    for file in (folder / "pure/router").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_router(tmp_path)


def test_a_folder_without_a_router_says_how_to_make_one(tmp_path):
    with pytest.raises(DataError, match="no fitted router here; make one with"):
        load_router(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_in_the_practice_world_it_closes_more_than_half_of_the_gap(seed):
    questions = make_questions(600, seed=seed)
    said = [
        response(question.id, name, teacher.conclude(question))
        for question in questions
        for name, teacher in PRACTICE_TEACHERS.items()
    ]
    (compared,) = compare_methods(panel_of(questions, said), ["similarity-router"], seed=seed)
    assert compared.figures.purified_accuracy >= compared.figures.best_single_accuracy + 0.10
    assert compared.figures.gap_closed >= 0.5


def test_labels_are_shared_among_the_nearest_questions():
    question = np.array([[1, 0], [0.8, 0.6], [-1, 0], [-0.8, 0.6]], dtype=np.float32)
    good = np.array([[1, 0], [0, 0], [0, 1], [0, 1]], dtype=bool)
    bad = np.array([[0, 1], [0, 1], [1, 0], [1, 0]], dtype=bool)
    right, wrong = smoothed_labels(question, good, bad, 2)
    # Nobody knows how the first teacher did on the second question, so its neighbour alone speaks for it.
    assert right.tolist() == [[1, 0], [1, 0], [0, 1], [0, 1]]
    assert np.array_equal(wrong, 1 - right)
    alone, against = smoothed_labels(question, good, bad, 1)
    assert np.array_equal(alone, good)
    assert np.array_equal(against, bad)


@pytest.mark.slow
def test_with_its_encoder_tuned_it_learns_is_saved_and_gives_the_same_bytes(tmp_path):
    questions = topic_questions()
    tiny = make_tiny_encoder(tmp_path / "tiny", [question_text(question) for question in questions])
    given = write_panel(tmp_path / "panel", questions, topic_answers(questions))
    options = {"tuned": 1, "encoder": tiny, "encoder_learning_rate": 3e-3, "tuned_epochs": 8, "batch_size": 16}
    for name in ("one", "two"):
        report = purify_panel(given, method="similarity-router", out=tmp_path / name, options=options)
    assert report.fit["fallback"] is False
    assert report.splits["test"].purified_accuracy >= report.splits["test"].best_single_accuracy + 0.10
    for name in ("purified.parquet", "router/router.safetensors", "router/encoder/model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    scores, _ = load_router((tmp_path / "one").rename(tmp_path / "moved")).route(questions)
    written = pq.read_table(tmp_path / "two/purified.parquet")["scores"].to_pylist()
    assert np.allclose(scores, np.array(written), atol=1e-6)
