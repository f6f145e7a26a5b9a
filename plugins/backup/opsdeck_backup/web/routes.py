"""The pages: every target at a glance, one target with its chains, its retention and its orphans."""

from __future__ import annotations

from typing import Any

from jinja2_fragments.litestar import HTMXBlockTemplate
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.plugins.htmx import HTMXRequest

from opsdeck.api import Deck, utcnow
from opsdeck_backup import catalogue, chains, health, manifests, targets
from opsdeck_backup.models import Item, ItemState, Target

SHOWN = 30
"""Chains on a page, the newest ones."""


def _page(request: HTMXRequest, name: str, block: str, **context: Any) -> Response[Any]:
    part = bool(request.htmx) and not request.htmx.boosted and not request.htmx.history_restore_request
    return HTMXBlockTemplate(
        template_name=f"backup/{name}.html",
        block_name=block if part else None,
        context=context,
        headers={"Vary": "HX-Request"},
        media_type="text/html",
    )


@get("/")
async def show(request: HTMXRequest, deck: NamedDependency[Deck]) -> Response[Any]:
    """List the targets: how fresh, how proven, how large."""
    return _page(request, "targets", "rows", lines=await health.standings(deck))


def _state_of(item: Item) -> str:
    return {
        ItemState.GOOD: "ok",
        ItemState.RUNNING: "running",
        ItemState.FAILED: "broken",
        ItemState.MISSING: "broken",
    }[ItemState(item.state)]


def _chains(items: tuple[Item, ...]) -> list[tuple[str, list[Item]]]:
    """Put backups under their chains, the newest chain first, links in order."""
    found: dict[str, list[Item]] = {}
    for item in items:
        found.setdefault(item.chain, []).append(item)
    return [(name, sorted(found[name], key=lambda one: one.id)) for name in sorted(found, reverse=True)[:SHOWN]]


def _verdicts(row: Target, items: tuple[Item, ...]) -> dict[str, chains.Verdict]:
    """Say what the retention would do now, from what the catalogue knows."""
    known = [manifests.read(item.manifest, file=item.id) for item in items if item.manifest and item.state == "good"]
    judged = chains.judge(chains.build(known), targets.rules_of(row), now=utcnow())
    return {one.chain.id: one for one in judged}


@get("/{name:str}")
async def one(request: HTMXRequest, deck: NamedDependency[Deck], name: FromPath[str]) -> Response[Any]:
    """Show one target: chains with their links, proofs, rules."""
    row = await catalogue.find(deck, name)
    items = await catalogue.items(deck, name)
    proofs = await catalogue.proofs(deck, name)
    largest = max((item.stored for item in items), default=0)
    return _page(
        request,
        "target",
        "chain",
        row=row,
        standing=health.judge(row, items, proofs, utcnow()),
        chains=_chains(items),
        verdicts=_verdicts(row, items),
        proofs=proofs[:10],
        proven={proof.item for proof in proofs if proof.ok},
        state_of=_state_of,
        largest=largest,
    )


routes = (show, one)
