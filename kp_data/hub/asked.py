"""How the teachers of a purified folder were asked, for its card.

A purified folder holds what the teachers said; how they were asked stands in `run.json` of the panel it was made from.
Addresses of endpoints stay at home: a card says what kind they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from kp_data.errors import DataError
from kp_data.summary import FolderTables
from kp_data.tables import read_json


@dataclass(frozen=True, slots=True)
class Asked:
    """How one teacher was asked. None: not known.

    Attributes:
        model: as it was configured.
        endpoint: `practice`, `url` (an OpenAI-compatible endpoint given by URL), or the provider's name.
        temperature: as it was sent.
        max_tokens: as it was sent.
        first: day of its first response, as YYYY-MM-DD in UTC.
        last: day of its last response.
    """

    model: str | None = None
    endpoint: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    first: str | None = None
    last: str | None = None


def read_asked(tables: FolderTables, panel: Path | None = None) -> dict[str, Asked]:
    """Teacher to how it was asked, as far as responses and panel tell.

    Args:
        tables: of a purified folder, whose `run.json` may repeat the panel's under `panel`.
        panel: the panel folder it was made from.

    Raises:
        DataError: `panel` has no `run.json`, or its responses are not the ones that were purified.
    """
    if tables.responses is None:
        return {}
    run = tables.run.get("panel") if panel is None else _panel_run(Path(panel), tables)
    entries = run.get("teachers") if isinstance(run, dict) else None
    known = {entry["name"]: entry for entry in entries or () if isinstance(entry, dict) and "name" in entry}
    names = pc.unique(tables.responses["teacher"]).to_pylist()
    return {name: _asked(known.get(name, {}), *_days(tables.responses, name)) for name in names}


def _panel_run(panel: Path, tables: FolderTables) -> Any:
    run = read_json(panel / "run.json")
    entries = run.get("teachers") if isinstance(run, dict) else None
    if not (isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)):
        raise DataError("does not say how the teachers were asked; give the panel folder", place=panel / "run.json")
    purified_from = (tables.run.get("inputs") or {}).get("responses.parquet")
    if purified_from is not None:
        path = panel / "responses.parquet"
        found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        if found != purified_from:
            raise DataError("not the panel that this folder was purified from, or it has changed since", place=panel)
    return run


def _asked(entry: Mapping[str, Any], first: str | None, last: str | None) -> Asked:
    temperature, max_tokens = entry.get("temperature"), entry.get("max_tokens")
    return Asked(
        model=entry["model"] if isinstance(entry.get("model"), str) else None,
        endpoint=_endpoint_kind(entry),
        temperature=float(temperature) if isinstance(temperature, int | float) else None,
        max_tokens=max_tokens if isinstance(max_tokens, int) else None,
        first=first,
        last=last,
    )


def _endpoint_kind(entry: Mapping[str, Any]) -> str | None:
    model = entry.get("model")
    if not isinstance(model, str):
        return None
    provider = model.partition("/")[0] if "/" in model else "openai"
    return "practice" if provider == "practice" else "url" if entry.get("api_base") or entry.get("by_url") else provider


def _days(responses: pa.Table, teacher: str) -> tuple[str | None, str | None]:
    times = pc.min_max(responses.filter(pc.equal(responses["teacher"], teacher))["created_at"])
    return _day(times["min"].as_py()), _day(times["max"].as_py())


def _day(time: Any) -> str | None:
    return None if time is None else str(time.date().isoformat())
