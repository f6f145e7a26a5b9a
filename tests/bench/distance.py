"""Delay proxies in a process of their own: `distance.py RTT PORT ADDRESS…` prints a JSON list of their ports."""

from __future__ import annotations

import asyncio
import json
import sys

from opsdeck.lab.delay import DelayProxy


async def main() -> None:
    """Serve until ended."""
    rtt, port, *addresses = sys.argv[1:]
    proxies = [DelayProxy(address, int(port), rtt=float(rtt)) for address in addresses]
    for proxy in proxies:
        await proxy.start()
    print(json.dumps([proxy.port for proxy in proxies]), flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
