"""The practice world, for a try without a key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kp_data.cli.app import practice_app
from kp_data.cli.options import Seed
from kp_data.console import say


@practice_app.command("serve")
def practice_serve(
    port: Annotated[int, typer.Option(help="0 takes any free one.")] = 8800,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    replay: Annotated[
        Path | None, typer.Option(help="Serve the recorded answers of this panel; teacher by model name.")
    ] = None,
    latency: Annotated[float, typer.Option(help="Seconds every answer takes.")] = 0.0,
    faults: Annotated[
        str | None, typer.Option(help="Such as '429:0.1,500:0.05,hang:0.01,broken:0.02', or a sequence '500,429,ok'.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Serve the practice teachers, or a panel's recorded answers, as an OpenAI-compatible server."""
    import asyncio

    from kp_data.practice import ServerSettings, run_server

    settings = ServerSettings(host=host, port=port, replay=replay, latency_s=latency, faults=faults or "", seed=seed)
    asyncio.run(run_server(settings, lambda url: say(f"serving at {url}; Ctrl-C stops")))
