"""Aggregation against real servers on loopback: what is written, what is asked again, what is kept, what is paid."""

import json
import signal
import subprocess
import sys
import textwrap
import time
import urllib.request

import numpy as np
import pyarrow.parquet as pq
import pytest
from scripted_model import scripted_model
from topic_panels import response, write_panel

from kp_data.config import Config, Generate, Price, Teacher
from kp_data.errors import ConfigError, TeacherError, Unfinished
from kp_data.hub import push
from kp_data.hub.front_matter import CardSettings
from kp_data.panel import Panel
from kp_data.practice import practice_server
from kp_data.purify import Partners, aggregator_text, find_method, purify_panel
from kp_data.purify.aggregation import AggregationOptions, Draft, answer_code, read_draft
from kp_data.purify.aggregation_inputs import ExamplePool, aggregator_teacher, explanations_of
from kp_data.purify.registry import make_options
from kp_data.schema import AGGREGATED, Question
from kp_data.store import Store, StoredCell
from kp_data.teachers.prompts import GOLD_HEAD

CHOICES = ("w", "x", "y", "z")
QUICK = Partners(config=Config(generate=Generate(retries=0)))
GOOD = "Because it is so.\nThe answer is (B)."


def questions(count, *, split="train", gold=1):
    return [Question(f"{split}{n}", f"{split} question {n}", CHOICES, CHOICES[gold], gold, split) for n in range(count)]


def panel_in(tmp_path, asked=None, *, said=(1, 1, 2), mode="blind", name="panel"):
    """Three teachers a, b, c with the same answers to every question."""
    asked = questions(6) + questions(3, split="test") if asked is None else asked
    cells = [
        response(one.id, teacher, index, mode=mode, rationale=f"{one.id} by nobody: {index}")
        for one in asked
        for teacher, index in zip("abc", said, strict=True)
    ]
    return write_panel(tmp_path / name, asked, cells)


def aggregate(panel, out, aggregator, *, partners=QUICK, seed=0, **options):
    return purify_panel(
        panel,
        method="aggregation",
        out=out,
        seed=seed,
        options={"aggregator": aggregator, **options},
        partners=partners,
    )


def rows(folder):
    return pq.read_table(folder / "purified.parquet").to_pylist()


def test_an_aggregator_writes_one_rationale_and_one_answer_a_question(tmp_path):
    panel = panel_in(tmp_path)
    report = aggregate(panel, tmp_path / "pure", "practice/editor")
    for row in rows(tmp_path / "pure"):
        assert (row["teacher"], row["purified_answer_index"], row["score"]) == (AGGREGATED, 1, None)
        assert row["rationale"] == f"{row['id']} by nobody: 1"
    facts = report.fit
    assert (facts["written"], facts["fallbacks"], facts["calls"], facts["calls_now"]) == (9, {}, 9, 9)
    assert report.calls_per_question == 4
    assert report.overall.purified_accuracy == 1.0


def test_two_runs_give_the_same_bytes_and_the_second_pays_nothing(tmp_path):
    panel = panel_in(tmp_path)
    with practice_server() as url:
        model = f"editor=practice/editor@{url}"
        first = aggregate(panel, tmp_path / "one", model)
        second = aggregate(panel, tmp_path / "two", model)
        with urllib.request.urlopen(url.removesuffix("/v1") + "/stats") as answer:
            assert json.load(answer)["completed"] == 9
    for name in ("purified.parquet", "run.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert (first.fit["calls_now"], second.fit["calls_now"]) == (9, 0)
    assert second.fit["calls"] == 9
    # Once paid, the answers need no server.
    assert aggregate(panel, tmp_path / "three", model).fit["calls_now"] == 0


def test_the_aggregators_address_is_not_published(tmp_path):
    panel = panel_in(tmp_path)
    with scripted_model(lambda prompt, number: GOOD) as model:
        address = model.url.partition("//")[2].partition("/")[0]
        aggregate(panel, tmp_path / "pure", f"m=scripted@{model.url}")
    told = (tmp_path / "pure" / "run.json").read_text() + (tmp_path / "pure" / "report.json").read_text()
    # It stays at home, where a run with another one is another run.
    assert address in told
    push(tmp_path / "pure", "me/things", dry_run_to=tmp_path / "release", settings=CardSettings(license="mit"))
    published = [path.read_bytes() for path in (tmp_path / "release").rglob("*") if path.is_file()]
    assert any(b"m=scripted" in content for content in published)
    assert not [content for content in published if address.encode() in content]


@pytest.mark.parametrize("address", ["http://user:secret@127.0.0.1:9/v1", "http://127.0.0.1:9/v1?api_key=secret"])
def test_an_address_with_a_secret_is_refused_before_anything_is_written(tmp_path, address):
    panel = panel_in(tmp_path)
    before = {path.name for path in tmp_path.rglob("*")}
    with pytest.raises(ConfigError, match="without user, password or query") as caught:
        aggregate(panel, tmp_path / "pure", f"m=scripted@{address}")
    assert "secret" not in str(caught.value)
    assert {path.name for path in tmp_path.rglob("*")} == before


def test_another_seed_shuffles_teachers_anew_and_names_none(tmp_path):
    panel = panel_in(tmp_path, said=(0, 1, 2))
    with scripted_model(lambda prompt, number: GOOD) as model:
        for seed in (0, 1):
            aggregate(panel, tmp_path / f"seed{seed}", f"m=scripted@{model.url}", seed=seed)
    first, second = model.prompts[:9], model.prompts[9:]
    assert sorted(first) != sorted(second)
    orders = [explanations_of(panel, row, seed=0) for row in range(9)]
    assert len({tuple(one.concludes for one in order) for order in orders}) > 1
    assert json.loads((tmp_path / "seed1" / "run.json").read_text())["seed"] == 1


@pytest.mark.parametrize(
    ("first", "problem"),
    [
        ("", "empty"),
        ("The answer is (B).", "empty"),
        ("I'm sorry, but I can't help with that.", "refused"),
        ("word " * 300 + "\nThe answer is (B).", "too_long"),
        ("Bananas are yellow and so is the moon", "no_answer"),
    ],
)
def test_a_reply_of_no_use_is_asked_for_once_more_with_the_reason(tmp_path, first, problem):
    panel = panel_in(tmp_path, questions(1))
    with scripted_model(lambda prompt, number: (first, GOOD)[min(number, 1)]) as model:
        report = aggregate(panel, tmp_path / "pure", f"m=scripted@{model.url}")
    assert rows(tmp_path / "pure")[0]["rationale"] == "Because it is so."
    assert (report.fit["retried"], report.fit["fallbacks"], report.fit["calls"]) == ({problem: 1}, {}, 2)
    assert "Mind that an earlier reply" in model.prompts[1]
    assert "Mind that" not in model.prompts[0]


@pytest.mark.parametrize("always", ["", "nonsense", "I'm sorry, but I can't help with that."])
def test_after_two_replies_of_no_use_the_best_teacher_is_kept_and_counted(tmp_path, always):
    # Teacher b alone is right.
    panel = panel_in(tmp_path, said=(0, 1, 2))
    with scripted_model(lambda prompt, number: always) as model:
        report = aggregate(panel, tmp_path / "pure", f"m=scripted@{model.url}")
    assert len(model.prompts) == 18
    assert {row["teacher"] for row in rows(tmp_path / "pure")} == {"b"}
    assert (report.fit["written"], sum(report.fit["fallbacks"].values())) == (0, 9)
    assert report.fit["retried"] == report.fit["fallbacks"]


def test_without_gold_or_blind_answers_the_first_teacher_with_a_rationale_is_fallen_back_on(tmp_path):
    asked = [Question("q0", "why?", CHOICES), Question("q1", "how?", CHOICES)]
    cells = [response(one.id, name, 1) for one in asked for name in "abc"]
    cells[0] = response("q0", "a", None, rationale=None, error="refused")
    panel = write_panel(tmp_path / "panel", asked, cells)
    with scripted_model(lambda prompt, number: "") as model:
        aggregate(panel, tmp_path / "pure", f"m=scripted@{model.url}")
    assert [row["teacher"] for row in rows(tmp_path / "pure")] == ["b", "a"]


def test_one_rationale_is_kept_as_it_is_and_none_gives_none_without_a_call(tmp_path):
    asked = questions(3)
    cells = [response(asked[0].id, name, 1) for name in "abc"]
    cells += [response(asked[1].id, name, 1 if name == "c" else None) for name in "abc"]
    cells += [response(asked[2].id, name, None) for name in "abc"]
    cells = [
        cell if cell.answer_index is not None else response(cell.question_id, cell.teacher, None, rationale=None)
        for cell in cells
    ]
    panel = write_panel(tmp_path / "panel", asked, cells)
    report = aggregate(panel, tmp_path / "pure", "practice/editor")
    assert [row["teacher"] for row in rows(tmp_path / "pure")] == [AGGREGATED, "c", None]
    assert (report.fit["calls"], report.fit["kept_alone"], report.fit["without_rationale"]) == (1, 1, 1)


def test_overload_and_broken_replies_are_tried_again_and_nothing_is_lost(tmp_path):
    panel = panel_in(tmp_path)
    with practice_server(faults="429,500,broken,disconnect,empty,ok") as url:
        report = aggregate(panel, tmp_path / "pure", f"editor=practice/editor@{url}", partners=Partners())
    assert report.fit["written"] == 9
    assert report.fit["retried"] == {"empty": 1}
    assert report.fit["attempts"] > report.fit["calls"]


def test_a_call_that_brings_nothing_stops_the_run_and_a_further_run_asks_only_that(tmp_path):
    panel = panel_in(tmp_path)
    broken = {"it": True}

    def say(prompt, number):
        return 400 if broken["it"] and "test question 1" in prompt else GOOD

    with scripted_model(say) as model:
        name = f"m=scripted@{model.url}"
        with pytest.raises(Unfinished, match=r"aggregator m: 1 of 9 calls brought no reply \(1 bad_response; one said"):
            aggregate(panel, tmp_path / "pure", name)
        assert not (tmp_path / "pure").exists()
        kept = aggregate(panel, tmp_path / "kept", name, on_failure="keep-teacher")
        assert kept.fit["fallbacks"] == {"bad_response": 1}
        broken["it"] = False
        before = len(model.prompts)
        assert aggregate(panel, tmp_path / "pure", name).fit["written"] == 9
        assert len(model.prompts) == before + 1


def test_a_refused_key_is_one_message_and_what_was_answered_is_kept(tmp_path):
    panel = panel_in(tmp_path)
    with (
        scripted_model(lambda prompt, number: 401) as model,
        pytest.raises(TeacherError, match=r"model m: auth: HTTP 401"),
    ):
        aggregate(panel, tmp_path / "pure", f"m=scripted@{model.url}")


def test_gold_is_shown_for_train_alone_and_by_default_only_where_teachers_saw_it(tmp_path):
    blind, forced = panel_in(tmp_path), panel_in(tmp_path, mode="teacher_forced", name="forced")
    cases = [(blind, "auto", 0), (blind, "yes", 6), (blind, "no", 0), (forced, "auto", 6), (forced, "no", 0)]
    for number, (panel, show_gold, expected) in enumerate(cases):
        with scripted_model(lambda prompt, number: GOOD) as model:
            name = f"m=scripted@{model.url}"
            report = aggregate(panel, tmp_path / f"pure{number}", name, show_gold=show_gold)
        shown = [prompt for prompt in model.prompts if GOLD_HEAD in prompt]
        assert len(shown) == report.fit["gold_shown"] == expected
        assert not any("Question: test question" in prompt for prompt in shown)


def test_a_gold_answer_of_another_split_changes_no_prompt(tmp_path):
    """The leak test: with and without the labels of split test, the model is asked the same."""
    heard = []
    for name, gold in (("one", 1), ("two", 3)):
        panel = panel_in(tmp_path, questions(6) + questions(3, split="test", gold=gold), name=name)
        with scripted_model(lambda prompt, number: GOOD) as model:
            aggregate(panel, tmp_path / f"pure-{name}", f"m=scripted@{model.url}", show_gold="yes")
        heard.append(sorted(prompt for prompt in model.prompts if "Question: test question" in prompt))
    assert heard[0] == heard[1]
    assert len(heard[0]) == 3


def test_examples_come_from_train_hold_a_right_rationale_and_are_never_the_question(tmp_path):
    panel = panel_in(tmp_path, said=(0, 1, 2))
    options = AggregationOptions("practice/editor", examples=2)
    pool = ExamplePool.of_panel(panel.split("train"), np.array([0, 1, 2]), options, seed=0)
    for question in panel.questions:
        shown = pool.for_question(question)
        assert len(shown) == 2
        assert question.id not in [example.question.id for example in shown]
        assert all(example.question.split == "train" and example.written.endswith(": 1") for example in shown)
    other = ExamplePool.of_panel(panel.split("train"), np.array([0, 1, 2]), options, seed=1)
    assert pool.ids == ExamplePool.of_panel(panel.split("train"), np.array([0, 1, 2]), options, seed=0).ids
    assert pool.ids != other.ids


def test_an_example_is_a_conflict_where_there_is_one_and_too_few_are_said(tmp_path):
    asked = questions(5)
    cells = [response(one.id, name, 1 if one.id != "train3" or name == "a" else 2) for one in asked for name in "abc"]
    panel = write_panel(tmp_path / "panel", asked, cells)
    pool = ExamplePool.of_panel(panel, np.arange(3), AggregationOptions("practice/editor", examples=1), seed=5)
    assert pool.ids == ["train3"]
    report = aggregate(panel, tmp_path / "pure", "practice/editor", examples=8)
    assert any("5 of 8 in-context examples" in note for note in report.notes)


def test_cost_is_reported_where_the_price_is_known_and_null_where_it_is_not(tmp_path):
    panel = panel_in(tmp_path)
    with scripted_model(lambda prompt, number: GOOD) as model:
        known = Teacher(name="m", model="scripted", api_base=model.url, price=Price(input=1.0, output=2.0))
        partners = Partners(config=Config(teachers=(known,), generate=Generate(retries=0)))
        text = aggregator_text("m", partners.config)
        assert text == f"m=scripted@{model.url}"
        priced = aggregate(panel, tmp_path / "priced", text, partners=partners)
        assert priced.fit["cost_usd"] == pytest.approx(9 * (100 * 1.0 + 10 * 2.0) / 1e6)
        plain = aggregate(panel, tmp_path / "plain", text, temperature=0.5)
    assert (plain.fit["cost_usd"], plain.fit["prompt_tokens"]) == (None, 900)
    assert {body["temperature"] for body in model.bodies} == {0.0, 0.5}


def test_a_model_that_takes_no_temperature_is_sent_none(tmp_path):
    panel = panel_in(tmp_path, questions(1))
    with scripted_model(lambda prompt, number: GOOD) as model:
        known = Teacher(name="m", model="scripted", api_base=model.url, temperature=None)
        aggregate(
            panel, tmp_path / "pure", f"m=scripted@{model.url}", partners=Partners(config=Config(teachers=(known,)))
        )
    assert "temperature" not in model.bodies[0]


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_and_pays_nothing_twice(tmp_path):
    panel_in(tmp_path, questions(40))
    with practice_server(latency_s=0.05) as url:
        code = f"""
            from pathlib import Path
            from kp_data.config import Config, Generate
            from kp_data.panel import Panel
            from kp_data.purify import Partners, purify_panel
            partners = Partners(config=Config(generate=Generate(concurrency=2)))
            purify_panel(Panel.read(Path({str(tmp_path / "panel")!r})), method="aggregation", partners=partners,
                         out=Path({str(tmp_path / "pure")!r}), options={{"aggregator": "editor=practice/editor@{url}"}})
        """
        child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])
        stats = url.removesuffix("/v1") + "/stats"
        while completed(stats) < 6:
            assert child.poll() is None
            time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
        child.wait()
        before = completed(stats)
        assert before < 40
        aggregate(Panel.read(tmp_path / "panel"), tmp_path / "pure", f"editor=practice/editor@{url}")
        # What was in flight at the kill may be asked again: two calls at most, and those being written.
        assert completed(stats) <= 40 + 4
    assert len(rows(tmp_path / "pure")) == 40


def completed(stats):
    with urllib.request.urlopen(stats) as answer:
        return json.load(answer)["completed"]


def test_the_cells_of_the_panel_itself_are_not_touched(tmp_path):
    panel = panel_in(tmp_path)
    aggregate(panel, tmp_path / "pure", "practice/editor")
    assert sorted(path.name for path in (tmp_path / "pure").iterdir()) == [
        "purified.parquet",
        "report.json",
        "responses.parquet",
        "run.json",
    ]
    store = Store.of_folder(tmp_path / "panel")
    try:
        assert store.ledger().spent_usd == 0
    finally:
        store.close()


def test_an_open_question_is_read_and_compared_by_its_answer(tmp_path):
    asked = [Question(f"q{n}", f"What is {n} + 4?", (), str(n + 4), None, "train") for n in range(3)]
    cells = [
        response(one.id, name, None, rationale=f"{name} adds", answer=text)
        for one in asked
        for name, text in (("a", one.answer), ("b", "0"))
    ]
    panel = write_panel(tmp_path / "panel", asked, cells)

    def say(prompt, number):
        return f"Add.\nThe answer is {5 if prompt.rpartition('Question: ')[2].startswith('What is 1 +') else 99}."

    with scripted_model(say) as model:
        report = aggregate(panel, tmp_path / "pure", f"m=scripted@{model.url}")
    assert report.overall.purified_accuracy == pytest.approx(1 / 3)
    assert answer_code(panel, 1, Draft("Add.", "5.0")) == panel.gold_Q[1]
    assert answer_code(panel, 1, Draft("Add.")) == -1
    assert answer_code(panel, 1, Draft("Add.", "99")) not in {int(panel.gold_Q[1]), *panel.answer_QT[1].tolist()}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "no model to write with; give --aggregator"),
        ({"aggregator": "practice/nobody"}, "no practice model 'nobody'; there are editor, ada"),
        (
            {"aggregator": "practice/editor", "show_gold": "maybe"},
            "option 'show_gold': 'maybe' is none of auto, yes, no",
        ),
        ({"aggregator": "practice/editor", "examples": -1}, "option 'examples': -1 is too small"),
        ({"aggregator": "practice/editor", "temperature": 3}, "option 'temperature': 3.0 is not between 0 and 2"),
        ({"aggregator": "m=x@http://user:secret@host/v1"}, "must be http"),
    ],
)
def test_what_cannot_be_is_refused_with_the_remedy(given, said):
    with pytest.raises(ConfigError, match=said.replace("(", r"\(")) as caught:
        aggregator_teacher(make_options(find_method("aggregation"), given), None)
    assert "secret" not in str(caught.value)


def test_a_model_may_be_named_by_its_litellm_name_alone():
    teacher = aggregator_teacher(AggregationOptions("openai/gpt-4o-mini", api_key_env="MY_KEY"), None)
    assert (teacher.name, teacher.model, teacher.api_base) == ("gpt-4o-mini", "openai/gpt-4o-mini", None)
    assert (teacher.temperature, teacher.max_tokens, teacher.api_key_env) == (0.0, 1024, "MY_KEY")


def test_a_reply_cut_off_after_its_answer_counts_and_one_before_it_does_not():
    from datetime import UTC, datetime

    def cell(text, finish):
        return StoredCell("k", "{}", 1, datetime.now(UTC), reply=text, finish_reason=finish)

    question = questions(1)[0]
    assert read_draft(cell(GOOD, "length"), question, max_tokens=256) == Draft("Because it is so.", "x", 1)
    assert read_draft(cell("Because it", "length"), question, max_tokens=256).problem == "truncated"
    assert read_draft(None, question, max_tokens=256).problem == "unasked"
