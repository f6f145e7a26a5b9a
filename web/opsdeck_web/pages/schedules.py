"""The schedules: what recurs, when next, what was missed."""

from __future__ import annotations

import asyncio
from typing import Any

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.plugins.htmx import HTMXRequest
from litestar.response import Redirect
from pydantic import ValidationError

from opsdeck.deck import Deck
from opsdeck.errors import Invalid, OpsDeckError
from opsdeck.jobs import consent, params
from opsdeck.jobs.params import FieldKind
from opsdeck.jobs.schedules import Misfire, NextRun, Overlap, ScheduleIn
from opsdeck.manifest import Targets
from opsdeck_web import formatting
from opsdeck_web.language import _
from opsdeck_web.pages.actions import faults_of, may, own_fields, raw_of, shown
from opsdeck_web.shell import page
from opsdeck_web.visitor import Visitor

BLANK = {"name": "", "selector": "", "cron": "", "every": "", "time_zone": "UTC", "misfire": "once", "overlap": "skip"}
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@get("/schedules")
async def show(request: HTMXRequest, deck: NamedDependency[Deck]) -> Response[Any]:
    """List the schedules with their next time, and the planned times that did not become a job."""
    schedules = await deck.schedules.list()
    rows = [(schedule, next(iter(await coming(deck, schedule, 1)), None)) for schedule in schedules]
    names = {schedule.id: schedule.name for schedule in schedules}
    slots = await deck.schedules.slots(limit=20, states=("missed", "skipped"))
    return page(request, "pages/schedules.html", "rows", rows=rows,
                missed=[(names.get(slot.schedule_id, ""), slot) for slot in slots])  # fmt: skip


async def coming(deck: Deck, schedule: Any, count: int) -> list[NextRun]:
    """Give the next times; computing them is pure work and stays off the loop."""
    return list(await asyncio.to_thread(deck.schedules.preview, schedule, count))


@get("/schedules/{name:str}")
async def one(request: HTMXRequest, deck: NamedDependency[Deck], name: FromPath[str]) -> Response[Any]:
    """Show one schedule: its next five times, what became of the last ones."""
    schedule = await deck.schedules.get(name)
    return page(
        request,
        "pages/schedule.html",
        schedule=schedule,
        runs=await coming(deck, schedule, 5),
        slots=await deck.schedules.slots(name, limit=20),
        params=[(key, str(value)) for key, value in schedule.params.items() if value not in (None, "", [])],
    )


@get("/schedules/add")
async def choose(request: HTMXRequest, deck: NamedDependency[Deck], visitor: NamedDependency[Visitor]) -> Response[Any]:
    """Choose what is to recur, or show the form for it."""
    plugin, name = request.query_params.get("plugin", ""), request.query_params.get("action", "")
    if not plugin or not name:
        offered = [
            (manifest.name, action)
            for manifest in deck.plugins.ordered()
            for action in manifest.actions
            if not action.hidden and may(visitor, action.risk)
        ]
        return page(request, "pages/schedule_choose.html", offered=offered)
    given = {"selector": request.query_params.get("selector", ""), "time_zone": formatting.zone.get()}
    return await form(request, deck, plugin, name, given, None)


async def form(
    request: HTMXRequest, deck: Deck, plugin: str, name: str, given: dict[str, Any], fault: OpsDeckError | None
) -> Response[Any]:
    """Show the form of a new schedule."""
    action = deck.plugins.action(plugin, name)
    known = params.fields(action.params)
    return page(
        request,
        "pages/schedule_form.html",
        status=fault.status if fault else 200,
        plugin=plugin,
        action=action,
        fields=known,
        own=own_fields(action, known),
        touched=set(given) | set(faults_of(fault)),
        values={field.name: shown(field, given.get(field.name)) for field in known},
        given=BLANK | given,
        fault=fault,
        faults=faults_of(fault),
        on_hosts=action.targets is Targets.HOSTS,
        hosts=[host.name for host in await deck.inventory.list()],
        secret_names=await deck.secrets.names() if any(field.kind is FieldKind.SECRET for field in known) else (),
    )  # fmt: skip


def interval(text: str) -> int:
    """Read an interval such as `15m` as seconds. Raises `Invalid`."""
    number, unit = text[:-1], text[-1:]
    if not number.isdecimal() or unit not in UNITS:
        raise Invalid(_("%s is no interval.") % repr(text), field="every", hint=_("write it like 15m, 6h or 1d"))
    return int(number) * UNITS[unit]


def read(plugin: str, name: str, sent: Any, raw: dict[str, Any], confirm: str | None) -> ScheduleIn:
    """Make a schedule of the form. Raises `Invalid` with the field."""
    every = str(sent.get("every") or "").strip()
    try:
        return ScheduleIn(
            name=str(sent.get("name") or "").strip(),
            plugin=plugin,
            action=name,
            params=raw,
            selector=str(sent.get("selector") or "").strip(),
            cron=str(sent.get("cron") or "").strip(),
            every_seconds=interval(every) if every else None,
            time_zone=str(sent.get("time_zone") or "UTC").strip(),
            misfire=Misfire(str(sent.get("misfire") or "once")),
            overlap=Overlap(str(sent.get("overlap") or "skip")),
            confirm=confirm,
        )
    except ValidationError as fault:
        first = fault.errors()[0]
        field = str(first["loc"][0]) if first["loc"] else None
        raise Invalid(str(first["msg"]).removeprefix("Value error, "), field=field) from fault
    except ValueError as fault:
        raise Invalid(str(fault)) from fault


@post("/schedules/add")
async def add(request: HTMXRequest, deck: NamedDependency[Deck], visitor: NamedDependency[Visitor]) -> Response[Any]:
    """Preview the next five times (`step=preview`), or keep the schedule."""
    sent = await request.form()
    plugin, name = str(sent.get("plugin") or ""), str(sent.get("action") or "")
    action = deck.plugins.action(plugin, name)
    try:
        raw = raw_of(action, sent)
        params.parse(plugin, action, raw)
        hosts: tuple[str, ...] = ()
        if action.targets is Targets.HOSTS:
            hosts = tuple(host.name for host in await deck.inventory.select(str(sent.get("selector") or "")))
        word = consent.expected(action, hosts) or ""
        schedule = read(plugin, name, sent, raw, str(sent.get("confirm") or "") or None)
        if sent.get("step") == "preview":
            runs = await coming(deck, schedule, 5)
            return page(
                request, "pages/schedule_form.html", "preview", runs=runs, fault=None, hosts_now=hosts, word=word
            )
        row = await deck.schedules.add(schedule, visitor.actor)
    except OpsDeckError as fault:
        if request.htmx:
            return page(
                request,
                "pages/schedule_form.html",
                "preview",
                status=fault.status,
                fault=fault,
                runs=[],
                hosts_now=(),
                word="",
            )
        return await form(request, deck, plugin, name, {key: sent[key] for key in sent}, fault)
    return Redirect(f"/schedules/{row.name}", status_code=303)


@post("/schedules/{name:str}/pause")
async def pause(deck: NamedDependency[Deck], visitor: NamedDependency[Visitor], name: FromPath[str]) -> Response[Any]:
    """Stop planning until it is resumed."""
    await deck.schedules.pause(name, visitor.actor)
    return Redirect(f"/schedules/{name}", status_code=303)


@post("/schedules/{name:str}/resume")
async def resume(deck: NamedDependency[Deck], visitor: NamedDependency[Visitor], name: FromPath[str]) -> Response[Any]:
    """Plan again."""
    await deck.schedules.resume(name, visitor.actor)
    return Redirect(f"/schedules/{name}", status_code=303)


@post("/schedules/{name:str}/remove")
async def remove(
    request: HTMXRequest, deck: NamedDependency[Deck], visitor: NamedDependency[Visitor], name: FromPath[str]
) -> Response[Any]:
    """Remove a schedule, once its name was typed."""
    if str((await request.form()).get("confirm") or "").strip() != name:
        raise Invalid(_("That is not the name of the schedule."), field="confirm", hint=_("type the name"))
    await deck.schedules.remove(name, visitor.actor)
    return Redirect("/schedules", status_code=303)


routes = [show, choose, add, one, pause, resume, remove]
