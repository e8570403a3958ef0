"""What the practice room offers, and what it costs to enter."""

from __future__ import annotations

import subprocess
import sys

import kp_data.practice

HEAVY = ("torch", "transformers", "sentence_transformers", "datasets", "litellm", "faiss", "sklearn", "pandas")


def test_every_name_at_the_door_is_there():
    assert sorted(kp_data.practice.__all__) == sorted(set(kp_data.practice.__all__))
    assert all(hasattr(kp_data.practice, name) for name in kp_data.practice.__all__)


def test_entering_loads_no_heavy_library():
    code = f"import sys, kp_data.practice; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
