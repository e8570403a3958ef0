"""Publishing: releases of purified data on the Hugging Face Hub, on a hub that speaks its protocol, or in a folder."""

from kp_data.hub.fetching import PublishedVersion, diff, fetch, pull, read_rows, versions
from kp_data.hub.front_matter import CardSettings
from kp_data.hub.leaks import Leak, LeakCheck, LeakError, find_leaks
from kp_data.hub.publish import FileChange, PushResult, push
from kp_data.hub.release import Release, build_release
from kp_data.hub.versions import RowDiff, Version, diff_rows

__all__ = [
    "CardSettings",
    "FileChange",
    "Leak",
    "LeakCheck",
    "LeakError",
    "PublishedVersion",
    "PushResult",
    "Release",
    "RowDiff",
    "Version",
    "build_release",
    "diff",
    "diff_rows",
    "fetch",
    "find_leaks",
    "pull",
    "push",
    "read_rows",
    "versions",
]
