"""The plugin's hooks: a table of contents of what it brings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from opsdeck.api import API, Deck, Finding, Host, HostCard, Manifest, NavItem, SecretKind, hookimpl
from opsdeck_vpn import actions, models, tunnels
from opsdeck_vpn.models import State
from opsdeck_vpn.watch import watcher

if TYPE_CHECKING:
    import click

_HEALTH = {State.UP: "ok", State.FAILED: "broken", State.DEGRADED: "broken", State.DOWN: "ok"}


@hookimpl
def opsdeck_manifest() -> Manifest:
    """Say what the plugin brings."""
    from opsdeck_vpn.web import routes

    return Manifest(
        name="vpn",
        version="0.1.0",
        api=API,
        package="opsdeck_vpn",
        title="Office network",
        actions=actions.ALL,
        services=(watcher,),
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
    found = []
    for row in await tunnels.every(deck.db):
        state = State(row.state)
        text = f"{state.value}{f': {row.reason}' if row.reason else ''}"
        hint = "" if state in (State.UP, State.DOWN) else f"opsdeck vpn show {row.name}"
        found.append(Finding(f"tunnel {row.name}", _HEALTH.get(state, "attention"), text, hint))
    return found


@hookimpl
async def opsdeck_host_cards(deck: Deck, host: Host) -> Sequence[HostCard]:
    """Show the tunnels that a host dials."""
    return [
        HostCard(
            f"Tunnel {row.name}",
            _HEALTH.get(State(row.state), "attention"),
            (("state", row.state), ("SOCKS port", f"{row.listen}:{row.port}"), ("why", row.reason or "–")),
            f"/p/vpn/tunnels/{row.name}",
        )
        for row in await tunnels.every(deck.db)
        if row.host == host.name
    ]
