"""How fast teachers are asked: this engine, durable, beside what one would otherwise use.

All ask the same loopback server, which takes 50 ms an answer, one after another in one run, each in a process of its
own, so that CPU time and memory are its alone. Run it with `make bench`, or by hand with --cells and --concurrency.

Peers whose dependencies do not go with ours live in environments of their own:

    python -m venv /tmp/distilabel && /tmp/distilabel/bin/pip install 'distilabel[openai]' requests
    python tests/benchmarks/generate.py --peer-python distilabel=/tmp/distilabel/bin/python --out results.md

Two rates are given. `calls/s` divides by the whole time of the process: start-up, imports, planning, storing and
export. `steady` is what the server saw from the 40th to the 90th of a hundred calls.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from contestants import CONTESTANTS
from loopback import look, loopback_server

COLUMNS = ("", "version", "calls", "calls/s", "of aiohttp", "steady", "of aiohttp", "cpu ms", "server ms", "peak MiB")
NOT_INSTALLED = 77
"""Exit status of a contestant whose package is not there."""


@dataclass(frozen=True)
class Figures:
    """What one contestant took.

    Attributes:
        version: of its package.
        calls: how many it made.
        rate: calls a second of its whole process.
        steady_rate: calls a second in the middle.
        cpu_ms: CPU milliseconds a call, child processes included.
        server_ms: CPU milliseconds a call that the server took.
        peak_mib: peak memory of its largest process.
    """

    version: str
    calls: int
    rate: float
    steady_rate: float
    cpu_ms: float
    server_ms: float
    peak_mib: float


@dataclass(frozen=True)
class Goal:
    """A figure that is wanted: the first over the second, or the first alone."""

    text: str
    wanted: float
    figure: str
    first: str
    second: str | None = None
    at_most: bool = False

    def line(self, results: Mapping[str, Figures]) -> str | None:
        """What was measured beside what is wanted; None where a contestant is missing."""
        if self.first not in results or (self.second is not None and self.second not in results):
            return None
        value = getattr(results[self.first], self.figure)
        if self.second is not None:
            value /= getattr(results[self.second], self.figure)
        met = value <= self.wanted if self.at_most else value >= self.wanted
        sign = "at most" if self.at_most else "at least"
        return f"{self.text}: {value:,.2f} (wanted: {sign} {self.wanted:,g}; {'met' if met else 'missed'})"


GOALS = (
    Goal("calls a second", 1500, "rate", "ours"),
    Goal("CPU milliseconds a call", 1.0, "cpu_ms", "ours", at_most=True),
    Goal("of raw aiohttp", 0.6, "rate", "ours", "raw_aiohttp"),
    Goal("of raw aiohttp, steady", 0.6, "steady_rate", "ours", "raw_aiohttp"),
    Goal("times raw litellm", 8, "rate", "ours", "raw_litellm"),
    Goal("times raw litellm, steady", 8, "steady_rate", "ours", "raw_litellm"),
    Goal("times distilabel", 15, "rate", "ours", "distilabel"),
    Goal("times distilabel, steady", 15, "steady_rate", "ours", "distilabel"),
    Goal("through litellm, times raw litellm", 1.5, "rate", "ours_litellm", "raw_litellm"),
    Goal("through litellm, times raw litellm, steady", 1.5, "steady_rate", "ours_litellm", "raw_litellm"),
)


def run(name: str, url: str, cells: int, concurrency: int) -> None:
    """Be one contestant; its version goes to standard output."""
    contestant = CONTESTANTS[name]
    try:
        print(importlib.metadata.version(contestant.package), flush=True)
    except importlib.metadata.PackageNotFoundError:
        sys.exit(NOT_INSTALLED)
    contestant.run(url, cells, concurrency)


def measure(name: str, python: str, url: str, cells: int, concurrency: int) -> Figures | None:
    """The figures of one contestant in a process of its own; None where it is not installed.

    Raises:
        SystemExit: it failed; its last words are shown.
    """
    look(url)
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as complained:
        began = time.perf_counter()
        command = [python, __file__, "--run", name, url, str(cells), str(concurrency)]
        process = subprocess.Popen(command, stdout=said, stderr=complained)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode == NOT_INSTALLED:
            return None
        for stream in (said, complained):
            stream.seek(0)
        if process.returncode != 0:
            sys.exit(f"{name} failed ({process.returncode}):\n{complained.read()[-4000:]}")
        version = said.readline().strip()
    visit = look(url)
    # Some ask once more than they were told, to find out about limits.
    assert len(visit.asked_at) >= cells, f"{name} asked {len(visit.asked_at)} of {cells}"
    return Figures(
        version=version,
        calls=cells,
        rate=cells / seconds,
        steady_rate=visit.steady_rate(),
        cpu_ms=1000 * (usage.ru_utime + usage.ru_stime) / cells,
        server_ms=1000 * visit.cpu_s / cells,
        peak_mib=usage.ru_maxrss / (1024 if sys.platform != "darwin" else 1024 * 1024),
    )


def row(name: str, figures: Figures, first: Figures) -> tuple[str, ...]:
    """One line of the table."""
    return (
        name,
        figures.version,
        f"{figures.calls}",
        f"{figures.rate:.0f}",
        f"{figures.rate / first.rate:.2f}",
        f"{figures.steady_rate:.0f}",
        f"{figures.steady_rate / first.steady_rate:.2f}",
        f"{figures.cpu_ms:.2f}",
        f"{figures.server_ms:.2f}",
        f"{figures.peak_mib:.0f}",
    )


def show(cells: Sequence[str]) -> None:
    """One line of the table, on the terminal."""
    print(f"{cells[0]:14}{cells[1]:>10}" + "".join(f"{cell:>11}" for cell in cells[2:]), flush=True)


def as_markdown(
    rows: Sequence[Sequence[str]], goals: Sequence[str], missing: Sequence[str], options: argparse.Namespace
) -> str:
    """The whole result, to keep."""
    machine = f"{len(os.sched_getaffinity(0))} CPUs ({_processor()}), {platform.system()}"
    lines = [
        f"# Asking teachers, {datetime.now(UTC):%Y-%m-%d}",
        "",
        f"Machine: {machine}; Python {platform.python_version()}; load average before: {options.load:.1f} (far",
        f"above 0: others had the CPUs too). {options.concurrency} calls at a time, 50 ms an answer. The server shares",
        "the CPUs; what it took is in the table. `cpu ms` and `server ms` are per call, start-up included.",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "| --- | --- |" + " ---: |" * (len(COLUMNS) - 2),
        *("| " + " | ".join(cells) + " |" for cells in rows),
        "",
        *(f"* {name}: not installed" for name in missing),
        *(f"* {goal}" for goal in goals),
        "",
        f"    python tests/benchmarks/generate.py --cells {options.cells} --concurrency {options.concurrency}",
    ]
    return "\n".join(lines) + "\n"


def _processor() -> str:
    try:
        about = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in about.splitlines() if line.startswith("model name")), "?")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=20_000, help="calls; slow contestants get a part of them")
    parser.add_argument("--concurrency", type=int, default=256)
    parser.add_argument("--only", action="append", choices=CONTESTANTS, metavar="NAME", help="repeatable")
    parser.add_argument("--peer-python", action="append", default=[], metavar="NAME=PATH", help="repeatable")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the results as Markdown")
    parser.add_argument("--run", nargs=4, metavar=("NAME", "URL", "CELLS", "CONCURRENCY"), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure all, or be one of them."""
    options = _options()
    if options.run:
        name, url, cells, concurrency = options.run
        run(name, url, int(cells), int(concurrency))
        return
    options.load = os.getloadavg()[0]
    pythons = dict(pair.split("=", 1) for pair in options.peer_python)
    results: dict[str, Figures] = {}
    rows, missing = [], []
    show(COLUMNS)
    with loopback_server() as url:
        for name in options.only or CONTESTANTS:
            cells = int(options.cells * CONTESTANTS[name].share)
            figures = measure(name, pythons.get(name, sys.executable), url, cells, options.concurrency)
            if figures is None:
                print(f"{name:14} not installed", flush=True)
                missing.append(name)
                continue
            results[name] = figures
            rows.append(row(name, figures, next(iter(results.values()))))
            show(rows[-1])
    goals = [line for goal in GOALS if (line := goal.line(results)) is not None]
    print("", *goals, sep="\n")
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(as_markdown(rows, goals, missing, options), encoding="utf-8")


if __name__ == "__main__":
    main()
