"""The people who may log in; for admins."""

from __future__ import annotations

from typing import Any

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.plugins.htmx import HTMXRequest
from litestar.response import Redirect

from opsdeck.accounts.passwords import make_password
from opsdeck.accounts.permissions import StepUpNeeded, require
from opsdeck.actor import Role
from opsdeck.deck import Deck
from opsdeck.errors import Invalid, OpsDeckError
from opsdeck.pages import page
from opsdeck_web.language import _
from opsdeck_web.visitor import Visitor


@get("/people")
async def show(request: HTMXRequest, deck: NamedDependency[Deck], visitor: NamedDependency[Visitor]) -> Response[Any]:
    """List everybody."""
    require(visitor.actor, Role.ADMIN, "see the people")
    return await listing(request, deck, {}, None)


async def listing(
    request: HTMXRequest,
    deck: Deck,
    given: dict[str, str],
    fault: OpsDeckError | None,
    once: tuple[str, str] | None = None,
) -> Response[Any]:
    """Show the list; `once` is a name with the password that is shown this one time."""
    return page(
        request,
        "pages/people.html",
        status=fault.status if fault else 200,
        people=await deck.accounts.list(),
        roles=[role.value for role in Role],
        given={"name": "", "role": "viewer"} | given,
        fault=fault,
        once=once,
    )


@post("/people")
async def add(request: HTMXRequest, deck: NamedDependency[Deck], visitor: NamedDependency[Visitor]) -> Response[Any]:
    """Add a person with a password that is shown once."""
    proven(visitor)
    sent = await request.form()
    given = {"name": str(sent.get("name") or "").strip(), "role": str(sent.get("role") or "viewer")}
    password = make_password()
    try:
        await deck.accounts.create(given["name"], password, role_of(given["role"]), visitor.actor)
    except OpsDeckError as fault:
        return await listing(request, deck, given, fault)
    return await listing(request, deck, {}, None, (given["name"], password.reveal()))


def role_of(text: str) -> Role:
    """Read a role. Raises `Invalid`."""
    if text not in list(Role):
        raise Invalid(_("%s is no role.") % repr(text), field="role")
    return Role(text)


def proven(visitor: Visitor) -> None:
    """Raise `StepUpNeeded` unless the person proved themselves a short while ago."""
    require(visitor.actor, Role.ADMIN, "change people")
    if not visitor.stepped_up:
        raise StepUpNeeded(_("to change who may log in, prove again who you are."))


@post("/people/{name:str}")
async def change(
    request: HTMXRequest, deck: NamedDependency[Deck], visitor: NamedDependency[Visitor], name: FromPath[str]
) -> Response[Any]:
    """Give a person another role, shut them out, let them in, or remove them."""
    proven(visitor)
    sent = await request.form()
    act = sent.get("act")
    if act == "role":
        await deck.accounts.set_role(name, role_of(str(sent.get("role") or "")), visitor.actor)
    elif act in {"disable", "enable"}:
        await deck.accounts.set_disabled(name, act == "disable", visitor.actor)
    elif act == "password":
        password = make_password()
        await deck.accounts.set_password(name, password, visitor.actor)
        return await listing(request, deck, {}, None, (name, password.reveal()))
    elif act == "remove":
        if str(sent.get("confirm") or "").strip() != name:
            raise Invalid(_("That is not the name of the person."), field="confirm", hint=_("type the name"))
        await deck.accounts.remove(name, visitor.actor)
    else:
        raise Invalid(_("this is not offered."), field="act")
    return Redirect("/people", status_code=303)


routes = [show, add, change]
