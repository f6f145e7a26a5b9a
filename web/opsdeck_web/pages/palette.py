"""Ctrl-K: every page, host and action, as names and addresses."""

from __future__ import annotations

from typing import Any

from litestar import get
from litestar.di import NamedDependency
from litestar.plugins.htmx import HTMXRequest

from opsdeck.deck import Deck
from opsdeck_web.language import _, words
from opsdeck_web.shell import Frame


@get("/palette")
async def entries(request: HTMXRequest, deck: NamedDependency[Deck]) -> list[dict[str, Any]]:
    """Give what the palette searches."""
    frame: Frame = request.app.state.frame
    found = [
        {"title": line.title, "path": line.path, "kind": _("page")}
        for _title, lines in frame.navigation(request)
        for line in lines
    ]
    found.append({"title": _("Your account"), "path": "/account", "kind": _("page")})
    found.append({"title": _("Add a host"), "path": "/hosts/add", "kind": _("page")})
    found += [
        {"title": host.name, "path": f"/hosts/{host.name}", "kind": _("host"), "more": f"{host.address} {host.region}"}
        for host in await deck.inventory.list()
    ]
    for manifest in deck.plugins.ordered():
        found += [
            {
                "title": words.text(action.title, owner=manifest.name),
                "path": f"/actions/{manifest.name}/{action.name}",
                "kind": _("action"),
                "more": f"{manifest.name} {action.name}",
            }
            for action in manifest.offered
        ]
    return found


@get("/badges")
async def badges(request: HTMXRequest) -> dict[str, str]:
    """Give the counts of the side bar by address, as they are now."""
    frame: Frame = request.app.state.frame
    return {line.path: line.badge for _title, lines in frame.navigation(request) for line in lines if line.badge}


routes = [entries, badges]
