"""The service that speaks up when no good backup arrived in time, whatever the reason."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlmodel import col, select

from opsdeck.api import Service, utcnow
from opsdeck_backup import catalogue
from opsdeck_backup.models import Item, ItemState, Target
from opsdeck_backup.words import Said, marked

if TYPE_CHECKING:
    from opsdeck.api import Deck, JobRun, ServiceRun

PAUSE = 20.0
AHEAD = timedelta(minutes=5)
"""How far two clocks may be apart before it is said."""


async def newest(holder: Deck | JobRun | ServiceRun, target: str) -> datetime | None:
    """Give when the newest good backup of a target began; None when there is none."""
    async with holder.db.read() as session:
        good = select(Item.started).where(Item.target == target, Item.state == ItemState.GOOD)
        return (await session.exec(good.order_by(col(Item.id).desc()).limit(1))).first()


def late(row: Target, last: datetime | None, now: datetime) -> Said:
    """Say what is wrong with the age of a target's newest backup."""
    since = last or row.created
    if since - now > AHEAD:
        return Said(marked("The newest backup is from the future: look at the clocks."))
    if now - since <= timedelta(minutes=row.rpo_minutes):
        return Said()
    values: dict[str, str | int] = {"hours": f"{(now - since) / timedelta(hours=1):.1f}", "minutes": row.rpo_minutes}
    if last:
        return Said(
            marked("The newest good backup is %(hours)s h old; at most %(minutes)s min were to be lost."), values
        )
    return Said(
        marked("No good backup in the %(hours)s h of this target; at most %(minutes)s min were to be lost."), values
    )


async def _watch(run: ServiceRun) -> None:
    while True:
        row = await catalogue.find(run, run.key)
        wrong = late(row, await newest(run, row.name), utcnow())
        key = f"backup:{row.name}:rpo"
        if wrong:
            await run.open_incident(key, f"No fresh backup of {row.name}", detail=str(wrong), host=row.host)
        else:
            await run.close_incident(key)
        await asyncio.sleep(PAUSE)


async def _instances(run: ServiceRun) -> Sequence[str]:
    return [row.name for row in await catalogue.targets(run)]


watch = Service("watch", "Freshness of backups", _watch, _instances)
