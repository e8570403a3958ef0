"""A purified folder made by hand: what is published in these tests."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from kp_data.schema import PURIFIED, Question, Response
from kp_data.tables import table_of_responses, write_json, write_parquet

TEACHERS = ("ada", "bo", "cy")


def questions(num: int) -> list[Question]:
    splits = ("train", "train", "validation", "test", "ood")
    return [
        Question(
            id=f"q{index:03d}",
            question=f"What does item {index} do?",
            choices=("rise", "fall", "stay"),
            answer=("rise", "fall", "stay")[index % 3],
            answer_index=index % 3,
            split=splits[index % 5],
            subject="things",
        )
        for index in range(num)
    ]


def responses(asked: list[Question]) -> list[Response]:
    """ada is right always, bo on even questions, cy never; cy's every fifth response failed."""
    rows = []
    for number, question in enumerate(asked):
        gold = question.answer_index or 0
        for teacher, index in (
            ("ada", gold),
            ("bo", gold if number % 2 == 0 else (gold + 1) % 3),
            ("cy", (gold + 1) % 3),
        ):
            failed = teacher == "cy" and number % 5 == 0
            rows.append(
                Response(
                    question_id=question.id,
                    teacher=teacher,
                    mode="blind",
                    rationale=None if failed else f"{teacher} thinks of item {number}.",
                    answer=None if failed else question.choices[index],
                    answer_index=None if failed else index,
                    correct=None if failed else index == gold,
                    error="timeout" if failed else None,
                    model=f"lab/{teacher}-7b",
                    cost_usd=None if teacher == "cy" else 0.001,
                    prompt_tokens=10,
                    completion_tokens=20,
                    latency_s=0.5,
                )
            )
    return rows


def write_purified(
    folder: Path, num: int = 10, *, rationale: str = "ada thinks of item {}.", panel: bool = True
) -> Path:
    asked = questions(num)
    rows = [
        {
            **{name: getattr(question, name) for name in question.__slots__},
            "choices": list(question.choices),
            "rationale": rationale.format(number),
            "teacher": "ada",
            "method": "best-single",
            "score": 1.0,
            "scores": [1.0, 0.5, float("nan")],
            "purified_answer_index": question.answer_index,
            "conflict": True,
        }
        for number, question in enumerate(asked)
    ]
    write_parquet(pa.Table.from_pylist(rows, schema=PURIFIED), folder / "purified.parquet")
    if panel:
        write_parquet(table_of_responses(responses(asked)), folder / "responses.parquet")
    write_json(report(num), folder / "report.json")
    run = {"method": "best-single", "seed": 3, "options": {"labels": "gold"}, "panel": "/home/someone/panels/mine"}
    write_json(run, folder / "run.json")
    return folder


def report(num: int) -> dict[str, object]:
    scores = {
        "n_questions": num,
        "purified_accuracy": 0.75,
        "best_single_accuracy": 0.5,
        "majority_accuracy": 0.25,
        "oracle_accuracy": 1.0,
        "gap_closed": 0.5,
    }
    splits = {"test": {**scores, "purified_accuracy": 0.625}}
    return {"method": "best-single", **scores, "conflict_rate": 0.9, "teacher_share": {"ada": 1.0}, "splits": splits}
