"""The schedules: what recurs, when next, what was missed."""

from __future__ import annotations

import asyncio
from typing import Any

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.plugins.htmx import HTMXRequest
from litestar.response import Redirect

from opsdeck.deck import Deck
from opsdeck.errors import Invalid, OpsDeckError
from opsdeck.forms import checked
from opsdeck.jobs import consent, params
from opsdeck.jobs.schedules import NextRun, ScheduleIn
from opsdeck.jobs.targets import hosts_for
from opsdeck.jobs.timing import seconds
from opsdeck.pages import page
from opsdeck_web import formatting
from opsdeck_web.forms import form_of, raw_of, sent_back
from opsdeck_web.language import _
from opsdeck_web.pages.actions import may
from opsdeck_web.visitor import Visitor

BLANK = {"name": "", "selector": "", "cron": "", "every": "", "time_zone": "UTC", "misfire": "once", "overlap": "skip"}
"""What the form asks beside the action's parameters, each in a field with `_` before its name."""
ASKED = frozenset({*BLANK, "every_seconds", "confirm"})


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
        params=[
            (name, ", ".join(map(str, value)) if isinstance(value, list) else str(value))
            for name, value in schedule.params.items()
            if value not in (None, "", [], False)
        ],
    )


@get("/schedules/add")
async def choose(request: HTMXRequest, deck: NamedDependency[Deck], visitor: NamedDependency[Visitor]) -> Response[Any]:
    """Choose what is to recur (`?_plugin=&_action=`), or show its form, its fields filled by the rest of the query."""
    sent = request.query_params
    plugin, name = sent.get("_plugin", ""), sent.get("_action", "")
    if not plugin or not name:
        offered = [
            (manifest.name, action)
            for manifest in deck.plugins.ordered()
            for action in manifest.offered
            if may(visitor, action.risk)
        ]
        return page(request, "pages/schedule_choose.html", offered=offered)
    return await form(request, deck, plugin, name, {"_time_zone": formatting.zone.get()} | dict(sent), None)


async def form(
    request: HTMXRequest, deck: Deck, plugin: str, name: str, given: dict[str, Any], fault: OpsDeckError | None
) -> Response[Any]:
    """Show the form of a new schedule."""
    return page(
        request,
        "pages/schedule_form.html",
        status=fault.status if fault else 200,
        **await form_of(deck, plugin, deck.plugins.action(plugin, name), given, fault, ASKED),
        given={f"_{key}": blank for key, blank in BLANK.items()} | given,
    )


def read(plugin: str, name: str, sent: Any, raw: dict[str, Any], confirm: str | None) -> ScheduleIn:
    """Make a schedule of the form. Raises `Invalid` with the field."""
    text = {key: str(sent.get(f"_{key}") or blank).strip() for key, blank in BLANK.items()}
    every = text.pop("every")
    told = {"plugin": plugin, "action": name, "params": raw, "confirm": confirm}
    return checked(ScheduleIn, text | told | {"every_seconds": seconds(every) if every else None})


@post("/schedules/add")
async def add(request: HTMXRequest, deck: NamedDependency[Deck], visitor: NamedDependency[Visitor]) -> Response[Any]:
    """Preview the next five times (`_step=preview`), or keep the schedule."""
    sent = await request.form()
    plugin, name = str(sent.get("_plugin") or ""), str(sent.get("_action") or "")
    action = deck.plugins.action(plugin, name)
    try:
        raw = raw_of(action, sent)
        params.parse(plugin, action, raw)
        hosts = await hosts_for(deck.inventory, action, str(sent.get("_selector") or ""))
        word = consent.expected(action, hosts) or ""
        schedule = read(plugin, name, sent, raw, str(sent.get("_confirm") or "") or None)
        if sent.get("_step") == "preview":
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
        return await form(request, deck, plugin, name, sent_back(action, sent), fault)
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
