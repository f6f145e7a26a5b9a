"""How the tunnels stand, for `opsdeck doctor`, the health page and the pages of their hosts."""

from __future__ import annotations

from opsdeck.api import Deck, Finding, HostCard
from opsdeck_vpn import tunnels
from opsdeck_vpn.models import State

_STATES = {State.UP: "ok", State.FAILED: "broken", State.DEGRADED: "broken", State.DOWN: "ok"}


async def findings(deck: Deck) -> list[Finding]:
    """Say how each tunnel is."""
    found = []
    for row in await tunnels.every(deck.db):
        state = State(row.state)
        text = f"{state.value}{f': {row.reason}' if row.reason else ''}"
        hint = "" if state in (State.UP, State.DOWN) else f"opsdeck vpn show {row.name}"
        found.append(Finding(f"tunnel {row.name}", _STATES.get(state, "attention"), text, hint))
    return found


async def cards(deck: Deck, host: str) -> list[HostCard]:
    """Show the tunnels that a host dials."""
    return [
        HostCard(
            f"Tunnel {row.name}",
            _STATES.get(State(row.state), "attention"),
            (("state", row.state), ("SOCKS port", f"{row.listen}:{row.port}"), ("why", row.reason or "–")),
            f"/p/vpn/tunnels/{row.name}",
        )
        for row in await tunnels.every(deck.db)
        if row.host == host
    ]
