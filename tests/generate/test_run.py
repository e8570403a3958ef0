"""Whole runs of generate against a real server on loopback, with faults, kills and wrong inputs."""

import json
import signal
import socketserver
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from kp_data import engine
from kp_data.config import Generate, Price, Teacher, parse_teacher
from kp_data.errors import DataError, KpError, StoreError, TeacherError
from kp_data.generate import Summary, explain_cell, generate_panel, panel_status
from kp_data.panel import Panel
from kp_data.practice import TEACHERS, practice_server
from kp_data.schema import MEASURED_COLUMNS

KP_DATA = [sys.executable, "-c", "from kp_data.cli import main; main()"]


def run(
    out: Path, source: str = "practice:20", *, url: str | None = None, names: str = "ada bruno", **options: Any
) -> Summary:
    teachers = [Teacher(name=name, model=f"practice/{name}", api_base=url) for name in names.split()]
    retry_failed = options.pop("retry_failed", ())
    return generate_panel(source, out=out, teachers=teachers, options=Generate(**options), retry_failed=retry_failed)


def stats(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url.removesuffix("/v1") + "/stats") as answer:
        return dict(json.load(answer))


def reset(url: str) -> None:
    urllib.request.urlopen(urllib.request.Request(url.removesuffix("/v1") + "/stats/reset", method="POST")).close()


def steady(out: Path) -> Any:
    """The responses without what was measured."""
    return pq.read_table(out / "responses.parquet").drop_columns(list(MEASURED_COLUMNS))


def test_without_a_teacher_the_practice_source_brings_all_of_its_own(tmp_path: Path) -> None:
    summary = generate_panel("practice:300", out=tmp_path, teachers=(), options=Generate())
    panel = Panel.read(tmp_path)
    assert summary.left == 0
    assert panel.teachers == tuple(TEACHERS)
    # Every cell is there, also at the borders of the chunks in which cells are looked up.
    assert panel.asked_QT.all()
    assert 0.4 < panel.conflict_Q.mean() < 0.8


def test_a_second_run_asks_nothing_and_changes_nothing(tmp_path: Path) -> None:
    with practice_server() as url:
        run(tmp_path, url=url)
        before = {
            name: (tmp_path / name).read_bytes() for name in ("questions.parquet", "responses.parquet", "run.json")
        }
        reset(url)
        summary = run(tmp_path, url=url)
        assert stats(url)["requests"] == 0
    assert [tally.reused for tally in summary.tallies] == [20, 20]
    assert before == {name: (tmp_path / name).read_bytes() for name in before}


def test_adding_a_teacher_or_questions_asks_only_the_missing_cells(tmp_path: Path) -> None:
    with practice_server() as url:
        run(tmp_path, url=url, limit=10)
        reset(url)
        run(tmp_path, url=url, limit=10, names="ada bruno clara")
        assert stats(url)["requests_per_model"] == {"clara": 10}
        reset(url)
        run(tmp_path, url=url, names="clara")
        assert stats(url)["requests_per_model"] == {"clara": 10}
    panel = Panel.read(tmp_path)
    assert panel.teachers == ("ada", "bruno", "clara")
    assert panel.asked_QT.sum(axis=0).tolist() == [10, 10, 20]


def test_both_modes_give_skill_from_blind_and_rationales_from_forced_answers(tmp_path: Path) -> None:
    run(tmp_path, mode="both")
    panel = Panel.read(tmp_path)
    assert panel.modes == ("blind", "teacher_forced")
    assert panel.rationale_mode == "teacher_forced"
    stated = panel.stated_QT[panel.has_rationale_QT]
    gold = panel.gold_Q[:, None].repeat(2, axis=1)[panel.has_rationale_QT]
    assert (stated == gold).mean() > 0.9


def test_samples_are_cells_of_their_own(tmp_path: Path) -> None:
    with practice_server() as url:
        run(tmp_path, url=url, names="ada", samples=3)
        assert stats(url)["completed"] == 60
        assert stats(url)["repeated"] == 0
    assert pq.read_table(tmp_path / "responses.parquet")["sample"].to_pylist() == [0, 1, 2] * 20


def test_examples_come_from_train_and_change_what_is_asked(tmp_path: Path) -> None:
    run(tmp_path, names="ada")
    first = steady(tmp_path)
    summary = run(tmp_path, names="ada", examples=2)
    assert summary.tallies[0].answered == 20
    assert steady(tmp_path)["prompt_tokens"] != first["prompt_tokens"]


@pytest.mark.parametrize(
    "faults", ["429,500,broken,disconnect,503,ok,429", "429:0.02,500:0.1,broken:0.1,disconnect:0.1"]
)
def test_transient_faults_are_retried_and_leave_no_trace(tmp_path: Path, faults: str) -> None:
    with practice_server() as url:
        run(tmp_path / "calm", url=url)
    with practice_server(faults=faults) as url:
        summary = run(tmp_path / "stormy", url=url, concurrency=4)
        assert sum(stats(url)["faults"].values()) > 0
    assert summary.left == 0
    assert steady(tmp_path / "stormy").equals(steady(tmp_path / "calm"))


def test_a_hanging_call_times_out_is_recorded_and_asked_again_by_the_next_run(tmp_path: Path) -> None:
    with practice_server(faults="hang,hang") as url:
        summary = run(tmp_path, url=url, names="ada", retries=0, timeout_s=0.5)
        assert summary.tallies[0].failed == {"timeout": 2}
        assert summary.left == 2
        errors = pq.read_table(tmp_path / "responses.parquet")["error"].to_pylist()
        assert errors.count("timeout") == 2
        assert run(tmp_path, url=url, names="ada").tallies[0].answered == 2
    assert "timeout" not in pq.read_table(tmp_path / "responses.parquet")["error"].to_pylist()


def test_paid_failures_are_asked_again_only_on_request(tmp_path: Path) -> None:
    with practice_server(faults="empty,empty,empty") as url:
        assert sum(run(tmp_path, url=url, names="ada").unusable["ada"].values()) >= 3
        assert run(tmp_path, url=url, names="ada").tallies[0].answered == 0
        again = run(tmp_path, url=url, names="ada", retry_failed=["empty"])
        assert again.tallies[0].answered == 3
        assert again.unusable["ada"]["empty"] == 0


def test_a_key_that_is_refused_stops_before_anything_is_written(tmp_path: Path) -> None:
    with practice_server(api_key="right-key-12345") as url, pytest.raises(TeacherError, match="refused the key"):
        run(tmp_path / "panel", url=url)
    assert not (tmp_path / "panel").exists()


def test_a_key_is_sent_from_its_variable_and_kept_out_of_every_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRACTICE_SECRET", "right-key-12345")
    with practice_server(api_key="right-key-12345") as url:
        teacher = Teacher(name="ada", model="ada", api_base=url, api_key_env="PRACTICE_SECRET")
        summary = generate_panel("practice:5", out=tmp_path, teachers=[teacher], options=Generate())
    assert summary.left == 0
    for path in tmp_path.iterdir():
        assert b"right-key-12345" not in path.read_bytes()


@pytest.mark.slow
def test_the_direct_and_the_litellm_path_give_the_same_panel(tmp_path: Path) -> None:
    with practice_server() as url:
        run(tmp_path / "direct", "practice:8", url=url, transport="direct")
        run(tmp_path / "litellm", "practice:8", url=url, transport="litellm")
    assert steady(tmp_path / "direct").equals(steady(tmp_path / "litellm"))


@pytest.mark.slow
def test_litellm_faults_have_the_same_classes(tmp_path: Path) -> None:
    with practice_server(faults="429,500,broken,ok,hang") as url:
        summary = run(
            tmp_path, "practice:5", url=url, names="ada", transport="litellm", retries=0, timeout_s=2, concurrency=1
        )
    assert summary.tallies[0].failed == {"rate_limited": 1, "bad_response": 2, "timeout": 1}


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (Teacher(name="t", model="practice/nobody"), "no practice teacher 'nobody'; there are ada"),
        (Teacher(name="t", model="ada", api_base="http://127.0.0.1:9/v1"), "cannot be reached"),
        (Teacher(name="t", model="ada", api_key_env="NOT_SET_ANYWHERE"), "NOT_SET_ANYWHERE is not set"),
        (Teacher(name="t", model="no-such-provider/x"), "litellm knows no provider"),
        (Teacher(name="t", model="openai/gpt-4o-mini"), "OPENAI_API_KEY not set"),
    ],
)
def test_a_teacher_that_cannot_be_asked_is_one_clear_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, teacher: Teacher, message: str
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(TeacherError, match=message):
        generate_panel("practice:5", out=tmp_path / "panel", teachers=[teacher], options=Generate())
    assert not (tmp_path / "panel").exists()


def test_a_model_the_server_lacks_is_named_with_those_it_has(tmp_path: Path) -> None:
    with practice_server() as url, pytest.raises(TeacherError, match="has no model 'zoe'; it has ada"):
        generate_panel(
            "practice:5", out=tmp_path, teachers=[Teacher(name="z", model="zoe", api_base=url)], options=Generate()
        )


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match=r"holds something else \(thesis.tex\)"):
        run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_panel_of_other_questions_is_left_alone(tmp_path: Path) -> None:
    run(tmp_path)
    before = (tmp_path / "responses.parquet").read_bytes()
    with pytest.raises(DataError, match="panel of other questions"):
        run(tmp_path, "practice:20?seed=7")
    assert (tmp_path / "responses.parquet").read_bytes() == before


def test_a_question_that_changed_under_its_id_is_named(tmp_path: Path) -> None:
    source = tmp_path / "q.jsonl"
    source.write_text('{"id": "a", "question": "What does the zephor do?"}\n')
    run(tmp_path / "panel", str(source), names="ada")
    source.write_text('{"id": "a", "question": "What does the zephor eat?"}\n')
    with pytest.raises(DataError, match="question a differs"):
        run(tmp_path / "panel", str(source), names="ada")


def test_teacher_forced_needs_gold(tmp_path: Path) -> None:
    source = tmp_path / "q.jsonl"
    source.write_text('{"id": "a", "question": "What does the zephor do?"}\n')
    with pytest.raises(DataError, match="no question here has one"):
        run(tmp_path / "panel", str(source), mode="teacher-forced")


def test_two_runs_fill_one_panel_together_and_no_cell_is_paid_twice(tmp_path: Path) -> None:
    names = ("ada", "bruno")
    with practice_server(latency_s=0.05) as url:
        both = [command(tmp_path / "panel", url, "practice:100", "--concurrency", "2", names=n) for n in (names, names)]
        printed = [json.loads(one.communicate(timeout=60)[0]) for one in both]
        assert [one.returncode for one in both] == [0, 0]
        assert stats(url)["completed"] == 200
        assert stats(url)["repeated"] == 0
    answered = [sum(teacher["answered"] for teacher in summary["teachers"]) for summary in printed]
    assert sum(answered) == 200
    assert min(answered) > 0
    assert len(steady(tmp_path / "panel")) == 200


def command(
    out: Path, url: str, source: str, *more: str, names: tuple[str, ...] = ("ada", "bruno")
) -> "subprocess.Popen[str]":
    teachers = [option for name in names for option in ("--teacher", f"{name}=practice/{name}@{url}")]
    line = [*KP_DATA, "generate", source, "--out", str(out), *teachers, "--json", *more]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def stored(out: Path) -> int:
    import sqlite3

    if not (out / "cells.sqlite").exists():
        return 0
    with sqlite3.connect(out / "cells.sqlite") as connection:
        try:
            count = int(connection.execute("SELECT count(*) FROM cells").fetchone()[0])
        except sqlite3.OperationalError:
            count = 0
    connection.close()
    return count


def wait_for_cells(out: Path, count: int, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 30
    while stored(out) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_after_sigkill_no_completed_call_is_repeated_and_the_panel_is_the_same(tmp_path: Path) -> None:
    with practice_server() as url:
        run(tmp_path / "calm", "practice:150", url=url)
    out = tmp_path / "killed"
    with practice_server(latency_s=0.02) as url:
        for goal in (30, 110):
            process = command(out, url, "practice:150", "--concurrency", "4")
            wait_for_cells(out, goal, process)
            process.kill()
            process.communicate()
        assert not (out / "responses.parquet").exists()
        kept = stored(out)
        assert 110 <= kept < 300
        reset(url)
        process = command(out, url, "practice:150", "--concurrency", "4")
        printed, complaints = process.communicate(timeout=60)
        assert process.returncode == 0, complaints
        # Exactly the missing cells, each once.
        assert stats(url)["completed"] == 300 - kept
        assert stats(url)["repeated"] == 0
    assert sum(teacher["reused"] for teacher in json.loads(printed)["teachers"]) == kept
    # The endpoint differs between the two runs, the answers do not.
    assert steady(out).equals(steady(tmp_path / "calm"))


def test_ctrl_c_saves_what_is_done_and_says_so(tmp_path: Path) -> None:
    with practice_server(latency_s=0.05) as url:
        process = command(tmp_path / "panel", url, "practice:200", "--concurrency", "2")
        wait_for_cells(tmp_path / "panel", 10, process)
        process.send_signal(signal.SIGINT)
        printed, complaints = process.communicate(timeout=30)
    assert process.returncode == 130
    assert printed == ""
    assert "interrupted; what is done is saved" in complaints
    assert "Traceback" not in complaints
    assert stored(tmp_path / "panel") >= 10


def test_a_folder_that_cannot_be_made_is_one_clear_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "panel"):
        with pytest.raises(KpError, match=r"is a file|cannot be"):
            run(out)


def test_a_full_disk_ends_the_run_and_keeps_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_a_small_disk(connection: Any, **options: Any) -> None:
        tune(connection, **options)
        connection.execute("PRAGMA max_page_count = 24")

    tune = engine._tune_sqlite
    monkeypatch.setattr(engine, "_tune_sqlite", with_a_small_disk)
    with practice_server(latency_s=0.01) as url:
        with pytest.raises(StoreError, match="database or disk is full"):
            run(tmp_path, "practice:50", url=url, concurrency=1)
        monkeypatch.setattr(engine, "_tune_sqlite", tune)
        kept = stored(tmp_path)
        assert 0 < kept < 100
        reset(url)
        assert run(tmp_path, "practice:50", url=url).left == 0
        assert stats(url)["completed"] == 100 - kept


def test_status_counts_every_cell_also_while_the_panel_is_filled(tmp_path: Path) -> None:
    with practice_server(faults="500,empty", latency_s=0.02) as url:
        run(tmp_path, url=url, names="ada", limit=10, retries=0, concurrency=1)
        (first,) = panel_status(tmp_path)
        assert (first.cells, first.left) == (10, 0)
        assert first.as_dict()["failed"]["bad_response"] == 1
        assert first.answered + first.failed.total() == 10
        process = command(tmp_path / "live", url, "practice:200", "--concurrency", "1")
        wait_for_cells(tmp_path / "live", 5, process)
        live = panel_status(tmp_path / "live")
        process.kill()
        process.communicate()
    assert [one.cells for one in live] == [200, 200]
    assert sum(one.left for one in live) < 400
    assert sum(one.answered + one.failed.total() + one.left for one in live) == 400


def test_explain_tells_the_key_the_history_and_what_the_next_run_does(tmp_path: Path) -> None:
    with practice_server(faults="500,empty") as url:
        run(tmp_path, url=url, names="ada", limit=3, retries=0, concurrency=1)
        told = [explain_cell(tmp_path, question=f"practice/0/{n:06d}", teacher="ada")[0] for n in range(3)]
        assert [one["state"] for one in told] == ["failed: bad_response", "unusable: empty", "answered"]
        assert told[0]["next_run"].startswith("asks it again")
        assert "--retry-failed empty" in told[1]["next_run"]
        assert told[2]["in_key"]["parameters"]["temperature"] == 0.0
        # Another wording is another cell, and says so.
        run(tmp_path / "other", url=url, names="ada", limit=3)
    run_file = tmp_path / "other" / "run.json"
    changed = json.loads(run_file.read_text())
    changed["teachers"][0]["temperature"] = 0.5
    run_file.write_text(json.dumps(changed))
    (cell,) = explain_cell(tmp_path / "other", question="practice/0/000000", teacher="ada")
    assert cell["state"] == "never asked in these words"


def test_status_and_explain_say_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="made by `kp-data generate`"):
        panel_status(tmp_path)
    run(tmp_path, names="ada", limit=3)
    for options, message in (({"teacher": "zoe"}, "no teacher 'zoe'"), ({"question": "zoe"}, "no question 'zoe'")):
        with pytest.raises(DataError, match=message):
            explain_cell(tmp_path, **{"question": "practice/0/000000", "teacher": "ada", **options})


def test_two_names_of_one_model_pay_once_and_both_answer(tmp_path: Path) -> None:
    teachers = [Teacher(name=name, model="practice/ada") for name in ("a", "b")]
    summary = generate_panel("practice:20", out=tmp_path, teachers=teachers, options=Generate())
    assert sum(tally.answered for tally in summary.tallies) == 20
    panel = Panel.read(tmp_path)
    assert panel.asked_QT.all()
    assert (panel.rationale_QT[:, 0] == panel.rationale_QT[:, 1]).all()


def test_a_teacher_named_twice_is_refused_also_behind_all(tmp_path: Path) -> None:
    teachers = [Teacher(name="all", model="practice/all"), Teacher(name="ada", model="practice/ada")]
    with pytest.raises(KpError, match="two teachers are called 'ada'"):
        generate_panel("practice:5", out=tmp_path, teachers=teachers, options=Generate())


def test_another_model_under_a_known_name_is_refused(tmp_path: Path) -> None:
    run(tmp_path, "practice:5", names="ada")
    with pytest.raises(DataError, match="teacher ada was practice/ada here and is practice/bruno now"):
        generate_panel(
            "practice:5", out=tmp_path, teachers=[Teacher(name="ada", model="practice/bruno")], options=Generate()
        )
    run(tmp_path, "practice:5", names="clara")
    listed = json.loads((tmp_path / "run.json").read_text())["teachers"]
    assert [entry["name"] for entry in listed] == ["ada", "clara"]


def test_more_samples_or_questions_keep_what_is_paid_for(tmp_path: Path) -> None:
    run(tmp_path / "samples", "practice:10", names="ada")
    assert run(tmp_path / "samples", "practice:10", names="ada", samples=3).tallies[0].reused == 10
    run(tmp_path / "examples", "practice:30", names="ada", examples=2)
    assert run(tmp_path / "examples", "practice:50", names="ada", examples=2).tallies[0].reused == 30


def test_examples_come_from_train_also_when_only_test_is_asked(tmp_path: Path) -> None:
    plain = run(tmp_path / "0", "practice:60", names="ada", split="test")
    shown = run(tmp_path / "3", "practice:60", names="ada", split="test", examples=3)
    assert shown.tallies[0].prompt_tokens > 1.5 * plain.tallies[0].prompt_tokens
    source = tmp_path / "q.jsonl"
    source.write_text('{"id": "a", "question": "What does the zephor do?", "answer": "it spins"}\n')
    with pytest.raises(DataError, match="need more than 2 solved questions"):
        run(tmp_path / "few", str(source), names="ada", examples=2)


def odd_server(content: object, **fields: object) -> "socketserver.TCPServer":
    """An endpoint whose every answer holds what it is given."""
    import http.server

    message = {"role": "assistant", "content": content, **fields}
    body = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}], "usage": {"prompt_tokens": "many"}})

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def test_half_an_emoji_and_odd_fields_are_stored_like_any_reply(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A proxy must not be asked for this machine's own servers.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    server = odd_server("It melts \ud83d. The answer is (A).", reasoning={"steps": 3})
    with server:
        url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        teacher = Teacher(name="odd", model="m", api_base=url, price=Price(input=1, output=1))
        summary = generate_panel("practice:3", out=tmp_path, teachers=[teacher], options=Generate())
        server.shutdown()
    assert summary.left == 0
    assert pq.read_table(tmp_path / "responses.parquet")["rationale"].to_pylist() == ["It melts ?."] * 3
    assert summary.tallies[0].cost_unknown == 3


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    for text in ("x=m@http://user:s3cretpass@host/v1", "x=m@http://host/v1?key=s3cretpass"):
        with pytest.raises(KpError, match="api_key_env") as caught:
            parse_teacher(text)
        assert "s3cretpass" not in str(caught.value)
