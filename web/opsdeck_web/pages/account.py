"""One's own account: password, second factor, tokens, logins, zone."""

from __future__ import annotations

from typing import Any

import segno
from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.plugins.htmx import HTMXRequest
from litestar.response import Redirect

from opsdeck.actor import Role
from opsdeck.deck import Deck
from opsdeck.errors import Invalid, OpsDeckError
from opsdeck.pages import page
from opsdeck.secrets.sensitive import Sensitive
from opsdeck_web import identity
from opsdeck_web.language import _
from opsdeck_web.pages.login import asks_code, prove
from opsdeck_web.visitor import Visitor


@get("/account")
async def show(request: HTMXRequest, deck: NamedDependency[Deck], visitor: NamedDependency[Visitor]) -> Response[Any]:
    """Show the account."""
    return await listing(request, deck, visitor)


async def listing(
    request: HTMXRequest,
    deck: Deck,
    visitor: Visitor,
    fault: OpsDeckError | None = None,
    *,
    token: str = "",
    enrolment: dict[str, str] | None = None,
) -> Response[Any]:
    """Show the account; a token and a seed are shown this one time."""
    return page(
        request,
        "pages/account.html",
        status=fault.status if fault else 200,
        user=visitor.user,
        tokens=[token for token in await deck.accounts.tokens.list(visitor.name) if token.revoked is None],
        sessions=await deck.accounts.sessions.list(visitor.user.id or 0),
        here=identity.hashed(visitor.key),
        roles=[role.value for role in Role if role.rank <= visitor.role.rank],
        ask_code=asks_code(visitor),
        fault=fault,
        token=token,
        enrolment=enrolment,
    )


@post("/account/password")
async def password(
    request: HTMXRequest, deck: NamedDependency[Deck], visitor: NamedDependency[Visitor]
) -> Response[Any]:
    """Set a new password, the old one proven; every other login ends."""
    sent = await request.form()
    new = str(sent.get("new") or "")
    try:
        if new != str(sent.get("again") or ""):
            raise Invalid(_("the two new passwords differ."), field="again", hint=_("type both again"))
        visitor = await prove(deck, visitor, sent)
        await deck.accounts.set_password(visitor.name, Sensitive(new), visitor.actor, keep=identity.hashed(visitor.key))
    except OpsDeckError as fault:
        return await listing(request, deck, visitor, fault)
    return Redirect("/account", status_code=303)


@post("/account/totp")
async def totp(request: HTMXRequest, deck: NamedDependency[Deck], visitor: NamedDependency[Visitor]) -> Response[Any]:
    """Begin, confirm or end the second factor."""
    sent = await request.form()
    try:
        if sent.get("act") == "begin":
            if not visitor.stepped_up:
                visitor = await prove(deck, visitor, sent)
            return await listing(request, deck, visitor, enrolment=await picture(deck, visitor))
        if sent.get("act") == "confirm":
            code = str(sent.get("first_code") or "").replace(" ", "")
            await deck.accounts.confirm_totp(visitor.name, str(sent.get("ticket") or ""), code, visitor.actor)
        elif sent.get("act") == "end":
            visitor = await prove(deck, visitor, sent)
            await deck.accounts.remove_totp(visitor.name, visitor.actor)
    except OpsDeckError as fault:
        return await listing(request, deck, visitor, fault)
    return Redirect("/account", status_code=303)


async def picture(deck: Deck, visitor: Visitor) -> dict[str, str]:
    """Give what an authenticator needs: a picture to scan, the seed to type, the ticket that carries it sealed."""
    begun = await deck.accounts.enrol_totp(visitor.name, visitor.actor)
    image = segno.make(begun.uri.reveal(), error="m").png_data_uri(scale=5, border=2)
    return {"image": image, "seed": begun.seed.reveal(), "ticket": begun.ticket}


@post("/account/tokens")
async def make_token(
    request: HTMXRequest, deck: NamedDependency[Deck], visitor: NamedDependency[Visitor]
) -> Response[Any]:
    """Make a token and show it once."""
    sent = await request.form()
    try:
        if not visitor.stepped_up:
            visitor = await prove(deck, visitor, sent)
        days = str(sent.get("days") or "90")
        role = str(sent.get("role") or "viewer")
        if not days.isdecimal() or role not in list(Role):
            raise Invalid(_("days must be a number."), field="days")
        _info, token = await deck.accounts.tokens.create(
            visitor.name,
            str(sent.get("name") or "").strip(),
            role=Role(role),
            scopes=str(sent.get("scopes") or "").replace(",", " ").split(),
            days=int(days),
            actor=visitor.actor,
        )
    except OpsDeckError as fault:
        return await listing(request, deck, visitor, fault)
    return await listing(request, deck, visitor, token=token.reveal())


@post("/account/tokens/revoke")
async def revoke(request: HTMXRequest, deck: NamedDependency[Deck], visitor: NamedDependency[Visitor]) -> Response[Any]:
    """End a token."""
    await deck.accounts.tokens.revoke(str((await request.form()).get("prefix") or ""), visitor.actor)
    return Redirect("/account", status_code=303)


@post("/account/sessions/end")
async def end_sessions(deck: NamedDependency[Deck], visitor: NamedDependency[Visitor]) -> Response[Any]:
    """End every other login."""
    await deck.accounts.sessions.delete_for_user(visitor.user.id or 0, keep=identity.hashed(visitor.key))
    return Redirect("/account", status_code=303)


routes = [show, password, totp, make_token, revoke, end_sessions]
