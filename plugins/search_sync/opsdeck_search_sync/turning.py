"""Swapping an index with its shadow, once; and going back to what people searched before the last rebuild."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from opsdeck.api import utcnow
from opsdeck_search_sync import ledger
from opsdeck_search_sync.meilisearch import GONE, Unanswered

if TYPE_CHECKING:
    from opsdeck.api import Database
    from opsdeck_search_sync.meilisearch import Meilisearch
    from opsdeck_search_sync.models import Generation


async def swap(client: Meilisearch, index: str, one: Generation, *, wait: float = 0.0) -> None:
    """Swap an index with a generation's shadow, or find that it was done before somebody died.

    The newest task before was written down: a swap of the two that came after it was ours. For `wait` seconds one that
    was asked for before may still come in: a second one would undo it.
    """
    after = one.swap_after if one.swap_after is not None else -1
    task = await _asked(client, after, index, one.shadow, wait)
    if task is None:
        try:
            task = await client.swap(index, one.shadow)
        except Unanswered as fault:
            task = await _asked(client, after, index, one.shadow, fault.seconds)
            if task is None:
                raise
    await client.done(task)


async def _asked(client: Meilisearch, after: int, index: str, shadow: str, wait: float) -> int | None:
    """Find the swap that was asked for, looking for `wait` seconds."""
    for left in range(max(0, math.ceil(wait)), -1, -1):
        if (task := await client.swap_since(after, index, shadow)) is not None:
            return task
        await asyncio.sleep(min(left, 1.0))
    return None


def late(one: Generation) -> float:
    """Give for how many seconds a swap that was asked for when the generation's row moved may still come in."""
    return min(GONE, GONE - (utcnow() - one.moved).total_seconds())


async def turn(db: Database, client: Meilisearch, live: Generation, index: str, fence: int) -> None:
    """Show what is kept beside the index, or what was shown before that; nobody may be writing to either."""
    wait = late(live) if live.swap_after is not None else 0.0
    if live.swap_after is None:
        await ledger.move(db, live, fence, swap_after=await client.newest_task())
    await swap(client, index, live, wait=wait)
    await ledger.move(db, live, fence, turned=not live.turned, swap_after=None)
