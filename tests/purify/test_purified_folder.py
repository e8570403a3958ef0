"""The purified folder: what is in it, that it is the same each time, and that nothing else is ever overwritten."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from topic_panels import TEACHERS, response, topic_answers, topic_questions, write_panel

from kp_data.errors import ConfigError, DataError
from kp_data.panel import Panel
from kp_data.purify import Fitted, Method, MethodInfo, Purification, purified, purify_panel, registry
from kp_data.purify.protocol import NoOptions
from kp_data.schema import PURIFIED, Question
from kp_data.tables import read_json, write_json

PROMISED = (
    *("method", "n_questions", "conflict_rate", "teacher_share", "purified_accuracy", "best_single_accuracy"),
    *("majority_accuracy", "oracle_accuracy", "gap_closed", "splits", "subjects", "calls_per_question"),
    *("seconds_fit", "seconds_score", "extra_parameters"),
)
FILES = ["purified.parquet", "report.json", "responses.parquet", "run.json"]


@pytest.fixture
def panel(tmp_path):
    questions = topic_questions(20)
    return write_panel(tmp_path / "panel", questions, topic_answers(questions))


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "report.json"
    }


def rows(folder):
    return pq.read_table(folder / "purified.parquet").to_pylist()


def test_a_purified_folder_holds_one_row_a_question_in_the_order_of_the_panel(panel, tmp_path):
    out = tmp_path / "pure"
    purify_panel(panel, method="majority", out=out)
    table = pq.read_table(out / "purified.parquet")
    assert table.schema.equals(PURIFIED)
    assert table["id"].to_pylist() == [question.id for question in panel.questions]
    assert sorted(path.name for path in out.iterdir()) == FILES
    for number, row in enumerate(table.to_pylist()):
        column = panel.teachers.index(row["teacher"])
        assert row["rationale"] == panel.rationale_QT[number, column]
        assert row["purified_answer_index"] == panel.stated_QT[number, column]
        assert row["score"] == row["scores"][column]
        assert row["conflict"] == (len(set(panel.answer_QT[number])) > 1)
        assert row["method"] == "majority"


def test_the_report_says_per_split_and_subject_what_can_be_counted_in_the_table(panel, tmp_path):
    purify_panel(panel, method="random", out=tmp_path / "pure")
    report, table = read_json(tmp_path / "pure" / "report.json"), rows(tmp_path / "pure")
    for part, key in ((report["splits"], "split"), (report["subjects"], "subject")):
        for name, figures in part.items():
            here = [row for row in table if row[key] == name]
            assert figures["n_questions"] == len(here)
            right = np.mean([row["purified_answer_index"] == row["answer_index"] for row in here])
            assert figures["purified_accuracy"] == pytest.approx(right)
            assert figures["conflict_rate"] == pytest.approx(np.mean([row["conflict"] for row in here]))
            for teacher in TEACHERS:
                share = np.mean([row["teacher"] == teacher for row in here])
                assert figures["teacher_share"][teacher] == pytest.approx(share)
    assert report["n_questions"] == 60
    assert report["calls_per_question"] == 1
    assert np.allclose(np.diag(report["agreement"]), 1)


def test_two_runs_give_the_same_bytes_save_for_the_times_in_the_report(panel, tmp_path):
    for name in ("first", "second"):
        purify_panel(panel, method="random", out=tmp_path / name, seed=3)
    assert contents(tmp_path / "first") == contents(tmp_path / "second")
    run = read_json(tmp_path / "first" / "run.json")
    assert run["seed"] == 3
    assert set(run["inputs"]) == {"questions.parquet", "responses.parquet"}
    assert set(run["outputs"]) == {"purified.parquet", "responses.parquet"}
    assert not any("second" in key or "time" in key for key in run)


def test_the_folder_carries_the_responses_as_they_were(panel, tmp_path):
    purify_panel(panel, method="random", out=tmp_path / "pure")
    assert (tmp_path / "pure/responses.parquet").read_bytes() == (panel.folder / "responses.parquet").read_bytes()


def test_a_part_of_a_panel_carries_its_part_of_the_responses(panel, tmp_path):
    part = Panel.read(panel.folder, teachers=["coach", "cook"]).split("test")
    purify_panel(part, method="random", out=tmp_path / "pure")
    copied = pq.read_table(tmp_path / "pure/responses.parquet")
    assert set(copied["teacher"].to_pylist()) == {"coach", "cook"}
    assert set(copied["question_id"].to_pylist()) == {question.id for question in part.questions}


def test_the_same_run_again_does_no_work(panel, tmp_path, monkeypatch):
    first = purify_panel(panel, method="random", out=tmp_path / "pure")
    monkeypatch.setattr(purified, "run_method", lambda *_, **__: pytest.fail("worked again"))
    assert purify_panel(panel, method="random", out=tmp_path / "pure") == first


@pytest.mark.parametrize("changed", ["purified.parquet", "responses.parquet", "report.json"])
def test_a_file_that_was_changed_is_never_overwritten(panel, tmp_path, changed):
    purify_panel(panel, method="random", out=tmp_path / "pure")
    (tmp_path / "pure" / changed).write_text("[]")
    with pytest.raises(DataError, match=f"{changed}: was changed since it was written; choose another --out, or rem"):
        purify_panel(panel, method="random", out=tmp_path / "pure")
    assert (tmp_path / "pure" / changed).read_text() == "[]"


@pytest.mark.parametrize("name", ["notes.txt", "router/mine.txt"])
@pytest.mark.parametrize("missing", [None, "purified.parquet"])
def test_a_file_of_somebody_else_is_never_removed(panel, tmp_path, name, missing):
    purify_panel(panel, method="random", out=tmp_path / "pure")
    (tmp_path / "pure" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "pure" / name).write_text("mine")
    if missing:
        (tmp_path / "pure" / missing).unlink()
    with pytest.raises(DataError, match="holds something else"):
        purify_panel(panel, method="random", out=tmp_path / "pure")
    assert (tmp_path / "pure" / name).read_text() == "mine"


@pytest.mark.parametrize("missing", ["purified.parquet", "report.json"])
def test_a_run_with_a_file_missing_is_made_whole_again(panel, tmp_path, missing):
    purify_panel(panel, method="random", out=tmp_path / "pure")
    before = contents(tmp_path / "pure")
    (tmp_path / "pure" / missing).unlink()
    purify_panel(panel, method="random", out=tmp_path / "pure")
    assert contents(tmp_path / "pure") == before
    assert read_json(tmp_path / "pure/report.json")["n_questions"] == 60


@pytest.mark.parametrize("other", [{"method": "majority"}, {"seed": 1}, {"labels": "agreement"}])
def test_another_run_never_overwrites_a_folder(panel, tmp_path, other):
    purify_panel(panel, method="random", out=tmp_path / "pure")
    before = contents(tmp_path / "pure")
    with pytest.raises(DataError, match="holds something else; choose another --out or remove it"):
        purify_panel(panel, **{"method": "random", "out": tmp_path / "pure", **other})
    assert contents(tmp_path / "pure") == before


@dataclass(frozen=True)
class Read:
    """Options of a method that reads a checkpoint."""

    encoder: str = "minilm"


@pytest.fixture
def reads_a_checkpoint(monkeypatch):
    """A method whose option names a checkpoint, and a function that makes one."""
    info = MethodInfo("reads", "keeps the first", "router", ("rationales",), False, True, "own", "own")

    def fit(data, options, context):
        return Fitted(lambda panel: Purification.of_choice(panel.skill_QT, np.zeros(len(panel), int)), 1)

    monkeypatch.setattr(registry, "METHODS", {"reads": Method(info, fit, Read)})

    def make(folder, text="weights"):
        (folder / "layers").mkdir(parents=True, exist_ok=True)
        (folder / "layers/model.safetensors").write_text(text)
        (folder / "config.json").write_text("{}")
        return folder

    return make


@pytest.mark.parametrize("given", ["option", "embedder", "file"])
def test_a_checkpoint_is_known_by_what_it_holds_and_not_by_where_it_lies(panel, tmp_path, reads_a_checkpoint, given):
    def run(folder):
        path = str(folder / "layers/model.safetensors" if given == "file" else folder)
        how = {"embedder": path} if given == "embedder" else {"options": {"encoder": path}}
        return purify_panel(panel, method="reads", out=tmp_path / "pure", **how)

    folder = reads_a_checkpoint(tmp_path / "here")
    first = run(folder)
    assert str(tmp_path) not in (tmp_path / "pure/run.json").read_text()
    moved = folder.rename(tmp_path / "there")
    (moved / ".cache").write_text("when it was fetched")
    assert run(moved) == first
    reads_a_checkpoint(moved, "other weights")
    with pytest.raises(DataError, match="holds something else"):
        run(moved)


def test_files_of_a_checkpoint_that_swap_their_names_are_another_one(panel, tmp_path, reads_a_checkpoint):
    folder = reads_a_checkpoint(tmp_path / "here")
    run = {"method": "reads", "out": tmp_path / "pure", "options": {"encoder": str(folder)}}
    purify_panel(panel, **run)
    (folder / "config.json").write_text("weights")
    (folder / "layers/model.safetensors").write_text("{}")
    with pytest.raises(DataError, match="holds something else"):
        purify_panel(panel, **run)


@pytest.mark.parametrize("name", ["minilm", "org/encoder", "x" * 5_000, "a\0b"])
def test_a_name_that_is_no_path_stands_in_run_json_as_it_is(panel, tmp_path, reads_a_checkpoint, name):
    purify_panel(panel, method="reads", out=tmp_path / "pure", options={"encoder": name})
    assert read_json(tmp_path / "pure/run.json")["options"] == {"encoder": name}


def test_changed_answers_are_another_run(panel, tmp_path):
    purify_panel(panel, method="random", out=tmp_path / "pure")
    changed = write_panel(panel.folder, panel.questions, topic_answers(panel.questions, seed=9))
    with pytest.raises(DataError, match="holds something else"):
        purify_panel(changed, method="random", out=tmp_path / "pure")


def test_the_panel_folder_itself_or_a_file_is_no_place_to_write(panel, tmp_path):
    (tmp_path / "file").write_text("mine")
    for place in (panel.folder, tmp_path / "file"):
        with pytest.raises(DataError, match="holds something else"):
            purify_panel(panel, method="random", out=place)
    assert (tmp_path / "file").read_text() == "mine"


def test_an_empty_folder_is_a_place_to_write(panel, tmp_path):
    (tmp_path / "pure").mkdir()
    purify_panel(panel, method="random", out=tmp_path / "pure")
    assert sorted(path.name for path in (tmp_path / "pure").iterdir()) == FILES


def test_a_crash_while_writing_leaves_nothing_behind(panel, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(purified.shutil, "copyfile", full)
    with pytest.raises(DataError, match="pure: cannot be written \\(No space left on device\\)"):
        purify_panel(panel, method="random", out=tmp_path / "pure")
    assert [path.name for path in tmp_path.iterdir()] == ["panel"]


def test_all_writes_a_row_for_each_rationale_with_an_id_of_its_own(tmp_path):
    questions = [Question("a", "?", ("w", "x"), "w", 0), Question("b", "?", ("w", "x"), "w", 0)]
    said = [response("a", "t", 0), response("a", "u", 1), response("b", "t", None, rationale=None, error="timeout")]
    purify_panel(write_panel(tmp_path / "panel", questions, said), method="all", out=tmp_path / "pure")
    assert [(row["id"], row["teacher"], row["purified_answer_index"]) for row in rows(tmp_path / "pure")] == [
        ("a#t", "t", 0),
        ("a#u", "u", 1),
        ("b", None, None),
    ]


def test_all_names_its_rows_after_the_teacher_even_where_there_is_one(tmp_path):
    panel = write_panel(tmp_path / "panel", [Question("a", "?", ("w",), "w", 0)], [response("a", "t", 0)])
    purify_panel(panel, method="all", out=tmp_path / "pure")
    assert [row["id"] for row in rows(tmp_path / "pure")] == ["a#t"]


def test_a_question_without_any_rationale_keeps_its_row(tmp_path):
    questions = [Question(f"q{n}", "?", ("w", "x"), "w", 0) for n in range(3)]
    said = [response("q0", "t", 0), response("q1", "t", None, rationale=None, error="refused"), response("q2", "t", 1)]
    report = purify_panel(write_panel(tmp_path / "panel", questions, said), method="random", out=tmp_path / "pure")
    empty = rows(tmp_path / "pure")[1]
    assert [empty[name] for name in ("rationale", "teacher", "score", "purified_answer_index")] == [None] * 4
    assert empty["scores"] == [None]
    assert report.overall.n_without_rationale == 1
    assert report.overall.purified_accuracy == pytest.approx(1 / 3)


def test_open_ended_questions_have_no_answer_index_but_are_measured(tmp_path):
    questions = [Question(f"q{n}", "how many?", answer="4") for n in range(20)]
    said = [response(q.id, "t", None, answer=" 4. ", rationale="two and two") for q in questions]
    report = purify_panel(write_panel(tmp_path / "panel", questions, said), method="best-single", out=tmp_path / "pure")
    assert report.overall.purified_accuracy == 1.0
    assert {row["purified_answer_index"] for row in rows(tmp_path / "pure")} == {None}


def test_a_written_rationale_is_called_aggregated_and_measured_by_what_it_concludes(tmp_path, monkeypatch):
    questions = [Question(f"q{n}", "?", ("w", "x"), "w", 0) for n in range(4)]
    panel = write_panel(tmp_path / "panel", questions, [response(q.id, t, 1) for q in questions for t in "ab"])

    def fit(data, options, context):
        texts, answers = np.array(["anew", None, "anew", None], dtype=object), np.array([0, -1, 1, -1])
        kept = np.array([[False, False], [True, False], [False, False], [False, True]])
        return Fitted(lambda _: Purification(np.full((4, 2), np.nan), kept, texts, answers), calls_per_question=3)

    info = MethodInfo("toy", "writes", "writer", ("rationales",), False, True, "own", "own")
    monkeypatch.setattr(registry, "METHODS", {"toy": Method(info, fit, NoOptions)})
    report = purify_panel(panel, method="toy", out=tmp_path / "pure")
    assert [row["teacher"] for row in rows(tmp_path / "pure")] == ["aggregated", "a", "aggregated", "b"]
    assert [row["purified_answer_index"] for row in rows(tmp_path / "pure")] == [0, 1, 1, 1]
    assert rows(tmp_path / "pure")[0]["rationale"] == "anew"
    assert report.overall.purified_accuracy == 0.25
    assert report.overall.n_without_rationale == 0


def test_a_panel_made_in_memory_is_refused(panel, tmp_path):
    with pytest.raises(DataError, match="never on disk"):
        purify_panel(replace(panel, folder=None), method="random", out=tmp_path / "pure")


def test_unknown_labels_are_refused(panel, tmp_path):
    with pytest.raises(ConfigError, match="labels: 'silver' is none of gold, agreement"):
        purify_panel(panel, method="random", out=tmp_path / "pure", labels="silver")


def test_the_report_file_is_strict_json_with_what_scripts_rely_on(panel, tmp_path):
    purify_panel(panel, method="best-single", out=tmp_path / "pure")
    text = (tmp_path / "pure/report.json").read_text()
    report = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in report.json"))
    for name in PROMISED:
        assert name in report
    assert report["splits"]["test"]["gap_closed"] == 0.0


def test_how_the_teachers_were_asked_is_carried_along_without_addresses(panel, tmp_path):
    name = panel.teachers[0]
    entry = {"name": name, "model": "openai/x", "temperature": 0.5, "api_base": "http://secret.host", "identity": "k"}
    write_json({"kind": "panel", "teachers": [entry, {"name": "nobody"}, 3]}, panel.folder / "run.json")
    purify_panel(panel, method="majority", out=tmp_path / "out")
    run = read_json(tmp_path / "out" / "run.json")
    assert run["panel"]["teachers"] == [{"name": name, "model": "openai/x", "temperature": 0.5, "by_url": True}]
    assert "secret" not in json.dumps(run)
