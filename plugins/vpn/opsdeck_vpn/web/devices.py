"""The pages of the rule list and of devices, and the profiles that devices fetch."""

from __future__ import annotations

from typing import Any

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.plugins.htmx import HTMXRequest
from litestar.response import Redirect

from opsdeck.api import Actor, Deck, Door, NotFound, OpsDeckError, Role
from opsdeck_vpn import book, tunnels
from opsdeck_vpn.cores import Core
from opsdeck_vpn.models import Fetch
from opsdeck_vpn.rules import text_of
from opsdeck_vpn.web.pages import may_change, page

HOURS = 1
"""How often clients are asked to look again."""


@get("/rules")
async def rules(request: HTMXRequest, deck: NamedDependency[Deck]) -> Response[Any]:
    """Show the rule list."""
    return await _rules(request, deck, text_of(await book.rules(deck)), None)


async def _rules(request: HTMXRequest, deck: Deck, text: str, fault: OpsDeckError | None) -> Response[Any]:
    return page(
        request,
        "rules.html",
        status=fault.status if fault else 200,
        text=text,
        fault=fault,
        tunnels=await tunnels.every(deck.db),
        proxies=await book.proxies(deck),
    )


@post("/rules")
async def set_rules(request: HTMXRequest, deck: NamedDependency[Deck], visitor: NamedDependency[Any]) -> Response[Any]:
    """Replace the list once both cores accepted it."""
    may_change(visitor)
    text = str((await request.form()).get("rules") or "")
    try:
        await book.set_rules(deck, text, visitor.actor)
    except OpsDeckError as fault:
        return await _rules(request, deck, text, fault)
    return Redirect("/p/vpn/rules", status_code=303)


@post("/rules/pushed/{name:str}")
async def take_over(deck: NamedDependency[Deck], visitor: NamedDependency[Any], name: FromPath[str]) -> Response[Any]:
    """Put what an office pushed before the list."""
    may_change(visitor)
    await book.take_over(deck, name, visitor.actor)
    return Redirect("/p/vpn/rules", status_code=303)


@get("/devices")
async def devices(request: HTMXRequest, deck: NamedDependency[Deck]) -> Response[Any]:
    """Show the devices and what they fetched."""
    return await _devices(request, deck, None)


async def _devices(
    request: HTMXRequest, deck: Deck, fault: OpsDeckError | None, links: list[tuple[str, str, str]] | None = None
) -> Response[Any]:
    return page(
        request,
        "devices.html",
        status=fault.status if fault else 200,
        devices=await book.devices(deck),
        fetches=await book.fetches(deck),
        fault=fault,
        links=links,
    )


@post("/devices")
async def add(request: HTMXRequest, deck: NamedDependency[Deck], visitor: NamedDependency[Any]) -> Response[Any]:
    """Make a device; its addresses are shown in this answer and never again."""
    may_change(visitor)
    try:
        token = await book.add_device(deck, str((await request.form()).get("name") or "").strip(), visitor.actor)
    except OpsDeckError as fault:
        return await _devices(request, deck, fault)
    base = (deck.settings.public_url or str(request.base_url)).rstrip("/")
    links = [(core.value, url := f"{base}/p/vpn/profile/{token.reveal()}/{core.file}", picture(url)) for core in Core]
    return await _devices(request, deck, None, links)


def picture(url: str) -> str:
    """Give the QR code of an address as a picture inside the page."""
    import segno

    return segno.make(url, error="m").png_data_uri(scale=4, border=3)


@post("/devices/{name:str}/revoke")
async def revoke(deck: NamedDependency[Deck], visitor: NamedDependency[Any], name: FromPath[str]) -> Response[Any]:
    """End a device's token."""
    may_change(visitor)
    await book.revoke(deck, name, visitor.actor)
    return Redirect("/p/vpn/devices", status_code=303)


@post("/devices/{name:str}/forget")
async def forget(deck: NamedDependency[Deck], visitor: NamedDependency[Any], name: FromPath[str]) -> Response[Any]:
    """Remove a revoked device."""
    may_change(visitor)
    await book.forget(deck, name, visitor.actor)
    return Redirect("/p/vpn/devices", status_code=303)


@get("/profile/{token:str}/{file:str}")
async def profile(
    request: HTMXRequest, deck: NamedDependency[Deck], token: FromPath[str], file: FromPath[str]
) -> Response[str]:
    """Serve a profile to whoever has a device's token."""
    core = next((core for core in Core if core.file == file), None)
    if core is None:
        raise NotFound("there is no such profile.")
    device = await book.device_of(deck, token)
    source = request.client.host if request.client else ""
    actor = Actor(f"device:{device.name}", Role.VIEWER, Door.API, source)
    served = await book.profile(deck, core, actor, f"profile of {device.name}")
    mark = f'"{served.etag}"'
    same = mark in (part.strip().removeprefix("W/") for part in request.headers.get("if-none-match", "").split(","))
    agent = "".join(char for char in request.headers.get("user-agent", "") if char.isprintable())[:120]
    status = 304 if same else 200
    fetch = Fetch(device=device.name, core=core.value, source=source, agent=agent, status=status, digest=served.etag)
    await book.note_fetch(deck, fetch)
    total = sum(row.received + row.sent for row in await tunnels.every(deck.db))
    headers = {
        "ETag": mark,
        "Cache-Control": "private, no-cache",
        "Content-Disposition": f'attachment; filename="opsdeck-{core.value}-{core.file}"',
        "Profile-Update-Interval": str(HOURS),
        "Subscription-Userinfo": f"upload=0; download={total}; total=0; expire=0",
        "Profile-Web-Page-Url": f"{(deck.settings.public_url or str(request.base_url)).rstrip('/')}/p/vpn/",
        "Referrer-Policy": "no-referrer",
    }
    if served.stale:
        headers["Warning"] = '110 - "the last good profile"'
    return Response("" if same else served.text, status_code=status, headers=headers, media_type=core.media_type)


routes = (rules, set_rules, take_over, devices, add, revoke, forget)
open_routes = (profile,)
