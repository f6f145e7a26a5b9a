"""What the health page and `opsdeck doctor` say of each sync."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlmodel import select

from opsdeck.api import Database, Finding, utcnow
from opsdeck_search_sync import ledger
from opsdeck_search_sync.models import Reading, Shown, Sync, Wanted

SILENT = timedelta(seconds=60)


async def findings(db: Database) -> Sequence[Finding]:
    """Give one finding for each sync."""
    async with db.read() as session:
        syncs = (await session.exec(select(Sync))).all()
        readings = {row.sync: row for row in (await session.exec(select(Reading))).all()}
    dead = await ledger.dead_counts(db)
    return tuple(_finding(sync, readings.get(sync.name), dead.get(sync.name, 0)) for sync in syncs)


def _finding(sync: Sync, reading: Reading | None, dead: int) -> Finding:
    subject = f"search_sync {sync.name}"
    if sync.problem:
        return Finding(subject, "broken", sync.problem, sync.hint)
    if sync.wanted == Wanted.PAUSED:
        return Finding(subject, "attention", "is paused; its source keeps the log for it", "resume or drop it")
    if sync.shown == Shown.PREVIOUS:
        return Finding(subject, "attention", "shows what there was before its rebuild", "swap back, or rebuild")
    if reading is None or utcnow() - reading.at > SILENT:
        return Finding(subject, "attention", "says nothing", "see that a server or worker runs")
    if dead:
        return Finding(subject, "attention", f"has {dead} dead letters", "see its page for the reasons")
    return Finding(subject, "ok", f"follows, {reading.behind_seconds or 0:g} s behind")
