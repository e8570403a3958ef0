"""A hub under load: pushes that meet, a version that changes little, two hundred readers, and a gigabyte each way.

Everything is what users run: `kp-data hub serve`, `kp-data push` and `pull`, and the official client's `hf`, each in a
process of its own. Bytes are counted on the wire. Every section starts with an empty hub.

    python tests/benchmarks/hub.py --out results.md             # all of it
    python tests/benchmarks/hub.py --only dedup readers         # some; the others are as they were last

Sections: `pushes`, `dedup`, `readers`, `gigabyte`. What a section measured stands in a JSON file in `--state`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import aiohttp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hub_report import MB, Result, render

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "hub"))

from conformance.hub_process import HubProcess, served
from conformance.made_up import edited, fingerprint, purified, write_folder
from conformance.official import Official
from conformance.wire import Wire, wired

from kp_data.tables import write_json

LIMIT_S: Final = 1_800.0
WRITING: Final = r"(POST|PUT) "
PARQUET: Final = "purified/train-00000-of-00001.parquet"


def main() -> None:
    options = read_options()
    options.state.mkdir(parents=True, exist_ok=True)
    for section in options.only or SECTIONS:
        note(f"{section} ...")
        with tempfile.TemporaryDirectory(prefix="kp-hub-", dir=options.work) as folder:
            load = os.getloadavg()[0]
            begin = time.monotonic()
            measured = SECTIONS[section](Path(folder), options)
        about = {"at": f"{datetime.now(UTC):%Y-%m-%d %H:%M}", "load_before": round(load, 1), "load_after": load_now()}
        write_json(
            {**measured, **about, "seconds": round(time.monotonic() - begin, 1)}, options.state / f"{section}.json"
        )
    known = {section: options.state / f"{section}.json" for section in SECTIONS}
    text = render({name: json.loads(path.read_text()) for name, path in known.items() if path.exists()})
    print(text)
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), help="sections; default: all")
    parser.add_argument("--state", type=Path, default=Path(tempfile.gettempdir()) / "kp-hub-benchmark")
    parser.add_argument("--work", type=Path, help="folder for what is made and removed again; default: as usual")
    parser.add_argument("--out", type=Path, help="write the results here, as Markdown")
    parser.add_argument("--rows", type=int, default=200_000, help="of the dataset that changes little")
    parser.add_argument("--pushers", type=int, default=8)
    parser.add_argument("--pushes", type=int, default=5, help="of each pusher")
    parser.add_argument("--readers", type=int, default=200)
    parser.add_argument("--reading-s", type=float, default=60.0)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    return parser.parse_args()


def measure_pushes(folder: Path, options: argparse.Namespace) -> Result:
    """Pushers that do not know of each other, all at one dataset; then every version is fetched and compared."""
    tables = {(p, n): purified(40 + p, 100 * p + n) for p in range(options.pushers) for n in range(options.pushes)}
    folders = {key: write_folder(table, folder / "in-{}-{}".format(*key)) for key, table in tables.items()}
    with served(folder / "hub") as hub, wired(hub.url) as wire:
        token = hub.token("ada", orgs=["lab"])
        begin = time.monotonic()
        pushers = [
            start_pusher(wire, token, folder / f"machine-{p}", [folders[p, n] for n in range(options.pushes)])
            for p in range(options.pushers)
        ]
        codes = [pusher.wait() for pusher in pushers]
        seconds = time.monotonic() - begin
        reports = [
            json.loads(line)
            for p in range(options.pushers)
            for line in (folder / f"machine-{p}" / "reports").read_text().splitlines()
        ]
        checked = check_versions(hub, tables, reports)
        return {
            "pushers": options.pushers,
            "pushes": len(tables),
            "push_seconds": round(seconds, 1),
            **checked,
            "exit_codes": dict(Counter(map(str, codes))),
            "overtaken": refused(wire, 412),
            "server_mb": peak_mb(hub),
        }


def start_pusher(wire: Wire, token: str, home: Path, folders: Sequence[Path]) -> subprocess.Popen[bytes]:
    """A process that pushes folder after folder, each by a `kp-data push` of its own."""
    push = f"{sys.executable} -c 'from kp_data.cli import main; main()' push"
    script = "set -e\n" + "".join(f"{push} {path} lab/science --json >> reports 2>> errors\n" for path in folders)
    user = Official(sys.executable, wire.url, token, home)
    return subprocess.Popen(["bash", "-c", script], env=user.environment, cwd=home)


def check_versions(hub: HubProcess, tables: Mapping[tuple[int, int], pa.Table], reports: Sequence[Result]) -> Result:
    """Whether there is a version of every push, in one line of commits, and each holds the rows that were pushed."""
    commits = hub.commits("lab/science")
    tags = {tag["name"]: tag["targetCommit"] for tag in hub.api("lab/science/refs")["tags"]}
    found: Counter[str] = Counter()
    chain = []
    for tag in tags:
        manifest = json.loads(hub.read("lab/science", "manifest.json", tag))
        chain.append((commits.index(tags[tag]), manifest["parent"], manifest["version"]))
        found[fingerprint(pq.read_table(pa.BufferReader(hub.read("lab/science", PARQUET, tag))))] += 1
    # Oldest first: the version before is the parent that the manifest names.
    versions = [version for _, _, version in sorted(chain, reverse=True)]
    parents = [parent for _, parent, _ in sorted(chain, reverse=True)]
    return {
        "succeeded": len(reports),
        "versions": len(tags),
        "commits": len(commits) - 1,
        "linear": parents == [None, *versions[:-1]],
        "tables_found": sum((found & Counter(map(fingerprint, tables.values()))).values()),
        "commits_of_versions": len({report["commit"] for report in reports} & set(commits)),
    }


def measure_dedup(folder: Path, options: argparse.Namespace) -> Result:
    """A version that changes little: bytes sent from the machine that pushed the one before, and from another."""
    old = purified(options.rows, 1)
    before = write_folder(old, folder / "before")
    after = write_folder(edited(old, rows=10, appended=2_000), folder / "after")
    found: Result = {"rows": options.rows}
    with served(folder / "hub") as hub, wired(hub.url) as wire:
        token = hub.token("ada")
        for name, second in (("same", "one"), ("fresh", "two")):
            first = Official(sys.executable, wire.url, token, folder / "one", limit_s=LIMIT_S)
            wire.clear()
            first.kp_data("push", str(before), f"ada/{name}")
            found[f"{name}_first_bytes"] = wire.sent(WRITING)
            wire.clear()
            begin = time.monotonic()
            pusher = Official(sys.executable, wire.url, token, folder / second, limit_s=LIMIT_S)
            report = pusher.kp_data("push", str(after), f"ada/{name}")
            found[f"{name}_seconds"] = round(time.monotonic() - begin, 1)
            found[f"{name}_bytes"] = wire.sent(WRITING)
            found[f"{name}_content_bytes"] = wire.sent()
            found["rows_changed"], found["rows_added"] = report["rows_changed"], report["rows_added"]
        sizes = [entry["size"] for entry in hub.api("ada/same/tree/main?recursive=true") if entry["type"] == "file"]
        found |= {"version_bytes": sum(sizes), "server_mb": peak_mb(hub)}
    return found


def measure_readers(folder: Path, options: argparse.Namespace) -> Result:
    """Readers that ask as a streaming client does, without a pause; every byte is compared with what was pushed."""
    source = write_folder(purified(20_000, 2), folder / "in")
    with served(folder / "hub") as hub:
        token = hub.token("ada")
        Official(sys.executable, hub.url, token, folder / "one").kp_data("push", str(source), "ada/read")
        (path,) = [path for path in hub.paths("ada/read") if path.endswith(".parquet")]
        before = cpu_s(hub)
        looks, errors = asyncio.run(read_for(hub.url, token, path, options.readers, options.reading_s))
        times = sorted(look.seconds for look in looks)
        by_kind = {
            kind: [look.seconds for look in looks if look.kind == kind] for kind in {look.kind for look in looks}
        }
        return {
            "readers": options.readers,
            "reading_s": options.reading_s,
            "requests": len(looks),
            "errors": len(errors),
            "first_errors": errors[:5],
            "requests_a_second": round(len(looks) / options.reading_s),
            "mb_a_second": round(sum(look.size for look in looks) / options.reading_s / MB, 1),
            "server_cpu_ms": round(1000 * (cpu_s(hub) - before) / max(1, len(looks)), 1),
            "p50_ms": round(1000 * statistics.median(times)),
            "p95_ms": round(1000 * times[int(0.95 * len(times))]),
            "p99_ms": round(1000 * times[int(0.99 * len(times))]),
            "p50_ms_by_kind": {kind: round(1000 * statistics.median(found)) for kind, found in sorted(by_kind.items())},
            "server_mb": peak_mb(hub),
        }


@dataclass(frozen=True, slots=True)
class Look:
    """A request that was answered, and rightly."""

    kind: str
    seconds: float
    size: int


async def read_for(url: str, token: str, path: str, readers: int, seconds: float) -> tuple[list[Look], list[str]]:
    looks, errors = list[Look](), list[str]()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers={"Authorization": f"Bearer {token}"}) as session:
        file = f"{url}/datasets/ada/read/resolve/main/{path}"
        async with session.get(file) as answer:
            data = await answer.read()
        until = time.monotonic() + seconds

        async def reader(number: int) -> None:
            rng = random.Random(number)
            while time.monotonic() < until:
                kind, address, span, expected = choose(rng, url, file, data)
                begin = time.monotonic()
                try:
                    method = "HEAD" if kind == "head" else "GET"
                    headers = {"Range": span} if span else {}
                    async with session.request(method, address, headers=headers) as answer:
                        body = await answer.read()
                        if answer.status != (206 if span else 200) or (expected is not None and body != expected):
                            errors.append(f"{kind}: status {answer.status}, {len(body)} bytes")
                            continue
                    looks.append(Look(kind, time.monotonic() - begin, len(body)))
                except (aiohttp.ClientError, TimeoutError) as error:
                    errors.append(f"{kind}: {type(error).__name__}: {error}")

        await asyncio.gather(*(reader(number) for number in range(readers)))
    return looks, errors


def choose(rng: random.Random, url: str, file: str, data: bytes) -> tuple[str, str, str, bytes | None]:
    """(kind, address, range, the bytes that must come): mostly ranges, as streaming does."""
    kind = rng.choices(["range", "tail", "head", "info", "tree"], [5, 2, 1, 1, 1])[0]
    if kind in ("range", "tail"):
        size = 65_536 if kind == "tail" else 262_144
        start = len(data) - size if kind == "tail" else rng.randrange(len(data) - size)
        return kind, file, f"bytes={start}-{start + size - 1}", data[start : start + size]
    api = f"{url}/api/datasets/ada/read"
    return (
        kind,
        {"head": file, "info": f"{api}/revision/main", "tree": f"{api}/tree/main?recursive=true"}[kind],
        "",
        None,
    )


def measure_gigabyte(folder: Path, options: argparse.Namespace) -> Result:
    """Files that do not compress, each way, by the official client; and what the machine itself can do."""
    source, size = folder / "in", int(options.gigabytes * 1e9)
    source.mkdir()
    for number in range(10):
        (source / f"{number}.parquet").write_bytes(np.random.default_rng(number).bytes(size // 10))
    found: Result = {"gigabytes": options.gigabytes, **measure_machine(folder, source)}
    for transport in ("xet", "lfs"):
        found |= measure_transport(folder / transport, source, transport)
        shutil.rmtree(folder / transport)
    return found


def measure_transport(folder: Path, source: Path, transport: str) -> Result:
    """MB/s up and down by Xet or LFS, and the server's memory meanwhile."""
    size = sum(path.stat().st_size for path in source.iterdir())
    more = {"HF_HUB_DISABLE_XET": "1"} if transport == "lfs" else {}
    name = ("ada/large", "--repo-type", "dataset")
    with served(folder / "hub") as hub:
        token = hub.token("ada")
        writer = Official(sys.executable, hub.url, token, folder / "one", more, LIMIT_S)
        reader = Official(sys.executable, hub.url, token, folder / "two", more, LIMIT_S)
        up = timed(size, lambda: writer.hf("upload", name[0], str(source), ".", *name[1:]))
        after_push = peak_mb(hub)
        down = timed(size, lambda: reader.hf("download", *name, "--local-dir", str(folder / "out")))
        measured = {"push": up, "pull": down, "push_server_mb": after_push, "server_mb": peak_mb(hub)}
    equal = all((folder / "out" / path.name).read_bytes() == path.read_bytes() for path in source.iterdir())
    return {f"{transport}_{key}": value for key, value in (measured | {"equal": equal}).items()}


def measure_machine(folder: Path, source: Path) -> Result:
    """MB/s of writing the same files to the disk, and of sending them by the plainest HTTP server of the same stack."""
    files = sorted(source.iterdir())
    size = sum(path.stat().st_size for path in files)
    found = {"disk_write": timed(size, lambda: write_all(files, folder / "copy"))}
    with plain_server(folder / "plain") as url:
        found["http_put"] = timed(size, lambda: asyncio.run(put_all(url, files)))
        found["http_get"] = timed(size, lambda: asyncio.run(get_all(url, files, folder / "got")))
    for used in ("copy", "plain", "got"):
        shutil.rmtree(folder / used)
    return found


def write_all(files: Sequence[Path], out: Path) -> None:
    out.mkdir()
    for path in files:
        with (out / path.name).open("wb") as file:
            file.write(path.read_bytes())
            file.flush()
            os.fsync(file.fileno())


PLAIN: Final = """
import os, socket, sys
from pathlib import Path
import uvicorn
from starlette.applications import Starlette
from starlette.responses import FileResponse, Response
from starlette.routing import Route
root = Path(sys.argv[1])
async def put(request):
    with (root / request.path_params["name"]).open("wb") as file:
        async for block in request.stream():
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    return Response()
async def get(request):
    return FileResponse(root / request.path_params["name"])
bound = socket.create_server(("127.0.0.1", 0))
print(bound.getsockname()[1], flush=True)
app = Starlette(routes=[Route("/{name}", put, methods=["PUT"]), Route("/{name}", get)])
uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[bound])
"""


@contextmanager
def plain_server(root: Path) -> Iterator[str]:
    """Files over HTTP by the same server and framework, and nothing else: no hashes, no metadata, no accounts."""
    root.mkdir()
    process = subprocess.Popen([sys.executable, "-c", PLAIN, str(root)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def put_all(url: str, files: Sequence[Path]) -> None:
    async with aiohttp.ClientSession() as session:
        for path in files:
            with path.open("rb") as file:
                async with session.put(f"{url}/{path.name}", data=file) as answer:
                    answer.raise_for_status()


async def get_all(url: str, files: Sequence[Path], out: Path) -> None:
    out.mkdir()
    async with aiohttp.ClientSession() as session:
        for path in files:
            async with session.get(f"{url}/{path.name}") as answer:
                with (out / path.name).open("wb") as file:
                    async for block in answer.content.iter_chunked(2**20):
                        file.write(block)


def refused(wire: Wire, status: int) -> int:
    return sum(exchange.status == status for exchange in wire.exchanges)


def peak_mb(hub: HubProcess) -> int:
    """The most memory that the hub's process has held so far."""
    assert hub.process is not None
    lines = Path(f"/proc/{hub.process.pid}/status").read_text().splitlines()
    kib = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return round(kib * 1024 / MB)


def cpu_s(hub: HubProcess) -> float:
    """CPU time that the hub's process has used so far."""
    assert hub.process is not None
    fields = Path(f"/proc/{hub.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load_now() -> float:
    return round(os.getloadavg()[0], 1)


def timed(size: int, work: Callable[[], object]) -> float:
    """MB/s of some work that moves `size` bytes."""
    begin = time.monotonic()
    work()
    return round(size / (time.monotonic() - begin) / MB, 1)


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


SECTIONS: Final[dict[str, Callable[[Path, argparse.Namespace], Result]]] = {
    "pushes": measure_pushes,
    "dedup": measure_dedup,
    "readers": measure_readers,
    "gigabyte": measure_gigabyte,
}
if __name__ == "__main__":
    main()
