"""Two nodes on one PostgreSQL: when the one that runs a sync is killed, the other goes on."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from databases import Postgres
from sqlmodel import select

from opsdeck.db import Database
from opsdeck.db.migrate import upgrade
from opsdeck.deck import Deck
from opsdeck.jobs.leases import TTL
from opsdeck.jobs.models import Lease
from opsdeck.jobs.services import Pace
from opsdeck.plugins import Plugins
from opsdeck.secrets.keyring import Keyring
from opsdeck.settings import Settings

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
async def deck(tmp_path: Path, logical: Postgres) -> AsyncIterator[Deck]:
    """A console's rooms on a PostgreSQL that several nodes share."""
    name = f"deck_{uuid.uuid4().hex[:12]}"
    with logical.connect() as connection:
        connection.execute(f"CREATE DATABASE {name}")
    url = f"postgresql+psycopg://postgres@127.0.0.1:{logical.port}/{name}"
    settings = Settings(home=tmp_path / "node0", node="node0", disabled_plugins=(), database_url=url)
    settings.home.mkdir()
    plugins = Plugins()
    plugins.load()
    database = Database(settings.url)
    await upgrade(database, plugins)
    await database.close()
    Keyring.create(settings.key_file)
    async with Deck.open(settings, plugins=plugins, kind="server") as opened:
        yield opened
    with logical.connect() as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def shop(postgres_shop: Any) -> Any:
    return postgres_shop


def start(deck: Deck, name: str) -> subprocess.Popen[bytes]:
    """Start a worker with a data folder of its own, and the same key."""
    home = deck.settings.home.parent / name
    home.mkdir()
    shutil.copy(deck.settings.key_file, home / deck.settings.key_file.name)
    env = {**os.environ, "OPSDECK_HOME": str(home), "OPSDECK_NODE": name, "OPSDECK_DATABASE_URL": deck.settings.url}
    with (home / "worker.log").open("ab") as log:
        return subprocess.Popen([Path(sys.executable).parent / "opsdeck", "worker"], env=env, stdout=log, stderr=log)


async def held(deck: Deck) -> tuple[str, int]:
    """Give who runs the sync, and the fence."""
    async with deck.db.read() as session:
        row = (await session.exec(select(Lease).where(Lease.name == "service:search_sync/stream/items"))).first()
    return (row.node.partition("/")[0], row.fence) if row is not None and row.holder else ("", 0)


def test_the_pace_keeps_the_promise() -> None:
    """Fifteen seconds: a lease's whole life, the longest pause between two tries, and a second and a half to begin."""
    assert TTL + 1.5 * Pace().elsewhere + 1.5 <= 15


async def next_holder(deck: Deck, fence: int) -> str:
    """Wait until somebody newer than `fence` runs the sync; say who."""
    for _ in range(300):
        who, newer = await held(deck)
        if newer > fence:
            return who
        await asyncio.sleep(0.1)
    raise AssertionError("nobody took over")


async def test_another_node_goes_on_when_one_is_killed(bench: Any) -> None:
    nodes = {name: start(bench.deck, name) for name in ("node1", "node2")}
    try:
        bench.shop.fill(200)
        await bench.define()
        await bench.act("start", sync="items")
        await bench.until(bench.equal, 60)
        who, fence = await held(bench.deck)
        nodes[who].kill()
        bench.shop.put(1001, 1002)
        assert await next_holder(bench.deck, fence) != who
        await bench.until(bench.equal, 60)
    finally:
        for node in nodes.values():
            node.kill()
            node.wait(10)


@pytest.mark.campaign
@pytest.mark.timeout(300)
async def test_a_node_that_stood_still_writes_nothing_old_when_it_goes_on(bench: Any) -> None:
    nodes = {name: start(bench.deck, name) for name in ("node1", "node2")}
    dice, stop = random.Random(5), asyncio.Event()

    async def load() -> None:
        while not stop.is_set():
            await asyncio.to_thread(bench.shop.write, dice)
            await asyncio.sleep(0.02)

    try:
        bench.shop.fill(3000)
        await bench.define()
        await bench.act("start", sync="items")
        await bench.until(bench.equal, 40)
        writing = asyncio.create_task(load())
        for _ in range(3):
            await asyncio.sleep(1)
            who, fence = await held(bench.deck)
            nodes[who].send_signal(signal.SIGSTOP)
            assert await next_holder(bench.deck, fence) != who
            await asyncio.sleep(1)
            nodes[who].send_signal(signal.SIGCONT)
        stop.set()
        await writing
        await bench.until(bench.equal, 30)
        await asyncio.sleep(3)
        assert bench.equal(), bench.difference
    finally:
        stop.set()
        for node in nodes.values():
            node.kill()
            node.wait(10)
