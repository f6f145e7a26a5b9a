"""The first page: what needs you, how the plugins are, the fleet, what comes next, what ran."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.plugins.htmx import HTMXRequest

from opsdeck.clock import utcnow
from opsdeck.deck import Deck
from opsdeck.jobs.models import Schedule, Slot
from opsdeck.notify.models import Incident
from opsdeck.pages import page
from opsdeck_web import states
from opsdeck_web.readings import host_lines

FLEET = 30
"""Hosts shown here; those in trouble come first."""
BLOCKS = frozenset({"needs", "plugins", "fleet", "next", "lately"})


@dataclass(frozen=True)
class Coming:
    """A planned or missed time."""

    at: datetime
    schedule: Schedule
    slot: Slot | None = None


@dataclass(frozen=True)
class PluginState:
    """How a plugin is: its open incidents and what it does."""

    name: str
    path: str
    actions: int
    incidents: tuple[Incident, ...]

    @property
    def state(self) -> str:
        """Give the worst state of its incidents."""
        severities = {incident.severity for incident in self.incidents}
        return "broken" if "broken" in severities else "attention" if severities else "ok"


@get("/")
async def show(request: HTMXRequest, deck: NamedDependency[Deck]) -> Response[Any]:
    """Show the overview, or the part of it that changed."""
    wanted = request.query_params.get("part", "")
    block = wanted if wanted in BLOCKS else None
    incidents = await deck.incidents.open_now()
    hosts = await deck.inventory.list()
    worst = sorted(hosts, key=lambda host: (states.reach(host.reach)[0] not in {"broken", "attention"}, host.name))
    lines = await host_lines(deck.db, worst[:FLEET])
    left = sum(max(line.traffic.quota - line.traffic.used, 0) for line in lines if line.traffic and line.traffic.quota)
    newest = await deck.incidents.list(limit=1)
    calm = newest[0].closed if newest and newest[0].closed and not incidents else None
    return page(
        request,
        "pages/overview.html",
        block,
        incidents=incidents,
        calm_since=calm,
        plugins=plugins_of(deck, incidents),
        plugin_faults=list(deck.plugins.faults),
        lines=lines,
        hosts=hosts,
        traffic_left=left,
        coming=await coming(deck),
        lately=await deck.jobs.list(limit=6),
        needs_key=[host for host in hosts if host.reach == "untrusted"],
    )


def plugins_of(deck: Deck, incidents: tuple[Incident, ...]) -> list[PluginState]:
    """Give the state of each plugin that has pages or actions of its own."""
    return [
        PluginState(
            manifest.name,
            f"/p/{manifest.name}/" if manifest.navigation else f"/actions#{manifest.name}",
            len(manifest.offered),
            tuple(incident for incident in incidents if incident.plugin == manifest.name),
        )
        for manifest in deck.plugins.ordered()
        if manifest.name not in {"core", "web"}
    ]


async def coming(deck: Deck, count: int = 6) -> list[Coming]:
    """Give the next planned times and those missed within a day, in order of time."""
    schedules = {schedule.id: schedule for schedule in await deck.schedules.list()}
    since = utcnow() - timedelta(days=1)
    missed = [
        Coming(slot.planned, schedules[slot.schedule_id], slot)
        for slot in await deck.schedules.slots(limit=10, states=("missed",))
        if slot.schedule_id in schedules and slot.planned > since
    ]
    planned = []
    for schedule in schedules.values():
        if not schedule.paused and not schedule.held_by:
            runs = await asyncio.to_thread(deck.schedules.preview, schedule, 1)
            planned += [Coming(run.utc, schedule) for run in runs]
    return sorted(planned, key=lambda item: item.at)[: count - min(len(missed), 3)] + missed[:3]


routes = [show]
