"""The console's own health: what `opsdeck doctor` finds, plugin by plugin."""

from __future__ import annotations

from typing import Any

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.plugins.htmx import HTMXRequest
from sqlmodel import select

from opsdeck import __version__
from opsdeck.clock import utcnow
from opsdeck.deck import Deck
from opsdeck.health import examine
from opsdeck.jobs.models import Lease, Node
from opsdeck.pages import page

ORDER = {"broken": 0, "attention": 1, "ok": 2}


@get("/health")
async def show(request: HTMXRequest, deck: NamedDependency[Deck]) -> Response[Any]:
    """Ask everybody, and show what is wrong first."""
    findings = await examine(deck)
    async with deck.db.read() as session:
        nodes = (await session.exec(select(Node))).all()
        leases = (await session.exec(select(Lease))).all()
    return page(
        request,
        "pages/health.html",
        findings=sorted(findings, key=lambda finding: ORDER.get(finding.state, 0)),
        nodes=nodes,
        leases=[lease for lease in leases if lease.expires > utcnow()],
        plugins=deck.plugins.ordered(),
        version=__version__,
        home=str(deck.settings.home),
        incidents=[incident for incident in await deck.incidents.list(limit=20) if incident.closed],
    )


routes = [show]
