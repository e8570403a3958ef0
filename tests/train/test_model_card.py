"""The card of a student: figures from its records, hostile text kept harmless, what people wrote kept."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from small_causal import small_causal
from small_rows import (
    small_questions,
    write_panel,
    write_purified,
    write_tiny_bert_checkpoint,
    write_tiny_t5_checkpoint,
)

from kp_data.hub.front_matter import CardSettings, split_card
from kp_data.hub.sections import BEGIN, END
from kp_data.schema import Question
from kp_data.tables import read_table, write_json, write_parquet
from kp_train import publish
from kp_train.card_facts import base_of, read_facts
from kp_train.dataset import Dataset, gold_dataset, read_dataset
from kp_train.evaluate import EvaluationOptions, evaluate_splits
from kp_train.evaluations import keep_evaluations
from kp_train.fit import fit
from kp_train.fit_options import FitOptions
from kp_train.model_card import license_warning, read_folder_facts, render_card
from kp_train.provenance import Teacher, read_provenance
from kp_train.student_folder import read_evaluations
from kp_train.students import load_student

CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
HOSTILE = (
    "<script>alert(1)</script> ```\n---\n# Head | cell\n" + END + "\n[x](javascript:alert(2)) ![i](http://evil/x.png) "
    "<img src=x onerror=y> {{ 7*7 }} {% raw %} **bold** www.evil.com \u202eabc"
)
OPTIONS = FitOptions(student="", objective="fine-tune", steps=1, batch=4, eval_steps=1, choice_orders=1, lr=1e-2)
ASKED = Question(id="1", question="Is ice cold?", choices=("yes", "no"))


def checkpoint(folder: Path, kind: str) -> Path:
    if kind == "seq2seq":
        return write_tiny_t5_checkpoint(folder)
    if kind == "encoder":
        return write_tiny_bert_checkpoint(folder)
    student = small_causal("llama")
    student.model.save_pretrained(folder)
    student.tokenizer.save_pretrained(folder)
    if kind == "chat":
        (folder / "chat_template.jinja").write_text(CHAT)
    return folder


def fitted(tmp_path: Path, kind: str = "seq2seq", *, dataset: Dataset | None = None, **options: Any) -> Path:
    rows = gold_dataset(small_questions(), "here") if dataset is None else dataset
    start = checkpoint(tmp_path / f"start-{kind}", kind)
    fit(rows, replace(OPTIONS, student=str(start), **options), tmp_path / "out")
    return tmp_path / "out"


def card_of(folder: Path) -> tuple[dict[str, Any], str]:
    return split_card((folder / "README.md").read_text(encoding="utf-8"))


def evaluated(folder: Path, dataset: Dataset, *splits: str, **options: Any) -> bool:
    chosen = EvaluationOptions(**options)
    return keep_evaluations(folder, evaluate_splits(folder, dataset, splits, chosen), dataset, chosen)


def python_of(body: str, folder: Path) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", body, re.DOTALL)
    return str(code).replace("path/to/this/folder", str(folder))


@pytest.mark.parametrize(
    ("kind", "pipeline"),
    [
        ("seq2seq", "text-generation"),
        ("causal", "text-generation"),
        ("chat", "text-generation"),
        ("encoder", "multiple-choice"),
    ],
)
def test_every_family_gets_a_card_whose_snippet_answers_as_the_student_does(
    tmp_path: Path, kind: str, pipeline: str
) -> None:
    folder = fitted(tmp_path, kind)
    front, body = card_of(folder)
    assert (front["library_name"], front["pipeline_tag"]) == ("transformers", pipeline)
    assert "model-index" not in front
    assert "license" not in front
    assert "Nobody has evaluated this student yet" in body
    assert str(tmp_path) not in body
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        exec(python_of(body, folder), {})
    student = load_student(folder)
    if kind != "encoder":
        assert out.getvalue().strip() == student.generate_all([ASKED], "predict: ")[0].strip()
        return
    scores = {line.split()[0]: float(line.split()[1]) for line in out.getvalue().splitlines()}
    yes, no = student.choice_log_probs([ASKED])[0]
    assert scores["yes"] - scores["no"] == pytest.approx(yes - no, abs=1e-4)


def test_the_card_tells_what_the_record_says(tmp_path: Path) -> None:
    data = write_purified(tmp_path / "things")
    run = {"method": "consensus", "options": {"neighbours": 64, "embedder": "/home/me/minilm"}, "seed": 5}
    teachers = [{"name": "ada", "model": "openai/gpt-4o-mini"}, {"name": "bruno", "model": "lab/x"}]
    write_json({**run, "panel": {"teachers": teachers}}, data / "run.json")
    folder = fitted(tmp_path, dataset=read_dataset(data), objective="purified", rationale_weight=0.5)
    record = json.loads((folder / "run.json").read_text())
    _, body = card_of(folder)
    assert f"| parameters | {record['parameters']:,} |" in body
    assert "| lambda, of each rationale task | 0.5 |" in body
    assert "| purified by | consensus |" in body
    assert "neighbours = 64" in body
    assert "/home/me" not in body
    assert "| seed of the purifier | 5 |" in body
    assert f"| SHA-256, over the hashes of its files | {record['dataset']['sha256']} |" in body
    assert "| ada | openai/gpt-4o-mini | yes | [OpenAI terms and policies](https://openai.com/policies/) |" in body
    assert "| bruno | lab/x | yes | unknown | unknown |" in body
    assert f"{100 * record['validation_accuracy']:.1f} % of 4 questions: the best of several looks" in body
    assert record["dataset"]["files"] == record["identity"]["dataset"]


def test_teachers_whose_words_were_not_learned_are_named_as_such(tmp_path: Path) -> None:
    folder = fitted(tmp_path, dataset=read_dataset(write_panel(tmp_path / "panel")))
    _, body = card_of(folder)
    assert "trained with the objective “fine-tune”" in body
    assert "| ada | unknown | no | unknown | unknown |" in body


def test_an_evaluation_is_kept_and_stands_in_the_card_and_in_its_index(tmp_path: Path) -> None:
    dataset = read_dataset(write_panel(tmp_path / "panel"))
    folder = fitted(tmp_path, dataset=dataset)
    assert evaluated(folder, dataset, "test", "validation")
    kept = read_evaluations(folder)
    assert list(kept) == [f"{dataset.digest}:{split}:option-likelihood" for split in ("test", "validation")]
    test = kept[f"{dataset.digest}:test:option-likelihood"]
    front, body = card_of(folder)
    (result,) = front["model-index"][0]["results"]
    assert result["dataset"]["split"] == "test"
    assert result["metrics"][0]["value"] == test["accuracy"]
    low, high = test["ci95"]
    figures = f"{100 * test['accuracy']:.1f} % | {100 * low:.1f} % to {100 * high:.1f} % | 4 | 0 |"
    assert f"| panel | test | option-likelihood | {figures}  |" in body
    assert "| learned from or selected on: overstates |" in body
    assert f"| odd | {100 * test['per_subject']['odd']['accuracy']:.1f} % | 2 |" in body
    assert "Nobody has evaluated" not in body


def test_measured_again_a_figure_is_replaced_and_another_way_of_asking_is_another_figure(tmp_path: Path) -> None:
    dataset = read_dataset(write_panel(tmp_path / "panel"))
    folder = fitted(tmp_path, dataset=dataset)
    evaluated(folder, dataset, "test")
    before = (folder / "evaluations.json").read_bytes(), (folder / "README.md").read_bytes()
    evaluated(folder, dataset, "test")
    assert ((folder / "evaluations.json").read_bytes(), (folder / "README.md").read_bytes()) == before
    evaluated(folder, dataset, "test", generate=True)
    evaluated(folder, dataset, "test", generate=True, view="answer-first")
    methods = [(entry["method"], entry["view"]) for entry in read_evaluations(folder).values()]
    assert methods == [("option-likelihood", None), ("generation", "separate"), ("generation", "answer-first")]
    (result,) = card_of(folder)[0]["model-index"][0]["results"]
    assert len(result["metrics"]) == 3


def test_what_the_owner_wrote_survives_a_new_evaluation(tmp_path: Path) -> None:
    dataset = read_dataset(write_panel(tmp_path / "panel"))
    folder = fitted(tmp_path, dataset=dataset)
    text = (folder / "README.md").read_text()
    theirs = {"task": {"type": "x"}, "dataset": {"type": "y", "name": "y"}, "metrics": [{"type": "f1", "value": 1}]}
    index = yaml.safe_dump({"model-index": [{"name": "m", "results": [theirs]}], "license": "mit", "doi": "10/abc"})
    text = text.replace("tags:\n", f"{index}tags:\n- mine\n", 1).replace(BEGIN, f"Before.\n\n{BEGIN}") + "\nAfter.\n"
    (folder / "README.md").write_text(text)
    evaluated(folder, dataset, "test")
    evaluated(folder, dataset, "test")
    front, body = card_of(folder)
    assert (front["license"], front["doi"], front["tags"][0]) == ("mit", "10/abc", "mine")
    ours, kept = front["model-index"][0]["results"]
    assert kept == theirs
    assert "kp-train evaluate" in ours["metrics"][0]["name"]
    assert (body.count("Before."), body.count("After."), body.count(BEGIN)) == (1, 1, 1)
    assert "This student: mit." in body


def test_figures_of_other_weights_leave_the_card(tmp_path: Path) -> None:
    dataset = read_dataset(write_panel(tmp_path / "panel"))
    folder = fitted(tmp_path, dataset=dataset)
    evaluated(folder, dataset, "test")
    assert len(read_folder_facts(folder).measured) == 1
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert read_folder_facts(folder).measured == ()


def test_figures_that_cannot_be_kept_are_a_notice_and_no_failure(tmp_path: Path) -> None:
    dataset = read_dataset(write_panel(tmp_path / "panel"))
    folder = fitted(tmp_path, dataset=dataset)
    (folder / "evaluations.json").mkdir()
    options, said = EvaluationOptions(), list[str]()
    found = evaluate_splits(folder, dataset, ["test"], options)
    assert not keep_evaluations(folder, found, dataset, options, say=said.append)
    assert len(said) == 1
    assert said[0].startswith("these figures are not kept with the student: ")


def test_a_card_that_is_not_utf8_is_a_notice_and_stays_as_it_is(tmp_path: Path) -> None:
    dataset = read_dataset(write_panel(tmp_path / "panel"))
    folder, said = fitted(tmp_path, dataset=dataset), list[str]()
    card = (folder / "README.md").read_bytes() + "\ncaf\xe9\n".encode("latin-1")
    (folder / "README.md").write_bytes(card)
    options = EvaluationOptions()
    found = evaluate_splits(folder, dataset, ["test"], options)
    keep_evaluations(folder, found, dataset, options, say=said.append)
    assert "README.md: is not UTF-8 text; save it as UTF-8" in said[0]
    assert (folder / "README.md").read_bytes() == card


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_a_notice(tmp_path: Path) -> None:
    dataset = read_dataset(write_panel(tmp_path / "panel"))
    folder = fitted(tmp_path, dataset=dataset)
    folder.chmod(0o500)
    assert not evaluated(folder, dataset, "test")


def test_nothing_is_written_into_a_plain_checkpoint_or_a_copy_in_a_cache(tmp_path: Path) -> None:
    dataset = read_dataset(write_panel(tmp_path / "panel"))
    plain = checkpoint(tmp_path / "plain", "seq2seq")
    before = sorted(path.name for path in plain.iterdir())
    assert not evaluated(plain, dataset, "test")
    assert sorted(path.name for path in plain.iterdir()) == before
    folder, cached = fitted(tmp_path, dataset=dataset), tmp_path / "snapshot"
    cached.mkdir()
    for path in folder.iterdir():
        (cached / path.name).symlink_to(path)
    assert not evaluated(cached, dataset, "test")
    assert not (folder / "evaluations.json").exists()


def test_what_is_measured_later_changes_no_run_that_starts_from_the_student(tmp_path: Path) -> None:
    dataset = read_dataset(write_panel(tmp_path / "panel"))
    first = fitted(tmp_path, dataset=dataset)
    options = replace(OPTIONS, student=str(first), seed=1)
    second = fit(dataset, options, tmp_path / "second")
    evaluated(first, dataset, "test")
    assert fit(dataset, options, tmp_path / "second") == second
    assert second["base"] == {"origin": "folder", "name": "out", "hub": None, "license": None}


def test_a_finished_run_that_was_evaluated_is_the_same_run(tmp_path: Path) -> None:
    dataset = read_dataset(write_panel(tmp_path / "panel"))
    folder = fitted(tmp_path, dataset=dataset)
    evaluated(folder, dataset, "test")
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    options = replace(OPTIONS, student=str(tmp_path / "start-seq2seq"))
    assert fit(dataset, options, folder) == json.loads(before["run.json"])
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def hostile_folder(folder: Path) -> Path:
    questions = [replace(question, subject=HOSTILE) for question in small_questions()]
    questions[-1] = replace(questions[-1], subject="plain")
    write_purified(folder, questions)
    for name, column, values in (("responses", "teacher", (HOSTILE, "bruno")), ("purified", "method", (HOSTILE,))):
        table = read_table(folder / f"{name}.parquet")
        cells = pa.array([values[row % len(values)] for row in range(table.num_rows)])
        table = table.set_column(table.column_names.index(column), column, cells)
        write_parquet(table, folder / f"{name}.parquet")
    teachers = [{"name": HOSTILE, "model": HOSTILE}]
    write_json({"method": HOSTILE, "options": {HOSTILE: HOSTILE}, "panel": {"teachers": teachers}}, folder / "run.json")
    return folder


def test_hostile_text_breaks_neither_yaml_nor_markdown_nor_the_marked_section(tmp_path: Path) -> None:
    dataset = read_dataset(hostile_folder(tmp_path / "data"))
    assert [teacher.name for teacher in dataset.provenance.teachers] == [HOSTILE, "bruno"]
    folder = fitted(tmp_path, dataset=dataset, objective="tinyllm")
    evaluated(folder, dataset, "test")
    text = (folder / "README.md").read_text()
    front, body = split_card(text)
    assert yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n")) == front
    assert (body.count(BEGIN), body.count(END)) == (1, 1)
    assert body.endswith(END + "\n")
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(body)
    for opened in ("<script", "<img", "<strong>bold", "<h1>Head", 'javascript:alert(2)"', 'href="http://evil'):
        assert opened not in page
    assert "{{ 7*7 }}" in page
    facts = read_folder_facts(folder)
    # About, results, subjects, agreement, data, teachers, training; each with a line of headings.
    rows = [len(facts.about), 1, 2, 2, len(facts.data), 2, len(facts.training)]
    assert page.count("<tr>") == page.count("\n<tr>") == sum(1 + number for number in rows)


def test_a_pushed_folder_tells_its_version_and_who_was_asked(tmp_path: Path) -> None:
    from kp_data.hub import push

    purified = write_purified(tmp_path / "purified")
    teachers = [{"name": "ada", "model": "openai/gpt-4o-mini"}]
    write_json({"method": "oracle", "seed": 3, "panel": {"teachers": teachers}}, purified / "run.json")
    push(purified, "me/things", version="1.2.3", dry_run_to=tmp_path / "release", settings=CardSettings(license="mit"))
    known = read_provenance(tmp_path / "release")
    assert (known.version, known.method, known.seed, known.license) == ("1.2.3", "oracle", 3, "mit")
    assert Teacher("ada", ("openai/gpt-4o-mini",)) in known.teachers
    dataset = read_dataset(tmp_path / "release")
    dataset = replace(dataset, provenance=dataset.provenance.on_hub("me/things", "0" * 40))
    front, body = card_of(fitted(tmp_path, dataset=dataset, objective="purified"))
    assert front["datasets"] == ["me/things"]
    assert "| version | 1.2.3 |" in body
    assert f"| commit | {'0' * 40} |" in body


def test_a_folder_that_says_nothing_readable_of_itself_is_trained_on_all_the_same(tmp_path: Path) -> None:
    data = write_purified(tmp_path / "data")
    (data / "run.json").write_text('{"options": [1, 2], "seed": "x", "panel": 3, "teachers": [{"name": 7}, null]}')
    (data / "report.json").write_text("{")
    known = read_dataset(data).provenance
    assert (known.name, known.method, known.parameters, known.seed) == ("data", None, None, None)
    assert known.teachers == (Teacher("ada"), Teacher("bruno"))
    (data / "run.json").write_text('{"method": "\\ud800", "options": {"a": "\\udfff", "b": NaN}}')
    record = read_dataset(data).as_record()
    assert json.loads(json.dumps(record, ensure_ascii=False, allow_nan=False).encode()) == record


def test_the_licence_is_the_bases_unless_a_teachers_terms_may_say_otherwise() -> None:
    base = base_of("minilm")
    assert (base["hub"], base["license"]) == ("sentence-transformers/all-MiniLM-L6-v2", "apache-2.0")
    assert base_of("google/flan-t5-small")["license"] == "apache-2.0"
    assert base_of("tiny-t5")["license"] is None

    def license_with(model: str, objective: str = "purified") -> str | None:
        run = {
            "base": base,
            "identity": {"objective": objective},
            "dataset": {"teachers": [{"name": "a", "models": [model]}]},
        }
        return read_facts(run, {"kind": "encoder"}, [], adapter=False, chats=False).license

    assert license_with("google/flan-t5-xl") == "apache-2.0"
    assert license_with("openai/gpt-4o-mini") is None
    assert license_with("nobody/knows") is None
    assert license_with("openai/gpt-4o-mini", "fine-tune") == "apache-2.0"


def test_what_a_card_said_of_an_earlier_student_does_not_stay_with_the_next() -> None:
    def facts_of(student: str, objective: str, dataset: str) -> Any:
        known = {"name": dataset, "origin": "hub"}
        run = {"base": base_of(student), "identity": {"objective": objective, "student": student}, "dataset": known}
        return read_facts(run, {"kind": "encoder"}, [], adapter=False, chats=False)

    first = render_card(facts_of("minilm", "tinyllm", "lab/one_set"), name="me/x", existing=None)
    front, _ = split_card(first)
    assert (front["base_model"], front["datasets"]) == ("sentence-transformers/all-MiniLM-L6-v2", ["lab/one_set"])
    mine = first.replace("- lab/one_set\n", "- lab/one_set\n- me/mine\n").replace("- tinyllm\n", "- tinyllm\n- mine\n")
    second = render_card(facts_of("tiny-t5", "purified", "lab/two"), name="me/x", existing=mine)
    front, _ = split_card(second)
    assert "base_model" not in front
    assert front["datasets"] == ["me/mine", "lab/two"]
    assert {"mine", "purified"} < set(front["tags"])
    assert "tinyllm" not in front["tags"]
    # Written anew for the same student, it stays as it is.
    assert render_card(facts_of("tiny-t5", "purified", "lab/two"), name="me/x", existing=second) == second


def minilm_taught_by(model: str) -> Any:
    dataset = {"name": "lab/set", "origin": "hub", "teachers": [{"name": "a", "models": [model]}]}
    identity = {"objective": "purified", "student": "minilm"}
    run = {"base": base_of("minilm"), "identity": identity, "dataset": dataset}
    return read_facts(run, {"kind": "encoder"}, [], adapter=False, chats=False)


FREE, FORBIDDING = "google/flan-t5-xl", "openai/gpt-4o-mini"


@pytest.mark.parametrize("name", ["me/x", None])
def test_a_licence_that_we_told_goes_when_the_next_students_teachers_forbid_it(name: str | None) -> None:
    first = render_card(minilm_taught_by(FREE), name=name, existing=None)
    assert split_card(first)[0]["license"] == "apache-2.0"
    assert "This student: apache-2.0, told from the licence of the model that it started from." in first
    # Told again for the same student, it stays as it is.
    assert render_card(minilm_taught_by(FREE), name=name, existing=first) == first
    second = render_card(minilm_taught_by(FORBIDDING), name=name, existing=first)
    assert "license" not in split_card(second)[0]
    assert "Nobody has said under which licence" in second
    assert split_card(render_card(minilm_taught_by(FREE), name=name, existing=second))[0]["license"] == "apache-2.0"


def test_a_licence_that_we_told_in_a_folder_is_still_told_where_it_is_pushed() -> None:
    folder = render_card(minilm_taught_by(FREE), name=None, existing=None)
    for card in (folder, folder.replace(BEGIN, f"Mine.\n\n{BEGIN}")):
        source = publish._Source(minilm_taught_by(FREE), {}, card)
        pushed = publish._card(source, "me/x", None, CardSettings())
        assert "This student: apache-2.0, told from" in pushed
        # The next student that is pushed there has another teacher.
        following = publish._Source(minilm_taught_by(FORBIDDING), {}, None)
        assert "license" not in split_card(publish._card(following, "me/x", pushed, CardSettings()))[0]
        # A licence that was given with the push is the owner's, whatever was told before.
        given = publish._card(source, "me/x", pushed, CardSettings(license="mit"))
        assert publish._notes(following, given, publish._card(following, "me/x", given, CardSettings()))


def test_a_licence_that_the_owner_wrote_stays_with_a_warning() -> None:
    told = render_card(minilm_taught_by(FREE), name="me/x", existing=None)
    given = render_card(minilm_taught_by(FREE), name="me/x", existing=None, settings=CardSettings(license="apache-2.0"))
    for mine in (told.replace("license: apache-2.0", "license: mit"), given):
        said = split_card(mine)[0]["license"]
        assert license_warning(minilm_taught_by(FREE), mine) is None
        second = render_card(minilm_taught_by(FORBIDDING), name="me/x", existing=mine)
        assert split_card(second)[0]["license"] == said
        assert f"This student: {said}." in second
        warning = license_warning(minilm_taught_by(FORBIDDING), second)
        assert warning is not None
        for words in (said, "a (openai/gpt-4o-mini)", "not for training models that compete", "--license"):
            assert words in warning


def test_teachers_of_whom_nothing_is_known_leave_the_licence_to_the_owner() -> None:
    def license_of(objective: str) -> str | None:
        run = {"base": base_of("minilm"), "identity": {"objective": objective}, "dataset": {"teachers": []}}
        return read_facts(run, {"kind": "encoder"}, [], adapter=False, chats=False).license

    assert (license_of("purified"), license_of("fine-tune")) == (None, "apache-2.0")


def test_teachers_that_the_run_itself_asked_are_named_with_their_terms() -> None:
    def facts_with(asked: dict[str, Any]) -> Any:
        run = {
            "base": base_of("minilm"),
            "identity": {"objective": "teaching-assistant", "asked": asked},
            "dataset": {"teachers": [{"name": "ada", "models": ["google/flan-t5-xl"]}, {"name": "bo"}]},
        }
        return read_facts(run, {"kind": "encoder"}, [], adapter=False, chats=False)

    asked = facts_with({"gpt": {"model": "openai/gpt-4o-mini", "api_base": None}})
    assert [(each.name, each.learned) for each in asked.teachers] == [("gpt", True), ("ada", False), ("bo", False)]
    assert asked.license is None
    replayed = facts_with({"replayed": ["ada"]})
    assert [(each.name, each.learned) for each in replayed.teachers] == [("ada", True), ("bo", False)]
    assert replayed.license == "apache-2.0"


def test_the_front_matter_is_what_the_official_reader_reads(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    dataset = read_dataset(write_panel(tmp_path / "panel"))
    folder = fitted(tmp_path, dataset=dataset)
    evaluated(folder, dataset, "test")
    data = ModelCard.load(folder / "README.md").data
    (result,) = data.eval_results
    assert (result.dataset_split, result.metric_type) == ("test", "accuracy")
    assert result.metric_value == read_evaluations(folder)[f"{dataset.digest}:test:option-likelihood"]["accuracy"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(HOSTILE),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = ("identity", "dataset", "base", "rows", "schedule", "versions", "parameters", "mfu", "validation_accuracy")
INNER = (
    "student",
    "objective",
    "name",
    "teachers",
    "models",
    "parameters",
    "origin",
    "hub",
    "recipe",
    "tasks",
    "split",
)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.sampled_from(KEYS), JSON | st.dictionaries(st.sampled_from(INNER), JSON)),
    st.lists(st.dictionaries(st.sampled_from(("accuracy", "n", "ci95", "split", "per_subject", "dataset")), JSON)),
)
def test_records_of_any_shape_make_a_card(run: dict[str, Any], entries: list[dict[str, Any]]) -> None:
    facts = read_facts(run, {"kind": "seq2seq"}, entries, adapter=False, chats=False)
    text = render_card(facts, name=None, existing=None)
    front, body = split_card(text)
    assert front["library_name"] == "transformers"
    assert (body.count(BEGIN), body.count(END)) == (1, 1)
    again = render_card(facts, name=None, existing=text)
    assert render_card(facts, name=None, existing=again) == again
