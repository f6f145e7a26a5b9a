"""A sync's whole life under writes, while node, Meilisearch and database are killed; then each row is compared.

`OPSDECK_KILL_ROUNDS` says how often the campaign kills (50), `OPSDECK_KILL_SEED` repeats one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from opsdeck_search_sync import ledger

ROUNDS = int(os.environ.get("OPSDECK_KILL_ROUNDS", "50"))
SEED = int(os.environ.get("OPSDECK_KILL_SEED", "20261123"))
VICTIMS = ("node", "sink", "source")
OTHER = {"fields": [{"column": "title", "name": "name"}, {"column": "n"}], "constants": {"kind": "item"}}


class Node:
    """A worker in a process of its own."""

    def __init__(self, home: Path, name: str = "node1") -> None:
        self.home, self.name = home, name
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        env = {**os.environ, "OPSDECK_HOME": str(self.home), "OPSDECK_NODE": self.name}
        with (self.home / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [Path(sys.executable).parent / "opsdeck", "worker"], env=env, stdout=log, stderr=log
            )

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)


@contextlib.asynccontextmanager
async def load(bench: Any, dice: random.Random) -> AsyncIterator[None]:
    """Write all the time."""
    stop = asyncio.Event()

    async def work() -> None:
        while not stop.is_set():
            await asyncio.to_thread(bench.shop.write, dice)
            await asyncio.sleep(0.01)

    writing = asyncio.create_task(work())
    try:
        yield
    finally:
        stop.set()
        await writing


async def kill(bench: Any, node: Node, victim: str, dice: random.Random) -> None:
    if victim == "node":
        node.kill()
        node.start()
    elif victim == "sink" and bench.meili.stand_in:
        bench.meili.kill()
        await asyncio.sleep(dice.uniform(0, 1))
        bench.meili.start()
    elif victim == "source" and getattr(bench.shop.server, "stand_in", True):
        bench.shop.server.kill()
        await asyncio.to_thread(bench.shop.server.start)


async def whole_life(bench: Any, rounds: int) -> None:
    """Copy, follow, survive, rebuild with another mapping, swap: and the index holds what the table holds."""
    dice = random.Random(SEED)
    bench.shop.fill(3000)
    await bench.define()
    await bench.act("start", sync="items")
    node = Node(bench.deck.settings.home)
    node.start()

    async def live() -> int:
        generation = (await ledger.whole(bench.deck.db, "items")).live
        return generation.number if generation else 0

    try:
        async with load(bench, dice):
            await bench.until(lambda: bench.meili.get("/indexes/items/stats") is not None, 60)
            for number in range(rounds):
                await asyncio.sleep(dice.uniform(0.3, 2.5))
                await kill(bench, node, VICTIMS[number % 3] if rounds <= 3 else dice.choice(VICTIMS), dice)
            await bench.define(mapping=OTHER, settings='{"filterableAttributes": ["kind"]}')
            before = await live()
            await bench.act("rebuild", sync="items")
            for _ in range(rounds // 10):
                await asyncio.sleep(dice.uniform(0.1, 1.5))
                await kill(bench, node, dice.choice(VICTIMS), dice)
            for _ in range(600):
                if await live() > before:
                    break
                await asyncio.sleep(0.2)
            else:
                whole = await ledger.whole(bench.deck.db, "items")
                pytest.fail(f"the rebuild did not come to its end: {whole.building}, beside {whole.live}")
        await bench.until(lambda: same(bench), 90)
    finally:
        node.kill()
    assert len(bench.shop.rows()) > 1000
    assert bench.meili.get("/indexes/items/settings")["filterableAttributes"] == ["kind"]


def same(bench: Any) -> bool:
    """Tell whether the index holds each row as the second mapping wants it, and nothing else."""
    wanted = {
        id_: {"id": row["id"], "name": row["title"], "n": row["n"], "kind": "item"}
        for id_, row in bench.shop.rows().items()
    }
    found = bench.meili.documents("items")
    wrong = [id_ for id_ in wanted.keys() | found.keys() if wanted.get(id_) != found.get(id_)]
    bench.difference = [(id_, wanted.get(id_), found.get(id_)) for id_ in wrong[:3]]
    return not wrong


@pytest.fixture
def shop(any_shop: Any) -> Any:
    """Each kind of database, MongoDB too."""
    return any_shop


@pytest.mark.timeout(300)
async def test_the_whole_life_of_a_sync(bench: Any) -> None:
    await whole_life(bench, 3)


@pytest.mark.campaign
@pytest.mark.timeout(600 + 30 * ROUNDS)
async def test_the_whole_life_of_a_sync_with_many_kills(bench: Any) -> None:
    await whole_life(bench, ROUNDS)


@pytest.mark.timeout(120)
async def test_two_syncs_of_one_table_do_not_disturb_each_other(bench: Any) -> None:
    bench.shop.fill(50)
    await bench.define()
    await bench.define(name="again", index="again")
    await bench.act("start", sync="items")
    await bench.act("start", sync="again")
    bench.run()
    await bench.until(lambda: bench.equal("items") and bench.equal("again"))
    await bench.act("pause", sync="items")
    await bench.until(lambda: len(bench.services()) == 1)
    (before,) = bench.services()
    bench.shop.put(1001)
    await bench.until(lambda: bench.equal("again"))
    await bench.act("resume", sync="items")
    await bench.until(lambda: bench.equal("items"))
    (after,) = [one for one in bench.services() if one.key == "again"]
    assert after.since == before.since and after.crashes == 0
