"""The explorer before a million rows, as a user runs it: `kp-data report DIR --serve`, asked over HTTP.

    python tests/benchmarks/explorer.py --rows 1000000 --out tests/benchmarks/results/explorer.md

The dataset is made on the spot (see `explorer_data`) and lies in the files and row groups that `push` writes. Every
request is another one: pages, conditions, words and texts are drawn anew, so that no answer comes from a cache of
answers. Beside it stands what a user would do instead: read the table with pandas and filter it.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import httpx
import numpy as np
import psutil
import pyarrow.parquet as pq
from explorer_data import SIZE, SUBJECTS, TOPICS, Array, Stock, make_stock, write_dataset

from kp_data.purify.embedding import Embedder

TIMES: Final = 30
COLUMNS: Final = ("request", "first, ms", "median, ms", "p95, ms", "CPU, ms", "aim, ms")
KINDS: Final = ("fulltext", "semantic", "rows")
MB: Final = 10**6
NO_ANSWER: Final = ('role="alert"', 'role="status"', 'http-equiv="refresh"')
WAIT_S: Final = 3_600.0

Query = Mapping[str, str | int]
Ask = Callable[[], tuple[str, Query]]

PANDAS: Final = """
import resource, sys, time
begin = time.monotonic()
import pandas
frame = pandas.read_parquet(sys.argv[1])
read = time.monotonic() - begin
begin = time.monotonic()
found = frame[(frame["subject"] == "law") & (frame["score"] > 0.9)].head(30)
print(read, time.monotonic() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000, len(found))
"""


@dataclass(frozen=True)
class Line:
    """One measured kind of request.

    Attributes:
        what: was asked.
        first_ms: the first request of its kind, nothing of it warm.
        times_ms: those after it.
        aim_ms: what the median should stay below; None: nothing was promised.
        cpu_ms: of the server and its processes, a request: what does not depend on who else works on the machine.
    """

    what: str
    first_ms: float
    times_ms: Sequence[float]
    aim_ms: float | None = None

    cpu_ms: float = 0.0

    def cells(self) -> list[str]:
        """For the table."""
        median, high = statistics.median(self.times_ms), float(np.percentile(self.times_ms, 95))
        aim = "" if self.aim_ms is None else f"{self.aim_ms:.0f} ({'met' if median < self.aim_ms else 'missed'})"
        return [self.what, f"{self.first_ms:,.0f}", f"{median:,.0f}", f"{high:,.0f}", f"{self.cpu_ms:,.0f}", aim]


@dataclass
class Server:
    """A server that runs, a client that asks it, and the peaks of memory meanwhile, in MB of resident pages."""

    process: psutil.Process
    client: httpx.Client
    peak_mb: float = 0.0
    children_mb: dict[str, float] = field(default_factory=dict)

    def timed(self, what: str, ask: Ask, aim_ms: float | None) -> Line:
        """One request to warm up and TIMES more, each drawn anew."""
        first, before = self._once(*ask()), self._cpu_s()
        taken = [self._once(*ask()) for _ in range(TIMES)]
        line = Line(what, first, taken, aim_ms, 1_000 * (self._cpu_s() - before) / TIMES)
        note(" | ".join(line.cells()))
        return line

    def wait_for(self, path: str, query: Query, *, every: float = 1.0) -> float:
        """Seconds until an index is there, asked for again and again."""
        begin = time.monotonic()
        while time.monotonic() - begin < WAIT_S:
            answer = self.client.get(path, params=query)
            assert answer.status_code == 200, answer.text[:300]
            if 'http-equiv="refresh"' not in answer.text:
                return time.monotonic() - begin
            time.sleep(every)
        raise AssertionError(f"{path}: no index after {WAIT_S:.0f} s")

    def wait_until(self, there: Callable[[], bool]) -> None:
        """Wait for what the server does by itself."""
        begin = time.monotonic()
        while not there():
            assert time.monotonic() - begin < WAIT_S, "it never came"
            time.sleep(1.0)

    def watch(self, stop: threading.Event) -> None:
        """Note the peaks until told to stop."""
        while not stop.wait(0.1):
            self.peak_mb = max(self.peak_mb, self.process.memory_info().rss / MB)
            for child in self.process.children(recursive=True):
                try:
                    name = next((word for word in child.cmdline() if word.startswith("kp_data.")), "other")
                    self.children_mb[name] = max(self.children_mb.get(name, 0.0), child.memory_info().rss / MB)
                except psutil.NoSuchProcess:
                    continue

    def _once(self, path: str, query: Query) -> float:
        begin = time.perf_counter()
        answer = self.client.get(path, params=query)
        took = 1_000 * (time.perf_counter() - begin)
        assert answer.status_code == 200, f"{answer.url}: {answer.status_code} {answer.text[:300]}"
        # A page that asks for patience is quick, and no answer.
        assert not any(word in answer.text for word in NO_ANSWER), f"{answer.url}: it answers with a message"
        return took

    def _cpu_s(self) -> float:
        used = [each.cpu_times() for each in (self.process, *self.process.children(recursive=True))]
        return float(sum(each.user + each.system for each in used))


def main() -> None:
    """Make the dataset, serve it, ask, and write down what came of it."""
    options = read_options()
    with workplace(options.work) as work:
        folder = work / "million"
        begin = time.monotonic()
        stock = make_stock(0) if (folder / "report.json").is_file() else write_dataset(folder, options.rows, seed=0)
        note(f"dataset: {time.monotonic() - begin:.0f} s")
        report = [*measure(folder, work, stock, options.rows), *pandas_lines(folder)]
    text = "\n".join([*heading(options.rows), *report]) + "\n"
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    print(text)


def measure(folder: Path, work: Path, stock: Stock, num_rows: int) -> list[str]:
    """Everything that is asked of the server, as lines of Markdown."""
    rng = np.random.default_rng(7)
    base = f"/datasets/local/{folder.name}"
    rows = f"{base}/rows/purified/train"
    part = {"dataset": f"local/{folder.name}", "config": "purified", "split": "train"}
    browse: Sequence[tuple[str, Ask, float | None]] = (
        ("rows page, any of them", lambda: (rows, {"page": int(rng.integers(1, max(2, num_rows // 30)))}), 150),
        ("rows page, a condition", lambda: (rows, {"where": a_condition(rng)}), 150),
        ("rows page, picked values", lambda: (rows, some_values(rng)), 150),
        ("rows page, sorted by score", lambda: (rows, {"orderby": "score DESC", **some_values(rng)}), None),
        ("a question with its panel", lambda: (f"{base}/questions/q{rng.integers(num_rows):07d}", {}), None),
        ("API /rows, 100 whole rows", lambda: ("/rows", part | {"offset": int(rng.integers(num_rows))}), None),
        ("API /filter, 30 whole rows", lambda: ("/filter", part | {"where": a_condition(rng), "length": 30}), None),
        ("statistics page", lambda: (f"{base}/statistics/purified/train", {}), None),
    )
    there = {kind for kind in KINDS if any((work / "cache").rglob(f"*.{kind}"))}
    with served(folder, work / "cache") as server:
        time.sleep(0.5)
        idle = server.peak_mb
        lines = [server.timed(*each) for each in browse]
        before = server.peak_mb
        built = {"words": server.wait_for(rows, {"search": "a"})}
        server.wait_until(lambda: any((work / "cache").rglob("*.rows/starts.npy")))
        lines.append(server.timed("search by words", lambda: (rows, {"search": some_words(stock, rng)}), 300))
        built["meaning"] = server.wait_for(rows, {"like": "a text that starts it"}, every=0.2)
        lines.append(server.timed("search by meaning", lambda: (rows, {"like": a_sentence(stock, rng)}), 100))
        recall = recall_of(server, folder, rows, [a_sentence(stock, rng) for _ in range(10)])
    sizes = {kind: sum(file.stat().st_size for file in (work / "cache").rglob(f"*.{kind}/*")) for kind in KINDS}

    def took(kind: str, seconds: float) -> str:
        return f"{seconds:,.0f} s" + (" (built by an earlier run)" if kind in there else "")

    children = "; ".join(f"`{name}` {peak:,.0f} MB" for name, peak in sorted(server.children_mb.items()))
    return [
        *table(COLUMNS, [line.cells() for line in lines]),
        "",
        f"Memory of the server at its peak: {server.peak_mb:,.0f} MB ({idle:,.0f} MB before the first request, "
        f"{before:,.0f} MB before the first search); aim: below 500 MB.",
        f"Processes that it starts and ends: {children}.",
        f"Indexes: by words {took('fulltext', built['words'])}, {sizes['fulltext'] / MB:,.0f} MB on disk; "
        f"by meaning {took('semantic', built['meaning'])} (the encoder's start among them), "
        f"{sizes['semantic'] / MB:,.0f} MB; rows at hand for lists of hits, {sizes['rows'] / MB:,.0f} MB.",
        f"Search by meaning shows {recall:.1%} of the true ten nearest rows (10 texts, against all rows compared).",
    ]


def recall_of(server: Server, folder: Path, path: str, texts: Sequence[str]) -> float:
    """Share of the ten rows truly nearest to a text that stand on the first page of a search for it."""
    query_QD = Embedder(cache=None)(texts)
    shares = []
    for text, true in zip(texts, nearest(folder, query_QD), strict=True):
        found = re.findall(r'aria-label="(\d+), question', server.client.get(path, params={"like": text}).text)
        shares.append(len(set(true) & {int(row) for row in found[:10]}) / len(true))
    return statistics.mean(shares)


def nearest(folder: Path, query_QD: Array, k: int = 10) -> list[list[int]]:
    """The k rows of highest cosine to each query, by comparing all."""
    best: list[list[tuple[float, int]]] = [[] for _ in query_QD]
    start = 0
    for file in sorted((folder / "purified").glob("*.parquet")):
        for batch in pq.ParquetFile(file).iter_batches(8_192, columns=["embedding"]):
            flat = batch.column(0).flatten().to_numpy(zero_copy_only=False)
            cosine_QN = query_QD @ flat.reshape(-1, SIZE).astype(np.float32).T
            for query, cosine_N in enumerate(cosine_QN):
                places = np.argpartition(-cosine_N, min(k, len(cosine_N) - 1))[:k]
                best[query] = sorted([*best[query], *((float(cosine_N[at]), start + int(at)) for at in places)])[-k:]
            start += len(batch)
    return [[row for _, row in each] for each in best]


def a_condition(rng: np.random.Generator) -> str:
    """A condition in the viewer's language."""
    subject, low = rng.choice(SUBJECTS), rng.random()
    return f"subject = '{subject}' AND score > {low:.4f} AND {'conflict' if rng.random() < 0.5 else 'NOT conflict'}"


def some_values(rng: np.random.Generator) -> dict[str, str | int]:
    """Values picked from the lists above the rows."""
    return {"is.subject": str(rng.choice(SUBJECTS)), "is.conflict": str(rng.choice(["yes", "no"]))}


def some_words(stock: Stock, rng: np.random.Generator) -> str:
    """Two words of one sentence: frequent or rare as it comes."""
    return " ".join(rng.choice(stock.sentences[int(rng.integers(len(stock.sentences)))].as_py().strip(".").split(), 2))


def a_sentence(stock: Stock, rng: np.random.Generator) -> str:
    """What some questions begin with, the last word left out."""
    return str(stock.sentences[int(rng.integers(TOPICS))]).rpartition(" ")[0]


@contextmanager
def served(folder: Path, cache: Path) -> Iterator[Server]:
    """The server, its memory watched."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).parent / "kp-data"), "report", str(folder), "--serve", "--port", str(port)]
    environment = {**os.environ, "KP_CACHE": str(cache)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    url, stop = f"http://127.0.0.1:{port}", threading.Event()
    try:
        wait_until_up(url)
        # A connection that has been idle while something was computed may be closed by now.
        fresh = httpx.Limits(keepalive_expiry=2.0)
        with httpx.Client(base_url=url, timeout=300, limits=fresh) as client:
            server = Server(psutil.Process(process.pid), client)
            watcher = threading.Thread(target=server.watch, args=(stop,))
            watcher.start()
            try:
                yield server
            finally:
                stop.set()
                watcher.join()
    finally:
        process.terminate()
        process.wait()


def wait_until_up(url: str) -> None:
    """Ask for the stylesheet's folder until anything answers."""
    begin = time.monotonic()
    while time.monotonic() - begin < 120:
        try:
            httpx.get(f"{url}/static/none", timeout=5)
            return
        except httpx.TransportError:
            time.sleep(0.2)
    raise AssertionError("the server did not come up")


def pandas_lines(folder: Path) -> list[str]:
    """What reading the same table whole takes."""
    command = [sys.executable, "-c", PANDAS, str(folder / "purified")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return ["", f"pandas did not manage: {done.stderr.strip().splitlines()[-1:]}, exit {done.returncode}"]
    read, took, peak, _ = map(float, done.stdout.split())
    return [
        "",
        "Instead, `pandas.read_parquet` and a boolean filter, in a process of its own: "
        f"{read:,.1f} s to read, {1_000 * took:,.0f} ms to filter, {peak:,.0f} MB at the peak.",
    ]


def heading(num_rows: int) -> list[str]:
    """What was measured, where and when."""
    load = " ".join(f"{one:.1f}" for one in os.getloadavg())
    now = datetime.now(UTC)
    return [
        f"# The explorer before {num_rows:,} rows",
        "",
        f"{now:%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores, load average {load} at the end (other work ran beside it).",
        f"{num_rows:,} questions with embeddings of {SIZE} numbers, 6 responses to each; `kp-data report DIR --serve`; "
        f"times at the client, of {TIMES} different requests after the first.",
        "",
    ]


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    line = "| " + " | ".join(columns) + " |"
    return [line, "|" + " --- |" * len(columns), *("| " + " | ".join(row) + " |" for row in rows)]


@contextmanager
def workplace(folder: Path | None) -> Iterator[Path]:
    """A folder to work in: the one named, which is left as it is, or one that goes."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="kp-explorer-") as made:
        yield Path(made)


def read_options() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, help="write the results here, too")
    parser.add_argument("--work", type=Path, help="folder to work in; its dataset is used again")
    return parser.parse_args()


def note(words: str) -> None:
    """Say how far it is."""
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
