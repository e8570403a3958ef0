"""A real hub in a process of its own thread, its people's tokens, and our program as users run it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from counting_proxy import CountingProxy

from kp_data.hub.server import HubSettings, issue_token, running

KP_DATA = (sys.executable, "-c", "from kp_data.cli import main; main()")
KP_TRAIN = (sys.executable, "-c", "from kp_train.cli import main; main()")


@dataclass(frozen=True)
class Served:
    """A hub behind a counting proxy. Ada may write to her namespace; Eve only reads."""

    proxy: CountingProxy
    tokens: Mapping[str, str]
    home: Path

    @property
    def url(self) -> str:
        return self.proxy.url

    def environment(self, *, user: str | None = "ada", machine: str = "one") -> dict[str, str]:
        """What a user sets: HF_ENDPOINT and HF_TOKEN; the rest keeps the test apart from this machine."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "PYTHONPATH") if name in os.environ}
        home = self.home / machine
        home.mkdir(parents=True, exist_ok=True)
        apart = {"HOME": str(home), "HF_HOME": str(home / "hf"), "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
        token = {"HF_TOKEN": self.tokens[user]} if user else {}
        return {**kept, **apart, "HF_ENDPOINT": self.url, **token}

    def start(
        self, *command: str, machine: str = "one", user: str | None = "ada", **more: str
    ) -> subprocess.Popen[str]:
        """A program that has begun; `more` is set in its environment."""
        env = self.environment(user=user, machine=machine) | more
        return subprocess.Popen(
            command, env=env, cwd=self.home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(
        self, *command: str, machine: str = "one", user: str | None = "ada", **more: str
    ) -> subprocess.CompletedProcess[str]:
        """A program that has ended, whatever way."""
        env = self.environment(user=user, machine=machine) | more
        return subprocess.run(command, env=env, cwd=self.home, capture_output=True, text=True, timeout=600)


@contextmanager
def serving(folder: Path) -> Iterator[Served]:
    """A new hub in a folder."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    proxy = CountingProxy(target=port)
    with proxy.running(), running(HubSettings(folder / "hub", port=port, public_url=proxy.url)) as (hub, _):
        tokens = {user: issue_token(hub, user, write=user != "eve")[0] for user in ("ada", "eve")}
        yield Served(proxy, tokens, folder / "machines")
