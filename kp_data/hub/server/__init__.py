"""A dataset hub of one's own: serves, publishes and versions repositories for the official clients, unmodified.

app, routes/     the addresses, and the threat model
serve            a running server
auth, signing    who may do what; addresses that prove themselves
repositories, commits, trees    what is published, and its history
contents, objects               bytes
xet, xet_format                 storage by chunks
housekeeping, folders           garbage collection; export and import
webhooks, courier               telling others of changes
large_objects                   what takes up room, and taking it away for good
database, settings, names, refusals, web, describe, card_data, large_files
"""

from kp_data.hub.server.auth import TokenInfo
from kp_data.hub.server.folders import Exported, export_repo, import_folder
from kp_data.hub.server.housekeeping import Collected, collect_garbage
from kp_data.hub.server.hub import Hub, open_hub
from kp_data.hub.server.people import issue_token, join, revoke, tokens
from kp_data.hub.server.serve import running, serve
from kp_data.hub.server.settings import HubSettings, Limits

__all__ = [
    "Collected",
    "Exported",
    "Hub",
    "HubSettings",
    "Limits",
    "TokenInfo",
    "collect_garbage",
    "export_repo",
    "import_folder",
    "issue_token",
    "join",
    "open_hub",
    "revoke",
    "running",
    "serve",
    "tokens",
]
