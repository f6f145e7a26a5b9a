"""In and out: password with code, a link that works once, step-up, logout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.exceptions import NotAuthorizedException
from litestar.params import FromPath
from litestar.plugins.htmx import HTMXRequest
from litestar.response import Redirect

from opsdeck.accounts.models import User
from opsdeck.deck import Deck
from opsdeck.errors import OpsDeckError
from opsdeck.pages import page
from opsdeck_web import identity
from opsdeck_web.security import local_path
from opsdeck_web.visitor import Visitor


@get("/login")
async def show(request: HTMXRequest) -> Response[Any]:
    """Show the login form, unless the person is logged in."""
    target = local_path(request.query_params.get("next"))
    if request.scope["user"] is not None:
        return Redirect(target, status_code=303)
    return page(request, "login.html", next=target, name="", fault=None, ask_code=False)


@post("/login")
async def log_in(request: HTMXRequest, deck: NamedDependency[Deck]) -> Response[Any]:
    """Check password and code, within the limits that the accounts keep, and start a session."""
    form = await request.form()
    target = local_path(form.get("next"))
    name = str(form.get("name") or "").strip()
    source = identity.source_of(request.scope)
    try:
        code = str(form.get("code") or "").replace(" ", "")
        user = await deck.accounts.authenticate(name, str(form.get("password") or ""), code, source)
    except OpsDeckError as fault:
        return page(request, "login.html", status=fault.status, next=target, name=name, fault=fault,
                    ask_code=fault.field == "code")  # fmt: skip
    return await _enter(request, deck, user, target)


@get("/login/link/{link:str}")
async def show_link(request: HTMXRequest, link: FromPath[str]) -> Response[Any]:
    """Ask before the link is used up: fetching an address changes nothing, whoever previews it."""
    return page(request, "login_link.html", link=link, fault=None)


@post("/login/link")
async def use_link(request: HTMXRequest, deck: NamedDependency[Deck]) -> Response[Any]:
    """Use up a login link and start a session."""
    form = await request.form()
    try:
        user = await deck.accounts.use_login_link(str(form.get("link") or ""), identity.source_of(request.scope))
    except OpsDeckError as fault:
        return page(request, "login_link.html", status=fault.status, link="", fault=fault)
    return await _enter(request, deck, user, "/")


async def _enter(request: HTMXRequest, deck: Deck, user: User, target: str) -> Response[Any]:
    before: Visitor | None = request.scope["user"]
    if before is not None:
        await identity.end(deck, before.key)
    cookie = await identity.begin(
        deck,
        user,
        agent=request.headers.get("user-agent", ""),
        source=identity.source_of(request.scope),
        secure=bool(request.app.state.secure),
    )
    return Redirect(target, status_code=303, cookies=[cookie])


@post("/logout")
async def log_out(request: HTMXRequest, deck: NamedDependency[Deck]) -> Response[Any]:
    """End the session."""
    visitor: Visitor | None = request.scope["user"]
    if visitor is not None:
        await identity.end(deck, visitor.key)
    gone = identity.session_cookie("", secure=bool(request.app.state.secure), seconds=0)
    return Redirect("/login", status_code=303, cookies=[gone])


def asks_code(visitor: Visitor) -> bool:
    """Tell whether a person proves themselves with a code."""
    return visitor.user.totp_blob is not None


async def prove(deck: Deck, visitor: Visitor, form: Mapping[str, Any]) -> Visitor:
    """Check the person's code, or else their password, once more; give the visitor as stepped up. Raises `Refused`."""
    password, code = str(form.get("_proof") or ""), str(form.get("_code") or "").replace(" ", "")
    await deck.accounts.prove(visitor.name, password=password, code=code, source=visitor.source)
    return await identity.step_up(deck, visitor)


@get("/step-up")
async def show_step_up(request: HTMXRequest) -> Response[Any]:
    """Ask the person to prove themselves again."""
    target = local_path(request.query_params.get("next"))
    return page(request, "step_up.html", next=target, ask_code=asks_code(_visitor(request)), fault=None)


@post("/step-up")
async def step_up(request: HTMXRequest, deck: NamedDependency[Deck]) -> Response[Any]:
    """Check the proof and go on."""
    visitor = _visitor(request)
    form = await request.form()
    target = local_path(form.get("next"))
    try:
        await prove(deck, visitor, form)
    except OpsDeckError as fault:
        return page(request, "step_up.html", status=fault.status, next=target, ask_code=asks_code(visitor), fault=fault)
    return Redirect(target, status_code=303)


def _visitor(request: HTMXRequest) -> Visitor:
    visitor: Visitor | None = request.scope["user"]
    if visitor is None:
        raise NotAuthorizedException("log in first")
    return visitor


routes = [show, log_in, show_link, use_link, log_out, show_step_up, step_up]
