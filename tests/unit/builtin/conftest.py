"""A whole deck with the built-in actions, and hosts to play with: real SSH, real rows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from opsdeck.actor import Actor, Door, Role
from opsdeck.builtin import plugin
from opsdeck.db import Database, migrate
from opsdeck.deck import Deck
from opsdeck.inventory.models import Host, HostKey
from opsdeck.jobs.jobs import Submission
from opsdeck.lab.inprocess import PlayHosts
from opsdeck.plugins import Plugins
from opsdeck.secrets.keyring import Keyring
from opsdeck.secrets.sensitive import Sensitive
from opsdeck.settings import Settings

BOSS = Actor("boss@cli", Role.ADMIN, Door.CLI, stepped_up=True)


@pytest.fixture
def core() -> Plugins:
    """Load the built-in actions and nothing else."""
    found = Plugins()
    found.add("core", plugin)
    assert not found.faults
    return found


@pytest.fixture
def boss() -> Actor:
    return BOSS


@pytest.fixture
async def deck(tmp_path: Path, core: Plugins) -> AsyncIterator[Deck]:
    """Give a deck that knows two play hosts."""
    settings = Settings(home=tmp_path / "deck")
    settings.home.mkdir(mode=0o700)
    Keyring.create(settings.key_file)
    database = Database(settings.url)
    await migrate.upgrade(database, core)
    await database.close()
    async with (
        PlayHosts(tmp_path / "hosts", ["h1", "h2"]) as hosts,
        Deck.open(settings, plugins=core, kind="server") as deck,
    ):
        await deck.secrets.set("play", Sensitive(hosts.private_key), kind="ssh-key", actor=BOSS)
        async with deck.db.write() as session:
            for host in hosts:
                row = Host(name=host.name, address=host.address, port=host.port, user=host.user, credential="play")
                session.add(row)
                await session.flush()
                key = host.host_key
                pinned = {"algorithm": key.split()[0], "public": key, "fingerprint": "x", "state": "pinned"}
                session.add(HostKey(host_id=row.id, **pinned))
        yield deck


@pytest.fixture
def do(deck: Deck) -> Callable[..., Awaitable[Any]]:
    """Run an action and give the job, its steps by host, and the lines of its log."""

    async def run(action: str, *, on: str = "all", door: Door = Door.CLI, **params: Any) -> Any:
        actor = replace(BOSS, door=door)
        job = await deck.jobs.run(Submission("core", action, params, on, confirm="2"), actor)
        assert job.id
        steps = {step.host: step for step in await deck.jobs.steps(job.id)}
        return job, steps, await deck.jobs.log(job.id)

    return run


@pytest.fixture
def plan(deck: Deck) -> Callable[..., Awaitable[Any]]:
    """Plan an action."""

    async def run(action: str, *, on: str = "all", door: Door = Door.CLI, **params: Any) -> Any:
        return await deck.jobs.plan(Submission("core", action, params, on), replace(BOSS, door=door))

    return run
