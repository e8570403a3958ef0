"""How fast teachers are asked: this engine, durable, beside a bare aiohttp loop and a bare litellm gather.

All ask the same loopback server, which takes 50 ms an answer, one after another in one run; each is a process of its
own, so that CPU time and memory are its alone. Run it with `make bench`, or with --cells and --concurrency.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LATENCY_S = 0.05
REPLY = json.dumps(
    {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "bench",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": "Frost is a cold spell. " * 8 + "The answer is (A)."},
            }
        ],
        "usage": {"prompt_tokens": 80, "completion_tokens": 60, "total_tokens": 140},
    }
).encode()
MODELS = json.dumps({"object": "list", "data": [{"id": "bench", "object": "model"}]}).encode()


class Server(asyncio.Protocol):
    """An HTTP/1.1 server as small as can be: it must not be what is measured."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, mark, body = self.buffer.partition(b"\r\n\r\n")
        if not mark:
            return
        length = next(
            (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
        )
        if len(body) < length:
            return
        self.buffer = b""
        if head.startswith(b"POST"):
            asyncio.get_running_loop().call_later(LATENCY_S, self.send, REPLY)
        else:
            self.send(MODELS)

    def send(self, body: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        self.transport.write(head + body)


def serve(port: Any) -> None:
    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0, backlog=4096)
        port.value = server.sockets[0].getsockname()[1]
        await server.serve_forever()

    asyncio.run(run())


def messages(number: int) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": f"Question: what does thing {number} do in a hard frost?\n" + "(A) it digs\n" * 4}
    ]


def raw_aiohttp(url: str, cells: int, concurrency: int) -> None:
    """What one would write by hand: no retries, no store, no parsing."""
    import aiohttp

    async def run() -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            numbers = iter(range(cells))

            async def work() -> None:
                for number in numbers:
                    body = {"model": "bench", "messages": messages(number), "temperature": 0.0}
                    async with session.post(f"{url}/chat/completions", json=body) as answer:
                        (await answer.json())["choices"][0]["message"]["content"]

            await asyncio.gather(*(work() for _ in range(concurrency)))

    asyncio.run(run())


def raw_litellm(url: str, cells: int, concurrency: int) -> None:
    """A gather over litellm.acompletion behind a semaphore."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm

    litellm.suppress_debug_info = True

    async def run() -> None:
        gate = asyncio.Semaphore(concurrency)

        async def ask(number: int) -> None:
            async with gate:
                await litellm.acompletion(
                    model="openai/bench", api_base=url, api_key="none", messages=messages(number), max_retries=0
                )

        await asyncio.gather(*(ask(number) for number in range(cells)))

    asyncio.run(run())


def ours(url: str, cells: int, concurrency: int, transport: str = "direct") -> None:
    """The whole of generate: plan, ask, durable store, parse, export."""
    from kp_data.config import Generate, Teacher
    from kp_data.generate import generate_panel

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "q.jsonl"
        with source.open("w") as lines:
            for number in range(cells // 5):
                question = f"What does thing {number} do in a hard frost?"
                row = {
                    "id": str(number),
                    "question": question,
                    "choices": ["it digs", "it sleeps"],
                    "answer": "it digs",
                }
                lines.write(json.dumps(row) + "\n")
        # Five names for one account: five cells a question, told apart by temperature.
        teachers = [
            Teacher(name=f"t{n}", model="bench", api_base=url, temperature=n / 10, concurrency=concurrency)
            for n in range(5)
        ]
        options = Generate(concurrency=concurrency, transport=transport)  # type: ignore[arg-type]
        summary = generate_panel(str(source), out=Path(folder) / "panel", teachers=teachers, options=options)
        assert summary.left == 0


def ours_litellm(url: str, cells: int, concurrency: int) -> None:
    """The same through litellm."""
    ours(url, cells, concurrency, transport="litellm")


def measure(task: Callable[[str, int, int], None], url: str, cells: int, concurrency: int) -> dict[str, float]:
    """Wall seconds, CPU seconds and peak memory of one task in a process of its own; start-up is counted too."""
    started = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
        try:
            task(url, cells, concurrency)
        except BaseException as error:
            print(f"{task.__name__} failed: {error}", flush=True)
            os._exit(1)
        os._exit(0)
    _, status, usage = os.wait4(pid, 0)
    assert status == 0, f"{task.__name__} failed"
    seconds = time.perf_counter() - started
    unit = 1024 if sys.platform != "darwin" else 1024 * 1024
    return {
        "calls/s": cells / seconds,
        "cpu ms a call": 1000 * (usage.ru_utime + usage.ru_stime) / cells,
        "peak MiB": usage.ru_maxrss / unit,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--concurrency", type=int, default=256)
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    port = multiprocessing.Value("i", 0)
    server = multiprocessing.Process(target=serve, args=(port,), daemon=True)
    server.start()
    while port.value == 0:
        time.sleep(0.01)
    url = f"http://127.0.0.1:{port.value}/v1"
    slow = max(500, options.cells // 20)
    tasks = [(raw_aiohttp, options.cells), (ours, options.cells), (raw_litellm, slow), (ours_litellm, slow)]
    print(f"{'':16}{'calls':>8}{'calls/s':>10}{'of aiohttp':>12}{'cpu ms a call':>15}{'peak MiB':>10}")
    first = None
    for task, cells in tasks:
        figures = measure(task, url, cells, options.concurrency)
        first = first or figures["calls/s"]
        print(
            f"{task.__name__:16}{cells:>8}{figures['calls/s']:>10.0f}{figures['calls/s'] / first:>12.2f}"
            f"{figures['cpu ms a call']:>15.2f}{figures['peak MiB']:>10.0f}",
            flush=True,
        )
    server.terminate()


if __name__ == "__main__":
    main()
