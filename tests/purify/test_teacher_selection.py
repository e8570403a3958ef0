"""Teacher selection: what the policy sees, what it is paid for, and what it ends up choosing."""

import json
from dataclasses import dataclass, field

import numpy as np
import pytest
from topic_panels import grid, panel_of, response, write_panel

from kp_data.errors import ConfigError, MethodError
from kp_data.learner import Lesson
from kp_data.purify import Context, Partners, find_method, purify_panel
from kp_data.purify.labels import fit_data
from kp_data.purify.purified import run_method
from kp_data.purify.registry import make_options
from kp_data.purify.teacher_selection import _States, rewards_QT
from kp_data.schema import Question

QUICK = {"student": "scripted", "policy_epochs": 12, "policy_draws": 4, "rounds": 2}
CHOICES = ("w", "x")


def embed(texts):
    """Words as directions: texts that share a word are near each other."""
    rows = np.zeros((len(texts), 16), dtype=np.float32)
    for row, text in enumerate(texts):
        for word in text.split():
            rows[row, sum(map(ord, word)) % 16] += 1
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


embed.num_parameters = 0


@dataclass
class Scripted:
    """A student whose losses a test decides; it writes down what it is taught."""

    loss: object
    taught: list[list[Lesson]] = field(default_factory=list)
    num_parameters: int = 1

    def train(self, lessons, *, epochs):
        self.taught.append(list(lessons))

    def answer_losses(self, lessons):
        return np.array([self.loss(lesson)[0] for lesson in lessons], dtype=float)

    def rationale_losses(self, lessons):
        return np.array([self.loss(lesson)[1] for lesson in lessons], dtype=float)


def select(panel, loss, *, seed=0, options=QUICK):
    student = Scripted(loss)
    partners = Partners(learner=lambda name: lambda lessons, *, seed: student)
    method = find_method("teacher-selection")
    context = Context(seed, embed=embed, partners=partners)
    return run_method(panel, method, make_options(method, options), context), student


def two_topics(count=60):
    """Teacher a is right about cats, b about dogs, c about neither; each says so in words of its own."""
    questions, cells = [], []
    for number in range(count):
        topic = ("cat", "dog")[number % 2]
        questions.append(
            Question(str(number), f"{topic} {number}", CHOICES, "w", 0, ("train", "test")[number % 5 == 0])
        )
        for teacher, expert in (("a", "cat"), ("b", "dog"), ("c", None)):
            index = 0 if topic == expert else 1
            cells.append(response(str(number), teacher, index, rationale=f"{teacher} says {CHOICES[index]}"))
    return panel_of(questions, cells)


def reads_well(lesson):
    """A student that is led to the answer by a rationale that says it."""
    return (0.1 if lesson.rationale is None or lesson.rationale.endswith("says w") else 2.0), 1.0


def test_it_comes_to_choose_the_teacher_whose_rationale_leads_to_the_answer():
    panel = two_topics()
    run, student = select(panel, reads_well)
    right = run.purification.chosen_Q == np.array([int("dog" in one.question) for one in panel.questions])
    assert right.mean() > 0.95
    rounds = run.fitted.facts["rounds"]
    assert rounds[-1]["right_chosen"] > 0.95
    assert rounds[-1]["reward_mean"] < rounds[-1]["reward_chosen"] <= rounds[-1]["reward_best"] + 1e-9
    # Taught before the first round and between rounds, on one rationale a train question.
    assert [len(lessons) for lessons in student.taught] == [48, 48]


def test_students_learn_from_train_alone():
    panel = two_topics()
    _, student = select(panel, reads_well)
    train = {one.id for one in panel.questions if one.split == "train"}
    assert {lesson.question.id for lessons in student.taught for lesson in lessons} == train


def test_the_paper_s_reward_follows_the_easiest_manner_whoever_is_right():
    easy = {"a": 3.0, "b": 2.0, "c": 1.0}

    def loss(lesson):
        return 0.5, easy[lesson.rationale[0]] if lesson.rationale else 0.0

    run, _ = select(two_topics(), loss, options={**QUICK, "reward": "paper"})
    assert (run.purification.chosen_Q == 2).all()
    read, _ = select(two_topics(), lambda lesson: (reads_well(lesson)[0], loss(lesson)[1]))
    assert (read.purification.chosen_Q != 2).mean() > 0.95


def test_the_rewards_by_hand():
    panel = grid([[0, 1], [0, None]])
    panel.rationale_QT[1, 1] = None

    def loss(lesson):
        return (0.5 if lesson.rationale is None else 0.2 + float(lesson.rationale[-1])), 1.0 + float(
            (lesson.rationale or "0")[-1]
        )

    paper = rewards_QT(Scripted(loss), panel, kind="paper", rationale_weight=2.0)
    assert np.allclose(paper, [[-0.5 - 2 * 1.0, -0.5 - 2 * 2.0], [-0.5 - 2 * 1.0, np.nan]], equal_nan=True)
    reading = rewards_QT(Scripted(loss), panel, kind="reading", rationale_weight=2.0)
    # Every teacher's own mean of L_DL goes: both of a's are 1.0, and b has one alone.
    assert np.allclose(reading, [[-0.2, -1.2], [-0.2, np.nan]], equal_nan=True)


def test_a_state_holds_the_rationale_only_where_its_teacher_is_right():
    panel = grid([[0, 1], [1, 1]])
    states = _States.of_panel(panel, embed)(np.array([0, 1]))
    assert states.shape == (2, 2, 32)
    assert np.allclose(states[:, 0, :16], states[:, 1, :16])
    assert np.allclose(states[0, 0, 16:], embed([panel.rationale_QT[0, 0]])[0])
    assert not states[0, 1, 16:].any()
    # Where all are wrong, the teachers' states are the same: their biases decide.
    assert not states[1, :, 16:].any()


def test_where_every_teacher_is_wrong_somebody_is_still_chosen_and_it_is_counted():
    panel = grid([[0, 1], [0, 1], [1, 0], [1, 2], [2, 1], [0, 0]] * 4)
    run, _ = select(panel, lambda lesson: (float((lesson.rationale or "0")[-1]), 1.0))
    assert (run.purification.chosen_Q >= 0).all()
    assert run.fitted.facts["num_all_wrong"] == 8


def test_missing_rationales_are_never_chosen_and_none_gives_none():
    panel = grid([[0, 1], [0, 1], [1, 0]] * 5)
    panel.rationale_QT[0, 0] = panel.rationale_QT[1, 1] = None
    panel.rationale_QT[2] = None
    run, _ = select(panel, lambda lesson: (float((lesson.rationale or "0")[-1]), 1.0))
    assert run.purification.chosen_Q[[0, 1, 2]].tolist() == [1, 0, -1]
    assert run.fitted.facts["num_train"] == 14


def test_one_teacher_is_kept_and_nothing_is_trained():
    run, student = select(grid([[0], [1], [None]]), reads_well)
    assert student.taught == []
    assert any("nothing to choose" in note for note in run.fitted.notes)
    assert (run.purification.chosen_Q == 0).all()


def test_the_same_seed_gives_the_same_scores_and_another_one_others():
    scores = [select(two_topics(), reads_well, seed=seed)[0].purification.score_QT for seed in (0, 0, 1)]
    assert np.array_equal(scores[0], scores[1])
    assert not np.array_equal(scores[0], scores[2])


def test_labels_of_the_test_split_do_not_reach_the_policy():
    """They enter the states that are scored, and nothing that is learned."""
    panel, other = two_topics(), two_topics()
    test_Q = panel.split_Q == "test"
    other.gold_Q[test_Q] = 1
    first, second = (select(one, reads_well)[0].purification.score_QT for one in (panel, other))
    assert np.array_equal(first[~test_Q], second[~test_Q])
    assert not np.array_equal(first[test_Q], second[test_Q])


def test_it_says_that_it_reads_the_gold_answers_and_refuses_without_them():
    run, _ = select(two_topics(), reads_well)
    assert run.fitted.router is None
    assert not run.method.info.transferable
    assert run.fitted.calls_per_question == 3
    assert any("reads the gold answer" in note for note in run.fitted.notes)
    with pytest.raises(MethodError, match="label"):
        select(grid([[0, 1], [1, 0]], golds=[None, None]), reads_well)


def test_a_student_of_kp_train_without_kp_train_is_refused_with_the_remedy():
    method = find_method("teacher-selection")
    with pytest.raises(MethodError, match=r"'tiny-t5' comes from kp_train.*student=ngram"):
        method.fit(fit_data(two_topics()), make_options(method, {"student": "tiny-t5"}), Context(embed=embed))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("rounds", 0),
        ("policy_rate", -1.0),
        ("policy_entropy", -0.1),
        ("rationale_weight", -0.1),
        ("reward", "gold"),
    ],
)
def test_options_that_cannot_be_are_refused(option, value):
    with pytest.raises(ConfigError, match=f"teacher-selection option '{option}'"):
        make_options(find_method("teacher-selection"), {option: value})
    make_options(find_method("teacher-selection"), {"rationale_weight": 0.0, "policy_entropy": 0.0})


@pytest.mark.slow
def test_the_counting_student_purifies_a_folder_to_the_same_bytes_twice(tmp_path):
    """With the packaged encoder and the default student, from a panel on disk."""
    asked = [
        Question(str(n), f"Is {n} odd?", CHOICES, CHOICES[n % 2], n % 2, ("train", "test")[n % 4 == 0])
        for n in range(16)
    ]
    cells = [
        response(one.id, teacher, index, rationale=f"{teacher} thinks it is {CHOICES[index]}")
        for one in asked
        for teacher, index in (("a", 0), ("b", 1))
    ]
    panel = write_panel(tmp_path / "panel", asked, cells)
    for name in ("one", "two"):
        purify_panel(panel, method="teacher-selection", out=tmp_path / name, options={"rounds": 1, "policy_epochs": 5})
    for name in ("purified.parquet", "run.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    report = json.loads((tmp_path / "one" / "report.json").read_text())
    assert report["fit"]["student_name"] == "ngram"
    assert report["extra_parameters"] > 22e6
