"""Retention and orphans: what may go from the store, shown first, child before parent."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from pydantic import Field

from opsdeck.api import Action, Change, Conflict, Plan, Receipt, Risk, Targets, Verb, utcnow
from opsdeck_backup import catalogue, chains, targets
from opsdeck_backup.catalogue import Holding
from opsdeck_backup.manifests import ID
from opsdeck_backup.models import ItemState
from opsdeck_backup.stores import DATA, MANIFESTS
from opsdeck_backup.targets import NameParams, Opened

if TYPE_CHECKING:
    from opsdeck.api import JobRun, PlanRun


ENDS = (".xb.zst.age", ".xb.zst.age.config", ".list")
"""What a backup's files in the store end with."""


async def sweep(job: JobRun, found: Opened, holding: Holding) -> Sequence[str]:
    """Remove the chains that no rule keeps; give the names of the backups that went.

    Nothing goes while something in the store is damaged: then the rules would count on what does not restore.
    """
    if holding.damaged:
        job.log(f"{len(holding.damaged)} backups are damaged: nothing goes before `clean --damaged`", "bad")
        return ()
    gone: list[str] = []
    for verdict in chains.judge(holding.chains, found.rules, now=utcnow()):
        if verdict.keep:
            continue
        try:
            async with job.lease(chains.use_of(found.row.name, verdict.chain.id), "retention"):
                gone += await _remove(job, found, verdict)
        except Conflict as used:
            job.log(f"chain {verdict.chain.id} stays for now: {used.message}")
    return tuple(gone)


async def _remove(job: JobRun, found: Opened, verdict: chains.Verdict) -> Sequence[str]:
    job.log(f"chain {verdict.chain.id} goes: {verdict.reason}")
    links = (*verdict.chain.links, *verdict.chain.broken)
    # Without their manifests the data are orphans: a removal that breaks off leaves nothing that looks whole.
    await found.store.remove([f"{MANIFESTS}/{link.id}.json" for link in reversed(links)])
    await found.store.remove([f"{link.planned.object}{end}" for link in links for end in ("", ".config")])
    await catalogue.forget(job, [link.id for link in links])
    return [link.id for link in links]


async def _plan_prune(run: PlanRun, params: NameParams) -> Plan:
    found = await targets.opened(run, params.target)
    holding = await catalogue.look(found.store, params.target, await catalogue.known(run, params.target))
    verdicts = chains.judge(holding.chains, found.rules, now=utcnow())
    notes = tuple(f"kept: chain {one.chain.id} ({one.reason})" for one in verdicts if one.keep)
    if holding.damaged:
        wrong = (f"damaged, so nothing goes: {name}: {why}" for name, why in holding.damaged.items())
        return Plan((), (*wrong, "next: `clean --damaged` removes what is left of it", *notes))
    changes = tuple(
        Change("", Verb.DELETE, link.id, f"{link.planned.kind}, {link.result.stored} bytes: {one.reason}")
        for one in verdicts
        if not one.keep
        for link in (*one.chain.links, *one.chain.broken)
    )
    return Plan(changes, notes)


async def _prune(job: JobRun, params: NameParams) -> Receipt:
    found = await targets.opened(job, params.target)
    holding = await catalogue.sync(job, params.target, found.store)
    gone = await sweep(job, found, holding)
    left = await catalogue.sync(job, params.target, found.store)
    return {"removed": list(gone), "left": len(left.manifests)}


class CleanParams(NameParams):
    """Which orphans."""

    older_hours: int = Field(
        24, ge=0, le=10_000, title="Older than", description="An upload of another console may still run.",
        json_schema_extra={"unit": "h"},
    )  # fmt: skip
    damaged: bool = Field(
        False,
        title="Also what is damaged",
        description="Backups whose data or manifest is cut or gone: what is left of them goes, from the store and from "
        "the list. Until then retention removes nothing.",
    )


def old_orphans(holding: Holding, before: datetime) -> tuple[str, ...]:
    """Give the paths of orphans begun before `before`; what does not look like ours is left alone."""
    found = []
    for path in sorted(holding.orphans):
        name = path.removeprefix(f"{DATA}/")[:25]
        if not ID.fullmatch(name):
            continue
        if datetime.strptime(name[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC) <= before:
            found.append(path)
    return tuple(found)


async def _lost(run: JobRun | PlanRun, params: CleanParams, holding: Holding) -> dict[str, str]:
    """Give what is damaged in the store or gone from it, with the reason, where it is to go."""
    if not params.damaged:
        return {}
    rows = await catalogue.items(run, params.target)
    good = {manifest.id for manifest in holding.manifests}
    gone = {row.id: row.error for row in rows if row.state == ItemState.MISSING and row.id not in good}
    return gone | dict(holding.damaged)


async def _plan_clean(run: PlanRun, params: CleanParams) -> Plan:
    found = await targets.opened(run, params.target)
    holding = await catalogue.look(found.store, params.target, await catalogue.known(run, params.target))
    old = old_orphans(holding, utcnow() - timedelta(hours=params.older_hours))
    lost = await _lost(run, params, holding)
    left = [f"left: {path}" for path in sorted(set(holding.orphans) - set(old))]
    left += [f"left: {name}: {why}" for name, why in holding.damaged.items() if name not in lost]
    changes = [Change("", Verb.DELETE, path, f"{holding.orphans[path]} bytes") for path in old]
    changes += [Change("", Verb.DELETE, name, why) for name, why in lost.items()]
    return Plan(tuple(changes), tuple(left))


async def _clean(job: JobRun, params: CleanParams) -> Receipt:
    found = await targets.opened(job, params.target)
    holding = await catalogue.sync(job, params.target, found.store)
    old = old_orphans(holding, utcnow() - timedelta(hours=params.older_hours))
    lost = await _lost(job, params, holding)
    await found.store.remove(old)
    await found.store.remove([f"{MANIFESTS}/{name}.json" for name in lost])
    await found.store.remove([f"{DATA}/{name}{end}" for name in lost for end in ENDS])
    await catalogue.forget(job, lost)
    for path in (*old, *lost):
        job.log(f"removed {path}")
    await found.store.clean_uploads()
    return {"removed": [*old, *lost], "bytes": sum(holding.orphans[path] for path in old)}


prune = Action(
    "prune",
    "Remove what no rule keeps",
    "Apply the retention of a target: whole chains go, never one that a rule keeps.",
    params=NameParams,
    risk=Risk.DESTROY,
    targets=Targets.CONSOLE,
    run=_prune,
    plan=_plan_prune,
    touches=targets.touches,
    timeout=3600,
)
clean = Action(
    "clean",
    "Remove orphans",
    "Remove what runs that were killed left in the store (data without a manifest is no backup) and, if asked to, what "
    "is damaged there.",
    params=CleanParams,
    risk=Risk.DESTROY,
    targets=Targets.CONSOLE,
    run=_clean,
    plan=_plan_clean,
    touches=targets.touches,
    timeout=3600,
)
