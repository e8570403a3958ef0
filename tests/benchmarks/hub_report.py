"""What the hub's benchmark measured, as Markdown, with what was wanted beside it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

MB: Final = 1e6

Result = dict[str, Any]


def render(found: Mapping[str, Result]) -> str:
    """What was measured, as Markdown; a section that was never measured is left out."""
    names = ("huggingface-hub", "datasets", "hf-xet", "pyarrow", "starlette", "uvicorn")
    packages = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    python = f"Python {platform.python_version()}"
    text = f"# The hub under load, {max(section['at'] for section in found.values())[:10]}\n\n"
    text += f"Machine: {os.cpu_count()} CPUs ({cpu()}), {platform.system()}; {python}; {packages}.\n"
    text += (
        "The hub, its clients and whatever else runs share the CPUs; the load average (one minute) before and after a\n"
    )
    text += "section stands in its heading. MB are millions of bytes. Server memory is the process's peak (VmHWM).\n"
    for name, section in found.items():
        text += f"\n## {name}: {section['at']} UTC, load {section['load_before']} to {section['load_after']}\n\n"
        text += "\n".join(RENDERERS[name](section)) + "\n"
    return text + "\n    python tests/benchmarks/hub.py --out RESULTS.md\n"


def goal(text: str, value: float | str, wanted: str, met: bool) -> str:
    return f"* {text}: {value} (wanted: {wanted}; {'met' if met else 'missed'})"


def render_pushes(of: Result) -> list[str]:
    whole = of["pushes"]
    return [
        f"{of['pushers']} processes publish {whole} different versions of one dataset, each by a `kp-data push` of its",
        "own.",
        "",
        goal("pushes that succeeded", f"{of['succeeded']} of {whole}", "all", of["succeeded"] == whole),
        goal("versions, each with its own tag", of["versions"], f"{whole}", of["versions"] == whole),
        goal("commits on main", of["commits"], f"{whole}", of["commits"] == whole),
        goal("every version names the one before as parent", of["linear"], "True", of["linear"]),
        goal(
            "tables that read back from their version row by row",
            of["tables_found"],
            f"{whole}",
            of["tables_found"] == whole,
        ),
        goal(
            "commits that the pushes named and main holds",
            of["commits_of_versions"],
            f"{whole}",
            of["commits_of_versions"] == whole,
        ),
        f"* commits refused with 412 and made again: {of['overtaken']}",
        f"* seconds for all: {of['push_seconds']}; server memory: {of['server_mb']} MB",
    ]


def render_dedup(of: Result) -> list[str]:
    share = {name: of[f"{name}_bytes"] / of["version_bytes"] for name in ("same", "fresh")}
    return [
        f"{of['rows']:,} purified rows ({of['version_bytes'] / MB:.1f} MB as Parquet); the next version has",
        f"{of['rows_changed']} rows edited anywhere and {of['rows_added']:,} appended. Counted are the bodies of all",
        "requests of `kp-data push`.",
        "",
        goal(
            "sent from the same machine",
            f"{of['same_bytes'] / MB:.2f} MB, {share['same']:.1%}",
            "at most 10 %",
            share["same"] <= 0.1,
        ),
        goal(
            "sent from a fresh machine",
            f"{of['fresh_bytes'] / MB:.2f} MB, {share['fresh']:.1%}",
            "at most 15 %",
            share["fresh"] <= 0.15,
        ),
        f"* the first version: {of['same_first_bytes'] / MB:.2f} MB; server memory: {of['server_mb']} MB",
    ]


def render_readers(of: Result) -> list[str]:
    return [
        f"{of['readers']} readers for {of['reading_s']:.0f} s without a pause: half ranges of 256 KiB, a fifth",
        "the last 64 KiB, the rest HEAD, info and tree. Every byte is compared with what was pushed; the hub puts it",
        "together from chunks, for it came by Xet.",
        "",
        goal("errors", of["errors"], "0", of["errors"] == 0),
        f"* requests a second: {of['requests_a_second']:,} ({of['requests']:,} in all, {of['mb_a_second']} MB/s)",
        f"* CPU of the hub a request, ms: {of['server_cpu_ms']}",
        f"* latency, ms: {of['p50_ms']} median, {of['p95_ms']} p95, {of['p99_ms']} p99",
        f"* median by kind, ms: {', '.join(f'{kind} {ms}' for kind, ms in of['p50_ms_by_kind'].items())}",
        f"* server memory: {of['server_mb']} MB",
    ]


def render_gigabyte(of: Result) -> list[str]:
    rows: list[tuple[str, str, str | None]] = [
        ("write to the disk, with fsync", "disk_write", None),
        ("plain HTTP PUT to disk, with fsync", "http_put", None),
    ]
    rows += [("plain HTTP GET to disk", "http_get", None)]
    for transport in ("xet", "lfs"):
        rows += [(f"`hf upload`, {transport}", f"{transport}_push", f"{transport}_push_server_mb")]
        rows += [(f"`hf download`, {transport}", f"{transport}_pull", f"{transport}_server_mb")]
    most = max(of["xet_server_mb"], of["lfs_server_mb"])
    lines = [
        f"| {text} | {of[key]:.0f} | {of[key] / of['disk_write']:.2f} | {of[memory] if memory else ''} |"
        for text, key, memory in rows
    ]
    return [
        f"{of['gigabytes']} GB in ten files that do not compress; starting the client is part of its time.",
        "",
        "|  | MB/s | of the disk | server MB |",
        "| --- | ---: | ---: | ---: |",
        *lines,
        "",
        goal("server memory throughout", f"{most} MB", "below 300 MB", most < 300),
        goal(
            "files that came back as they were",
            of["xet_equal"] and of["lfs_equal"],
            "True",
            of["xet_equal"] and of["lfs_equal"],
        ),
    ]


def cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


RENDERERS: Final[dict[str, Callable[[Result], list[str]]]] = {
    "pushes": render_pushes,
    "dedup": render_dedup,
    "readers": render_readers,
    "gigabyte": render_gigabyte,
}
