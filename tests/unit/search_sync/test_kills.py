"""`kill -9` of node, Meilisearch and database at random moments under writes; then every row is compared.

`OPSDECK_KILL_ROUNDS=50` makes a campaign of it; `OPSDECK_KILL_SEED` repeats one.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest

ROUNDS = int(os.environ.get("OPSDECK_KILL_ROUNDS", "3"))
SEED = int(os.environ.get("OPSDECK_KILL_SEED", "20261123"))

pytestmark = pytest.mark.timeout(120 + 60 * ROUNDS)


class Node:
    """A worker in a process of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        env = {**os.environ, "OPSDECK_HOME": str(self.home), "OPSDECK_NODE": "node1"}
        with (self.home / "worker.log").open("ab") as log:
            self.process = subprocess.Popen(
                [Path(sys.executable).parent / "opsdeck", "worker"], env=env, stdout=log, stderr=log
            )

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)


def write(shop: Any, dice: random.Random) -> None:
    """One random transaction; a database that was just killed makes it no transaction at all, or one we cannot know."""
    a, b = dice.randrange(3000), dice.randrange(100_000)
    text = dice.choice(
        [
            "INSERT {ignore} INTO item (id, title, price, note) VALUES {rows} {nothing}",
            "UPDATE item SET n = n + 1, title = concat('r', {b}) WHERE id BETWEEN {a} AND {a} + 60",
            "DELETE FROM item WHERE id BETWEEN {a} AND {a} + 5",
            "UPDATE item SET id = 1000000 + {b} WHERE id = {a}",
        ]
    )
    try:
        rows = ", ".join(f"({number}, 'new', 1.5, 'x')" for number in range(b, b + 40))
        ignore, nothing = ("", "ON CONFLICT DO NOTHING") if shop.kind == "postgres" else ("IGNORE", "")
        shop.sql(text.format(a=a, b=b, rows=rows, ignore=ignore, nothing=nothing))
    except (psycopg.Error, pymysql.Error):
        shop.connection = None


async def test_nothing_is_lost_whatever_is_killed(bench: Any) -> None:
    dice = random.Random(SEED)
    bench.shop.sql(
        "INSERT INTO item (id, title, price, note) VALUES " + ", ".join(f"({g}, 't', 1, 'n')" for g in range(3000))
    )
    await bench.define()
    await bench.act("start", sync="items")
    node = Node(bench.deck.settings.home)
    node.start()
    stop = asyncio.Event()

    async def load() -> None:
        while not stop.is_set():
            await asyncio.to_thread(write, bench.shop, dice)
            await asyncio.sleep(0.01)

    writing = asyncio.create_task(load())
    try:
        await bench.until(lambda: bench.meili.get("/indexes/items/stats") is not None, 40)
        for number in range(ROUNDS):
            await asyncio.sleep(dice.uniform(0.5, 3))
            victim = ("node", "sink", "source")[number % 3] if ROUNDS <= 3 else dice.choice(["node", "sink", "source"])
            if victim == "node":
                node.kill()
                node.start()
            elif victim == "sink" and bench.meili.stand_in:
                bench.meili.kill()
                await asyncio.sleep(dice.uniform(0, 1))
                bench.meili.start()
            elif victim == "source":
                bench.shop.server.kill()
                await asyncio.to_thread(bench.shop.server.start)
        await asyncio.sleep(1)
    finally:
        stop.set()
        await writing
    try:
        await bench.until(bench.equal, 90)
    finally:
        node.kill()
    assert len(bench.rows()) > 1000
