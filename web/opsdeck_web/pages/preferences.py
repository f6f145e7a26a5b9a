"""Language, colours and zone: kept with the person, and in cookies before anyone is logged in."""

from __future__ import annotations

from typing import Any

from litestar import post
from litestar.datastructures import Cookie
from litestar.di import NamedDependency
from litestar.plugins.htmx import HTMXRequest
from litestar.response import Redirect

from opsdeck.accounts.models import User
from opsdeck.deck import Deck
from opsdeck_web.formatting import valid_zone
from opsdeck_web.language import LANGUAGES
from opsdeck_web.security import local_path
from opsdeck_web.visitor import Visitor

YEAR = 365 * 24 * 3600
THEMES = {"auto": "", "light": "light", "dark": "dark"}


@post("/preferences")
async def change(request: HTMXRequest, deck: NamedDependency[Deck]) -> Redirect:
    """Keep a choice; what is not offered is left out."""
    form = await request.form()
    chosen: dict[str, str] = {}
    if form.get("language") in LANGUAGES:
        chosen["language"] = str(form["language"])
    if form.get("theme") in THEMES:
        chosen["theme"] = THEMES[str(form["theme"])]
    zone = str(form.get("zone") or "")
    if zone and valid_zone(zone) == zone:
        chosen["time_zone"] = zone
    visitor: Visitor | None = request.scope["user"]
    if visitor is not None and chosen:
        async with deck.db.write() as session:
            user = await session.get(User, visitor.user.id)
            if user is not None:
                user.sqlmodel_update(chosen)
                session.add(user)
    names: dict[str, str] = {"time_zone": "zone"}
    secure = bool(request.app.state.secure)
    cookies: list[Any] = [
        Cookie(key=names.get(name, name), value=value, path="/", max_age=YEAR, samesite="lax", secure=secure)
        for name, value in chosen.items()
    ]
    return Redirect(local_path(form.get("next")), status_code=303, cookies=cookies)


routes = [change]
