"""Whether an origin is one of our own edges, in which case every request would go round in circles."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence

from opsdeck.api import Refused
from opsdeck_cdn.book import Model


def check(model: Model, found: Mapping[str, Collection[str]], where: str = "") -> None:
    """Raise `Refused` when an origin is an edge: every request would go round in circles.

    `found` gives the addresses of names as they were looked up at `where`, a host, or here.
    """
    addresses = {address: edge.host for edge in model.edges for address in edge.addresses}
    sites = {name: site.name for site in model.sites for name in site.names}
    for site in model.sites:
        for origin in site.origins:
            hint = f"name the origin of {site.name} by an address or a name that leads to the origin itself"
            if origin.host in sites:
                raise Refused(
                    f"the origin {origin} of {site.name} is a name of the site {sites[origin.host]}: a loop.",
                    field="origins", hint=hint,
                )  # fmt: skip
            for address in (origin.host, *found.get(origin.host, ())):
                if edge := addresses.get(address):
                    seen = f", as {where} finds it" if where and address != origin.host else ""
                    raise Refused(
                        f"the origin {origin} of {site.name} is the edge {edge}{seen}: a loop.", field="origins",
                        host=where or None, hint=hint,
                    )  # fmt: skip


def names(model: Model) -> tuple[str, ...]:
    """Give the hosts of all origins, each once."""
    return tuple(dict.fromkeys(origin.host for site in model.sites for origin in site.origins))


async def look_up(wanted: Sequence[str]) -> dict[str, frozenset[str]]:
    """Find names as the console does; one that it does not know is left out, since the edges may know it."""
    loop = asyncio.get_running_loop()

    async def one(name: str) -> frozenset[str]:
        try:
            async with asyncio.timeout(10):
                return frozenset(str(entry[4][0]) for entry in await loop.getaddrinfo(name, None))
        except (OSError, TimeoutError):
            return frozenset()

    return dict(zip(wanted, await asyncio.gather(*map(one, wanted)), strict=True))
