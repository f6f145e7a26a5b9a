"""The table of contents of the plugin: what it brings, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from opsdeck.api import hookimpl

if TYPE_CHECKING:
    from opsdeck.api import Deck, Finding, Host, HostCard, Manifest

VERSION = "0.1.0"


@hookimpl
def opsdeck_manifest() -> Manifest:
    """Give the manifest."""
    from opsdeck.api import API, Manifest, NavItem
    from opsdeck_cdn import (
        checkup,
        deploy,
        draining,
        editing,
        health,
        models,
        naming,
        purging,
        settings,
        sight,
        warming,
    )
    from opsdeck_cdn.web import pages

    return Manifest(
        name="cdn",
        version=VERSION,
        api=API,
        package="opsdeck_cdn",
        title="CDN",
        actions=(
            deploy.deploy,
            purging.purge,
            purging.settle_debts,
            warming.warm,
            sight.stats,
            editing.site,
            editing.edge,
            settings.setup,
            naming.nameserver,
            naming.dns,
            naming.geoip,
            draining.drain,
            checkup.check,
            editing.remove_site,
            editing.remove_edge,
            naming.remove_nameserver,
        ),
        routes=pages.routes,
        navigation=(
            NavItem("CDN sites", "sites", 40),
            NavItem("CDN edges", "edges", 41),
            NavItem("Purge", "purge", 42),
        ),
        services=(health.prober, sight.sight, checkup.checkup),
        models=(
            models.SiteRow,
            models.NameRow,
            models.EdgeRow,
            models.SetupRow,
            models.NameServerRow,
            models.DebtRow,
            models.FaultRow,
            models.TrafficRow,
        ),
    )


@hookimpl
async def opsdeck_health(deck: Deck) -> Sequence[Finding]:
    """Say how edges, certificates and DNS are."""
    from opsdeck_cdn import doctor

    return await doctor.findings(deck)


@hookimpl
async def opsdeck_host_cards(deck: Deck, host: Host) -> Sequence[HostCard]:
    """Say that a host is an edge."""
    from opsdeck_cdn import doctor

    return await doctor.cards(deck, host)
