"""The pages: every target at a glance, one target with its chains, its retention and its orphans."""

from __future__ import annotations

from typing import Any

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery
from litestar.plugins.htmx import HTMXRequest

from opsdeck.api import Deck, OpsDeckError, Submission, page, utcnow
from opsdeck_backup import bring, catalogue, chains, health, manifests, restore, targets
from opsdeck_backup.kube import handed
from opsdeck_backup.models import Item, ItemState, Target

SHOWN = 30
"""Chains on a page, the newest ones."""
CHOICES = 200
"""Backups that are offered to be restored, the newest ones."""


@get("/")
async def show(request: HTMXRequest, deck: NamedDependency[Deck]) -> Response[Any]:
    """List the targets: how fresh, how proven, how large."""
    return page(request, "backup/targets.html", "rows", lines=await health.standings(deck))


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


def _known(items: tuple[Item, ...]) -> list[manifests.Manifest]:
    return [manifests.read(item.manifest, file=item.id) for item in items if item.manifest and item.state == "good"]


def _verdicts(row: Target, items: tuple[Item, ...]) -> dict[str, chains.Verdict]:
    """Say what the retention would do now, from what the catalogue knows."""
    judged = chains.judge(chains.build(_known(items)), targets.rules_of(row), now=utcnow())
    return {one.chain.id: one for one in judged}


@get("/{name:str}")
async def one(request: HTMXRequest, deck: NamedDependency[Deck], name: FromPath[str]) -> Response[Any]:
    """Show one target: chains with their links, proofs, rules."""
    row = await catalogue.find(deck, name)
    items = await catalogue.items(deck, name)
    proofs = await catalogue.proofs(deck, name)
    largest = max((item.stored for item in items), default=0)
    return page(
        request,
        "backup/target.html",
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


@get("/{name:str}/restore")
async def bring_back(
    request: HTMXRequest, deck: NamedDependency[Deck], name: FromPath[str], backup: FromQuery[str] = "latest",
    onto: FromQuery[str] = "",
) -> Response[Any]:  # fmt: skip
    """Choose what to bring back and where to; the action's own door checks, shows the plan and asks for consent."""
    row = await catalogue.find(deck, name)
    built = chains.build(_known(await catalogue.items(deck, name)))
    there = sorted((link for chain in built for link in chain.links), key=lambda link: link.id, reverse=True)
    links = chains.path_to(built, backup) if there else ()
    return page(
        request, "backup/restore.html", "about", row=row, there=there[:CHOICES], links=links, onto=onto, backup=backup,
        needed=bring.needed(links) << 20, seconds=restore.estimate(await catalogue.proofs(deck, name), links),
        hosts=[host.name for host in await deck.inventory.list()], hidden=max(0, len(there) - CHOICES),
    )  # fmt: skip


@get("/{name:str}/keep")
async def kept(request: HTMXRequest, deck: NamedDependency[Deck], name: FromPath[str]) -> Response[Any]:
    """Show what the rules keep and what may go, chain by chain."""
    return await _keep(request, deck, name, looked=False)


@get("/{name:str}/orphans")
async def orphans(
    request: HTMXRequest, deck: NamedDependency[Deck], visitor: NamedDependency[Any], name: FromPath[str]
) -> Response[Any]:
    """Ask the store what lies there without a manifest."""
    await catalogue.find(deck, name)
    asked = Submission("backup", "clean", {"target": name})
    try:
        return await _keep(request, deck, name, looked=True, plan=await deck.jobs.plan(asked, visitor.actor))
    except OpsDeckError as fault:
        return await _keep(request, deck, name, looked=True, fault=fault)


async def _keep(request: HTMXRequest, deck: Deck, name: str, **context: Any) -> Response[Any]:
    row = await catalogue.find(deck, name)
    found = _verdicts(row, await catalogue.items(deck, name))
    verdicts = [found[chain] for chain in sorted(found, reverse=True)]
    frees = sum(one.chain.stored for one in verdicts if not one.keep)
    return page(request, "backup/keep.html", "orphans", row=row, verdicts=verdicts, frees=frees, **context)


@get("/{name:str}/sidecar")
async def sidecar(request: HTMXRequest, deck: NamedDependency[Deck], name: FromPath[str]) -> Response[Any]:
    """Show what a target in Kubernetes hands to its chart or operator, and what its image is built from."""
    row = await catalogue.find(deck, name)
    image = handed.image(row, await catalogue.items(deck, name))
    return page(
        request,
        "backup/sidecar.html",
        "content",
        row=row,
        image=image,
        values=handed.values(row, image),
        containerfile=handed.containerfile(row),
    )


routes = (show, one, bring_back, kept, orphans, sidecar)
