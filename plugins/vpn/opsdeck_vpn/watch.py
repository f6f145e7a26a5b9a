"""The watcher: one for each tunnel that should be up, wherever the console's services run."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from opsdeck.api import OpsDeckError, Service, ServiceRun, utcnow
from opsdeck_vpn import tunnels
from opsdeck_vpn.attend import attend
from opsdeck_vpn.models import State, Tunnel

PATIENCE = 60
"""Seconds without the office before it is an incident; a failure and a wait for a code are told at once."""


async def instances(run: ServiceRun) -> Sequence[str]:
    """Give the tunnels to watch: those that should be up and that no job attends."""
    return [row.name for row in await tunnels.every(run.db) if tunnels.watched(row)]


async def watch(run: ServiceRun) -> None:
    """Attend one tunnel; tell once when the office is lost, and once when it is back."""
    tunnel = await tunnels.find(run.db, run.key)
    if not tunnels.watched(tunnel):
        return
    telling = asyncio.create_task(_tell(run, run.key))
    try:
        async with run.on(tunnel.host) as host:
            await attend(run, host, run.key, run.log, lambda row: not tunnels.watched(row), tunnels.watched)
    except OpsDeckError as fault:
        why = f"the gateway cannot be asked: {fault.message}"
        await tunnels.set_state(run.db, run.key, _lost(tunnel), why, tunnels.watched)
        raise
    finally:
        telling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await telling


def _lost(tunnel: Tunnel) -> State:
    return State.FAILED if tunnel.state == State.FAILED else State.RECONNECTING


async def _tell(run: ServiceRun, name: str) -> None:
    key = tunnels.incident_of(name)
    while True:
        row = await tunnels.find(run.db, name)
        age = (utcnow() - row.since).total_seconds()
        if not tunnels.watched(row):
            return
        if row.state == State.UP:
            await run.close_incident(key)
        elif row.state == State.WAIT_OTP:
            await run.open_incident(
                key, f"tunnel {name} waits for a code", detail=row.challenge, host=row.host, severity="attention"
            )
        elif row.state == State.FAILED or age > PATIENCE:
            await run.open_incident(key, f"tunnel {name} is {row.state}", detail=row.reason, host=row.host)
        await asyncio.sleep(5)


watcher = Service("tunnel", "Tunnel", watch, instances)
