"""How fast a run comes back after a storm: 90 % of calls refused with 429 and a long Retry-After, then calm again.

The server counts what it answers. Printed are the rates before, during and after, how long it took until 90 % of the
rate was back, and the longest time without any call: a run that waits must not freeze.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kp_data.practice import TEACHERS, practice_server

KP_DATA = [sys.executable, "-c", "from kp_data.cli import main; main()"]
LOOK_S = 0.5
WINDOW_S = 3.0


@dataclass(frozen=True)
class Look:
    """What the server had counted at a moment."""

    at: float
    requests: int
    answered: int


@dataclass(frozen=True)
class Result:
    """How a run went through a storm. Rates are answers a second.

    Attributes:
        storm_s, retry_after_s: how long it lasted, and how long refused calls were told to wait.
        rate_before, rate_during, rate_after: the last over the last ten seconds.
        back_after_s: from the end of the storm until a window of `WINDOW_S` had 90 % of the rate; None: never.
        longest_silence_s: longest time without any call, about, from the storm's beginning to the end.
        refused: calls.
        exit_code: of the run, which is interrupted at the end.
    """

    storm_s: float
    retry_after_s: float
    rate_before: float
    rate_during: float
    rate_after: float
    back_after_s: float | None
    longest_silence_s: float
    refused: int
    exit_code: int


def stats(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url.removesuffix("/v1") + "/stats?brief") as answer:
        return dict(json.load(answer))


def change(url: str, faults: str | None, retry_after_s: float) -> None:
    body = json.dumps({"faults": faults, "retry_after_s": retry_after_s}).encode()
    urllib.request.urlopen(urllib.request.Request(url.removesuffix("/v1") + "/faults", body, method="PUT")).close()


def watch(url: str, seconds: float, looks: list[Look]) -> None:
    """Look at the server now and then."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(LOOK_S)
        seen = stats(url)
        looks.append(Look(time.monotonic(), seen["requests"], seen["completed"]))


def rate(looks: Sequence[Look]) -> float:
    return (looks[-1].answered - looks[0].answered) / (looks[-1].at - looks[0].at)


def back_after(looks: Sequence[Look], goal: float) -> float | None:
    """Seconds from the first look until a window reached a rate."""
    for index, look in enumerate(looks):
        window = [other for other in looks[: index + 1] if look.at - other.at <= WINDOW_S]
        if look.at - looks[0].at >= WINDOW_S and rate(window) >= goal:
            return look.at - looks[0].at
    return None


def longest_silence(looks: Sequence[Look]) -> float:
    """Seconds between the looks at which the number of calls had changed."""
    changes = [looks[0].at, *(b.at for a, b in itertools.pairwise(looks) if b.requests > a.requests), looks[-1].at]
    return max(b - a for a, b in itertools.pairwise(changes))


def measure(folder: Path, options: argparse.Namespace) -> Result:
    with practice_server(latency_s=options.latency) as url:
        teachers = [option for name in TEACHERS for option in ("--teacher", f"{name}=practice/{name}@{url}")]
        shape = ["--out", str(folder / "panel"), "--concurrency", str(options.concurrency), "--quiet"]
        line = [*KP_DATA, "generate", f"practice:{options.questions}", *shape, *teachers]
        run = subprocess.Popen(line, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
        while not stats(url)["completed"]:
            time.sleep(0.1)
        before: list[Look] = []
        watch(url, options.calm, before)
        change(url, "429:0.9", options.retry_after)
        during = before[-1:]
        watch(url, options.storm, during)
        change(url, None, options.retry_after)
        after = during[-1:]
        watch(url, options.after, after)
        assert run.poll() is None, "the run ended too early; give more --questions"
        run.send_signal(signal.SIGINT)
        usual = rate([look for look in before if before[-1].at - look.at <= 10])
        return Result(
            storm_s=options.storm,
            retry_after_s=options.retry_after,
            rate_before=round(usual, 1),
            rate_during=round(rate(during), 1),
            rate_after=round(rate([look for look in after if after[-1].at - look.at <= 10]), 1),
            back_after_s=(back := back_after(after, 0.9 * usual)) and round(back, 1),
            longest_silence_s=round(longest_silence([*during, *after]), 1),
            refused=stats(url)["faults"].get("429", 0),
            exit_code=run.wait(),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=6_000, help="for five teachers: more than can be asked")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--latency", type=float, default=0.2, help="seconds an answer takes")
    parser.add_argument("--calm", type=float, default=20.0, help="seconds before the storm")
    parser.add_argument("--storm", type=float, default=30.0, help="seconds")
    parser.add_argument("--after", type=float, default=45.0, help="seconds that are watched after it")
    parser.add_argument("--retry-after", type=float, default=89.0, help="seconds")
    parser.add_argument("--out", type=Path, help="write the result here too, as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kp-storm-") as folder:
        result = measure(Path(folder), options)
    text = json.dumps({"concurrency": options.concurrency, "latency_s": options.latency, **asdict(result)}, indent=2)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")
    sys.exit(0 if result.back_after_s is not None and result.back_after_s <= 30 else 1)


if __name__ == "__main__":
    main()
