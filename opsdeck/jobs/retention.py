"""How long history is kept: a number of days and a budget of log bytes. What runs is never touched."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import delete, func, update
from sqlmodel import col, select

from opsdeck.clock import utcnow
from opsdeck.jobs.models import Job, LogChunk, State

if TYPE_CHECKING:
    from opsdeck.db import Database

BATCH = 100
"""Jobs per transaction, so that nobody waits long for the database."""

_OVER = [state for state in State if state.final]


@dataclass(frozen=True)
class Pruned:
    """What was removed: whole jobs, and logs of jobs whose rows stay."""

    jobs: int
    logs: int
    freed: int
    """Bytes of log."""


async def prune(db: Database, *, days: int, megabytes: int, now: datetime | None = None) -> Pruned:
    """Remove jobs that ended more than `days` ago, then the oldest logs until all fit into `megabytes`."""
    jobs, freed = await _old_jobs(db, (now or utcnow()) - timedelta(days=days))
    logs, more = await _big_logs(db, megabytes << 20)
    return Pruned(jobs, logs, freed + more)


async def used(db: Database) -> int:
    """Give the bytes of log that are kept."""
    async with db.read() as session:
        return int((await session.exec(select(func.coalesce(func.sum(Job.log_bytes), 0)))).one())


async def _old_jobs(db: Database, cutoff: datetime) -> tuple[int, int]:
    old = select(Job.id, Job.log_bytes).where(col(Job.state).in_(_OVER), col(Job.finished) < cutoff)
    count = freed = 0
    while True:
        async with db.write() as session:
            rows = (await session.exec(old.order_by(col(Job.id)).limit(BATCH))).all()
            if not rows:
                return count, freed
            connection = await session.connection()
            # The state is asked for again: a row that is not over is never removed, whatever was read before.
            gone = delete(Job).where(col(Job.id).in_([row[0] for row in rows]), col(Job.state).in_(_OVER))
            removed = (await connection.execute(gone)).rowcount
        count += removed
        freed += sum(row[1] for row in rows)
        if len(rows) < BATCH or not removed:
            return count, freed


async def _big_logs(db: Database, budget: int) -> tuple[int, int]:
    excess = await used(db) - budget
    logs = freed = 0
    oldest = select(Job.id, Job.log_bytes).where(col(Job.state).in_(_OVER), col(Job.log_bytes) > 0)
    while freed < excess:
        async with db.write() as session:
            rows = (await session.exec(oldest.order_by(col(Job.finished)).limit(BATCH))).all()
            chosen = []
            for number, size in rows:
                if freed >= excess:
                    break
                chosen.append(number)
                freed += size
            if not chosen:
                break
            connection = await session.connection()
            await connection.execute(delete(LogChunk).where(col(LogChunk.job_id).in_(chosen)))
            await connection.execute(update(Job).where(col(Job.id).in_(chosen)).values(log_bytes=0))
        logs += len(chosen)
    return logs, freed
