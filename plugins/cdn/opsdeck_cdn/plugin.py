"""The table of contents of the plugin: what it brings, and nothing else."""

from __future__ import annotations

from opsdeck.api import API, Manifest, NavItem, hookimpl
from opsdeck_cdn import deploy, editing, health, models, naming, purging

VERSION = "0.1.0"


@hookimpl
def opsdeck_manifest() -> Manifest:
    """Give the manifest."""
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
            editing.site,
            editing.edge,
            editing.setup,
            naming.nameserver,
            naming.dns,
            naming.geoip,
            naming.drain,
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
        services=(health.prober,),
        models=(
            models.SiteRow,
            models.NameRow,
            models.EdgeRow,
            models.SetupRow,
            models.NameServerRow,
            models.DebtRow,
        ),
    )
