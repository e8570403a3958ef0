"""The dual contrastive loss: values by hand, and the faults that published code has."""

import math

import numpy as np
import pytest
import torch

from kp_data.purify.contrastive import (
    RouterHead,
    batch_loss,
    cluster_loss,
    frozen_head,
    teacher_loss,
    train_head,
)
from kp_data.purify.similarity_options import SimilarityOptions

SIMILARITY = torch.tensor([[0.5, -0.2, 0.1], [0.3, 0.8, -0.6]])


def bools(rows):
    return torch.tensor(rows, dtype=torch.bool)


def drawing(seed=0):
    return torch.Generator().manual_seed(seed)


def test_two_questions_and_three_teachers_match_the_formula():
    good, bad = bools([[1, 0, 0], [1, 1, 0]]), bools([[0, 1, 1], [0, 0, 1]])
    first = -math.log(math.exp(0.5) / (math.exp(0.5) + math.exp(-0.2) + math.exp(0.1)))
    second = -math.log(math.exp(0.3) / (math.exp(0.3) + math.exp(-0.6)))
    second -= math.log(math.exp(0.8) / (math.exp(0.8) + math.exp(-0.6)))
    assert teacher_loss(SIMILARITY, good, bad).tolist() == pytest.approx([first, second], abs=1e-6)


def test_the_temperature_divides_the_cosines():
    good, bad = bools([[1, 0, 0], [1, 1, 0]]), bools([[0, 1, 1], [0, 0, 1]])
    warm = teacher_loss(SIMILARITY, good, bad, temperature=0.5)
    assert torch.allclose(warm, teacher_loss(SIMILARITY * 2, good, bad))


def test_labels_between_right_and_wrong_match_the_formula():
    good = torch.tensor([[0.8, 0.3, 0.0]])
    loss = teacher_loss(SIMILARITY[:1], good, 1 - good)
    s = [math.exp(value) for value in (0.5, -0.2, 0.1)]
    expected = 0.8 * -math.log(s[0] / (s[0] + 0.7 * s[1] + s[2])) + 0.3 * -math.log(s[1] / (s[1] + 0.2 * s[0] + s[2]))
    assert loss.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("good", "bad"), [([0, 0, 0], [1, 1, 1]), ([1, 1, 1], [0, 0, 0]), ([0, 0, 0], [0, 0, 0])])
def test_a_question_with_no_right_or_no_wrong_teacher_contributes_exactly_nothing(good, bad):
    similarity = SIMILARITY.clone().requires_grad_()
    loss = teacher_loss(similarity, bools([good, [1, 0, 0]]), bools([bad, [0, 1, 0]]))
    loss.sum().backward()
    assert loss[0].item() == 0.0
    assert similarity.grad[0].abs().sum() == 0.0
    assert torch.isfinite(similarity.grad).all()
    assert similarity.grad[1].abs().sum() > 0


def test_a_question_without_signal_leaves_the_loss_of_the_batch_as_it_was():
    head = RouterHead(4, 3, projected_size=2)
    question = torch.nn.functional.normalize(torch.randn(3, 4, generator=drawing()), dim=1)
    good, bad = bools([[1, 0, 0], [0, 1, 0], [0, 0, 0]]), bools([[0, 1, 1], [1, 0, 1], [1, 1, 1]])
    clusters, config = torch.tensor([0, 0, 0]), SimilarityOptions(cluster_weight=0.0)
    whole = batch_loss(head, (question, good, bad, clusters), config, drawing())
    without = batch_loss(head, (question[:2], good[:2], bad[:2], clusters[:2]), config, drawing())
    assert torch.allclose(whole, without)


def test_a_teacher_that_is_neither_right_nor_wrong_gets_no_gradient():
    similarity = SIMILARITY.clone().requires_grad_()
    teacher_loss(similarity, bools([[1, 0, 0]] * 2), bools([[0, 1, 0]] * 2)).sum().backward()
    assert similarity.grad[:, 2].abs().sum() == 0


def test_the_losses_of_questions_do_not_mix():
    good, bad = bools([[1, 0, 0], [0, 0, 1]]), bools([[0, 1, 1], [1, 1, 0]])
    together = teacher_loss(SIMILARITY, good, bad)
    alone = [teacher_loss(SIMILARITY[[row]], good[[row]], bad[[row]]).item() for row in (0, 1)]
    assert together.shape == (2,)
    assert together.tolist() == pytest.approx(alone)


def test_scaling_a_teacher_embedding_changes_no_score():
    head = RouterHead(4, 3, projected_size=2)
    question = torch.eye(4)
    before = head.similarity(head.embed(question))
    with torch.no_grad():
        head.teacher_TK[1] *= 7.5
    assert torch.allclose(head.similarity(head.embed(question)), before, atol=1e-6)


def test_scores_without_torch_equal_the_softmax_of_the_cosines():
    head = RouterHead(4, 3, projected_size=2).eval()
    question = torch.nn.functional.normalize(torch.randn(5, 4, generator=drawing()), dim=1)
    expected = (head.similarity(head.embed(question)) / 0.5).softmax(1).detach().numpy()
    score = frozen_head(head, 0.5).score(question.numpy())
    assert np.allclose(score, expected, atol=1e-6)
    assert np.allclose(score.sum(1), 1)


def test_the_cluster_loss_takes_another_question_of_the_cluster_never_the_question_itself():
    question = torch.tensor([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]])
    loss, has = cluster_loss(question, torch.tensor([0, 0, 1]), generator=drawing())
    first = -math.log(math.exp(0.6) / (math.exp(0.6) + math.exp(-1.0)))
    second = -math.log(math.exp(0.6) / (math.exp(0.6) + math.exp(-0.6)))
    assert has.tolist() == [True, True, False]
    assert loss.tolist() == pytest.approx([first, second, 0.0], abs=1e-6)


def test_the_cluster_loss_uses_its_temperature():
    question = torch.tensor([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]])
    loss, _ = cluster_loss(question, torch.tensor([0, 0, 1]), generator=drawing(), temperature=0.1)
    assert loss[0].item() == pytest.approx(math.log1p(math.exp((-1.0 - 0.6) / 0.1)), rel=1e-3)


def test_the_cluster_loss_takes_so_many_negatives_of_other_clusters_as_asked():
    question = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.0]] + [[0.0, 1.0]] * 6), dim=1)
    loss, _ = cluster_loss(question, torch.tensor([0, 0] + [1] * 6), generator=drawing(), num_negatives=4)
    assert loss[0].item() == pytest.approx(-math.log(math.e / (math.e + 4)), abs=1e-6)


@pytest.mark.parametrize("clusters", [[0, 0, 0], [0, 1, 2]])
def test_a_batch_without_a_positive_or_a_negative_has_no_cluster_loss_and_a_finite_gradient(clusters):
    question = torch.randn(3, 2, generator=drawing(), requires_grad=True)
    loss, has = cluster_loss(question, torch.tensor(clusters), generator=drawing())
    loss.sum().backward()
    assert not has.any()
    assert loss.abs().sum() == 0
    assert question.grad.abs().sum() == 0


def test_training_keeps_the_epoch_that_is_best_on_validation_and_leaves_the_random_state_alone():
    reached = iter([0.2, 0.9, 0.5, 0.9, 0.1, 0.0, 0.0])
    torch.manual_seed(5)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    trained = fit_small(
        SimilarityOptions(projected_size=2, max_epochs=7, patience=3), validate=lambda score: next(reached)
    )
    assert (trained.best_epoch, trained.epochs, trained.validation_accuracy) == (2, 5, 0.9)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    config = SimilarityOptions(projected_size=2, max_epochs=3)
    first, again, other = (fit_small(config, seed=seed).head for seed in (0, 0, 1))
    assert np.array_equal(first.project_KD, again.project_KD)
    assert np.array_equal(first.teacher_TK, again.teacher_TK)
    assert not np.array_equal(first.teacher_TK, other.teacher_TK)


def fit_small(config, *, seed=0, validate=lambda score: 0.0):
    question = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    good = question[:, :3] > 0
    clusters = np.arange(20) % 2
    return train_head(
        question, good, ~good, clusters, options=config, seed=seed, validate=validate, validation_ND=question[:4]
    )
