"""The database under a store: many may open a new one at the same moment."""

import subprocess
import sys
from pathlib import Path

OPEN = "import sys; from kp_data.store import Store; Store(sys.argv[1]).close()"


def test_a_new_store_is_opened_by_several_processes_at_once(tmp_path: Path) -> None:
    line = [sys.executable, "-c", OPEN, f"sqlite:///{tmp_path}/new.sqlite"]
    many = [subprocess.Popen(line, stderr=subprocess.PIPE, text=True) for _ in range(6)]
    complaints = [one.communicate(timeout=120)[1] for one in many]
    assert complaints == [""] * 6
