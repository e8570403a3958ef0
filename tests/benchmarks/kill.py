"""What SIGKILL costs: a run that is killed again and again at random points, beside one that nobody disturbs.

Every child is a `kp-data generate` of its own, killed while it plans, asks or exports; modules are loaded before, so
that hundreds of kills take minutes. The server that it asks counts each call that it begins, so a call that was paid
twice cannot hide. Run it with --kills, --cells and --seed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
import urllib.request
from dataclasses import asdict, dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from kp_data.practice import TEACHERS, practice_server
from kp_data.schema import MEASURED_COLUMNS

FORKS = multiprocessing.get_context("forkserver")
PRELOADED = [
    "kp_data.cli",
    "kp_data.generate",
    "kp_data.practice",
    "kp_data.teachers.direct",
    "pandas",
    "pyarrow.dataset",
]
CELL = ["question_id", "teacher", "mode", "sample"]
NAMES = tuple(TEACHERS)[:5]


@dataclass(frozen=True)
class Loss:
    """What one kill cost, in calls.

    Attributes:
        begun: by the child that was killed.
        stored: of those, on disk when it was dead.
        abandoned: cut off while the server still worked on them.
        unwritten: answered, and not on disk yet.
    """

    begun: int
    stored: int
    abandoned: int

    @property
    def unwritten(self) -> int:
        return self.begun - self.stored - self.abandoned


@dataclass(frozen=True)
class Result:
    """What all kills cost together, and whether anything is missing, doubled or different.

    Attributes:
        cells: of the panel.
        kills: that found the child alive.
        kills_while_asking: of those, with calls in flight.
        completed_once: rows of the final panel with a reply, each cell counted once.
        duplicates: rows of the final panel beyond one a cell.
        rewritten: cells that were on disk at some kill and were written again later.
        calls: that the server began, over all runs.
        repeated: of those, beyond one a cell.
        abandoned: cut off by a kill while the server worked on them.
        unwritten: answered, and not on disk at the kill.
        most_lost: calls that one kill cost at most.
        concurrency: calls in flight at most.
        equal: whether the final panel equals the undisturbed one in all but what is measured.
        leftovers: temporary files that are left in the folder.
        seconds: of wall time.
    """

    cells: int
    kills: int
    kills_while_asking: int
    completed_once: int
    duplicates: int
    rewritten: int
    calls: int
    repeated: int
    abandoned: int
    unwritten: int
    most_lost: int
    concurrency: int
    equal: bool
    leftovers: int
    seconds: float

    @property
    def is_as_promised(self) -> bool:
        """Nothing lost, nothing doubled, nothing paid twice beyond what was in flight at a kill."""
        return (
            self.completed_once == self.cells
            and self.duplicates == self.rewritten == self.leftovers == 0
            and self.repeated == self.abandoned + self.unwritten
            and self.most_lost <= self.concurrency
            and self.equal
        )


def kp_data(line: list[str], log: str) -> None:
    """One run of the program in a process of its own."""
    quiet, told = os.open(os.devnull, os.O_WRONLY), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(quiet, sys.stdout.fileno())
    os.dup2(told, sys.stderr.fileno())
    from kp_data.cli import main

    sys.argv = line
    main()


def stats(url: str, query: str = "?brief") -> dict[str, Any]:
    with urllib.request.urlopen(f"{url.removesuffix('/v1')}/stats{query}") as answer:
        return dict(json.load(answer))


def reset(url: str) -> None:
    urllib.request.urlopen(urllib.request.Request(url.removesuffix("/v1") + "/stats/reset", method="POST")).close()


def settled(url: str) -> dict[str, Any]:
    """What the server counts once it has noticed that its client is gone."""
    seen = stats(url)
    while True:
        time.sleep(0.1)
        before, seen = seen, stats(url)
        if seen == before and not seen["in_flight"]:
            return seen


def stored(out: Path) -> dict[str, str]:
    """Cell to when it was stored."""
    path = out / "cells.sqlite"
    if not path.exists():
        return {}
    connection = sqlite3.connect(path)
    try:
        return dict(connection.execute("SELECT key, created_at FROM cells WHERE error IS NULL").fetchall())
    except sqlite3.OperationalError:
        # Killed before the tables were made.
        return {}
    finally:
        connection.close()


class Runs:
    """One panel folder, filled by one child after another."""

    def __init__(self, out: Path, url: str, *, cells: int, concurrency: int) -> None:
        self.out, self.url = out, url
        teachers = [option for name in NAMES for option in ("--teacher", f"{name}=practice/{name}@{url}")]
        source = f"practice:{cells // len(NAMES)}"
        shape = ["--concurrency", str(concurrency), "--json", "--quiet"]
        self._line = ["kp-data", "generate", source, "--out", str(out), *teachers, *shape]
        self._log = out.with_suffix(".log")
        self._held: dict[str, str] = {}
        self.rewritten = 0

    def start(self) -> ForkServerProcess:
        child = FORKS.Process(target=kp_data, args=(self._line, str(self._log)))
        child.start()
        return child

    def finish(self) -> float:
        """Run to the end; gives the seconds until the first call began."""
        began, before = time.monotonic(), stats(self.url)["requests"]
        child = self.start()
        waited_s = 0.0
        while child.is_alive():
            if not waited_s and stats(self.url)["requests"] > before:
                waited_s = time.monotonic() - began
            time.sleep(0.05)
        assert child.exitcode == 0, self._log.read_text()
        self._look()
        return waited_s

    def kill(self, draw: random.Random, start_s: float, window_s: float) -> Loss | None:
        """Start a child and kill it somewhere; None where it had come to its end before."""
        before, held = settled(self.url), len(self._held)
        child = self.start()
        if draw.random() < 0.25:
            self._wait(child, draw.uniform(0.0, 1.1 * start_s))
        else:
            while child.is_alive() and stats(self.url)["requests"] == before["requests"]:
                time.sleep(0.03)
            self._wait(child, draw.uniform(0.0, window_s))
        child.kill()
        child.join()
        if child.exitcode != -signal.SIGKILL:
            assert child.exitcode == 0, self._log.read_text()
            return None
        after = settled(self.url)
        self._look()
        begun = sum(bill["calls"] for bill in after["billed"].values())
        begun -= sum(bill["calls"] for bill in before["billed"].values())
        return Loss(begun, len(self._held) - held, after["abandoned"] - before["abandoned"])

    @staticmethod
    def _wait(child: ForkServerProcess, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while child.is_alive() and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, 0.02))

    def _look(self) -> None:
        now = stored(self.out)
        self.rewritten += sum(now.get(key) != at for key, at in self._held.items())
        self._held = now


def measure(folder: Path, options: argparse.Namespace) -> Result:
    began = time.monotonic()
    draw = random.Random(options.seed)
    with practice_server(latency_s=options.latency) as url:
        # The first child loads the modules that all others start with.
        Runs(folder / "first", url, cells=len(NAMES), concurrency=1).finish()
        calm = Runs(folder / "calm", url, cells=options.cells, concurrency=options.concurrency)
        start_s = calm.finish()
        reset(url)
        runs = Runs(folder / "killed", url, cells=options.cells, concurrency=options.concurrency)
        window_s = options.cells / options.kills * options.latency / options.concurrency * 2
        losses: list[Loss] = []
        while len(losses) < options.kills:
            loss = runs.kill(draw, start_s, window_s)
            if loss is None:
                break
            losses.append(loss)
            if len(losses) % 10 == 0:
                told = f"{len(losses)} kills, {sum(loss.stored for loss in losses)} cells stored"
                print(told, file=sys.stderr, flush=True)
        runs.finish()
        return _result(folder, runs, losses, settled(url), options, time.monotonic() - began)


def _result(
    folder: Path, runs: Runs, losses: list[Loss], seen: dict[str, Any], options: argparse.Namespace, seconds: float
) -> Result:
    one, other = (pq.read_table(folder / name / "responses.parquet") for name in ("killed", "calm"))
    answered = one.filter(one["error"].is_null()).num_rows + sum(
        error in ("truncated", "refused", "empty") for error in one["error"].to_pylist()
    )
    distinct = one.select(CELL).group_by(CELL).aggregate([]).num_rows
    calls = sum(bill["calls"] for bill in seen["billed"].values())
    return Result(
        cells=options.cells,
        kills=len(losses),
        kills_while_asking=sum(loss.begun > 0 for loss in losses),
        completed_once=min(answered, distinct),
        duplicates=one.num_rows - distinct,
        rewritten=runs.rewritten,
        calls=calls,
        repeated=seen["begun_again"],
        abandoned=sum(loss.abandoned for loss in losses),
        unwritten=sum(loss.unwritten for loss in losses),
        most_lost=max((loss.begun - loss.stored for loss in losses), default=0),
        concurrency=options.concurrency,
        equal=one.drop_columns(list(MEASURED_COLUMNS)).equals(other.drop_columns(list(MEASURED_COLUMNS))),
        leftovers=sum(path.name.endswith(".tmp") for path in runs.out.iterdir()),
        seconds=round(seconds, 1),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--cells", type=int, default=5_000, help="a multiple of 5")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--latency", type=float, default=0.1, help="seconds an answer takes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the result here too, as JSON")
    options = parser.parse_args()
    FORKS.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory(prefix="kp-kill-") as folder:
        result = measure(Path(folder), options)
    text = json.dumps({"seed": options.seed, "latency_s": options.latency, **asdict(result)}, indent=2)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")
    sys.exit(0 if result.is_as_promised else 1)


if __name__ == "__main__":
    main()
