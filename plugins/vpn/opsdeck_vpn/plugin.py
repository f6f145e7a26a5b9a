"""The plugin's hooks: a table of contents of what it brings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from opsdeck.api import hookimpl

if TYPE_CHECKING:
    import click

    from opsdeck.api import Deck, Finding, Host, HostCard, Manifest


@hookimpl
def opsdeck_manifest() -> Manifest:
    """Say what the plugin brings."""
    from opsdeck.api import API, Manifest, NavItem, SecretKind
    from opsdeck_vpn import actions, models, watch
    from opsdeck_vpn.web import routes

    return Manifest(
        name="vpn",
        version="0.1.0",
        api=API,
        package="opsdeck_vpn",
        title="Office network",
        actions=actions.ALL,
        services=(watch.watcher,),
        models=(models.Tunnel, models.Rule, models.Proxy, models.Device, models.Fetch, models.Proof),
        routes=routes.inside,
        open_routes=routes.outside,
        navigation=(NavItem("Office network", "/"),),
        secret_kinds=(
            SecretKind("vpn-profile", "VPN profile"),
            SecretKind("totp-seed", "Seed of one-time codes", _seed),
        ),
    )


def _seed(text: str) -> None:
    from opsdeck_vpn.enrol import check_seed

    check_seed(text)


@hookimpl
def opsdeck_commands(cli: click.Group) -> None:
    """Add `opsdeck vpn`."""
    from opsdeck_vpn.cli import vpn

    cli.add_command(vpn)


@hookimpl
async def opsdeck_health(deck: Deck) -> Sequence[Finding]:
    """Say how each tunnel is."""
    from opsdeck_vpn import health

    return await health.findings(deck)


@hookimpl
async def opsdeck_host_cards(deck: Deck, host: Host) -> Sequence[HostCard]:
    """Show the tunnels that a host dials."""
    from opsdeck_vpn import health

    return await health.cards(deck, host.name)
