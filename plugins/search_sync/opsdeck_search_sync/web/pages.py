"""The pages: every sync at a glance, one sync with its progress, its counts and its dead letters."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import yaml
from jinja2_fragments.litestar import HTMXBlockTemplate
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.plugins.htmx import HTMXRequest
from sqlmodel import select

from opsdeck.api import Deck, utcnow
from opsdeck_search_sync import health, ledger
from opsdeck_search_sync.models import DeadLetter, Generation, Instance, Minute, Phase, Reading, Source, Sync, Wanted

HOUR = 60


@dataclass(frozen=True)
class Line:
    """A sync as the list shows it."""

    sync: Sync
    state: str
    word: str
    """A msgid of the plugin's catalogue."""
    live: Generation | None
    building: Generation | None
    reading: Reading | None
    dead: int


def _page(request: HTMXRequest, name: str, block: str, **context: Any) -> Response[Any]:
    part = bool(request.htmx) and not request.htmx.boosted and not request.htmx.history_restore_request
    return HTMXBlockTemplate(
        template_name=f"search_sync/{name}.html",
        block_name=block if part else None,
        context=context,
        headers={"Vary": "HX-Request"},
        media_type="text/html",
    )


def line_of(sync: Sync, generations: list[Generation], reading: Reading | None, dead: int) -> Line:
    """Put together what is known of a sync, its state first."""
    live = next((one for one in generations if one.phase == Phase.LIVE), None)
    building = next((one for one in generations if one.phase not in {Phase.LIVE, Phase.RETIRED}), None)
    silent = reading is None or utcnow() - reading.at > health.SILENT
    if sync.wanted == Wanted.GONE:
        state, word = "running", "being dropped"
    elif sync.problem:
        state, word = "broken", "stands still"
    elif sync.wanted == Wanted.PAUSED:
        state, word = "attention", "paused" if generations else "not started"
    elif silent:
        state, word = "attention", "says nothing"
    elif live is None:
        state, word = "running", "first copy"
    elif building is not None:
        state, word = "running", "rebuilding"
    elif dead:
        state, word = "attention", "dead letters"
    else:
        state, word = "ok", "follows"
    return Line(sync, state, word, live, building, reading, dead)


@get("/")
async def show(request: HTMXRequest, deck: NamedDependency[Deck]) -> Response[Any]:
    """List the syncs, the databases they read and the Meilisearches they write to."""
    async with deck.db.read() as session:
        syncs = (await session.exec(select(Sync).order_by(Sync.name))).all()
        generations = (await session.exec(select(Generation))).all()
        readings = {row.sync: row for row in (await session.exec(select(Reading))).all()}
        sources = (await session.exec(select(Source).order_by(Source.name))).all()
        instances = (await session.exec(select(Instance).order_by(Instance.name))).all()
    dead = await ledger.dead_counts(deck.db)
    lines = [
        line_of(
            sync,
            [one for one in generations if one.sync == sync.name],
            readings.get(sync.name),
            dead.get(sync.name, 0),
        )
        for sync in syncs
    ]
    return _page(request, "syncs", "rows", lines=lines, sources=sources, instances=instances)


def per_minute(rows: tuple[Minute, ...]) -> list[float]:
    """Give the documents of each of the last sixty minutes, none where nothing happened."""
    now = utcnow().replace(second=0, microsecond=0)
    found = {row.minute: row.written + row.removed for row in rows}
    return [float(found.get(now - timedelta(minutes=back), 0)) for back in range(HOUR - 1, -1, -1)]


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
    minutes = await ledger.minutes(deck.db, name, utcnow() - timedelta(minutes=HOUR))
    written, removed = sum(row.written for row in minutes), sum(row.removed for row in minutes)
    stale = whole.live is not None and differs(whole.live, whole.sync)
    return _page(
        request,
        "sync",
        "state",
        line=line_of(whole.sync, list(whole.generations), reading, counts),
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
