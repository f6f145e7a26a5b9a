"""The pages: sites, one site, edges, one edge."""

from __future__ import annotations

from collections import Counter
from typing import Any

from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.response import Template

from opsdeck.api import Deck
from opsdeck_cdn import book, checkup, sight
from opsdeck_cdn.naming import LICENCES
from opsdeck_cdn.web.views import edge_line, site_line


@get("/sites")
async def sites(deck: NamedDependency[Deck]) -> Template:
    """List the sites."""
    model = await book.load(deck.db)
    lines = [site_line(model, site) for site in model.sites]
    return Template("cdn/sites.html", context={"lines": lines, "model": model})


@get("/sites/{name:str}")
async def site(deck: NamedDependency[Deck], name: FromPath[str]) -> Template:
    """Show one site: names and certificates by edge, origins, rules."""
    model = await book.load(deck.db)
    found = model.site(name)
    owing = Counter(debt.edge for debt in await book.owed(deck.db))
    edges = [edge_line(model, edge, owing[edge.host]) for edge in model.edges]
    context: dict[str, Any] = {"line": site_line(model, found), "site": found, "model": model, "edges": edges}
    context["traffic"] = await sight.traffic(deck.db, site=name)
    return Template("cdn/site.html", context=context)


@get("/edges")
async def edges(deck: NamedDependency[Deck]) -> Template:
    """List the edges and the name servers."""
    model = await book.load(deck.db)
    owing = Counter(debt.edge for debt in await book.owed(deck.db))
    lines = [edge_line(model, edge, owing[edge.host]) for edge in model.edges]
    licence = LICENCES.get(model.geoip.name, "") if model.geoip.sha256 else ""
    faults = [row for row in await checkup.kept(deck.db) if row.place == checkup.ZONE]
    context = {"lines": lines, "model": model, "licence": licence, "faults": faults}
    return Template("cdn/edges.html", context=context)


@get("/edges/{host:str}")
async def edge(deck: NamedDependency[Deck], host: FromPath[str]) -> Template:
    """Show one edge: what it serves, what is wrong with it, its certificates, what it owes."""
    model = await book.load(deck.db)
    debts = await book.owed(deck.db, host)
    line = edge_line(model, model.edge(host), len(debts))
    traffic = await sight.traffic(deck.db, edge=host)
    faults = [row for row in await checkup.kept(deck.db) if row.place == host]
    context = {"line": line, "model": model, "debts": debts[:100], "traffic": traffic, "faults": faults}
    return Template("cdn/edge.html", context=context)


@get("/purge")
async def purge(deck: NamedDependency[Deck]) -> Template:
    """Offer the three ways to purge, and show who owes what."""
    model = await book.load(deck.db)
    debts = await book.owed(deck.db)
    jobs = await deck.jobs.list(plugin="cdn", action="purge", limit=10)
    return Template("cdn/purge.html", context={"model": model, "debts": debts[:200], "jobs": jobs})


routes = (sites, site, edges, edge, purge)
