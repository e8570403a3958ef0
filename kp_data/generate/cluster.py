"""Asking from many machines: workers on a Ray cluster, which share the store and every limit.

Ray starts the workers and tells when one is lost; what is asked, by whom and at which price is settled in the store, as
between any two runs. Keys go to the workers as arguments of a call, and not where Ray shows or keeps them.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO, cast

from kp_data.console import say
from kp_data.errors import ConfigError, KpError

INSTALL: Final = '--engine ray needs Ray: pip install "knowledge-purification[ray]"'
_CONNECT_S: Final = 5.0
_OWN_WORKERS: Final = 2
_LEAST_OBJECT_STORE: Final = 100 * 2**20
_LONGEST_TEMP: Final = 24
"""Characters of a folder in which Ray's sockets can still lie: their whole path has about a hundred."""
_OUR_ENVIRONMENT: Final = {
    # No telemetry.
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster that this process is part of.

    Attributes:
        nodes: address and CPUs of every node with a CPU.
        elsewhere: addresses of those that are not this machine.
    """

    nodes: tuple[tuple[str, float], ...]
    elsewhere: tuple[str, ...]

    def check_reach(self, *, store_url: str | None, practice: bool) -> None:
        """Whether what a run needs is there for all nodes, as far as that can be told before.

        Args:
            store_url: of the cell store, None: SQLite in the panel folder.
            practice: whether the practice teachers that this process runs are asked.

        Raises:
            ConfigError: something is on this machine alone, and others would need it.
        """
        others = ", ".join(self.elsewhere)
        if others and (store_url is None or store_url.startswith("sqlite")):
            raise ConfigError(
                f"--engine ray: the cells are in a SQLite file, which other nodes ({others}) cannot share; "
                "give --store postgresql://HOST/NAME"
            )
        if others and practice:
            raise ConfigError(
                f"--engine ray: the practice teachers run on this machine alone, and other nodes ({others}) would ask "
                "them; run `kp-data practice serve --host 0.0.0.0` and give --teacher NAME=practice/NAME@URL"
            )


@contextmanager
def joined_cluster(workers: int | None) -> Iterator[Cluster]:
    """Be part of a Ray cluster while the block runs: that of RAY_ADDRESS or of `ray start`, else one of this machine.

    Args:
        workers: that are wanted, where a cluster is started here.

    Raises:
        ConfigError: Ray is not installed, or the cluster cannot be joined.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigError(INSTALL)
    with ExitStack() as stack:
        # Before the cluster: its threads may still have something to say while it is left.
        stack.enter_context(redirect_stdout(cast(TextIO, _WithoutRay(sys.stdout))))
        _join(workers or _OWN_WORKERS, stack)
        here, nodes = _nodes()
        yield Cluster(tuple(nodes), tuple(sorted({address for address, _ in nodes} - {here})))


def how_many(nodes: Sequence[tuple[str, float]], wanted: int | None, *, at_most: int) -> int:
    """The number of workers to start.

    Args:
        nodes: address and CPUs of each.
        wanted: by the user, None where nothing was said.
        at_most: how many have anything to do.

    Raises:
        ConfigError: the cluster has fewer CPUs than workers are wanted.

    >>> how_many([("10.0.0.1", 8.0)], None, at_most=64)
    2
    """
    room = sum(int(cpus) for _, cpus in nodes)
    if not room or room < (wanted or 0):
        raise ConfigError(f"--workers {wanted or 1}: the Ray cluster has {room} CPUs, and each worker takes one")
    workers = wanted or max(len(nodes), min(2, room))
    if workers > at_most:
        say(
            f"{at_most} instead of {workers} workers: there are not more questions, or a teacher takes no more calls "
            "at a time"
        )
    return max(1, min(workers, at_most))


def reason_of(error: BaseException) -> str:
    """The first line that tells something."""
    if type(error).__name__ in ("ActorDiedError", "ActorUnavailableError"):
        return "was lost"
    text = next(iter(str(error).strip().splitlines()), "")
    return (text if isinstance(error, KpError) else f"{type(error).__name__}: {text}")[:300]


def _join(workers: int, stack: ExitStack) -> None:
    """Connect to the cluster, and leave it with the stack."""
    os.environ.update({name: value for name, value in _OUR_ENVIRONMENT.items() if name not in os.environ})
    import ray

    if ray.is_initialized():
        return
    address = _address()
    try:
        with _keeping_signals():
            if address is None:
                _start_own(workers, stack)
            else:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=True)
    except (Exception, SystemExit) as error:  # a node that starts too slowly is a bare Exception
        where = "no Ray cluster can be started here" if address is None else f"cannot join the Ray cluster at {address}"
        raise ConfigError(f"--engine ray: {where} ({reason_of(error)})") from error
    stack.callback(_leave)


def _leave() -> None:
    import ray

    # Complaints that Ray held back because they repeat would come out now, from this very thread.
    with redirect_stdout(io.StringIO()):
        ray.shutdown()


def _start_own(workers: int, stack: ExitStack) -> None:
    """A cluster of this machine alone, for as long as the stack lasts."""
    import ray

    folder = tempfile.gettempdir()
    # Beside the logs Ray keeps there how to find the cluster: no other program should join one that ends so soon.
    base = folder if len(folder) <= _LONGEST_TEMP else "/tmp"  # noqa: S108
    own = stack.enter_context(tempfile.TemporaryDirectory(prefix="kp-ray-", dir=base, ignore_cleanup_errors=True))
    ray.init(
        address="local",
        num_cpus=workers,
        include_dashboard=False,
        object_store_memory=_LEAST_OBJECT_STORE,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _temp_dir=own,
    )


def _address() -> str | None:
    """Where the cluster is that the user has, None without one.

    Raises:
        ConfigError: nobody listens there.
    """
    said = os.environ.get("RAY_ADDRESS", "")
    if said == "local":
        return None
    if said.startswith("ray://"):
        raise ConfigError(f"RAY_ADDRESS={said}: run this command on a node of the cluster, with RAY_ADDRESS=HOST:6379")
    if said and said != "auto":
        if not _listens(said):
            raise ConfigError(
                f"no Ray cluster answers at {said}; start one with `ray start --head`, or unset RAY_ADDRESS"
            )
        return said
    started = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp") / "ray" / "ray_current_cluster"  # noqa: S108
    found = started.read_text().strip() if started.is_file() else ""
    if found and _listens(found):
        return found
    if said == "auto":
        raise ConfigError("RAY_ADDRESS=auto: no Ray cluster runs here; start one with `ray start --head`")
    return None


def _listens(address: str) -> bool:
    """Whether somebody is there: Ray itself takes five minutes to say no."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"RAY_ADDRESS={address}: write HOST:PORT, such as 10.0.0.1:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except OSError:
        return False
    return True


def _nodes() -> tuple[str, list[tuple[str, float]]]:
    """The address of this machine as the cluster knows it, and address and CPUs of every node with a CPU."""
    import ray

    me = ray.get_runtime_context().get_node_id()
    alive = [node for node in ray.nodes() if node["Alive"]]
    here = next(node["NodeManagerAddress"] for node in alive if node["NodeID"] == me)
    cpus = [(node["NodeManagerAddress"], float(node["Resources"].get("CPU", 0))) for node in alive]
    return here, [(address, count) for address, count in cpus if count >= 1]


@contextmanager
def _keeping_signals() -> Iterator[None]:
    """Ray makes SIGTERM its own; here it stays what it was."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


class _WithoutRay:
    """Standard output on which Ray's threads are not heard, which print what its nodes complain about."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Text of any other thread."""
        if threading.current_thread().name.startswith("ray_"):
            return len(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
