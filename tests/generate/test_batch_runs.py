"""Batch jobs in whole runs of `kp-data generate`: what one run leaves at the provider, any later one fetches."""

import json
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from kp_data.config import Generate, Teacher
from kp_data.generate import generate_panel, open_jobs
from kp_data.practice import practice_server
from kp_data.practice.batch_jobs import BatchBehaviour

KP_DATA = [sys.executable, "-c", "from kp_data.cli import main; main()"]


def stats(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url.removesuffix("/v1") + "/stats") as answer:
        return dict(json.load(answer))


@pytest.mark.slow
def test_a_run_without_batches_fetches_the_jobs_that_an_earlier_one_left(tmp_path: Path) -> None:
    panel = tmp_path / "panel"
    (tmp_path / "kp.yaml").write_text("teachers:\n  - {name: ada, model: practice/ada, api_base: URL, batch: openai}\n")
    with practice_server(batches=BatchBehaviour(looks=4)) as url:
        config = tmp_path / "kp.yaml"
        config.write_text(config.read_text().replace("URL", url))
        line = [*KP_DATA, "generate", "practice:20", "--out", str(panel), "--config", str(config)]
        first = subprocess.Popen([*line, "--batch"], stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while not stats(url)["batches"]["jobs"]:
            assert time.monotonic() < deadline
            assert first.poll() is None, first.communicate()
            time.sleep(0.02)
        first.send_signal(signal.SIGINT)
        _, complaints = first.communicate(timeout=60)
        assert first.returncode == 130, complaints
        assert open_jobs(panel).startswith("20 cells in 1 batch job at the provider since")
        second = subprocess.run(line, capture_output=True, text=True, timeout=120)
        assert second.returncode == 0, second.stderr
        assert open_jobs(panel) == ""
        told = stats(url)
    assert (told["batches"]["jobs"], told["completed"], told["repeated"]) == (1, 20, 0)


def test_a_teacher_without_a_batch_api_is_asked_call_by_call_and_told_so(tmp_path: Path, capfd: Any) -> None:
    with practice_server() as url:
        teacher = Teacher(name="ada", model="practice/ada", api_base=url)
        summary = generate_panel("practice:5", out=tmp_path, teachers=[teacher], options=Generate(batch=True))
        assert (summary.left, stats(url)["batches"]["jobs"]) == (0, 0)
    assert "ada asked call by call" in capfd.readouterr().err
