"""Watching that edges renew their certificates: by the hand they shake, not by what they were given once."""

from __future__ import annotations

import asyncio

from opsdeck.api import ServiceRun, utcnow
from opsdeck_cdn import book
from opsdeck_cdn.book import Model
from opsdeck_cdn.probing import NoAnswer, certificate, context
from opsdeck_cdn.sites import Edge

EVERY = 3600.0
FIRST = 20.0
"""Seconds before the first look, when a deploy may still be under way."""


async def look(model: Model, edge: Edge) -> tuple[dict[str, str], list[str]]:
    """Give the life of each name's certificate on an edge, and what is wrong."""
    trust = context(model.setup.visitor_roots)
    lives: dict[str, str] = {}
    wrong: list[str] = []
    for site in model.sites:
        for name in site.names:
            try:
                life = await certificate(edge.v4, name, trust)
            except NoAnswer as fault:
                if fault.tls:
                    wrong.append(fault.message)
                continue
            lives[name] = str(life)
            if life.late(utcnow()):
                wrong.append(f"the certificate of {name} ends on {life.end:%Y-%m-%d} and was not renewed.")
    return lives, wrong


async def watch(run: ServiceRun) -> None:
    """Look at all certificates every hour; keep their lives, and open an incident where one is missing or old."""
    await asyncio.sleep(FIRST)
    while True:
        model = await book.load(run.db)
        for edge in model.edges:
            row = model.rows[edge.host]
            if not row.generation or row.health == "down":
                continue
            lives, wrong = await look(model, edge)
            if lives:
                await book.change_edge(run.db, edge.host, certificates=dict(row.certificates) | lives)
            key = f"cdn:certificate:{edge.host}"
            if wrong:
                detail = f"{' '.join(wrong)} `journalctl -u opsdeck-cdn-front` on it has the CA's words."
                title = f"edge {edge.host} has a certificate that is missing or not renewed"
                await run.open_incident(key, title, detail=detail, host=edge.host, severity="attention")
            else:
                await run.close_incident(key)
        await asyncio.sleep(EVERY)
