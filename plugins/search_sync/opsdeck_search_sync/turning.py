"""Going back to what people searched before the last rebuild, and forward again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opsdeck_search_sync import ledger

if TYPE_CHECKING:
    from opsdeck.api import Database
    from opsdeck_search_sync.meilisearch import Meilisearch
    from opsdeck_search_sync.models import Generation


async def turn(db: Database, client: Meilisearch, live: Generation, index: str, fence: int) -> None:
    """Swap the index with the content kept beside it, once, whoever dies meanwhile.

    The newest task before is written down first: a swap of the two that came after it was ours.
    """
    if live.swap_after is None:
        await ledger.move(db, live, fence, swap_after=await client.newest_task())
    after = live.swap_after if live.swap_after is not None else -1
    task = await client.swap_since(after, index, live.shadow)
    if task is None:
        task = await client.swap(index, live.shadow)
    await client.done(task)
    await ledger.move(db, live, fence, turned=not live.turned, swap_after=None)
