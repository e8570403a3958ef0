"""Who is measured: each asks the same endpoint so many questions, as its own documentation says.

Only the standard library is imported here: the peers live in environments of their own.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Contestant:
    """One way to ask.

    Attributes:
        run: takes the URL, the number of calls and how many at a time.
        package: what is measured, for its version.
        share: which part of the calls it gets: rates count, and nobody waits for the slow ones.
    """

    run: Callable[[str, int, int], None]
    package: str
    share: float = 1.0


def question(number: int) -> str:
    """One question, as long as a real one with its choices."""
    return f"Question: what does thing {number} do in a hard frost?\n" + "(A) it digs\n" * 4


def messages(number: int) -> list[dict[str, str]]:
    """The chat of one question."""
    return [{"role": "user", "content": question(number)}]


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
                text = f"What does thing {number} do in a hard frost?"
                row = {"id": str(number), "question": text, "choices": ["it digs", "it sleeps"], "answer": "it digs"}
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


def distilabel(url: str, cells: int, concurrency: int) -> None:
    """A pipeline with one TextGeneration step; a batch is asked at once, so its size is the concurrency."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"HF_HUB_OFFLINE": "1", "DISTILABEL_LOG_LEVEL": "ERROR"}
        from distilabel.models import OpenAILLM
        from distilabel.pipeline import Pipeline
        from distilabel.steps.tasks import TextGeneration

        with Pipeline(name="bench", cache_dir=folder) as pipeline:
            TextGeneration(llm=OpenAILLM(model="bench", base_url=url, api_key="none"), input_batch_size=concurrency)
        rows = [{"instruction": question(number)} for number in range(cells)]
        result = pipeline.run(dataset=rows, dataset_batch_size=concurrency, use_cache=False)
        assert sum(row["generation"] is not None for row in result["default"]["train"]) == cells


def curator(url: str, cells: int, concurrency: int) -> None:
    """An LLM object over all prompts, with its own client for OpenAI-compatible servers and limits out of the way."""
    litellm = importlib.util.find_spec("litellm")
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {
            # It counts tokens with a vocabulary from the internet; litellm brings the same file along.
            "TIKTOKEN_CACHE_DIR": str(Path(str(litellm and litellm.origin)).parent / "litellm_core_utils/tokenizers"),
            "TELEMETRY_ENABLED": "false",
            "CURATOR_DISABLE_RICH_DISPLAY": "1",
            "CURATOR_CACHE_DIR": folder,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "HF_HUB_OFFLINE": "1",
            "OPENAI_API_KEY": "none",
        }
        from bespokelabs import curator as package

        llm = package.LLM(
            model_name="bench",
            backend="openai",
            backend_params={
                "base_url": url,
                "api_key": "none",
                "max_concurrent_requests": concurrency,
                "max_requests_per_minute": 10_000_000,
                "max_tokens_per_minute": 10_000_000_000,
            },
        )
        result = llm([question(number) for number in range(cells)], working_dir=folder)
        assert len(result.dataset) == cells


def inspect_ai(url: str, cells: int, concurrency: int) -> None:
    """A task of one generate step for each question, without a scorer."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"BENCH_API_KEY": "none", "BENCH_BASE_URL": url, "XDG_DATA_HOME": folder}
        from inspect_ai import Task
        from inspect_ai import eval as evaluate
        from inspect_ai.dataset import MemoryDataset, Sample
        from inspect_ai.solver import generate

        task = Task(
            dataset=MemoryDataset([Sample(input=question(number)) for number in range(cells)]), solver=generate()
        )
        (log,) = evaluate(
            task,
            model="openai-api/bench/bench",
            max_connections=concurrency,
            max_samples=concurrency,
            log_dir=folder,
            display="none",
            score=False,
        )
        assert log.status == "success", log.error


CONTESTANTS = {
    "raw_aiohttp": Contestant(raw_aiohttp, "aiohttp"),
    "ours": Contestant(ours, "knowledge-purification"),
    "raw_litellm": Contestant(raw_litellm, "litellm", 0.25),
    "ours_litellm": Contestant(ours_litellm, "knowledge-purification", 0.25),
    "distilabel": Contestant(distilabel, "distilabel", 0.25),
    "curator": Contestant(curator, "bespokelabs-curator", 0.25),
    "inspect_ai": Contestant(inspect_ai, "inspect_ai", 0.25),
}
