"""The secrets: values go in and never come out here."""

from __future__ import annotations

from typing import Any

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.plugins.htmx import HTMXRequest
from litestar.response import Redirect

from opsdeck.deck import Deck
from opsdeck.errors import Invalid, OpsDeckError
from opsdeck.pages import page
from opsdeck.secrets.sensitive import Sensitive
from opsdeck_web.language import _
from opsdeck_web.visitor import Visitor


@get("/secrets")
async def show(request: HTMXRequest, deck: NamedDependency[Deck]) -> Response[Any]:
    """List the secrets by name, kind and use; no value."""
    return await listing(request, deck, {}, None)


async def listing(
    request: HTMXRequest, deck: Deck, given: dict[str, str], fault: OpsDeckError | None, public: str = ""
) -> Response[Any]:
    """Show the list and the form; what was typed as a value is not shown again."""
    return page(
        request,
        "pages/secrets.html",
        status=fault.status if fault else 200,
        secrets=await deck.secrets.list(),
        kinds=deck.secrets.kinds,
        given={"name": "", "kind": "password", "note": ""} | given,
        fault=fault,
        public=public,
    )


@post("/secrets")
async def put(request: HTMXRequest, deck: NamedDependency[Deck], visitor: NamedDependency[Visitor]) -> Response[Any]:
    """Set a secret, or make an SSH key and show its public half."""
    sent = await request.form()
    given = {name: str(sent.get(name) or "").strip() for name in ("name", "kind", "note")}
    value = str(sent.get("value") or "").replace("\r\n", "\n")
    try:
        if sent.get("generate"):
            public = await deck.secrets.generate_ssh_key(given["name"], note=given["note"] or None, actor=visitor.actor)
            return await listing(request, deck, {}, None, public)
        if not value:
            raise Invalid(_("the value is empty."), field="value", hint=_("paste or type it"))
        if given["kind"] in {"password", "token", "text"}:
            value = value.rstrip("\n")
        await deck.secrets.set(
            given["name"], Sensitive(value), kind=given["kind"], note=given["note"] or None, actor=visitor.actor
        )
    except OpsDeckError as fault:
        return await listing(request, deck, given, fault)
    return Redirect("/secrets", status_code=303)


@post("/secrets/remove/{name:path}")
async def remove(
    request: HTMXRequest, deck: NamedDependency[Deck], visitor: NamedDependency[Visitor], name: FromPath[str]
) -> Response[Any]:
    """Remove a secret, once its name was typed."""
    wanted = name.lstrip("/")
    if str((await request.form()).get("confirm") or "").strip() != wanted:
        raise Invalid(_("That is not the name of the secret."), field="confirm", hint=_("type the name"))
    await deck.secrets.remove(wanted, visitor.actor)
    return Redirect("/secrets", status_code=303)


routes = [show, put, remove]
