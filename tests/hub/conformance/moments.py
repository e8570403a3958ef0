"""When a client or a hub is killed: at every step of an upload and of a commit."""

from __future__ import annotations

from dataclasses import replace

from conformance.hub_process import HubProcess
from conformance.wire import COMMIT, UPLOADS, Fault

DECLARED = r"POST /xet/[^/]+/v1/shards|POST /.*/info/lfs/verify"
MOMENTS = {
    "at the first byte": Fault(UPLOADS),
    "in the middle of the upload": Fault(UPLOADS, after=9_000_000),
    "between a file's bytes and its name": Fault(DECLARED),
    "before the commit": Fault(COMMIT),
}
"""When to kill, but for the act itself."""
INTO_THE_COMMIT_S = {f"{ms} ms into the commit": ms / 1000 for ms in (2, 10, 50)}
"""When to kill a hub that has been asked to commit: before, while and after it writes, depending on the machine."""


def fault_of_hub(hub: HubProcess, moment: str, line: str = COMMIT) -> Fault:
    """The hub is killed at that moment."""
    if (seconds := INTO_THE_COMMIT_S.get(moment)) is not None:
        return Fault(line, act=lambda: hub.kill_after(seconds), passing=True)
    return replace(MOMENTS[moment], act=hub.kill)
