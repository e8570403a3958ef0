from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_rows import small_questions, write_tiny_bert_checkpoint, write_tiny_t5_checkpoint
from transformers import AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer

from kp_data.errors import ConfigError, DataError, MethodError
from kp_data.schema import Question
from kp_train.students import Student, load_student, make_student
from kp_train.students.encoder import EncoderStudent
from kp_train.students.seq2seq import Seq2SeqStudent
from kp_train.views import LABEL, LABEL_PREFIX, Target, question_input

QUESTIONS = small_questions(3, 1, 1)
TEXTS = [question_input(question) for question in QUESTIONS]


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_t5_checkpoint(tmp_path_factory.mktemp("t5"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bert_checkpoint(tmp_path_factory.mktemp("bert"))


def test_tiny_t5_stays_below_three_million_parameters() -> None:
    student = make_student("tiny-t5", texts=TEXTS, seed=0)
    assert student.model.num_parameters() < 3_000_000


def test_tiny_t5_is_the_same_for_the_same_texts_and_seed() -> None:
    one, two, other = (make_student("tiny-t5", texts=texts, seed=seed) for texts, seed in _texts_and_seeds())
    assert one.choice_log_probs(QUESTIONS) == two.choice_log_probs(QUESTIONS)
    assert one.choice_log_probs(QUESTIONS) != other.choice_log_probs(QUESTIONS)


def _texts_and_seeds() -> list[tuple[list[str], int]]:
    return [(TEXTS, 0), (TEXTS[::-1], 0), (TEXTS, 1)]


def test_a_seq2seq_student_is_saved_as_a_checkpoint_that_plain_transformers_loads(tmp_path: Path) -> None:
    student = make_student("tiny-t5", texts=TEXTS, seed=0)
    student.save(tmp_path)
    plain = Seq2SeqStudent(AutoModelForSeq2SeqLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path))
    assert plain.choice_log_probs(QUESTIONS) == student.choice_log_probs(QUESTIONS)
    assert load_student(tmp_path).choice_log_probs(QUESTIONS) == student.choice_log_probs(QUESTIONS)
    assert [path.name for path in tmp_path.iterdir() if path.suffix in (".bin", ".pt", ".pkl")] == []


def test_a_choice_scores_the_sum_of_its_tokens_log_probabilities(t5: Path) -> None:
    student = Seq2SeqStudent.from_checkpoint(str(t5))
    question = QUESTIONS[1]
    inputs = student.tokenizer(LABEL_PREFIX + question_input(question), return_tensors="pt", add_special_tokens=False)
    read = torch.cat([inputs["input_ids"], torch.tensor([[student.tokenizer.eos_token_id]])], dim=1)
    written = [*student.tokenizer(question.choices[2], add_special_tokens=False)["input_ids"], 1]
    with torch.no_grad():
        logits = student.model(input_ids=read, decoder_input_ids=torch.tensor([[0, *written[:-1]]])).logits[0]
    by_hand = sum(logits.log_softmax(-1)[place, token].item() for place, token in enumerate(written))
    assert student.choice_log_probs(QUESTIONS)[1][2] == pytest.approx(by_hand, abs=1e-4)
    per_token = student.choice_log_probs(QUESTIONS, per_token=True)[1][2]
    assert per_token == pytest.approx(by_hand / len(written), abs=1e-4)


@pytest.mark.parametrize("kind", ["t5", "bert"])
def test_scores_do_not_depend_on_the_questions_scored_beside(
    kind: str, t5: Path, bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = make_student(str(t5 if kind == "t5" else bert), texts=(), seed=0)
    long = Question(id="long", question="Why, " * 40, choices=("yes", "certainly not, by no means"))
    together = student.choice_log_probs([*QUESTIONS, long])
    for question, scores in zip([*QUESTIONS, long], together, strict=True):
        assert student.choice_log_probs([question])[0] == pytest.approx(scores, abs=1e-4)


def test_what_a_student_writes_does_not_depend_on_the_questions_beside(t5: Path) -> None:
    student = Seq2SeqStudent.from_checkpoint(str(t5))
    torch.manual_seed(0)
    for parameter in student.model.parameters():  # as drawn at first, it writes the same whatever it reads
        torch.nn.init.normal_(parameter, std=0.5)
    together = student.generate_all(QUESTIONS, "explain: ", max_new_tokens=8)
    assert together == [student.generate_all([one], "explain: ", max_new_tokens=8)[0] for one in QUESTIONS]
    assert len(set(together)) > 1


def test_an_input_too_long_keeps_its_prefix_and_its_choices(t5: Path) -> None:
    student = Seq2SeqStudent.from_checkpoint(str(t5))
    student.max_input = 60
    question = Question(id="1", question="Thing " * 200, choices=("red", "green"), answer="red", answer_index=0)
    example = student.encode(question, Target(LABEL, LABEL_PREFIX, "red"), task=0)
    text = student.tokenizer.decode(example.inputs[0], skip_special_tokens=True).strip()
    assert len(example.inputs[0]) == 60
    assert text.startswith("predict:")
    assert text.endswith("(a) red\n(b) green")
    assert student.truncated == 1


def test_a_rationale_too_long_is_cut_without_an_end_token(t5: Path) -> None:
    student = Seq2SeqStudent.from_checkpoint(str(t5))
    student.max_target = 8
    cut = student.encode(QUESTIONS[0], Target("rationale", "explain: ", "red " * 50), task=0).label
    whole = student.encode(QUESTIONS[0], Target("rationale", "explain: ", "red"), task=0).label
    assert (len(cut), cut[-1] == student.tokenizer.eos_token_id) == (8, False)
    assert whole[-1] == student.tokenizer.eos_token_id


def test_an_encoder_student_is_saved_as_an_encoder_with_its_head_beside(bert: Path, tmp_path: Path) -> None:
    student = EncoderStudent.from_checkpoint(str(bert), seed=3)
    student.save(tmp_path)
    assert load_student(tmp_path).choice_log_probs(QUESTIONS) == student.choice_log_probs(QUESTIONS)
    assert AutoModel.from_pretrained(tmp_path).config.hidden_size == 16


def test_an_encoders_scores_are_log_probabilities_of_the_choices(bert: Path) -> None:
    for scores in EncoderStudent.from_checkpoint(str(bert), seed=3).choice_log_probs(QUESTIONS):
        assert sum(map(_exp, scores)) == pytest.approx(1.0, abs=1e-5)


def _exp(value: float) -> float:
    return float(torch.tensor(value).exp())


def test_an_encoder_handles_questions_with_different_numbers_of_choices(bert: Path) -> None:
    student = EncoderStudent.from_checkpoint(str(bert), seed=3)
    two = Question(id="2", question="Is thing 1 red?", choices=("red", "green"), answer="green", answer_index=1)
    target = Target(LABEL, LABEL_PREFIX, "green")
    items = [(student.encode(question, target, task=0),) for question in (QUESTIONS[1], two)]
    losses = student.token_losses(student.collate(items))
    expected = [-student.choice_log_probs([question])[0][1] for question in (QUESTIONS[1], two)]
    assert losses.tolist() == pytest.approx(expected, abs=1e-5)


def _minilm() -> EncoderStudent:
    student = make_student("minilm", texts=(), seed=0)
    assert isinstance(student, EncoderStudent)
    return student


def test_an_encoder_reads_a_question_and_its_choices_as_its_tokenizer_pairs_them() -> None:
    student = _minilm()
    question = Question(
        id="1", question="Is sep a word?", choices=("no", "yes, it is one"), answer="no", answer_index=0
    )
    batch = student.collate([(student.encode(question, Target(LABEL, LABEL_PREFIX, "no"), task=0),)])
    expected = student.tokenizer(
        [question.question] * 2, list(question.choices), padding=True, pad_to_multiple_of=16, return_tensors="pt"
    )
    assert set(expected) == {"input_ids", "attention_mask", "token_type_ids"}
    for name, tensor in expected.items():
        assert batch[name].tolist() == tensor.tolist(), name


def test_a_control_token_that_somebody_wrote_is_text_to_an_encoder() -> None:
    student = _minilm()
    question = Question(id="1", question="Is [SEP] a word?", choices=("no", "yes"), answer="no", answer_index=0)
    example = student.encode(question, Target(LABEL, LABEL_PREFIX, "no"), task=0)
    assert [list(tokens).count(student.tokenizer.sep_token_id) for tokens in example.inputs] == [2, 2]


def test_an_encoder_scores_with_the_segments_that_it_learned_with(tmp_path: Path) -> None:
    student = _minilm()
    target = Target(LABEL, LABEL_PREFIX, QUESTIONS[1].choices[1])
    batch = student.collate([(student.encode(QUESTIONS[1], target, task=0),)])
    student.model.eval()
    learned = -student.token_losses(batch).item()
    without = -student.token_losses({**batch, "token_type_ids": torch.zeros_like(batch["token_type_ids"])}).item()
    assert student.choice_log_probs([QUESTIONS[1]])[0][1] == pytest.approx(learned, abs=1e-5)
    assert abs(learned - without) > 1e-4


def test_a_student_saved_before_segments_were_told_apart_is_read_without_them(bert: Path, tmp_path: Path) -> None:
    EncoderStudent.from_checkpoint(str(bert), seed=3).save(tmp_path)
    described = json.loads((tmp_path / "student.json").read_text(encoding="utf-8"))
    assert described.pop("segments") is True
    (tmp_path / "student.json").write_text(json.dumps(described), encoding="utf-8")
    older = load_student(tmp_path)
    target = Target(LABEL, LABEL_PREFIX, QUESTIONS[0].choices[0])
    assert "token_type_ids" not in older.collate([(older.encode(QUESTIONS[0], target, task=0),)])


def test_an_encoder_with_one_kind_of_segment_gets_none(tmp_path: Path) -> None:
    folder = write_tiny_bert_checkpoint(tmp_path, segments=1)
    assert not EncoderStudent.from_checkpoint(str(folder), seed=0).segments


@pytest.mark.parametrize(("kind", "key"), [("t5", "max_input"), ("t5", "max_target"), ("bert", "max_input")])
@pytest.mark.parametrize("value", [None, "many", 0])
def test_a_student_file_without_a_usable_limit_is_one_error(
    kind: str, key: str, value: object, t5: Path, bert: Path, tmp_path: Path
) -> None:
    make_student(str(t5 if kind == "t5" else bert), texts=(), seed=0).save(tmp_path)
    described = json.loads((tmp_path / "student.json").read_text(encoding="utf-8"))
    (tmp_path / "student.json").write_text(json.dumps({**described, key: value}), encoding="utf-8")
    with pytest.raises(DataError, match=f"student.json: '{key}' is missing"):
        load_student(tmp_path)


def test_an_encoder_refuses_rationales_and_open_questions(bert: Path) -> None:
    student = EncoderStudent.from_checkpoint(str(bert), seed=0)
    refused: list[Callable[[], object]] = [
        lambda: student.encode(QUESTIONS[0], Target("rationale", "explain: ", "Red things."), task=0),
        lambda: student.encode(Question(id="1", question="Why?"), Target(LABEL, LABEL_PREFIX, "so"), task=0),
        lambda: student.generate_all(QUESTIONS[:1], "explain: "),
    ]
    for call in refused:
        with pytest.raises(MethodError):
            call()


def test_a_student_that_is_nowhere_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tiny-t5, tiny-llama, minilm"):
        make_student(str(tmp_path / "absent"), texts=(), seed=0)
    with pytest.raises(DataError, match=r"student\.json is missing"):
        load_student(tmp_path)


def test_a_name_that_is_no_hub_name_is_refused_without_asking_a_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", lambda name: pytest.fail(f"looked for {name}"))
    with pytest.raises(ConfigError, match="no student 'minilmm'; there are tiny-t5, tiny-llama, minilm"):
        make_student("minilmm", texts=(), seed=0)


def test_an_encoder_without_a_trained_head_cannot_be_evaluated(bert: Path) -> None:
    with pytest.raises(DataError, match="fit it first"):
        load_student(bert)


def test_a_plain_encoder_decoder_checkpoint_can_be_evaluated_as_it_is(t5: Path) -> None:
    student: Student = load_student(t5)
    assert len(student.choice_log_probs(QUESTIONS)[0]) == 3


def test_a_control_token_that_somebody_wrote_is_text_to_an_encoder_decoder() -> None:
    student = make_student("tiny-t5", texts=["a question", "an answer"], seed=0)
    end = student.tokenizer.eos_token_id
    question = Question(id="1", question=f"is {student.tokenizer.eos_token} the end", choices=("yes", "no"))
    example = student.encode(question, Target("label", "predict: ", f"no {student.tokenizer.eos_token} way"), task=0)
    assert list(example.label).count(end) == 1
    assert list(example.inputs[0]).count(end) == 1
