"""What moves on a page: one stream per page, names of what changed, never the content itself.

A page's sections listen for `sse:<name>` and fetch themselves again; many changes within a moment are one event.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from litestar import get
from litestar.di import NamedDependency
from litestar.response import ServerSentEvent, ServerSentEventMessage

from opsdeck.deck import Deck
from opsdeck.events import Event, HostChanged, IncidentClosed, IncidentOpened, JobChanged, SlotMissed

PING = 15.0
GATHER = 0.3
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def topic(event: Event) -> str | None:
    """Give the name of the part of the console that an event concerns."""
    if isinstance(event, JobChanged):
        return None if event.host else "jobs"
    if isinstance(event, HostChanged):
        return "hosts"
    if isinstance(event, IncidentOpened | IncidentClosed):
        return "incidents"
    return "schedules" if isinstance(event, SlotMissed) else None


async def topics(deck: Deck) -> AsyncIterator[ServerSentEventMessage]:
    """Tell what changed, gathered over a moment; a comment every quarter of a minute shows that the link is alive."""
    async with deck.events.subscribe(lambda event: topic(event) is not None, size=200) as subscription:
        yield ServerSentEventMessage(comment="ready", retry=2000)
        while True:
            event = await subscription.next(PING)
            if event is None:
                yield ServerSentEventMessage(comment="ping")
                continue
            names = {topic(event)}
            await asyncio.sleep(GATHER)
            while (more := await subscription.next(0)) is not None:
                names.add(topic(more))
            for name in sorted(name for name in names if name):
                yield ServerSentEventMessage(event=name, data="changed")


@get("/live", media_type="text/event-stream")
async def stream(deck: NamedDependency[Deck]) -> ServerSentEvent:
    """Follow what changes anywhere."""
    return ServerSentEvent(topics(deck), headers=HEADERS)
