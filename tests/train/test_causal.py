from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small_causal import CONFIGS, PACKED, small_causal, small_tokenizer
from small_rows import small_questions
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from kp_data.errors import ConfigError, MethodError
from kp_data.schema import Question
from kp_train.batches import Example, Item
from kp_train.losses import count_units, normalised_loss
from kp_train.students import load_student, make_student
from kp_train.students.causal import CausalStudent, pack_rows
from kp_train.students.causal_checks import can_share_prompts
from kp_train.views import LABEL, LABEL_PREFIX, RATIONALE, RATIONALE_PREFIX, Target, question_input

QUESTIONS = small_questions(5, 1, 1)
EXACT = [kind for kind in CONFIGS if kind in PACKED]


def _items(student: CausalStudent, lengths: list[int]) -> list[Item]:
    """A row for each length, with a label and a rationale of so many words, which counts half."""
    return [
        tuple(
            student.encode(QUESTIONS[row % len(QUESTIONS)], target, task=int(target.task != LABEL))
            for target in (
                Target(LABEL, LABEL_PREFIX, str(QUESTIONS[row % len(QUESTIONS)].answer)),
                Target(RATIONALE, RATIONALE_PREFIX, "red thing " * words, 0.5),
            )
        )
        for row, words in enumerate(lengths)
    ]


def _gradient(student: CausalStudent, parts: list[list[Item]], *, packed: bool) -> dict[str, torch.Tensor]:
    """Of one step that is cut into these micro-batches."""
    batches = [student.collate(part, packed=packed) for part in parts]
    count_K = torch.stack([count_units(batch["owner"], batch["task"], num_tasks=2) for batch in batches]).sum(dim=0)
    student.model.zero_grad()
    for batch in batches:
        losses = student.token_losses(batch)
        normalised_loss(
            losses, batch["owner"], task_N=batch["task"], weight_N=batch["weight"], count_K=count_K
        ).backward()
    return {name: weight.grad.clone() for name, weight in student.model.named_parameters()}


def _gradient_by_hand(student: CausalStudent, items: list[Item]) -> dict[str, torch.Tensor]:
    """Each target alone, all its logits, and the formula."""
    sums: list[Any] = [0.0, 0.0]
    counts = [0, 0]
    for target in (target for item in items for target in item):
        tokens = torch.tensor([[*target.inputs[0], *target.label]])
        log_probs = student.model(input_ids=tokens).logits[0].log_softmax(dim=-1)
        for place, token in enumerate(target.label, start=len(target.inputs[0])):
            sums[target.task] = sums[target.task] - log_probs[place - 1, token]
        counts[target.task] += len(target.label)
    student.model.zero_grad()
    (sums[0] / counts[0] + 0.5 * sums[1] / counts[1]).backward()
    return {name: weight.grad.clone() for name, weight in student.model.named_parameters()}


def _farthest(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    return max((one[name] - two[name]).abs().max().item() for name in one)


@pytest.mark.parametrize("kind", EXACT)
def test_packed_losses_are_those_of_each_target_alone(kind: str) -> None:
    student = small_causal(kind)
    items = _items(student, [1, 9, 4, 30, 2])
    assert student.packs
    alone = torch.cat([student.token_losses(student.collate([(example,)])) for item in items for example in item])
    padded = student.token_losses(student.collate(items))
    packed = student.collate(items, packed=True)
    assert packed["input_ids"].shape[0] < 10
    assert torch.allclose(padded, alone, rtol=0, atol=1e-6)
    assert torch.allclose(student.token_losses(packed), alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["opt", "bloom", "mamba"])
def test_an_architecture_that_would_mix_packed_texts_is_found_out_and_padded(kind: str) -> None:
    student = small_causal(kind)
    items = _items(student, [1, 9, 4])
    assert not student.packs
    alone = torch.cat([student.token_losses(student.collate([(example,)])) for item in items for example in item])
    assert torch.allclose(student.token_losses(student.collate(items)), alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "gpt2"])
@settings(max_examples=6, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 25), min_size=2, max_size=8),
    parts=st.sampled_from([1, 2, 4, 8]),
    packed=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_the_gradient_is_that_of_the_formula_however_a_step_is_cut_packed_and_shuffled(
    kind: str, lengths: list[int], parts: int, packed: bool, seed: int
) -> None:
    student = small_causal(kind, dtype=torch.float64)
    items = _items(student, lengths)
    expected = _gradient_by_hand(student, items)
    shuffled = random.Random(seed).sample(items, len(items))
    cut = [part for part in (shuffled[number::parts] for number in range(parts)) if part]
    assert max(gradient.abs().max().item() for gradient in expected.values()) > 1e-3
    assert _farthest(expected, _gradient(student, cut, packed=packed)) < 1e-6


@pytest.mark.parametrize("packed", [False, True])
def test_in_single_precision_too(packed: bool) -> None:
    student = small_causal("llama")
    items = _items(student, [1, 9, 4, 20])
    whole = _gradient(student, [items], packed=False)
    for parts in (1, 2, 4):
        cut = [items[number::parts] for number in range(parts)]
        assert _farthest(whole, _gradient(student, cut, packed=packed)) < 1e-6


def test_a_packed_row_that_ignored_where_texts_begin_would_have_other_losses() -> None:
    student = small_causal("llama")
    batch = student.collate(_items(student, [1, 9, 4]), packed=True)
    mixed = {name: tensor for name, tensor in batch.items() if name != "position_ids"}
    assert (student.token_losses(batch) - student.token_losses(mixed)).abs().max() > 1e-3


def test_what_fills_a_row_up_has_no_gradient() -> None:
    student = small_causal("llama")
    batch = student.collate(_items(student, [1, 20]))
    other = {**batch, "input_ids": batch["input_ids"].clone()}
    for row, length in enumerate(batch["lengths"].tolist()):
        other["input_ids"][row, length:] = 7
    assert torch.equal(student.token_losses(batch), student.token_losses(other))


@example([3, 10, 11, 11, 11], 23)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=30), st.integers(1, 100))
def test_every_text_lands_in_one_row_and_no_row_overflows(lengths: list[int], width: int) -> None:
    rows = pack_rows(lengths, width)
    filled = [sum(lengths[number] for number in row) for row in rows]
    assert sorted(number for row in rows for number in row) == list(range(len(lengths)))
    assert max(filled) <= max(width, *lengths)
    assert len(rows) * max(filled) <= len(lengths) * max(lengths)


def test_rows_are_nearly_full() -> None:
    draw = random.Random(0)
    for width in (256, 896, 2048):
        lengths = [draw.choice((40, 60, 90, 150)) + draw.randrange(40) for _ in range(48)]
        rows = pack_rows(lengths, width)
        filled = [sum(lengths[number] for number in row) for row in rows]
        assert sum(filled) / (len(rows) * max(filled)) > 0.9


def test_only_the_answer_and_its_end_are_learned() -> None:
    student = small_causal("llama")
    batch = student.collate([(student.encode(QUESTIONS[0], Target(LABEL, LABEL_PREFIX, "red"), task=0),)])
    assert student.tokenizer.decode(batch["learned"]).strip() == "red</s>"
    assert batch["owner"].tolist() == [0] * len(batch["learned"])
    read = student.tokenizer.decode(batch["input_ids"][0, : int(batch["at"][0]) + 1]).strip()
    assert read == f"predict: {question_input(QUESTIONS[0])}\nAnswer:"


def test_positions_are_counted_as_they_are_computed() -> None:
    student = small_causal("llama")
    items = _items(student, [1, 9, 4, 30, 2])
    costs = [student.tokens_of(example) for item in items for example in item]
    padded, packed = (student.positions(student.collate(items, packed=way)) for way in (False, True))
    assert padded == (sum(costs), max(costs) * len(costs))
    assert packed[0] == sum(costs)
    assert packed[1] < padded[1]


@pytest.mark.parametrize("kind", list(CONFIGS))
def test_a_choice_scores_the_sum_of_its_tokens_log_probabilities(kind: str) -> None:
    student = small_causal(kind)
    student.model.eval()
    long = Question(id="long", question="Why, " * 20, choices=("yes", "certainly not, by no means"))
    questions = [*QUESTIONS, long]
    scores = student.choice_log_probs(questions)
    per_token = student.choice_log_probs(questions, per_token=True)
    for row in (1, 7):
        question = questions[row]
        for choice, score, mean in zip(question.choices, scores[row], per_token[row], strict=True):
            example = student.encode(question, Target(LABEL, LABEL_PREFIX, choice), task=0)
            with torch.no_grad():
                read = torch.tensor([[*example.inputs[0], *example.label]])
                log_probs = student.model(input_ids=read).logits[0].log_softmax(dim=-1)
            first = len(example.inputs[0]) - 1
            by_hand = sum(log_probs[first + place, token].item() for place, token in enumerate(example.label))
            assert score == pytest.approx(by_hand, abs=1e-4)
            assert mean == pytest.approx(by_hand / len(example.label), abs=1e-4)


@pytest.mark.parametrize(("kind", "shared"), [("llama", True), ("gpt2", True), ("opt", True), ("mistral", False)])
def test_a_prompt_is_read_once_where_that_is_exact(kind: str, shared: bool) -> None:
    assert can_share_prompts(small_causal(kind).model, longest=100) is shared


def test_questions_without_choices_have_no_scores() -> None:
    assert small_causal("llama").choice_log_probs([Question(id="1", question="Why?"), QUESTIONS[0]])[0] == []


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "mistral"])
def test_what_is_written_does_not_depend_on_the_questions_answered_beside(kind: str) -> None:
    student = small_causal(kind)
    long = Question(id="long", question="Why, " * 20, choices=("yes", "no"))
    together = student.generate_all([*QUESTIONS, long], "explain: ", max_new_tokens=8)
    assert any(together)
    assert together == [
        student.generate_all([question], "explain: ", max_new_tokens=8)[0] for question in [*QUESTIONS, long]
    ]


def test_writing_is_greedy_whatever_the_checkpoint_says_and_stops_at_the_end() -> None:
    student = make_student("tiny-llama", texts=[question_input(question) for question in QUESTIONS], seed=0)
    assert isinstance(student, CausalStudent)
    optimiser = torch.optim.AdamW(student.model.parameters(), lr=1e-2)
    batch = student.collate([(student.encode(QUESTIONS[1], Target(LABEL, LABEL_PREFIX, "green"), task=0),)])
    for _ in range(12):
        student.token_losses(batch).mean().backward()
        optimiser.step()
        optimiser.zero_grad()
    student.model.generation_config.do_sample = True
    student.model.generation_config.temperature = 50.0
    assert student.generate_all(QUESTIONS[1:2] * 3, LABEL_PREFIX) == ["green"] * 3


def test_a_saved_student_loads_with_plain_transformers_and_answers(tmp_path: Path) -> None:
    student = make_student("tiny-llama", texts=[question_input(question) for question in QUESTIONS], seed=0)
    student.save(tmp_path)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    plain = CausalStudent(model, tokenizer)
    loaded = load_student(tmp_path)
    assert plain.choice_log_probs(QUESTIONS) == student.choice_log_probs(QUESTIONS)
    assert loaded.choice_log_probs(QUESTIONS) == student.choice_log_probs(QUESTIONS)
    asked = tokenizer(f"predict: {question_input(QUESTIONS[0])}\nAnswer:", return_tensors="pt")
    written = model.generate(asked["input_ids"], attention_mask=asked["attention_mask"], max_new_tokens=8)
    text = tokenizer.decode(written[0, asked["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    assert text == loaded.generate_all(QUESTIONS[:1], LABEL_PREFIX, max_new_tokens=8)[0]  # type: ignore[call-arg]
    assert [path.name for path in tmp_path.iterdir() if path.suffix in (".bin", ".pt", ".pkl")] == []


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    student = make_student("tiny-llama", texts=["thing"], seed=0)
    student.save(tmp_path)
    model: Any = load_student(tmp_path).model
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.num_parameters() < 1_000_000


def test_a_checkpoint_in_bfloat16_is_trained_in_single_precision(tmp_path: Path) -> None:
    small_causal("llama", dtype=torch.bfloat16).save(tmp_path)
    student = load_student(tmp_path)
    assert {weight.dtype for weight in student.model.parameters()} == {torch.float32}


def test_under_autocast_losses_are_still_single_precision() -> None:
    student = small_causal("llama")
    batch = student.collate(_items(student, [1, 9]), packed=True)
    exact = student.token_losses(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = student.token_losses(batch)
    assert rounded.dtype == torch.float32
    assert torch.allclose(rounded, exact, atol=0.1)


def test_limits_fit_the_positions_that_a_model_has() -> None:
    config = GPT2Config(vocab_size=len(small_tokenizer()), n_embd=8, n_layer=1, n_head=1, n_positions=90)
    student = CausalStudent(GPT2LMHeadModel(config), small_tokenizer())
    assert (student.max_input, student.max_target) == (60, 30)
    long = Question(id="1", question="Thing " * 200, choices=("red", "green"), answer="red", answer_index=0)
    example = student.encode(long, Target(RATIONALE, RATIONALE_PREFIX, "red " * 200), task=0)
    assert student.tokens_of(example) == 89
    assert student.truncated == 2
    student.token_losses(student.collate([(example,)]))


def test_a_model_without_room_for_a_question_is_refused() -> None:
    config = GPT2Config(vocab_size=len(small_tokenizer()), n_embd=8, n_layer=1, n_head=1, n_positions=2)
    with pytest.raises(MethodError, match="reads 2 tokens at most"):
        CausalStudent(GPT2LMHeadModel(config), small_tokenizer())


def test_a_tokenizer_that_does_not_fit_its_model_is_one_error() -> None:
    config = GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=1, bos_token_id=1, eos_token_id=1)
    student = CausalStudent(GPT2LMHeadModel(config), small_tokenizer())
    with pytest.raises(ConfigError, match="knows 20 tokens"):
        student.encode(QUESTIONS[0], Target(LABEL, LABEL_PREFIX, "red"), task=0)


def _cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:3000])


def _with(folder: Path, **settings: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **settings}), encoding="utf-8")


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (_cut, "cannot be loaded .*not fully covered"),
        (lambda folder: (folder / "model.safetensors").unlink(), "cannot be loaded .*no file named model.safetensors"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "cannot be loaded"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be loaded .*not a valid JSON"),
        (lambda folder: _with(folder, model_type="perceptron"), "cannot be loaded .*perceptron"),
        (lambda folder: _with(folder, hidden_size=16), "cannot be loaded"),
        (lambda folder: _with(folder, num_hidden_layers=3), r"lacks weights .*layers\.2.* and \d+ more"),
    ],
)
def test_a_checkpoint_that_cannot_be_read_is_one_error(
    broken: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    small_causal("llama").save(tmp_path)
    broken(tmp_path)
    with pytest.raises(ConfigError, match=f"(?i){message}"):
        make_student(str(tmp_path), texts=(), seed=0)
    with pytest.raises(ConfigError, match=f"(?i){message}"):
        load_student(tmp_path)


def test_what_decides_about_encoded_rows_changes_with_limits_and_template() -> None:
    student, other = small_causal("llama"), small_causal("llama")
    assert student.encoding_identity() == other.encoding_identity()
    other.max_input = 100
    template = copy.deepcopy(student.tokenizer)
    template.chat_template = "{{ messages[0].content }}{% if messages[1] %}{{ messages[1].content }}{% endif %}"
    chatting = CausalStudent(student.model, template)
    assert len({each.encoding_identity() for each in (student, other, chatting)}) == 3


def test_an_example_counts_its_positions() -> None:
    student = small_causal("llama")
    assert student.tokens_of(Example(((1, 2, 3),), (4, 5), 0, 1.0)) == 4
