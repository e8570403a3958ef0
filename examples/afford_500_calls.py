"""I can afford 500 calls: the same calls spent at random, and spent with a teaching assistant.

Five teachers, each wrong on about a third of the questions, answer for a price. One run spends all calls on random
questions and believes every answer. The other spends a part of them to find out whom to ask, then asks where its
student is unsure, keeps what an assistant trusts, and learns the student's own answers where both are sure. Every
command is shown, so that each step can be repeated by hand; a second run finds everything done.

The teachers and the assistant are programs of the practice world, so no key is needed; name your own in the kp.yaml
that is written to the results, and in --assistant.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from kp_data.practice import TEACHERS

JUDGE = "judge=practice/judge-20"
"""An assistant that judges four answers of five right."""
ALL_AT_RANDOM = ("--warm-up", "1", "--assistant", "none", "--thresholds", "0,0,0")
"""No signals: every call at random, every answer learned."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/afford"), help="folder of the results")
    parser.add_argument("--questions", type=int, default=2400, help="practice questions (default 2400)")
    parser.add_argument("--calls", type=int, default=500, help="teacher calls of each run (default 500)")
    parser.add_argument("--steps", type=int, default=400, help="training steps of each student (default 400)")
    options = parser.parse_args()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    teachers = "".join(
        f"  - {{name: {name}, model: practice/{name}, price: {{input: 1.0, output: 4.0}}}}\n" for name in TEACHERS
    )
    (out / "kp.yaml").write_text(f"teachers:\n{teachers}", encoding="utf-8")
    source = f"practice:{options.questions}"
    for name, how in (("at-random", ALL_AT_RANDOM), ("assisted", ("--assistant", JUDGE, "--rounds", "2"))):
        fit = ["fit", source, "--student", "tiny-t5", "--objective", "teaching-assistant", "--out", str(out / name)]
        fit += ["--config", str(out / "kp.yaml"), "--call-budget", str(options.calls), "--steps", str(options.steps)]
        record = kp_train(*fit, *how)
        print(f"{name}: {record['teacher_calls']} calls, validation accuracy {record['validation_accuracy']:.3f}")
    compared = kp_train("evaluate", str(out / "assisted"), source, "--against", str(out / "at-random"))
    show(compared)
    run("kp-train", "calls", str(out / "assisted"), str(out / "at-random"), "--html", str(out / "calls.html"))


def show(compared: dict[str, Any]) -> None:
    """How much more often the assisted student is right on test."""
    paired = compared["compared"]
    low, high = paired["ci95"]
    print(
        f"test: {compared['accuracy']:.3f} with the assistant, {paired['difference']:+.3f} ({low:+.3f} to {high:+.3f}) "
        f"beside calls at random, on {compared['n']} questions"
    )


def kp_train(*arguments: str) -> dict[str, Any]:
    """What a command of kp-train prints as JSON."""
    return dict(json.loads(run("kp-train", *arguments, "--json")))


def run(program: str, *arguments: str) -> str:
    """One command of ours, shown as one would type it; its failure ends the example."""
    print(f"$ {shlex.join([program, *arguments])}", file=sys.stderr, flush=True)
    line = [str(Path(sys.executable).with_name(program)), *arguments]
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    if "--json" not in arguments:
        print(done.stdout, end="")
    return done.stdout


if __name__ == "__main__":
    main()
