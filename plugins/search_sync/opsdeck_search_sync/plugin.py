"""The plugin's hooks: a table of contents of what it brings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from opsdeck.api import hookimpl

if TYPE_CHECKING:
    from opsdeck.api import Deck, Finding, Manifest

if TYPE_CHECKING:
    import click


@hookimpl
def opsdeck_manifest() -> Manifest:
    """Say what the plugin brings."""
    from opsdeck.api import API, Manifest, NavItem, SecretKind
    from opsdeck_search_sync.actions import ACTIONS
    from opsdeck_search_sync.models import DeadLetter, Generation, Instance, Minute, Reading, Source, Sync
    from opsdeck_search_sync.stream import stream
    from opsdeck_search_sync.web.pages import routes

    return Manifest(
        name="search_sync",
        version="1.0",
        api=API,
        package="opsdeck_search_sync",
        title="Search sync",
        actions=ACTIONS,
        services=(stream,),
        models=(Source, Instance, Sync, Generation, Reading, Minute, DeadLetter),
        routes=routes,
        navigation=(NavItem("Search sync", "/", 60),),
        secret_kinds=(SecretKind("meilisearch-key", "API key of a Meilisearch"),),
    )


@hookimpl
def opsdeck_commands(cli: click.Group) -> None:
    """Add `opsdeck search-sync`."""
    from opsdeck_search_sync.commands import search_sync

    cli.add_command(search_sync)


@hookimpl
async def opsdeck_health(deck: Deck) -> Sequence[Finding]:
    """Say how each sync does."""
    from opsdeck_search_sync.health import findings

    return await findings(deck.db)
