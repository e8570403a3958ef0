"""The example for those who can afford few calls, at a small size."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[3] / "examples" / "afford_500_calls.py"


@pytest.mark.slow
def test_the_example_spends_the_same_calls_twice_and_compares(tmp_path: Path) -> None:
    line = [sys.executable, str(EXAMPLE), "--out", str(tmp_path), "--questions", "120", "--calls", "40", "--steps", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^(at-random|assisted): 40 calls", done.stdout, re.MULTILINE) == ["at-random", "assisted"]
    assert "beside calls at random" in done.stdout
    assert "Accuracy against dollars" in (tmp_path / "calls.html").read_text(encoding="utf-8")
