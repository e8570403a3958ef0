"""Publishing: releases of purified data on the Hugging Face Hub, on a hub that speaks its protocol, or in a folder."""

from kp_data.hub.cards import CardSettings
from kp_data.hub.publish import PublishedVersion, PushResult, diff, fetch, pull, push, versions
from kp_data.hub.release import Release, build_release
from kp_data.hub.versions import RowDiff, Version, diff_rows

__all__ = [
    "CardSettings",
    "PublishedVersion",
    "PushResult",
    "Release",
    "RowDiff",
    "Version",
    "build_release",
    "diff",
    "diff_rows",
    "fetch",
    "pull",
    "push",
    "versions",
]
