"""What keeps a tunnel apart on its gateway: a namespace with units of systemd, or containers of Docker Compose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from opsdeck.api import Change, Command, HostAccess, StepRun
from opsdeck_vpn import compose, gateway
from opsdeck_vpn.models import Driver
from opsdeck_vpn.render.gateway import Gateway


class Drives(Protocol):
    """What each of them can do; the modules `gateway` and `compose` say how."""

    async def plan(self, host: HostAccess, gateway: Gateway) -> tuple[Change, ...]:
        """Say what bringing it up would change on the gateway."""
        ...

    async def lay(self, step: StepRun, gateway: Gateway) -> tuple[str, ...]:
        """Put its files in place; give the paths that changed."""
        ...

    async def start(self, step: StepRun, gateway: Gateway, changed: Sequence[str], *, afresh: bool) -> None:
        """Start it, now and at every boot."""
        ...

    async def stop(self, step: StepRun, name: str) -> None:
        """Stop it, also for the next boot."""
        ...

    async def remove(self, step: StepRun, gateway: Gateway) -> None:
        """Stop it and take its files away."""
        ...

    async def dialling(self, step: StepRun, name: str, wanted: bool) -> None:
        """Stop what dials for a while, or let it dial again."""
        ...

    def inside(self, name: str, *argv: str) -> Command:
        """Build a command that runs in the tunnel's network."""
        ...

    async def resolver(self, step: HostAccess, name: str) -> bytes | None:
        """Give the list of name servers that the SOCKS server sees; None when it does not run."""
        ...


def of(driver: str) -> Drives:
    """Give the driver of a tunnel."""
    return compose if driver == Driver.COMPOSE else gateway
