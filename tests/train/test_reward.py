"""The learner of kp_train: a real student whose losses are rewards."""

import numpy as np
import pytest
import torch
from small_rows import small_questions

from kp_data.errors import ConfigError, MethodError
from kp_data.learner import Lesson
from kp_data.schema import Question
from kp_train.reward import learner_named
from kp_train.views import LABEL, LABEL_PREFIX, RATIONALE, RATIONALE_PREFIX, Target


def lessons(count=12):
    return [Lesson(one, f"It says that it is {one.answer}.") for one in small_questions(count, 0, 0)]


def learner(seed=0):
    return learner_named("tiny-t5")(lessons(), seed=seed)


@pytest.fixture(scope="module")
def taught():
    """A student before and after some epochs: the student, and its losses then."""
    student = learner()
    before = student.answer_losses([Lesson(one.question) for one in lessons()]), student.rationale_losses(lessons())
    student.train(lessons(), epochs=12)
    return student, before


def test_losses_are_the_mean_over_the_tokens_of_the_text(taught):
    student, lesson = taught[0], lessons()[3]
    inner = student._student
    for ask, target in (
        (lambda: student.answer_losses([Lesson(lesson.question)]), Target(LABEL, LABEL_PREFIX, lesson.question.answer)),
        (lambda: student.rationale_losses([lesson]), Target(RATIONALE, RATIONALE_PREFIX, lesson.rationale)),
    ):
        batch = inner.collate([(inner.encode(lesson.question, target, task=0),)])
        with torch.inference_mode():
            token_T = inner.token_losses(batch)
        assert ask()[0] == pytest.approx(float(token_T.mean()), rel=1e-4)


def test_what_it_is_taught_it_comes_to_expect(taught):
    student, (answers, rationales) = taught
    assert student.answer_losses([Lesson(one.question) for one in lessons()]).mean() < answers.mean() / 2
    assert student.rationale_losses(lessons()).mean() < rationales.mean() / 2


def test_a_loss_does_not_depend_on_what_else_is_asked(taught):
    student, asked = taught[0], lessons()
    together = student.rationale_losses(asked)
    alone = np.array([student.rationale_losses([one])[0] for one in reversed(asked)])[::-1]
    assert np.allclose(together, alone, atol=1e-4)


def test_reading_losses_changes_nothing(taught):
    student = taught[0]
    before = [parameter.clone() for parameter in student._student.model.parameters()]
    student.rationale_losses(lessons())
    assert all(torch.equal(a, b) for a, b in zip(before, student._student.model.parameters(), strict=True))


def test_a_rationale_in_view_is_read(taught):
    student, one = taught[0], lessons()[0].question
    losses = student.answer_losses(
        [Lesson(one), Lesson(one, "It says that it is red."), Lesson(one, "Nothing at all.")]
    )
    assert len(set(losses.round(6).tolist())) == 3


def test_a_long_rationale_is_cut_and_the_question_is_not(taught):
    student = taught[0]
    loss = student.answer_losses([Lesson(lessons()[0].question, "word " * 5000)])
    assert np.isfinite(loss).all()


def test_without_an_answer_or_a_rationale_there_is_no_loss_and_nothing_to_learn(taught):
    student, open_question = taught[0], Question("o", "Why?")
    assert student.answer_losses([Lesson(open_question), Lesson(open_question, "So.")]).tolist() == [0, 0]
    assert student.rationale_losses([Lesson(open_question)]).tolist() == [0]
    student.train([Lesson(open_question)], epochs=1)


def test_the_same_seed_gives_the_same_student():
    first, second, other = (learner(seed) for seed in (0, 0, 1))
    for one in (first, second, other):
        one.train(lessons(), epochs=1)
    losses = [one.rationale_losses(lessons()) for one in (first, second, other)]
    assert np.allclose(losses[0], losses[1], atol=1e-6)
    assert not np.allclose(losses[0], losses[2], atol=1e-3)


def test_a_student_that_cannot_write_or_does_not_exist_is_refused():
    with pytest.raises(MethodError, match="minilm scores choices and cannot write"):
        learner_named("minilm")(lessons(), seed=0)
    with pytest.raises(ConfigError, match="no student 'giant'"):
        learner_named("giant")
