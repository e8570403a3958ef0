"""Purified folders of made-up texts, as large as one likes."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from kp_data.schema import PURIFIED
from kp_data.tables import write_json, write_parquet

TEACHERS: Final = ("ada", "bo", "cy", "di", "ed", "flo")
VOCABULARY: Final = 20_000


def words(count: int, rng: np.random.Generator) -> list[str]:
    """Made-up words, the first ones frequent, as in every language."""
    letters = np.array(list("etaoinshrdlucmfwypvbgk"))
    vocabulary = ["".join(rng.choice(letters, size)) for size in rng.integers(2, 11, VOCABULARY)]
    ranks = np.minimum(rng.zipf(1.3, count) - 1, VOCABULARY - 1)
    return [vocabulary[rank] for rank in ranks]


def purified(num: int, seed: int, *, first: int = 0, rationale_words: int = 90) -> pa.Table:
    """A purified table of made-up texts, ids in order: `q0000000`, ..."""
    rng = np.random.default_rng(seed)
    stock = iter(words(num * (rationale_words + 35), rng))

    def texts(length: int) -> list[str]:
        return [" ".join(itertools.islice(stock, length)) for _ in range(num)]

    choices = [[" ".join(itertools.islice(stock, 2)) for _ in range(4)] for _ in range(num)]
    gold = rng.integers(0, 4, num)
    chosen = rng.integers(0, len(TEACHERS), num)
    scores = rng.random((num, len(TEACHERS)))
    columns = {
        "id": [f"q{first + row:07d}" for row in range(num)],
        "question": texts(25),
        "choices": choices,
        "answer": [row[index] for row, index in zip(choices, gold, strict=True)],
        "answer_index": gold,
        "split": ["train"] * num,
        "subject": [f"subject {number}" for number in rng.integers(0, 14, num)],
        "context": pa.nulls(num, pa.string()),
        "rationale": texts(rationale_words),
        "teacher": [TEACHERS[number] for number in chosen],
        "method": ["similarity-router"] * num,
        "score": scores[np.arange(num), chosen],
        "scores": scores.tolist(),
        "purified_answer_index": rng.integers(0, 4, num),
        "conflict": rng.random(num) < 0.4,
    }
    return (
        pa.table(
            {
                name: pa.array(values, PURIFIED.field(name).type) if not isinstance(values, pa.Array) else values
                for name, values in columns.items()
            }
        )
        .select(PURIFIED.names)
        .cast(PURIFIED)
    )


def write_folder(table: pa.Table, folder: Path) -> Path:
    """A purified folder of a table."""
    folder.mkdir(parents=True)
    write_parquet(table, folder / "purified.parquet")
    write_json({"method": "similarity-router", "n_questions": table.num_rows}, folder / "report.json")
    write_json({"method": "similarity-router", "seed": 0}, folder / "run.json")
    return folder


def edited(table: pa.Table, *, rows: int, appended: int) -> pa.Table:
    """The table with other rationales in some rows, anywhere, and new rows at its end."""
    rationales = table["rationale"].to_pylist()
    for number, row in enumerate(sorted(random.Random(5).sample(range(table.num_rows), rows))):
        rationales[row] = f"{rationales[row]} On second thought, number {number} was wrong."
    changed = table.set_column(table.schema.get_field_index("rationale"), PURIFIED.field("rationale"), [rationales])
    return pa.concat_tables([changed, purified(appended, 77, first=table.num_rows)])


def fingerprint(table: pa.Table) -> str:
    """What a table says, in whatever order of rows."""
    return json.dumps(table.select(["id", "question", "rationale"]).sort_by("id").to_pydict())
