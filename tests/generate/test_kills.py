"""Short versions of the measured kills and of the measured storm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def measured(name: str, *options: str) -> tuple[int, dict[str, Any]]:
    """Exit code and result of a benchmark."""
    line = [sys.executable, str(BENCHMARKS / name), *options]
    ended = subprocess.run(line, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert ended.stdout, ended.stderr
    return ended.returncode, json.loads(ended.stdout)


@pytest.mark.slow
def test_kills_at_random_points_lose_and_double_nothing_and_cost_only_calls_in_flight() -> None:
    code, result = measured("kill.py", "--kills", "5", "--cells", "200", "--seed", "1")
    assert (result["kills"], result["completed_once"], result["calls"] - result["repeated"]) == (5, 200, 200)
    assert result["duplicates"] == result["rewritten"] == result["leftovers"] == 0
    assert result["most_lost"] <= result["concurrency"]
    assert result["equal"]
    assert code == 0


@pytest.mark.slow
def test_a_run_comes_back_after_a_storm_that_asks_for_long_waits() -> None:
    _, result = measured("storm.py", "--calm", "5", "--storm", "5", "--after", "25", "--questions", "2000")
    assert result["refused"] > 0
    assert result["back_after_s"] is not None
    # Interrupted in the end, although refused calls wait for a minute and more.
    assert result["exit_code"] == 130
