"""Every hook: a signature and one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import click

    from opsdeck.deck import Deck
    from opsdeck.events import Event
    from opsdeck.inventory.models import Host
    from opsdeck.manifest import Finding, HostCard, Manifest

hookspec = pluggy.HookspecMarker("opsdeck")
hookimpl = pluggy.HookimplMarker("opsdeck")


class Hooks:
    """The hooks of OpsDeck. All are called one plugin at a time, so one that fails stops nobody else."""

    @hookspec
    def opsdeck_manifest(self) -> Manifest:  # type: ignore[empty-body]
        """Give the plugin's manifest."""

    @hookspec
    def opsdeck_commands(self, cli: click.Group) -> None:
        """Add commands to the CLI."""

    @hookspec
    async def opsdeck_health(self, deck: Deck) -> Sequence[Finding]:  # type: ignore[empty-body]
        """Tell what is well and what is not, for `opsdeck doctor` and the health page."""

    @hookspec
    async def opsdeck_host_cards(self, deck: Deck, host: Host) -> Sequence[HostCard]:  # type: ignore[empty-body]
        """Give the cards that the plugin shows on a host's page."""

    @hookspec
    def opsdeck_on_event(self, event: Event) -> None:
        """Hear of an event; do not wait in it."""
