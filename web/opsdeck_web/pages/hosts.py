"""The hosts: list, one host, adding with a look at the key, editing."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.plugins.htmx import HTMXRequest
from litestar.response import Redirect

from opsdeck.clock import utcnow
from opsdeck.deck import Deck
from opsdeck.errors import Invalid, OpsDeckError
from opsdeck.forms import checked
from opsdeck.inventory.facts.catalogue import BY_NAME
from opsdeck.inventory.forms import HostIn, HostPatch, tag_words
from opsdeck.inventory.models import Host, HostKey
from opsdeck.manifest import HostCard, Targets
from opsdeck.pages import page
from opsdeck_web import formatting
from opsdeck_web.language import _
from opsdeck_web.readings import host_lines
from opsdeck_web.visitor import Visitor

FIELDS = tuple(name for name in HostIn.model_fields if name not in {"latitude", "longitude"})
FOLD = 4
"""Longest list of a fact that is shown without being asked for."""
SINCE = {"1": timedelta(days=1), "7": timedelta(days=7), "30": timedelta(days=30)}


@get("/hosts")
async def show(request: HTMXRequest, deck: NamedDependency[Deck]) -> Response[Any]:
    """List the hosts that a selector names, or whose name, place or tag holds the text."""
    text = request.query_params.get("on", "").strip()
    fault: OpsDeckError | None = None
    every = await deck.inventory.list()
    hosts = [host for host in every if found(host, text)]
    if text and not hosts:
        try:
            hosts = list(await deck.inventory.select(text))
        except OpsDeckError as problem:
            fault = problem
    return page(
        request,
        "pages/hosts.html",
        "rows",
        lines=await host_lines(deck.db, hosts),
        total=len(every),
        text=text,
        fault=fault,
    )


def found(host: Host, text: str) -> bool:
    """Tell whether a host's name, address, place or tags hold `text`."""
    wanted = text.casefold()
    parts = (host.name, host.address, host.region, host.provider, *tag_words(host.tags))
    return any(wanted in part.casefold() for part in parts)


@get("/hosts/{name:str}")
async def one(request: HTMXRequest, deck: NamedDependency[Deck], name: FromPath[str]) -> Response[Any]:
    """Show one host: state, keys, load, traffic, facts and what changed, plugins' cards, its jobs."""
    host = await deck.inventory.get(name)
    lines = await host_lines(deck.db, [host])
    days = request.query_params.get("since", "7")
    since = utcnow() - SINCE.get(days, SINCE["7"])
    latest = await deck.facts.latest(name)
    return page(
        request,
        "pages/host.html",
        request.query_params.get("part"),
        host=host,
        line=lines[0],
        keys=await keys_of(deck, host),
        facts=[
            (fact_title(key), fact_text(key, value), fact_items(value))
            for key, value in (latest.facts if latest else {}).items()
        ],
        taken=latest.confirmed if latest else None,
        changes=[
            (fact_title(change.name), fact_text(change.name, change.before), fact_text(change.name, change.after))
            for change in await deck.facts.changes(name, since)
        ]
        if latest
        else [],
        days=days if days in SINCE else "7",
        cards=await cards_of(deck, host),
        jobs=await deck.jobs.list(host=name, limit=8),
        incidents=await open_incidents(deck, name),
        months=await deck.samples.months(host, 6),
        actions=host_actions(deck),
    )


async def open_incidents(deck: Deck, name: str) -> list[Any]:
    """Give what is wrong with a host now."""
    return [incident for incident in await deck.incidents.open_now() if incident.host == name]


def host_actions(deck: Deck) -> list[tuple[str, str, str]]:
    """Give the actions that run on hosts, as plugin, name and title."""
    return [
        (manifest.name, action.name, action.title)
        for manifest in deck.plugins.ordered()
        for action in manifest.offered
        if action.targets is Targets.HOSTS
    ]


async def keys_of(deck: Deck, host: Host) -> list[HostKey]:
    """Give a host's keys: those that wait for approval first."""
    order = {"offered": 0, "pinned": 1, "retired": 2}
    return sorted(await deck.host_keys.list(host.name), key=lambda key: order.get(key.state, 3))


async def cards_of(deck: Deck, host: Host) -> list[tuple[str, HostCard]]:
    """Ask the plugins what they show here."""
    given = await deck.plugins.gather("opsdeck_host_cards", deck=deck, host=host)
    return [(plugin, card) for plugin, cards in given.items() for card in cards]


def fact_title(name: str) -> str:
    """Give a fact's title."""
    return _(BY_NAME[name].title) if name in BY_NAME else name


def fact_items(value: Any) -> list[str]:
    """Give the entries of a long list, which the page folds up; nothing for what is short."""
    return [str(item) for item in value] if isinstance(value, list | tuple) and len(value) > FOLD else []


def fact_text(name: str, value: Any) -> str:
    """Give a fact's value as text, in its unit."""
    unit = BY_NAME[name].unit if name in BY_NAME else ""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return _("yes") if value else _("no")
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value) or "–"
    if unit == "B":
        return formatting.binary(float(value))
    if unit == "s":
        return formatting.duration(float(value))
    if unit == "epoch":
        return formatting.exact(datetime.fromtimestamp(float(value), utcnow().tzinfo))
    return f"{value} {unit}".strip()


@get("/hosts/add")
async def add_form(request: HTMXRequest, deck: NamedDependency[Deck]) -> Response[Any]:
    """Show the form for a new host."""
    return await form(
        request, deck, {"port": "22", "user": "root", "credential": "agent", "quota_reset_day": "1"}, None
    )


@post("/hosts/add")
async def add(request: HTMXRequest, deck: NamedDependency[Deck], visitor: NamedDependency[Visitor]) -> Response[Any]:
    """Add a host, then go to its page, where its key is compared."""
    given = texts(await request.form())
    try:
        host = await deck.inventory.add(
            checked(HostIn, {key: text for key, text in given.items() if text}), visitor.actor
        )
    except Invalid as fault:
        return await form(request, deck, given, fault)
    with contextlib.suppress(OpsDeckError):  # the host is added; its page shows why it could not be asked
        await deck.host_keys.contact(host.name, visitor.actor)
    return Redirect(f"/hosts/{host.name}#keys", status_code=303)


@get("/hosts/{name:str}/edit")
async def edit_form(request: HTMXRequest, deck: NamedDependency[Deck], name: FromPath[str]) -> Response[Any]:
    """Show the form with what is known."""
    host = await deck.inventory.get(name)
    return await form(request, deck, as_texts(host), None, host=host)


@post("/hosts/{name:str}/edit")
async def edit(
    request: HTMXRequest, deck: NamedDependency[Deck], visitor: NamedDependency[Visitor], name: FromPath[str]
) -> Response[Any]:
    """Change what was changed in the form."""
    host = await deck.inventory.get(name)
    given = texts(await request.form())
    before = as_texts(host)
    changed: dict[str, Any] = {key: text for key, text in given.items() if text != before.get(key, "")}
    try:
        host = await deck.inventory.edit(name, checked(HostPatch, changed), visitor.actor)
    except Invalid as fault:
        return await form(request, deck, given, fault, host=host)
    return Redirect(f"/hosts/{host.name}", status_code=303)


@post("/hosts/{name:str}/remove")
async def remove(
    request: HTMXRequest, deck: NamedDependency[Deck], visitor: NamedDependency[Visitor], name: FromPath[str]
) -> Response[Any]:
    """Remove a host from the inventory, once its name was typed."""
    typed = str((await request.form()).get("confirm") or "").strip()
    if typed != name:
        raise Invalid(
            _("%(typed)s is not the name of the host.") % {"typed": repr(typed)},
            field="confirm",
            hint=_("type the name"),
        )
    await deck.inventory.remove(name, visitor.actor)
    return Redirect("/hosts", status_code=303)


@post("/hosts/{name:str}/contact")
async def contact(deck: NamedDependency[Deck], visitor: NamedDependency[Visitor], name: FromPath[str]) -> Response[Any]:
    """Ask a host for its keys, without logging in; they wait for approval."""
    await deck.host_keys.contact(name, visitor.actor)
    return Redirect(f"/hosts/{name}#keys", status_code=303)


@post("/hosts/{name:str}/approve")
async def approve(
    request: HTMXRequest, deck: NamedDependency[Deck], visitor: NamedDependency[Visitor], name: FromPath[str]
) -> Response[Any]:
    """Trust the key whose fingerprint was compared."""
    fingerprint = str((await request.form()).get("fingerprint") or "")
    await deck.host_keys.approve(name, fingerprint, visitor.actor)
    return Redirect(f"/hosts/{name}#keys", status_code=303)


def texts(form: Mapping[str, Any]) -> dict[str, str]:
    """Give the form's fields as texts; what the form does not have is left out."""
    return {name: str(form[name]).strip() for name in FIELDS if name in form}


def as_texts(host: Host) -> dict[str, str]:
    """Give a host as the form shows it."""
    data = {name: getattr(host, name) for name in FIELDS}
    data["tags"] = ", ".join(tag_words(host.tags))
    data["quota_bytes"] = formatting.bytes_(host.quota_bytes).replace(" ", "") if host.quota_bytes else ""
    data["renewal"] = host.renewal.isoformat() if host.renewal else ""
    return {name: "" if value is None else str(value) for name, value in data.items()}


async def form(
    request: HTMXRequest, deck: Deck, values: Mapping[str, str], fault: OpsDeckError | None, *, host: Host | None = None
) -> Response[Any]:
    """Show the form, with the fault at its field."""
    secrets = await deck.secrets.list()
    return page(
        request,
        "pages/host_form.html",
        status=fault.status if fault else 200,
        values={name: "" for name in FIELDS} | dict(values),
        fault=fault,
        host=host,
        credentials=[secret.name for secret in secrets],
        hosts=[other.name for other in await deck.inventory.list() if host is None or other.name != host.name],
    )


routes = [show, add_form, add, one, edit_form, edit, remove, contact, approve]
