"""Schedules that a job holds back while it works, for no longer than it lives.

`Schedule.held_by` begins with the job's number: the transaction that writes a job's end lets go of what it holds, also
when that end is written for a node that died.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import update
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from opsdeck.errors import Conflict
from opsdeck.jobs.models import Schedule


def _mark(job_id: int) -> str:
    return f"job {job_id}: "


async def take(session: AsyncSession, job_id: int, purpose: str, chosen: Callable[[Schedule], bool]) -> tuple[str, ...]:
    """Hold the schedules that `chosen` picks; give their names. Holding again what the job holds changes nothing.

    Raises `Conflict` when another job holds one of them: then none is taken.
    """
    by = _mark(job_id) + purpose
    rows = [row for row in (await session.exec(select(Schedule).order_by(Schedule.name))).all() if chosen(row)]
    for row in rows:
        if row.held_by not in ("", by):
            raise Conflict(f"schedule {row.name!r} is held by {row.held_by}.", hint="wait until it is over")
        row.held_by, row.version = by, row.version + 1
    return tuple(row.name for row in rows)


async def let_go(session: AsyncSession, job_id: int) -> None:
    """Let go of every schedule that a job holds."""
    held = update(Schedule).where(col(Schedule.held_by).startswith(_mark(job_id)))
    await (await session.connection()).execute(held.values(held_by="", version=Schedule.version + 1))
