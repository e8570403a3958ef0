"""Runs against a practice server on loopback: as a call, or as a process that can be signalled and killed."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa

from kp_data.config import Generate, Teacher
from kp_data.generate import Summary, generate_panel
from kp_data.schema import MEASURED_COLUMNS
from kp_data.store import Store

MAIN = "from kp_data.cli import main; main()"


def run(out: Path, url: str, source: str = "practice:20", *, names: str = "ada bruno", **options: Any) -> Summary:
    """Ask practice teachers of one server; in this process."""
    retry_failed = options.pop("retry_failed", ())
    teachers = [Teacher(name=name, model=f"practice/{name}", api_base=url) for name in names.split()]
    return generate_panel(source, out=out, teachers=teachers, options=Generate(**options), retry_failed=retry_failed)


def command(
    out: Path, teachers: Sequence[str], source: str, *more: str, prelude: str = "", **popen: Any
) -> subprocess.Popen[str]:
    """`kp-data generate` as a process of its own.

    Args:
        teachers: as `--teacher` takes them.
        prelude: Python that runs first, to bend the world that the program finds.
    """
    named = [option for teacher in teachers for option in ("--teacher", teacher)]
    line = [sys.executable, "-c", f"{prelude}\n{MAIN}", "generate", source, "--out", str(out), *named, "--json", *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **popen.pop("env", {})}
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **popen)


def at(url: str, names: str = "ada bruno") -> list[str]:
    """Practice teachers of a server, as `--teacher` takes them."""
    return [f"{name}=practice/{name}@{url}" for name in names.split()]


def finish(process: subprocess.Popen[str], timeout_s: float = 120.0) -> tuple[int, dict[str, Any], str]:
    """Exit code, the object on stdout, and what stderr says."""
    printed, complaints = process.communicate(timeout=timeout_s)
    return process.returncode, json.loads(printed) if printed.strip() else {}, complaints


def stats(url: str) -> dict[str, Any]:
    """What the server counts."""
    with urllib.request.urlopen(url.removesuffix("/v1") + "/stats") as answer:
        return dict(json.load(answer))


def reset(url: str) -> None:
    """Let the server count from zero."""
    urllib.request.urlopen(urllib.request.Request(url.removesuffix("/v1") + "/stats/reset", method="POST")).close()


def change_faults(url: str, faults: str | None, retry_after_s: float = 1.0) -> None:
    """How the server misbehaves from now on."""
    body = json.dumps({"faults": faults, "retry_after_s": retry_after_s}).encode()
    urllib.request.urlopen(urllib.request.Request(url.removesuffix("/v1") + "/faults", body, method="PUT")).close()


def stored(out: Path) -> int:
    """Cells in the store of a panel folder, answered or failed."""
    if not (out / "cells.sqlite").exists():
        return 0
    connection = sqlite3.connect(out / "cells.sqlite")
    try:
        return int(connection.execute("SELECT count(*) FROM cells").fetchone()[0])
    except sqlite3.OperationalError:
        return 0
    finally:
        connection.close()


def wait_for(condition: Callable[[], bool], *processes: subprocess.Popen[str], patience_s: float = 60.0) -> None:
    """Until a condition holds; a process that ends first, or too long a wait, is an error."""
    deadline = time.monotonic() + patience_s
    while not condition():
        for process in processes:
            assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def steady(out: Path) -> pa.Table:
    """The responses without what was measured."""
    return pq.read_table(out / "responses.parquet").drop_columns(list(MEASURED_COLUMNS))


def billed_nano(url: str, input_nano: int, output_nano: int, request_nano: int = 0) -> int:
    """What the server would bill by its own count, in billionths of a dollar. Args: prices a token, and a call."""
    return sum(
        bill["prompt_tokens"] * input_nano + bill["completion_tokens"] * output_nano + bill["calls"] * request_nano
        for bill in stats(url)["billed"].values()
    )


@contextmanager
def opened(url: str) -> Iterator[Store]:
    """A store, closed at the end."""
    store = Store(url)
    try:
        yield store
    finally:
        store.close()


def rows(store: Store, table: sa.Table) -> int:
    """How many rows a table of a store has."""
    count = sa.select(sa.func.count()).select_from(table)
    return int(store.database.read(lambda connection: connection.execute(count).scalar_one()))
