"""The plugin's hooks: a table of contents of what it brings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from opsdeck.api import hookimpl

if TYPE_CHECKING:
    import click

    from opsdeck.api import Deck, Finding, Host, HostCard, Manifest

VERSION = "0.1.0"


@hookimpl
def opsdeck_manifest() -> Manifest:
    """Say what the plugin brings."""
    from opsdeck.api import API, Manifest, NavItem, SecretKind
    from opsdeck_backup import drill, foreign, keep, keydrill, keys, models, restore, stores, take, targets, watch
    from opsdeck_backup.kube import restore as kube
    from opsdeck_backup.web import routes

    return Manifest(
        name="backup",
        version=VERSION,
        api=API,
        package="opsdeck_backup",
        title="Backups",
        actions=(
            targets.target,
            take.run,
            drill.drill,
            keydrill.drill_key,
            restore.restore,
            kube.restore_pod,
            keep.prune,
            keep.clean,
            targets.refresh,
            foreign.adopt,
            targets.drop,
        ),
        services=(watch.watch,),
        models=(models.Target, models.Item, models.Proof),
        routes=routes.routes,
        navigation=(NavItem("Backups", "/p/backup/", order=20),),
        secret_kinds=(
            SecretKind("rclone-config", "Configuration of rclone", stores.check_config),
            SecretKind("age-identity", "age identity", keys.check_identity),
        ),
    )


@hookimpl
def opsdeck_commands(cli: click.Group) -> None:
    """Add `opsdeck backup`."""
    from opsdeck_backup.commands import backup

    cli.add_command(backup)


@hookimpl
async def opsdeck_health(deck: Deck) -> Sequence[Finding]:
    """Say of each target whether its newest backup is fresh and proven."""
    from opsdeck_backup import health

    return await health.findings(deck)


@hookimpl
async def opsdeck_host_cards(deck: Deck, host: Host) -> Sequence[HostCard]:
    """Show the targets on a host's page."""
    from opsdeck_backup import health

    return await health.cards(deck, host.name)
