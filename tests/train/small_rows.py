"""Small dataset folders and small random students for the tests of kp_train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa

from kp_data.schema import PURIFIED, Question, Response
from kp_data.tables import table_of_questions, table_of_responses, write_parquet

COLOURS = ("red", "green", "blue")
TEACHERS = ("ada", "bruno")


def small_questions(num_train: int = 12, num_validation: int = 4, num_test: int = 4) -> list[Question]:
    """Questions whose answer is the colour they name."""
    splits = ["train"] * num_train + ["validation"] * num_validation + ["test"] * num_test
    return [
        Question(
            id=f"q{number}",
            question=f"Thing {number} is {COLOURS[number % 3]}. Which colour has thing {number}?",
            choices=COLOURS,
            answer=COLOURS[number % 3],
            answer_index=number % 3,
            split=split,
            subject="odd" if number % 2 else "even",
        )
        for number, split in enumerate(splits)
    ]


def small_responses(questions: Sequence[Question]) -> list[Response]:
    """Ada is always right; Bruno always says red."""
    rows = []
    for question in questions:
        rows.append(_response(question, "ada", int(question.answer_index or 0)))
        rows.append(_response(question, "bruno", 0))
    return rows


def write_panel(folder: Path, questions: Sequence[Question] | None = None) -> Path:
    """A panel folder."""
    questions = small_questions() if questions is None else questions
    write_parquet(table_of_questions(questions), folder / "questions.parquet")
    write_parquet(table_of_responses(small_responses(questions)), folder / "responses.parquet")
    return folder


def purified_table(questions: Sequence[Question] | None = None, *, method: str = "oracle") -> pa.Table:
    """Ada's rationale for every question."""
    questions = small_questions() if questions is None else questions
    rows = [
        {
            **asdict(question),
            "rationale": _rationale("ada", question, int(question.answer_index or 0)),
            "teacher": "ada",
            "method": method,
            "purified_answer_index": question.answer_index,
            "conflict": question.answer_index != 0,
        }
        for question in questions
    ]
    return pa.Table.from_pylist(rows, schema=PURIFIED)


def write_purified(folder: Path, questions: Sequence[Question] | None = None, *, responses: bool = True) -> Path:
    """A purified folder, with the panel's responses beside it or without."""
    questions = small_questions() if questions is None else questions
    write_parquet(purified_table(questions), folder / "purified.parquet")
    if responses:
        write_parquet(table_of_responses(small_responses(questions)), folder / "responses.parquet")
    return folder


def write_tiny_t5_checkpoint(folder: Path, *, dropout: float = 0.1) -> Path:
    """A random encoder-decoder checkpoint of a few thousand parameters, as any user might bring one."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    from kp_train.students.tiny_t5 import build_tokenizer

    texts = [question.question for question in small_questions()]
    tokenizer = build_tokenizer([*texts, *COLOURS])
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, dropout_rate=dropout
    )
    config.decoder_start_token_id = 0
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_tiny_bert_checkpoint(folder: Path, *, segments: int = 2) -> Path:
    """A random encoder checkpoint with a word-piece tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = sorted({word for question in small_questions() for word in question.question.split()} | set(COLOURS))
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        type_vocab_size=segments,
    )
    BertModel(config).save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return folder


def _response(question: Question, teacher: str, index: int) -> Response:
    return Response(
        question_id=question.id,
        teacher=teacher,
        mode="blind",
        rationale=_rationale(teacher, question, index),
        answer=question.choices[index],
        answer_index=index,
        correct=index == question.answer_index,
    )


def _rationale(teacher: str, question: Question, index: int) -> str:
    return f"As {teacher} sees it, thing {question.id.removeprefix('q')} looks {question.choices[index]}."
