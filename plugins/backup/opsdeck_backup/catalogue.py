"""The catalogue: what the store holds, and the rows that show it. The store is the truth, the rows follow."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlmodel import col, select

from opsdeck.api import Invalid, OpsDeckError, utcnow
from opsdeck_backup import chains, manifests
from opsdeck_backup.manifests import Manifest
from opsdeck_backup.models import Item, ItemState, Proof, Target
from opsdeck_backup.stores import DATA, MANIFESTS, Changed, Store

if TYPE_CHECKING:
    from opsdeck.api import Deck, JobRun, PlanRun, ServiceRun

    Holder = Deck | JobRun | PlanRun | ServiceRun


@dataclass(frozen=True)
class Holding:
    """What a store holds of one target. `damaged` gives what is wrong by backup, `orphans` sizes by path."""

    manifests: tuple[Manifest, ...]
    damaged: Mapping[str, str]
    orphans: Mapping[str, int]

    @property
    def chains(self) -> tuple[chains.Chain, ...]:
        """Give the chains of what is whole."""
        return chains.build(self.manifests)


async def look(store: Store, target: str, known: Mapping[str, str]) -> Holding:
    """Look at what the store holds; `known` are manifests read before, by name. Changes nothing. Raises `Unavailable`.

    A manifest never changes once written, so those known are not read again.
    """
    files = await store.files()
    names = {path.removeprefix(f"{MANIFESTS}/").removesuffix(".json") for path in files if _is_manifest(path)}
    new = names - set(known)
    texts: dict[str, str | bytes] = {name: known[name] for name in names & set(known)}
    if len(new) > 3:
        found = await store.read_folder(MANIFESTS)
        texts |= {name: found[f"{name}.json"] for name in new if f"{name}.json" in found}
    else:
        for name in new:
            texts[name] = await store.read(f"{MANIFESTS}/{name}.json")
    whole: list[Manifest] = []
    damaged: dict[str, str] = {}
    for name, text in sorted(texts.items()):
        try:
            manifest = manifests.read(text, file=f"{MANIFESTS}/{name}.json")
            damaged |= _judged(manifest, name, target, files)
        except Invalid as fault:
            damaged[name] = fault.message
            continue
        if name not in damaged:
            whole.append(manifest)
    named = {manifest.planned.object for manifest in whole} | {
        f"{DATA}/{name}{end}" for name in damaged for end in (".xb.zst.age", ".list")
    }
    orphans = {
        path: size
        for path, size in files.items()
        if path.startswith(f"{DATA}/") and path.removesuffix(".config") not in named
    }
    return Holding(tuple(whole), damaged, orphans)


def _is_manifest(path: str) -> bool:
    return path.startswith(f"{MANIFESTS}/") and path.endswith(".json")


def _judged(manifest: Manifest, name: str, target: str, files: Mapping[str, int]) -> dict[str, str]:
    size = files.get(manifest.planned.object)
    if manifest.id != name or manifest.planned.target != target:
        return {name: f"the manifest is that of {manifest.planned.target} {manifest.id}"}
    if size is None:
        return {name: "its data is gone from the store"}
    expected = manifest.result.listed or manifest.result.stored
    if size != expected:
        return {name: f"its data has {size} bytes in the store, not {expected}"}
    return {}


def item_of(manifest: Manifest) -> Item:
    """Give the row of a backup that is in the store."""
    planned, result = manifest.planned, manifest.result
    return Item(
        id=manifest.id,
        target=planned.target,
        chain=planned.chain,
        parent=planned.parent,
        kind=planned.kind,
        reason=planned.reason,
        state=ItemState.GOOD,
        started=manifest.at,
        finished=result.finished,
        raw=result.raw,
        stored=result.stored,
        from_lsn=manifest.lsn("from_lsn"),
        to_lsn=manifest.lsn("to_lsn"),
        version=planned.server,
        position=manifest.position,
        manifest=manifest.model_dump_json(),
    )


async def known(holder: Holder, target: str) -> dict[str, str]:
    """Give the manifests that were read before, by name."""
    async with holder.db.read() as session:
        rows = (await session.exec(select(Item).where(Item.target == target, col(Item.manifest) != ""))).all()
    return {row.id: row.manifest for row in rows}


async def sync(holder: Holder, target: str, store: Store) -> Holding:
    """Look at the store and bring the rows in line with it; give what it holds. Raises `Unavailable`."""
    holding = await look(store, target, await known(holder, target))
    there = {manifest.id: manifest for manifest in holding.manifests}
    async with holder.db.write() as session:
        rows = {row.id: row for row in (await session.exec(select(Item).where(Item.target == target))).all()}
        for name, manifest in there.items():
            row = item_of(manifest)
            old = rows.get(name)
            if old is None or old.state != ItemState.GOOD or not old.manifest:
                row.job_id = old.job_id if old else None
                await session.merge(row)
        for name, row in rows.items():
            if row.state == ItemState.GOOD and name not in there:
                row.state = ItemState.MISSING
                row.error = holding.damaged.get(name, "its manifest is gone from the store")
                session.add(row)
    return holding


async def find(holder: Holder, name: str) -> Target:
    """Give a target. Raises `NotFound`."""
    from opsdeck.api import NotFound

    async with holder.db.read() as session:
        row = await session.get(Target, name)
    if row is None:
        raise NotFound(
            f"there is no backup target {name!r}.", field="target", hint="`opsdeck backup targets` shows them"
        )
    return row


async def targets(holder: Holder) -> tuple[Target, ...]:
    """Give all targets by name."""
    async with holder.db.read() as session:
        return tuple((await session.exec(select(Target).order_by(col(Target.name)))).all())


async def items(holder: Holder, target: str) -> tuple[Item, ...]:
    """Give the backups of a target, the newest first."""
    async with holder.db.read() as session:
        query = select(Item).where(Item.target == target).order_by(col(Item.id).desc())
        return tuple((await session.exec(query)).all())


async def proofs(holder: Holder, target: str, limit: int = 20) -> tuple[Proof, ...]:
    """Give the newest proofs of a target, the newest first."""
    async with holder.db.read() as session:
        query = select(Proof).where(Proof.target == target).order_by(col(Proof.id).desc()).limit(limit)
        return tuple((await session.exec(query)).all())


async def begin(holder: Holder, item: Item) -> Item:
    """Put a backup that is about to run into the catalogue."""
    async with holder.db.write() as session:
        session.add(item)
    return item


async def of_job(holder: Holder, job: int) -> Item | None:
    """Give the backup that a job began before; None when it had not come so far."""
    async with holder.db.read() as session:
        return (await session.exec(select(Item).where(Item.job_id == job))).first()


async def failed(holder: Holder, item: str, error: str) -> None:
    """Note that a backup did not become one."""
    async with holder.db.write() as session:
        row = await session.get(Item, item)
        if row is not None and row.state == ItemState.RUNNING:
            row.state, row.error, row.finished = ItemState.FAILED, error[:1000], utcnow()
            session.add(row)


async def give_up(holder: Holder, target: str, but: str = "") -> None:
    """Note of what still counts as running that it never became a backup. Call it under the target's lease only."""
    async with holder.db.write() as session:
        query = select(Item).where(Item.target == target, Item.state == ItemState.RUNNING, Item.id != but)
        for row in (await session.exec(query)).all():
            row.state, row.error, row.finished = (
                ItemState.FAILED,
                "it was ended before its manifest was written",
                utcnow(),
            )
            session.add(row)


async def forget(holder: Holder, names: Iterable[str]) -> None:
    """Take backups out of the catalogue."""
    async with holder.db.write() as session:
        for name in names:
            row = await session.get(Item, name)
            if row is not None:
                await session.delete(row)


@contextlib.asynccontextmanager
async def proving(holder: Holder, proof: Proof, *, failures: type[OpsDeckError] = OpsDeckError) -> AsyncIterator[None]:
    """Keep a proof, with how long the block took. What it found goes into `proof.detail`; of `failures` the reason."""
    began = time.monotonic()
    wrong: OpsDeckError | None = None
    try:
        yield
    except failures as fault:
        wrong = fault
        proof.detail |= {"error": fault.message, "changed": isinstance(fault, Changed)}
    proof.ok, proof.at, proof.seconds = wrong is None, utcnow(), round(time.monotonic() - began, 1)
    async with holder.db.write() as session:
        session.add(proof)
    if wrong is not None:
        raise wrong


async def changed(holder: Holder, target: str) -> frozenset[str]:
    """Give the backups whose newest proof found that the store has something else than was sent there."""
    found: dict[str, bool] = {}
    for proof in await proofs(holder, target):
        if proof.depth != "key":
            found.setdefault(proof.item, bool(proof.detail.get("changed")))
    return frozenset(name for name, bad in found.items() if bad)
