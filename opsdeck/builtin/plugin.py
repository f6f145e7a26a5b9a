"""The core's own actions, brought through the same hooks as a stranger's plugin would."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from opsdeck import __version__
from opsdeck.builtin import artefacts, copying, facts, health, hostcheck, packages, reboot, running, sampling, units
from opsdeck.hookspecs import hookimpl
from opsdeck.manifest import API, Finding, Manifest

if TYPE_CHECKING:
    from opsdeck.deck import Deck


@hookimpl
def opsdeck_manifest() -> Manifest:
    """Give the manifest of the built-in actions."""
    return Manifest(
        name="core",
        version=__version__,
        api=API,
        package="opsdeck.builtin",
        title="Hosts",
        actions=(
            running.command,
            running.script,
            copying.copy,
            copying.fetch,
            packages.packages,
            units.restart,
            artefacts.artefact,
            reboot.reboot,
            facts.facts,
            hostcheck.hostcheck,
        ),
        services=(sampling.sampling,),
    )


@hookimpl
async def opsdeck_health(deck: Deck) -> Sequence[Finding]:
    """Say how the hosts were found at the last contact."""
    return health.findings(await deck.inventory.list())
