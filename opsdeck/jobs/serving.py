"""What a server or worker does beside its pages: the engine, the clock, the services, the housekeeping."""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import TYPE_CHECKING

from sqlalchemy import delete, update
from sqlmodel import col

from opsdeck import __version__
from opsdeck.clock import utcnow
from opsdeck.errors import Conflict, OpsDeckError
from opsdeck.health import HEADS
from opsdeck.jobs import retention
from opsdeck.jobs.leases import BEAT
from opsdeck.jobs.models import Node

if TYPE_CHECKING:
    from opsdeck.deck import Deck
    from opsdeck.jobs.engine import Engine

_log = logging.getLogger("opsdeck.jobs")

HOUSEKEEPING_SECONDS = 3600.0
STOP_SECONDS = 15.0
"""For all parts to end; each has a shorter bound of its own."""


NEWEST = 10_000
"""Objects after which the garbage collector looks at the newest. With Python's 700, a service that carries rows spends
a third of its time there."""


async def serve(deck: Deck, engine: Engine, stop: asyncio.Event) -> None:
    """Do all of it until `stop` is set. One part that fails for good ends the others and is raised."""
    gc.set_threshold(NEWEST)
    await _announce(deck)
    parts = [
        asyncio.create_task(engine.serve(stop), name="engine"),
        asyncio.create_task(deck.schedules.serve(stop), name="schedules"),
        asyncio.create_task(deck.services.serve(stop), name="services"),
        asyncio.create_task(_present(deck, stop), name="node"),
        asyncio.create_task(_keep_house(deck, stop), name="housekeeping"),
    ]
    try:
        done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_EXCEPTION)
        for part in done:
            part.result()
    finally:
        stop.set()
        await asyncio.wait(parts, timeout=STOP_SECONDS)
        for part in parts:
            part.cancel()
        await engine.close()
        await _leave(deck)


async def _announce(deck: Deck) -> None:
    kind = deck.node.rsplit("/", 1)[-1].split("-")[0] if "/" in deck.node else "server"
    async with deck.db.write() as session:
        await session.merge(Node(name=deck.node, kind=kind, version=__version__))


async def _leave(deck: Deck) -> None:
    async with deck.db.write() as session:
        await (await session.connection()).execute(delete(Node).where(col(Node.name) == deck.node))


async def _present(deck: Deck, stop: asyncio.Event) -> None:
    """Say every few seconds that this node lives, for the health page; nothing else leans on it."""
    while not await _waited(stop, BEAT):
        try:
            async with deck.db.write() as session:
                beat = update(Node).where(col(Node.name) == deck.node).values(beat=utcnow())
                await (await session.connection()).execute(beat)
        except OpsDeckError as fault:
            _log.warning("%s", fault)


async def _keep_house(deck: Deck, stop: asyncio.Event) -> None:
    """Keep house a while after the start and every hour, on one node at a time."""
    wait = 60.0
    while not await _waited(stop, wait):
        wait = HOUSEKEEPING_SECONDS
        try:
            async with deck.leases.hold(["housekeeping"], f"node:{deck.node}", "keeping house"):
                await keep_house(deck)
        except Conflict:
            continue
        except OpsDeckError as fault:
            _log.warning("housekeeping stopped: %s", fault)


async def keep_house(deck: Deck) -> None:
    """Keep history within its days and budget, forget old logins, and write the audit head beside the database."""
    settings = deck.settings
    pruned = await retention.prune(deck.db, days=settings.history_days, megabytes=settings.history_mb)
    if pruned.jobs or pruned.logs:
        _log.info("history: %d jobs and %d logs removed", pruned.jobs, pruned.logs)
    await deck.accounts.prune()
    await deck.audit.keep_head(settings.home / HEADS)


async def _waited(stop: asyncio.Event, seconds: float) -> bool:
    """Wait; tell whether it is time to stop."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return False
    return True
