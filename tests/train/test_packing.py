"""Packing must not change a loss or a gradient; every family of models whose forward pass we take apart is here."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from small_rows import small_questions
from torch.nn import functional
from transformers import (
    AutoModelForSeq2SeqLM,
    BartConfig,
    M2M100Config,
    MarianConfig,
    MBartConfig,
    MT5Config,
    PegasusConfig,
    PreTrainedTokenizerFast,
    T5Config,
    UMT5Config,
)

from kp_train.batches import Example, Item
from kp_train.packing import lay_out
from kp_train.students.seq2seq import Seq2SeqStudent
from kp_train.students.tiny_t5 import build_tokenizer

SIZE = {"vocab_size": 40, "d_model": 8, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
T5_SIZE = {**SIZE, "d_kv": 4, "d_ff": 16, "num_layers": 2, "num_heads": 2, "dropout_rate": 0.0}
BART_SIZE = {
    **SIZE,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "max_position_embeddings": 64,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
}
PACKED: dict[str, Any] = {
    "t5": T5Config(**T5_SIZE),
    "t5 v1.1, untied and gated": T5Config(**T5_SIZE, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "mt5": MT5Config(**T5_SIZE),
    "umt5": UMT5Config(**T5_SIZE),
}
PADDED: dict[str, Any] = {
    "bart": BartConfig(**BART_SIZE),
    "mbart": MBartConfig(**BART_SIZE),
    "pegasus": PegasusConfig(**BART_SIZE),
    "marian": MarianConfig(**BART_SIZE),
    "m2m_100, whose head we do not know": M2M100Config(**BART_SIZE, encoder_layerdrop=0.0, decoder_layerdrop=0.0),
}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer([question.question for question in small_questions()])


def _student(config: Any, tokenizer: PreTrainedTokenizerFast) -> Seq2SeqStudent:
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_config(config).double()
    for parameter in model.parameters():  # fresh models have norms of ones and zeros, which hide mistakes
        parameter.data += 0.3 * torch.randn_like(parameter)
    return Seq2SeqStudent(model, tokenizer)


def _items(lengths: list[tuple[int, int, bool]]) -> list[Item]:
    """Rows of two targets of which the second may read the same as the first."""
    draw = torch.Generator().manual_seed(3)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(2, 40, (count,), generator=draw).tolist())

    items = []
    for number, (read, written, shared) in enumerate(lengths):
        first = Example((tokens(read),), tokens(written), 0, 1.0)
        inputs = first.inputs if shared else (tokens(read + number % 3),)
        items.append((first, Example(inputs, tokens(2 * written), 1, 0.5)))
    return items


def _one_by_one(student: Seq2SeqStudent, items: list[Item]) -> torch.Tensor:
    """What transformers says of each target alone."""
    losses = []
    for example in (example for item in items for example in item):
        labels = torch.tensor([example.label])
        logits = student.model(input_ids=torch.tensor([example.inputs[0]]), labels=labels).logits
        losses.append(functional.cross_entropy(logits[0], labels[0], reduction="none"))
    return torch.cat(losses)


def _gradients(student: Seq2SeqStudent, losses_T: torch.Tensor) -> dict[str, torch.Tensor]:
    student.model.zero_grad()
    (losses_T * torch.linspace(0.5, 2.0, len(losses_T))).mean().backward()
    learned = (pair for pair in student.model.named_parameters() if pair[1].requires_grad)
    return {name: parameter.grad.clone() for name, parameter in learned}


def _assert_same(student: Seq2SeqStudent, items: list[Item], *, packed: bool) -> None:
    losses = student.token_losses(student.collate(items, packed=packed))
    expected = _one_by_one(student, items)
    assert torch.allclose(losses, expected, rtol=0, atol=1e-6)
    ours, theirs = _gradients(student, losses), _gradients(student, expected)
    assert max(gradient.abs().max() for gradient in theirs.values()) > 1e-2
    for name, gradient in theirs.items():
        # T5's norm is float32 whatever the model is, so these wild weights' large gradients are so exact, not more.
        assert (ours[name] - gradient).abs().max() <= 1e-6 * max(1.0, gradient.abs().max().item()), name


ITEMS = [(5, 2, True), (9, 3, False), (1, 1, False), (14, 6, True)]


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("packed", [True, False])
def test_packed_and_padded_losses_and_gradients_are_those_of_each_target_alone(
    name: str, packed: bool, tokenizer: PreTrainedTokenizerFast
) -> None:
    student = _student(PACKED[name], tokenizer)
    assert student.packs
    _assert_same(student, _items(ITEMS), packed=packed)


@pytest.mark.parametrize("name", PADDED)
def test_families_that_cannot_be_packed_are_exact_when_padded(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    student = _student(PADDED[name], tokenizer)
    assert not student.packs
    _assert_same(student, _items(ITEMS), packed=False)


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 9), st.booleans()), min_size=1, max_size=5),
    st.integers(10, 60),
)
@settings(max_examples=12, deadline=None, phases=[Phase.generate])
def test_packing_is_exact_for_any_lengths_in_any_number_of_rows(lengths: list[tuple[int, int, bool]], row: int) -> None:
    student = _student(PACKED["t5"], build_tokenizer([]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kp_train.packing.ROW", row)
        _assert_same(student, _items(lengths), packed=True)


def test_an_input_that_several_targets_of_a_row_read_is_encoded_once(tokenizer: PreTrainedTokenizerFast) -> None:
    student = _student(PACKED["t5"], tokenizer)
    shared, apart = (student.collate(_items([(20, 3, share)]), packed=True) for share in (True, False))
    assert (shared["input_rows"].numel(), apart["input_rows"].numel()) == (20, 40)
    assert (student.positions(shared), student.positions(apart)) == ((29, 29), (49, 49))


def test_rows_lose_fewer_positions_than_there_are_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kp_train.packing.ROW", 15)
    inputs = [[1] * length for length in (7, 3, 11, 2, 6)]
    laid = lay_out(inputs, [[2], [2]], [0, 4], filler=9)
    assert (laid["input_rows"].shape, laid["label_rows"].shape) == ((2, 15), (2, 1))
    assert (laid["input_rows"] == 9).sum() == 1


def test_a_row_is_never_shorter_than_the_longest_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kp_train.packing.ROW", 3)
    assert lay_out([[1]], [[1] * 9, [2]], [0, 0], filler=0)["label_rows"].shape == (4, 9)


def test_texts_of_like_length_attend_side_by_side() -> None:
    laid = lay_out([[1]], [[2] * length for length in (40, 3, 5, 60)], [0] * 4, filler=0)
    assert [laid[f"label_length_{group}"].tolist() for group in range(2)] == [[3, 5], [40, 60]]
    assert laid["label_take_0"].tolist() == [[40, 41, 42, 42, 42], [43, 44, 45, 46, 47]]
    assert "label_take_2" not in laid


def test_generation_and_scores_are_the_same_with_and_without_block_attention(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    torch.manual_seed(0)
    config = T5Config(**{**T5_SIZE, "vocab_size": len(tokenizer)})
    model = AutoModelForSeq2SeqLM.from_config(config)
    model.eval()
    inputs = torch.tensor([[5, 6, 7, 1]])
    plain = model(input_ids=inputs, decoder_input_ids=torch.tensor([[0, 3, 4]])).logits
    written = model.generate(input_ids=inputs, max_new_tokens=8, do_sample=False)
    Seq2SeqStudent(model, tokenizer)
    assert model.config._attn_implementation == "kp_blocks"
    assert torch.equal(model(input_ids=inputs, decoder_input_ids=torch.tensor([[0, 3, 4]])).logits, plain)
    assert torch.equal(model.generate(input_ids=inputs, max_new_tokens=8, do_sample=False), written)
