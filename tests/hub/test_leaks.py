"""Test questions in train: found exactly, found nearly, and refused."""

import itertools
import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kp_data.errors import DataError, HubError
from kp_data.hub import LeakError, build_release, find_leaks
from kp_data.hub.benchmarks import read_benchmark
from kp_data.hub.front_matter import split_card
from kp_data.hub.leaks import shingle_sets
from kp_data.tables import write_parquet

LONG = "A farmer in the valley has twelve brown sheep and sells half of them to a neighbour on the hill before winter "
WORDS = st.lists(st.sampled_from("abcde"), min_size=1, max_size=8).map(" ".join)


def questions(*texts, choices=(), prefix="q"):
    rows = len(texts)
    return pa.table(
        {
            "id": [f"{prefix}{row}" for row in range(rows)],
            "question": list(texts),
            "choices": pa.array([list(choices)] * rows, pa.list_(pa.string())),
            "context": pa.nulls(rows, pa.string()),
        }
    )


def test_case_punctuation_and_the_order_of_choices_do_not_hide_a_question():
    train = questions("What does ITEM 2 do?", choices=("stay", "Fall"))
    test = questions("what does item 2 do", choices=("fall", "stay"), prefix="t")
    (leak,) = find_leaks(train, test, name="b").leaks
    assert (leak.train_id, leak.test_id, leak.exact, leak.similarity) == ("q0", "t0", True, 1.0)


def test_the_same_words_with_other_choices_are_another_question():
    train, test = questions("Which is true?", choices=("a", "b")), questions("Which is true?", choices=("c", "d"))
    assert find_leaks(train, test, name="b").leaks == ()


def test_one_word_changed_in_a_long_question_is_near_and_in_a_short_one_is_not():
    other = LONG.replace("brown", "black")
    check = find_leaks(questions(LONG + LONG), questions(other + LONG, prefix="t"), name="b")
    # By hand: 42 words, 40 shingles, of which 3 changed: 35 distinct among the 40 of each text, and 3 more in one.
    sets = [
        set(map(hash, zip(*(text.lower().split()[start:] for start in range(3)), strict=False)))
        for text in (LONG + LONG, other + LONG)
    ]
    assert check.leaks[0].similarity == round(len(sets[0] & sets[1]) / len(sets[0] | sets[1]), 3)
    assert (check.num_exact, check.num_near) == (0, 1)
    assert not find_leaks(questions("Why is the sky blue?"), questions("Why is the sea blue?"), name="b").leaks


@given(st.lists(WORDS, max_size=5), st.lists(WORDS, max_size=5), st.sampled_from([0.3, 0.5, 0.8, 1.0]))
def test_the_index_finds_what_comparing_every_pair_finds(train_texts, test_texts, near):
    train, test = questions(*train_texts), questions(*test_texts, prefix="t")
    best = {}
    for (row, left), right in itertools.product(enumerate(shingle_sets(test)), list(shingle_sets(train))):
        best[row] = max(best.get(row, 0.0), len(left & right) / len(left | right))
    wanted = {f"t{row}": round(value, 3) for row, value in best.items() if value >= near}
    found = {leak.test_id: leak for leak in find_leaks(train, test, name="b", near=near).leaks}
    assert {key: leak.similarity for key, leak in found.items() if not leak.exact}.items() <= wanted.items()
    assert set(found) >= set(wanted)
    assert all(test_texts[int(key[1:])] in train_texts for key, leak in found.items() if leak.exact)


def test_a_leak_is_refused_with_the_list_and_published_knowingly_only(make_purified, tmp_path):
    bench = tmp_path / "bench.jsonl"
    lines = [
        {"question": f"what does ITEM {number} do", "choices": ["stay", "Fall", "rise"]} for number in (0, 1, 2, 700)
    ]
    bench.write_text("".join(json.dumps(line) + "\n" for line in lines))
    folder = make_purified()
    with pytest.raises(
        LeakError, match=r"2 test questions stand in .*\n.*q000 is bench\.jsonl's 1 \(the same\)"
    ) as caught:
        build_release(folder, version="1.0.0", benchmarks=[str(bench)])
    assert [leak["train_id"] for leak in caught.value.as_dict()["leaks"]["bench.jsonl"]] == ["q000", "q001"]
    card = build_release(folder, version="1.0.0", benchmarks=[str(bench)], allow_leaks=True).files["README.md"].decode()
    front, body = split_card(card)
    entry = {"benchmark": "bench.jsonl", "questions": 4, "exact": 2, "near": 0}
    assert front["kp_data"]["benchmarks_checked"] == [entry]
    assert "bench.jsonl, 4 test questions: 2 stand in “train” and 0 nearly so, **published knowingly**" in body


def test_a_benchmark_that_does_not_leak_is_named_in_the_card(make_purified, tmp_path):
    bench = tmp_path / "bench.csv"
    bench.write_text("question\nSomething else altogether?\n")
    card = build_release(make_purified(), version="1.0.0", benchmarks=[str(bench)]).files["README.md"].decode()
    assert "* bench.csv, 1 test questions: none stands in “train”." in card


def test_only_train_is_searched_because_a_test_split_may_be_the_benchmark_itself(make_purified, tmp_path):
    bench = tmp_path / "bench.jsonl"
    # Question 3 is of split test.
    bench.write_text(json.dumps({"question": "What does item 3 do?", "choices": ["rise", "fall", "stay"]}))
    assert build_release(make_purified(), version="1.0.0", benchmarks=[str(bench)]).files


def test_questions_of_other_splits_that_stand_in_train_are_said_in_the_card(make_purified):
    folder = make_purified()
    table = pa.parquet.read_table(folder / "purified.parquet")
    texts = ["What does item 0 do?" if row == 3 else text for row, text in enumerate(table["question"].to_pylist())]
    write_parquet(table.set_column(1, table.schema.field("question"), pa.array(texts)), folder / "purified.parquet")
    card = build_release(folder, version="1.0.0").files["README.md"].decode()
    assert "Of the 6 questions outside “train”, 1 stand in “train” too and 0 nearly so" in card


@pytest.mark.parametrize(
    ("row", "choices"),
    [
        ({"question_stem": "Q?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}}, ["a", "b"]),
        ({"question": {"stem": "Q?", "choices": []}, "options": [{"text": "a", "label": "A"}]}, ["a"]),
        ({"id": 7, "question": "Q?", "answer": 2}, []),
        ({"problem": "Q?", "passage": "P"}, []),
    ],
)
def test_benchmarks_are_read_as_they_come(tmp_path, row, choices):
    (tmp_path / "b.jsonl").write_text(json.dumps(row) + "\n")
    name, table = read_benchmark(str(tmp_path / "b.jsonl"))
    assert (name, table["question"].to_pylist(), table["choices"].to_pylist()) == ("b.jsonl", ["Q?"], [choices])


def test_without_a_split_the_questions_outside_of_train_are_the_test_questions(tmp_path):
    path = tmp_path / "b.jsonl"
    rows = [{"question": split, "split": split} for split in ("train", "test", "dev")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_benchmark(str(path))[1]["question"].to_pylist() == ["test", "dev"]
    assert read_benchmark(f"{path}:dev")[1]["question"].to_pylist() == ["dev"]
    with pytest.raises(DataError, match=r"no question in split 'valid'; splits there: dev, test, train"):
        read_benchmark(f"{path}:valid")
    assert read_benchmark("practice:20:test")[1].num_rows > 0
    path.write_text('{"question": "Q?"}')
    with pytest.raises(DataError, match="no column 'split'"):
        read_benchmark(f"{path}:test")


@pytest.mark.parametrize("source", ["nothing.jsonl", "a:b:c:d", "no such"])
def test_a_benchmark_that_is_not_there_is_said(source):
    with pytest.raises(DataError, match="no such file or folder"):
        read_benchmark(source)


def test_a_benchmark_without_questions_is_said(tmp_path):
    (tmp_path / "b.jsonl").write_text('{"label": 1}\n')
    with pytest.raises(DataError, match=r"no column of questions \(columns there: label\)"):
        read_benchmark(str(tmp_path / "b.jsonl"))


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_benchmark_on_a_hub_that_cannot_be_reached_is_one_message(monkeypatch):
    def refuse(*_, **__):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("datasets.load_dataset", refuse)
    with pytest.raises(HubError, match=r"benchmark a/b: cannot be loaded \(no route\); give a file"):
        read_benchmark("a/b:test")
