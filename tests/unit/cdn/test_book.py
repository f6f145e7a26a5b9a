"""The rows, where several nodes come to them at once."""

from __future__ import annotations

import asyncio

from opsdeck_cdn import book, plugin
from sqlalchemy import text

from opsdeck.db import Database, migrate
from opsdeck.plugins import Plugins


async def connect(node: Database) -> None:
    """Have a link at hand, so that what follows begins on all nodes in the same moment."""
    async with node.read() as session:
        await session.exec(text("SELECT 1"))  # type: ignore[call-overload]


async def test_nodes_that_begin_at_once_agree_on_one_setup(migrated_url: str) -> None:
    plugins = Plugins()
    plugins.add("cdn", plugin)
    nodes = [Database(migrated_url) for _ in range(8)]
    try:
        await migrate.upgrade(nodes[0], plugins)
        await asyncio.gather(*map(connect, nodes))
        models = await asyncio.gather(*(book.load(node) for node in nodes))
        assert len({model.setup.id for model in models}) == 1
    finally:
        for node in nodes:
            await node.close()
