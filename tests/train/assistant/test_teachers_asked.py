"""Calls go through the engine and the store: counted by a real server on loopback, and never made twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted import classroom, world

from kp_data.config import Generate, Teacher
from kp_data.errors import DataError, MethodError, Unfinished
from kp_data.practice import practice_server
from kp_data.schema import Response
from kp_data.tables import table_of_questions, table_of_responses, write_parquet
from kp_train.assistant.records import SIGNALS, read_signals
from kp_train.assistant.teachers import AskedTeachers, ReplayedTeachers, Request

ROOM = classroom(world(120))


@pytest.fixture
def url() -> Iterator[str]:
    with practice_server() as base:
        yield base


def stats(url: str) -> dict[str, Any]:
    """What the server counts."""
    with urllib.request.urlopen(url.removesuffix("/v1") + "/stats") as answer:
        return dict(json.load(answer))


def asked(url: str, out: Path, *names: str, **options: Any) -> AskedTeachers:
    """Practice teachers of a server."""
    teachers = [Teacher(name=name, model=f"practice/{name}", api_base=url) for name in names]
    return AskedTeachers(teachers, Generate(**options), ROOM.pool, out)


def test_each_request_is_one_call_and_no_request_is_called_twice(url: str, tmp_path: Path) -> None:
    source = asked(url, tmp_path, "ada", "bruno")
    first = [Request(question, "ada") for question in ROOM.pool[:6]]
    second = [*first[:3], *(Request(question, "bruno") for question in ROOM.pool[4:9])]
    answers = source.ask(first, stage=tmp_path / "warm-up")
    assert [one.request for one in answers] == first
    again = source.ask(second, stage=tmp_path / "round-1")
    assert again[:3] == answers[:3]
    told = stats(url)
    assert (told["completed"], told["repeated"]) == (6 + 5, 0)
    assert told["completed_per_model"] == {"ada": 6, "bruno": 5}


def test_nothing_asked_is_no_call(url: str, tmp_path: Path) -> None:
    assert asked(url, tmp_path, "ada").ask([], stage=tmp_path) == []
    assert stats(url)["requests"] == 0


def test_teachers_never_see_a_gold_answer(url: str, tmp_path: Path) -> None:
    asked(url, tmp_path, "ada").ask([Request(ROOM.pool[0], "ada")], stage=tmp_path / "warm-up")
    table = tmp_path / "calls" / "questions.parquet"
    import pyarrow.parquet as pq

    assert pq.read_table(table)["answer"].null_count == len(ROOM.pool)


def test_calls_that_fail_leave_the_run_unfinished_and_only_they_are_made_again(tmp_path: Path) -> None:
    requests = [Request(question, "ada") for question in ROOM.pool[:4]]
    with practice_server(faults="ok,ok,500,500") as url:
        source = asked(url, tmp_path, "ada", retries=0, concurrency=1)
        with pytest.raises(Unfinished, match="2 of 4 calls were not answered"):
            source.ask(requests, stage=tmp_path / "warm-up")
        change = json.dumps({"faults": "ok"}).encode()
        urllib.request.urlopen(
            urllib.request.Request(url.removesuffix("/v1") + "/faults", change, method="PUT")
        ).close()
        assert len(source.ask(requests, stage=tmp_path / "warm-up")) == 4
        assert (stats(url)["completed"], stats(url)["repeated"]) == (4, 0)


def test_a_prompt_that_is_refused_in_two_runs_does_not_keep_a_run_from_its_end(tmp_path: Path) -> None:
    requests = [Request(question, "ada") for question in ROOM.pool[:4]]
    with practice_server(faults="ok,ok,ok,400*") as url:
        source = asked(url, tmp_path, "ada", retries=0, concurrency=1)
        with pytest.raises(Unfinished, match="1 of 4 calls were not answered"):
            source.ask(requests, stage=tmp_path / "warm-up")
        answers = source.ask(requests, stage=tmp_path / "warm-up")
    assert [one.request for one in answers] == requests
    assert [one.claim is None for one in answers].count(True) == 1


def test_a_server_that_refuses_nearly_all_is_never_taken_for_prompts_that_cannot_be_asked(tmp_path: Path) -> None:
    requests = [Request(question, "ada") for question in ROOM.pool[:8]]
    with practice_server(faults="ok,400*") as url:
        source = asked(url, tmp_path, "ada", retries=0, concurrency=1)
        for _ in range(3):
            with pytest.raises(Unfinished):
                source.ask(requests, stage=tmp_path / "warm-up")


def panel(folder: Path, mode: Any) -> Path:
    """Two teachers' recorded answers to three questions; one refused."""
    questions = ROOM.pool[:3]
    said = [
        Response(one.id, name, mode, 0, f"{name} thinks", one.choices[0], 0, cost_usd=0.5)
        for one in questions
        for name in ("ada", "bruno")
        if (one.id, name) != (questions[2].id, "bruno")
    ]
    said[1] = Response(questions[0].id, "bruno", mode, 0, None, error="refused")
    write_parquet(table_of_questions(questions), folder / "questions.parquet")
    write_parquet(table_of_responses(said), folder / "responses.parquet")
    return folder


def test_a_panel_is_replayed_call_by_call(tmp_path: Path) -> None:
    source = ReplayedTeachers(panel(tmp_path, "blind"), ROOM.pool)
    assert source.teachers == ("ada", "bruno")
    assert not source.can_answer(ROOM.pool[2].id, "bruno")
    right, refused = source.ask([Request(ROOM.pool[0], name) for name in ("ada", "bruno")], stage=tmp_path)
    assert right.claim is not None
    assert (right.claim.answer, right.claim.rationale, right.cost_usd) == (ROOM.pool[0].choices[0], "ada thinks", 0.5)
    assert refused.claim is None


def test_answers_that_were_given_the_gold_answer_are_not_replayed(tmp_path: Path) -> None:
    with pytest.raises(MethodError, match="a teacher that was shown the gold answer is never wrong"):
        ReplayedTeachers(panel(tmp_path, "teacher_forced"), ROOM.pool)


def test_an_unknown_teacher_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no responses of teacher 'nobody'; the panel has ada, bruno"):
        ReplayedTeachers(panel(tmp_path, "blind"), ROOM.pool, teachers=["nobody"])


def command(out: Path, url: str) -> list[str]:
    """A whole run as a process of its own, one call at a time."""
    line = [sys.executable, "-c", "from kp_train.cli import main; main()", "fit"]
    line += ["practice:160?subjects=animals", "--student", "tiny-t5", "--objective", "teaching-assistant"]
    line += ["--teacher", f"t=practice/erring-30@{url}", "--call-budget", "24", "--assistant", "gold"]
    config = out.parent / "kp.yaml"
    config.write_text("generate: {concurrency: 1}\n")
    line += ["--config", str(config), "--rounds", "2", "--samples", "2", "--steps", "2", "--eval-steps", "2"]
    return [*line, "--log-to", "none", "--out", str(out), "--json", "--quiet"]


@pytest.mark.slow
def test_a_run_killed_at_any_point_and_repeated_spends_no_call_twice(tmp_path: Path) -> None:
    out = tmp_path / "run"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with practice_server(latency_s=0.1) as url:
        marks = [out / "warm-up" / "plan.parquet", out / "warm-up" / "student", out / "round-1" / "plan.parquet"]
        marks += [out / "round-1" / "signals.parquet", out / "round-2" / "asks-0.parquet"]
        kills = 0
        for mark in marks:
            process = subprocess.Popen(command(out, url), env=environment, stderr=subprocess.DEVNULL)
            while not mark.exists() and process.poll() is None:
                time.sleep(0.02)
            # Into the middle of what follows the mark.
            time.sleep(0.25)
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
            process.wait()
        ended = subprocess.run(command(out, url), env=environment, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        told = stats(url)
    assert kills >= 3
    record = json.loads(ended.stdout)
    assert record["teacher_calls"] == 24
    asks = [one for one in read_signals(out / SIGNALS) if one.decision == "asked"]
    assert len({(one.question_id, one.teacher) for one in asks}) == len(asks) == 24
    # No answer that reached the disk was ever asked for again; a call that a kill cut off in flight may be begun anew,
    # one a kill at most, for one is in flight at a time.
    assert told["completed"] - told["repeated"] == 24
    assert told["repeated"] <= kills
    assert told["begun_again"] <= kills
