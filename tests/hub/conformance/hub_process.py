"""A hub as its operator runs it: `kp-data hub serve` in a process of its own, that can be killed and started again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

KP_DATA = [sys.executable, "-c", "from kp_data.cli import main; main()"]
START_S = 240.0


@dataclass
class HubProcess:
    """A hub with its folder. Its log lies beside the folder, for a test to read.

    Attributes:
        root: the hub's folder.
        options: more words for `kp-data hub serve`.
        port: where it listens; chosen when it starts first, and kept.
        process: None: it does not run.
    """

    root: Path
    options: Sequence[str] = ()
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    tokens: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.root.with_name(f"{self.root.name}.log")

    def start(self) -> None:
        """Serve, on the same port as before; returns when it answers."""
        line = ["hub", "serve", "--root", str(self.root), "--port", str(self.port), *self.options]
        self.root.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            begin = log.tell()
            self.process = subprocess.Popen(
                [*KP_DATA, *line], stdout=log, stderr=log, env=quiet(), cwd=self.root.parent
            )
        self.port = self._wait(begin)

    def kill(self) -> None:
        """As a power cut would, as far as this process goes."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def kill_after(self, seconds: float) -> None:
        """Kill it then, and meanwhile go on."""
        threading.Timer(seconds, self.kill).start()

    def wait_killed(self) -> None:
        """Until somebody has killed it."""
        while self.process is not None:
            time.sleep(0.01)

    def token(self, user: str, *, write: bool = True, orgs: Sequence[str] = ()) -> str:
        """A token of a user, made the first time it is asked for."""
        if user not in self.tokens:
            line = ["hub", "token", "create", "--root", str(self.root), "--user", user, "--json"]
            line += ["--write"] * write + [word for org in orgs for word in ("--org", org)]
            made = subprocess.run([*KP_DATA, *line], check=True, capture_output=True, env=quiet(), cwd=self.root.parent)
            self.tokens[user] = json.loads(made.stdout)["token"]
        return self.tokens[user]

    def api(self, path: str, user: str = "ada") -> Any:
        """What the hub answers to a GET; all pages of it."""
        found, address = [], f"{self.url}/api/datasets/{path}"
        while address:
            headers = {"Authorization": f"Bearer {self.token(user)}"}
            page = httpx.get(address, headers=headers, timeout=60.0).raise_for_status()
            if not isinstance(page.json(), list):
                return page.json()
            found += page.json()
            address = page.links.get("next", {}).get("url", "")
        return found

    def read(self, name: str, path: str, revision: str = "main", user: str = "ada") -> bytes:
        """A file's bytes."""
        headers = {"Authorization": f"Bearer {self.token(user)}"}
        address = f"{self.url}/datasets/{name}/resolve/{revision}/{path}"
        return httpx.get(address, headers=headers, timeout=60.0).raise_for_status().content

    def commits(self, name: str) -> list[str]:
        """The commits of the main branch, newest first."""
        return [commit["id"] for commit in self.api(f"{name}/commits/main")]

    def paths(self, name: str, revision: str = "main") -> list[str]:
        """The files at a revision, but for the one that every repository begins with."""
        entries = self.api(f"{name}/tree/{revision}?recursive=true")
        return [entry["path"] for entry in entries if entry["type"] == "file" and entry["path"] != ".gitattributes"]

    def stored_bytes(self) -> int:
        """What lies in the object store, complete and on the disk."""
        return sum(path.stat().st_size for path in (self.root / "objects").glob("??/*"))

    def _wait(self, begin: int) -> int:
        assert self.process is not None
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            said = "".join(self.log.read_bytes()[begin:].decode().split())
            if "servingathttp://127.0.0.1:" in said and ";" in said:
                return int(said.partition("127.0.0.1:")[2].partition(";")[0])
            time.sleep(0.02)
        raise AssertionError(f"the hub does not start:\n{self.log.read_text()[-2_000:]}")


@contextmanager
def served(root: Path, *options: str) -> Iterator[HubProcess]:
    """A running hub; the processes it leaves are killed."""
    hub = HubProcess(root, options)
    hub.start()
    try:
        yield hub
    finally:
        hub.kill()


def quiet() -> dict[str, str]:
    """The environment without what would change a client or a terminal's width."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING_FACE"))}
    return own | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
