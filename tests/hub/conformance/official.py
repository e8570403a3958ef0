"""The official clients, unmodified, as processes with a home of their own: one machine a home.

Which versions: those of this environment, and those of every interpreter that KP_HUB_CLIENT_PYTHON names, separated as
in PATH. To test others, make environments that hold nothing but `huggingface_hub`, `datasets` and pandas:

    KP_HUB_CLIENT_PYTHON=/envs/old/bin/python:/envs/new/bin/python pytest -m "slow or not slow" tests/hub/conformance
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from conformance.hub_process import KP_DATA, quiet

PYTHONS = [sys.executable, *filter(None, os.environ.get("KP_HUB_CLIENT_PYTHON", "").split(os.pathsep))]
_VERSIONS = "from importlib.metadata import version as v; print(v('huggingface_hub'), v('datasets'))"


@lru_cache
def versions(python: str) -> tuple[str, str]:
    """Those of huggingface_hub and datasets that an interpreter has."""
    hub, datasets = subprocess.run([python, "-c", _VERSIONS], check=True, capture_output=True, text=True).stdout.split()
    return hub, datasets


def asks_how(python: str) -> bool:
    """Whether this version lets the hub choose between Xet and LFS, and this hub chooses LFS."""
    return versions(python)[0].startswith("0.")


@dataclass(frozen=True)
class Official:
    """A user of the official clients on a machine.

    Attributes:
        python: the interpreter that has them.
        url: of the hub.
        token: None: anonymous.
        home: folder of the machine, with whatever caches it has.
        more: environment on top.
        limit_s: how long a command may take.
    """

    python: str
    url: str
    token: str | None
    home: Path
    more: dict[str, str] = field(default_factory=dict)
    limit_s: float = 300.0

    @property
    def environment(self) -> dict[str, str]:
        """Nothing of the hub's own but its address and a token; the rest keeps tests offline and quiet."""
        self.home.mkdir(parents=True, exist_ok=True)
        quiet_ = {
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        own = {"HOME": str(self.home), "HF_HOME": str(self.home / "hf"), "HF_ENDPOINT": self.url}
        token = {"HF_TOKEN": self.token} if self.token else {}
        return quiet() | quiet_ | own | token | self.more

    def start(self, script: str) -> subprocess.Popen[str]:
        """Run a script, and go on."""
        return self._popen([self.python, "-c", script])

    def run(self, script: str) -> dict[str, Any]:
        """Run a script that fills `found`, and give what it found."""
        program = f"import json\nfound = {{}}\n{script}\nprint('FOUND' + json.dumps(found))"
        return dict(json.loads(self._done([self.python, "-c", program]).rpartition("FOUND")[2]))

    def hf(self, *words: str) -> str:
        """Run the command line of huggingface_hub; what it printed."""
        return self._done([str(Path(self.python).with_name("hf")), *words])

    def kp_data(self, *words: str, code: int = 0, report: bool = True) -> dict[str, Any]:
        """Run a command of `kp-data` on this machine; what it reports, if it can."""
        out = self._done([*KP_DATA, *words, *["--json"] * report], code)
        return dict(json.loads(out or "{}")) if report else {}

    def start_kp_data(self, *words: str) -> subprocess.Popen[str]:
        """Run a command of `kp-data` on this machine, and go on."""
        return self._popen([*KP_DATA, *words, "--json"])

    def _done(self, line: Sequence[str], code: int = 0) -> str:
        process = self._popen(line)
        try:
            out, errors = process.communicate(timeout=self.limit_s)
        finally:
            process.kill()
        assert process.returncode == code, f"exit code {process.returncode}\n{out[-500:]}\n{errors[-3_000:]}"
        return out

    def _popen(self, line: Sequence[str]) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(line, env=self.environment, cwd=self.home, stdout=pipe, stderr=pipe, text=True)


Machine = Callable[..., Official]
"""The fixture `machine`: makes a user on a machine; the same name is the same machine."""
