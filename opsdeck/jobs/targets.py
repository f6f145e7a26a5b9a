"""Which hosts an action works on: one rule for jobs, schedules and pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opsdeck.errors import Invalid
from opsdeck.manifest import Action, Targets

if TYPE_CHECKING:
    from opsdeck.inventory.hosts import Inventory


async def hosts_for(inventory: Inventory, action: Action, selector: str) -> tuple[str, ...]:
    """Give the names of the hosts that `selector` means now; none for an action on the console.

    Raises `Invalid` when the action works on hosts and none were given, or on the console and some were; else as
    `Inventory.select` does.
    """
    if selector.strip():
        if action.targets is Targets.CONSOLE:
            raise Invalid(f"{action.title} works on the console, not on hosts.", field="selector", hint="leave it out")
        return tuple(host.name for host in await inventory.select(selector))
    if action.targets is Targets.HOSTS:
        raise Invalid("no hosts were given.", field="selector", hint="name them with --on, such as `--on all`")
    return ()
