"""A hub of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kp_data.cli.app import app
from kp_data.cli.options import PUBLISH, Json
from kp_data.console import out_json, say
from kp_data.errors import ConfigError

hub_app = typer.Typer(no_args_is_help=True, help="A hub of one's own, for the official clients.")
token_app = typer.Typer(no_args_is_help=True, help="Who may read and write.")
app.add_typer(hub_app, name="hub", rich_help_panel=PUBLISH)
hub_app.add_typer(token_app, name="token")

Root = Annotated[Path, typer.Option(help="The hub's folder.", show_default=False)]
Database = Annotated[str | None, typer.Option(metavar="URL", help="Metadata; default: SQLite in the folder.")]
Objects = Annotated[str | None, typer.Option(metavar="URL", help="fsspec URL of the objects, such as s3://bucket/hub.")]


@hub_app.command("serve")
def hub_serve(
    root: Root,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes any free one.")] = 8000,
    public_url: Annotated[str | None, typer.Option(help="Where clients find it, behind a proxy.")] = None,
    database: Database = None,
    objects: Objects = None,
    quota: Annotated[float | None, typer.Option(metavar="GB", help="Of every namespace.")] = None,
    merge_cards: Annotated[
        bool, typer.Option("--merge-cards", help="Put pushes of different configs together that meet in README.md.")
    ] = False,
    direct_downloads: Annotated[
        bool,
        typer.Option("--direct-downloads", help="Send readers of large files to the object store, where it signs."),
    ] = False,
    webhooks: Annotated[str, typer.Option(help="Whom to tell of changes: public addresses, any, or off.")] = "public",
    explorer: Annotated[bool, typer.Option(help="Show datasets as pages, too.")] = True,
) -> None:
    """Serve datasets to huggingface_hub, datasets and everything built on them."""
    from kp_data.hub.server import HubSettings, Limits, serve

    if quota is not None and not 0 <= quota < 1e9:
        raise ConfigError(f"{quota:g} is no quota; give a number of GB, such as 50", place="--quota")
    if webhooks not in ("public", "any", "off"):
        raise ConfigError(f"{webhooks!r} is none of public, any, off", place="--webhooks")
    settings = HubSettings(
        root,
        host,
        port,
        database,
        objects,
        public_url,
        merge_cards,
        direct_downloads,
        webhooks,  # type: ignore[arg-type]
        Limits(quota_bytes=None if quota is None else int(quota * 1e9)),
        explorer,
    )
    serve(settings, lambda url: say(f"serving at {url}; clients need HF_ENDPOINT={url} and HF_TOKEN; Ctrl-C stops"))


@token_app.command("create")
def token_create(
    root: Root,
    user: Annotated[str, typer.Option(help="Whose; made when new.", show_default=False)],
    write: Annotated[bool, typer.Option("--write", help="It may write, too.")] = False,
    org: Annotated[list[str] | None, typer.Option(help="Organisation the user joins. Repeatable.")] = None,
    days: Annotated[float | None, typer.Option(help="How long it lasts; default: until revoked.")] = None,
    database: Database = None,
    json_: Json = False,
) -> None:
    """A new token, shown once."""
    from kp_data.hub.server import HubSettings, issue_token, join, open_hub

    with open_hub(HubSettings(root, database=database), with_objects=False) as hub:
        token, info = issue_token(hub, user, write=write, days=days)
        for name in org or ():
            join(hub, name, user, write=write)
    if json_:
        out_json({"token": token, "id": info.id, "user": user, "role": info.role})
    else:
        say(f"{info.role} token of {user}, id {info.id}; it is shown only now:")
        print(token)


@token_app.command("list")
def token_list(root: Root, database: Database = None, json_: Json = False) -> None:
    """Tokens by id; the tokens themselves are not kept."""
    from kp_data.hub.server import HubSettings, open_hub, tokens

    with open_hub(HubSettings(root, database=database), create=False, with_objects=False) as hub:
        found = tokens(hub)
    if json_:
        out_json([{"id": t.id, "user": t.user, "role": t.role, "expires_at": t.expires_at} for t in found])
    else:
        for t in found:
            print(f"{t.id}  {t.role:5}  {t.user}")


@token_app.command("revoke")
def token_revoke(
    root: Root, token_id: Annotated[str, typer.Argument(metavar="ID", show_default=False)], database: Database = None
) -> None:
    """Make a token worthless."""
    from kp_data.hub.server import HubSettings, open_hub, revoke

    with open_hub(HubSettings(root, database=database), create=False, with_objects=False) as hub:
        revoke(hub, token_id)
    say("revoked")


@hub_app.command("gc")
def hub_gc(
    root: Root,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be freed.")] = False,
    database: Database = None,
    objects: Objects = None,
    json_: Json = False,
) -> None:
    """Free what no branch or tag reaches and nobody sent in the last day."""
    from kp_data.hub.server import HubSettings, collect_garbage, open_hub

    with open_hub(HubSettings(root, database=database, objects=objects), create=False) as hub:
        freed = collect_garbage(hub, dry_run=dry_run)
    if json_:
        out_json(freed.as_dict())
    else:
        verb = "would free" if dry_run else "freed"
        say(f"{verb} {freed.bytes / 1e6:.1f} MB: {freed.files} files, {freed.xorbs} xorbs, {freed.strays} strays")


@hub_app.command("export")
def hub_export(
    name: Annotated[str, typer.Argument(metavar="NAME[@V]", show_default=False)],
    root: Root,
    out: Annotated[Path, typer.Option(help="New folder.", show_default=False)],
    database: Database = None,
    objects: Objects = None,
    json_: Json = False,
) -> None:
    """A dataset as a plain folder."""
    from kp_data.hub.server import HubSettings, export_repo, open_hub

    short, _, revision = name.partition("@")
    with open_hub(HubSettings(root, database=database, objects=objects), create=False) as hub:
        done = export_repo(hub, short, out, revision=revision or "main")
    if json_:
        out_json({"repo": done.repo, "commit": done.commit, "files": done.files, "bytes": done.bytes, "out": str(out)})
    else:
        say(f"{done.files} files, {done.bytes / 1e6:.1f} MB of {done.repo} at {done.commit[:9]} in {out}")


@hub_app.command("import")
def hub_import(
    folder: Annotated[Path, typer.Argument(metavar="DIR", show_default=False)],
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False)],
    root: Root,
    private: Annotated[bool, typer.Option("--private", help="Make a new dataset private.")] = False,
    message: Annotated[str, typer.Option(help="Of the commit.")] = "Import a folder",
    database: Database = None,
    objects: Objects = None,
) -> None:
    """A folder as a dataset, without a client."""
    from kp_data.hub.server import HubSettings, import_folder, open_hub

    if not folder.is_dir():
        raise ConfigError("no such folder", place=folder)
    with open_hub(HubSettings(root, database=database, objects=objects)) as hub:
        say(f"{name} stands at {import_folder(hub, folder, name, private=private, message=message)[:9]}")
