"""The pages: every sync at a glance, one sync with its progress, its counts and its dead letters."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import yaml
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.plugins.htmx import HTMXRequest
from sqlmodel import select

from opsdeck.api import Deck, page, utcnow
from opsdeck_search_sync import ledger, standing
from opsdeck_search_sync.models import (
    DeadLetter,
    Generation,
    Instance,
    Minute,
    Reading,
    Source,
    Sync,
)


@get("/")
async def show(request: HTMXRequest, deck: NamedDependency[Deck]) -> Response[Any]:
    """List the syncs, the databases they read and the Meilisearches they write to."""
    async with deck.db.read() as session:
        sources = (await session.exec(select(Source).order_by(Source.name))).all()
        instances = (await session.exec(select(Instance).order_by(Instance.name))).all()
    return page(
        request,
        "search_sync/syncs.html",
        "rows",
        lines=await standing.lines(deck.db),
        sources=sources,
        instances=instances,
    )


def per_minute(rows: tuple[Minute, ...]) -> list[float]:
    """Give the documents of each of the last sixty minutes, none where nothing happened."""
    now = utcnow().replace(second=0, microsecond=0)
    found = {row.minute: row.written + row.removed for row in rows}
    return [float(found.get(now - timedelta(minutes=back), 0)) for back in range(standing.HOUR - 1, -1, -1)]


def differs(live: Generation, sync: Sync) -> bool:
    """Tell whether a sync's definition was changed since its index was made; one that names no columns takes all."""
    made, wanted = dict(live.mapping), dict(sync.mapping)
    if not wanted.get("fields"):
        for mapping in (made, wanted):
            mapping.pop("fields", None)
            mapping.pop("leave_out", None)
    return (made, live.settings) != (wanted, sync.settings)


@get("/syncs/{name:str}")
async def one(request: HTMXRequest, deck: NamedDependency[Deck], name: FromPath[str]) -> Response[Any]:
    """Show one sync."""
    whole = await ledger.whole(deck.db, name)
    async with deck.db.read() as session:
        reading = await session.get(Reading, name)
    letters: tuple[DeadLetter, ...] = await ledger.dead(deck.db, name, limit=50)
    counts = (await ledger.dead_counts(deck.db)).get(name, 0)
    minutes = await standing.last_hour(deck.db, name)
    written, removed = sum(row.written for row in minutes), sum(row.removed for row in minutes)
    stale = whole.live is not None and differs(whole.live, whole.sync)
    return page(
        request,
        "search_sync/sync.html",
        "state",
        line=standing.line_of(whole.sync, list(whole.generations), reading, counts),
        whole=whole,
        letters=letters,
        minutes=per_minute(minutes),
        written=written,
        removed=removed,
        stale=stale,
        mapping=yaml.safe_dump(whole.sync.mapping, allow_unicode=True, sort_keys=False),
        settings=yaml.safe_dump(whole.sync.settings, allow_unicode=True, sort_keys=False)
        if whole.sync.settings
        else "",
    )


routes = (show, one)
