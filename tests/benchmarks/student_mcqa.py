"""What purified rationales add to a small student, on the sets of the paper's own experiments.

    python tests/benchmarks/student_mcqa.py DATA --work FOLDER --frozen --rows plain,all,…   every row, cheaply
    python tests/benchmarks/student_mcqa.py DATA --work FOLDER --rows plain,flan-t5-xl       fine-tuned, cell by cell
    python tests/benchmarks/student_mcqa.py DATA --work FOLDER --test --out FILE             read test once, report

DATA holds a panel folder a set (obqa, arc, riddle, pubmedqa, bioasq, piqa, mmlu_pro; those that are there are run).
A student that scores choices writes no rationales, so it cannot learn to write them: it looks the rationales of the
training questions up while it answers, never its own nor that of a question in almost the same words. A row says whose
rationales it looks up; see `mcqa_sets`. What is selected is selected on validation. Cells that are done stay in
FOLDER, half-done ones go on, and `--test` reports those that are done, whatever `--rows` says.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from mcqa_cells import FINE_TUNED, FROZEN, Cell
from mcqa_report import report
from mcqa_sets import ALL, PLAIN, PLANS, SetFolder

from kp_data.errors import KpError


def main() -> int:
    """Run the cells asked for, or report those that are done."""
    arguments = _arguments()
    folders = [
        SetFolder(PLANS[name], arguments.data / name, arguments.work / name)
        for name in arguments.sets
        if (arguments.data / name / "questions.parquet").is_file()
    ]
    try:
        if arguments.test:
            text = report(folders)
            print(text)
            if arguments.out:
                arguments.out.write_text(text, encoding="utf-8")
            return 0
        for cell in _cells(folders, arguments):
            cell.run()
            print(f"{cell.folder.plan.name} {cell.kind} {cell.row} seed {cell.seed}: {cell.validation:.3f}", flush=True)
    except KpError as error:
        print(f"error: {error}")
        return error.exit_code
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    def names(text: str) -> list[str]:
        return text.split(",")

    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="folder for everything that is made")
    parser.add_argument("--sets", type=names, default=list(PLANS))
    parser.add_argument("--rows", type=names, default=[PLAIN, ALL, "similarity-router"])
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], default=[0])
    parser.add_argument("--frozen", action="store_true", help="train the head and the look-up alone")
    parser.add_argument("--test", action="store_true", help="read the test split of what is done, and report")
    parser.add_argument("--out", type=Path, default=None, help="write the report here")
    return parser.parse_args()


def _cells(folders: Sequence[SetFolder], arguments: argparse.Namespace) -> Iterator[Cell]:
    kind = FROZEN if arguments.frozen else FINE_TUNED
    for seed in arguments.seeds:
        for folder in folders:
            yield from (Cell(folder, kind, row, seed) for row in arguments.rows)


if __name__ == "__main__":
    raise SystemExit(main())
