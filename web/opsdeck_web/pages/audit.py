"""The audit trail: who did what to which target, from where; and whether the chain is whole."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.plugins.htmx import HTMXRequest

from opsdeck.audit.entry import Entry
from opsdeck.audit.log import Filters
from opsdeck.clock import utcnow
from opsdeck.deck import Deck
from opsdeck.pages import page

PAGE = 100
VERIFY_SECONDS = 60.0


@dataclass(frozen=True)
class Row:
    """An entry as the page shows it."""

    entry: Entry
    source: str
    detail: str
    link: str


@get("/audit")
async def show(request: HTMXRequest, deck: NamedDependency[Deck]) -> Response[Any]:
    """List entries, the newest first."""
    chosen = {name: request.query_params.get(name, "").strip() for name in ("actor", "verb", "target")}
    before = request.query_params.get("before", "")
    filters = Filters(actor=chosen["actor"], verb=chosen["verb"], target=chosen["target"])
    entries = await deck.audit.list(filters, limit=PAGE, before_seq=int(before) if before.isdecimal() else None)
    head = await deck.audit.head()
    return page(
        request,
        "pages/audit.html",
        "rows",
        rows=[row_of(entry) for entry in entries],
        chosen=chosen,
        more=entries[-1].seq if len(entries) == PAGE else None,
        head=head,
        verdict=None,
    )


@post("/audit/verify")
async def verify(request: HTMXRequest, deck: NamedDependency[Deck]) -> Response[Any]:
    """Look at the whole chain now. It changes nothing, and is work, so it is not to be had by a mere link."""
    began = utcnow()
    async with asyncio.timeout(VERIFY_SECONDS):
        verdict = await deck.audit.verify()
    return page(request, "pages/audit.html", "verdict", verdict=verdict, took=utcnow() - began)


def row_of(entry: Entry) -> Row:
    """Make an entry readable: what stands in its body beyond its columns, as short text."""
    body = entry.told()
    source = str(body.get("source") or "")
    parts = []
    detail = body.get("detail")
    if isinstance(detail, dict):
        parts += [f"{key} {_short(value)}" for key, value in detail.items() if value not in (None, "", [], {})]
    for name, arrow in (("before", "−"), ("after", "+")):
        if isinstance(body.get(name), dict):
            said = {key: value for key, value in body[name].items() if value not in (None, "", [], {})}
            parts += [f"{arrow}{key} {_short(value)}" for key, value in said.items()]
        elif body.get(name) not in (None, ""):
            parts.append(f"{arrow}{_short(body[name])}")
    kind, _colon, name = entry.target.partition(":")
    links = {"job": f"/jobs/{name}", "host": f"/hosts/{name}", "schedule": f"/schedules/{name}"}
    return Row(entry, source, " · ".join(parts), links.get(kind, ""))


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 160 else text[:157] + "…"


routes = [show, verify]
