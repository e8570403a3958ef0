"""The report of a run: what calls were spent on, what was kept, and whether the assistant's word holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

REPORT_HTML: Final = "report.html"


def write_report(record: Mapping[str, Any], folder: Path) -> None:
    """Write report.html."""
