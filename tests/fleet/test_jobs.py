"""Jobs on whole systems: sudo, secrets out of sight, a killed console and a unit that goes on, a pulled cable."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlmodel import update

from opsdeck.actor import Actor, Door, Role
from opsdeck.clock import utcnow
from opsdeck.db import Database, migrate
from opsdeck.deck import Deck
from opsdeck.inventory.models import Host, HostKey
from opsdeck.jobs.jobs import Submission
from opsdeck.jobs.models import Job
from opsdeck.lab.fleet import Fleet
from opsdeck.plugins import Plugins
from opsdeck.secrets.keyring import Keyring
from opsdeck.secrets.sensitive import Sensitive
from opsdeck.settings import Settings
from opsdeck.ssh.endpoint import Sudo

pytestmark = pytest.mark.fleet

BOSS = Actor("boss@cli", Role.ADMIN, Door.CLI, stepped_up=True)
OPSDECK = [sys.executable, "-c", "from opsdeck.cli import main; main()"]


@pytest.fixture
async def deck(fleet: Fleet, tmp_path: Path) -> AsyncIterator[Deck]:
    """A deck on SQLite that knows web1 and web2, logging in as the user whose sudo wants a password."""
    settings = Settings(home=tmp_path / "deck", node="first")
    settings.home.mkdir(mode=0o700)
    Keyring.create(settings.key_file)
    plugins = Plugins()
    plugins.load({"web"})
    database = Database(settings.url)
    await migrate.upgrade(database, plugins)
    await database.close()
    async with Deck.open(settings, plugins=plugins, kind="server") as deck:
        for name in ("web1", "web2"):
            endpoint = fleet.host(name).endpoint("opspw")
            await deck.secrets.set("login", endpoint.credential.secret, kind="ssh-key", actor=BOSS)
            if endpoint.sudo_password:
                await deck.secrets.set("sudo", endpoint.sudo_password, kind="password", actor=BOSS)
            row = Host(
                name=name,
                address=endpoint.address,
                port=endpoint.port,
                user=endpoint.user,
                credential="login",
                sudo=Sudo.PASSWORD,
                sudo_secret="sudo",
            )
            async with deck.db.write() as session:
                session.add(row)
                await session.flush()
                for key in endpoint.host_keys:
                    kind = key.split()[0]
                    session.add(HostKey(host_id=row.id, algorithm=kind, public=key, fingerprint=kind, state="pinned"))
        yield deck


def command(text: str, selector: str = "web1", **params: object) -> Submission:
    return Submission("core", "command", {"command": text, **params}, selector)


async def test_sudo_with_the_right_and_the_wrong_password(deck: Deck) -> None:
    job = await deck.jobs.run(command("id -un", "all", sudo=True), BOSS)
    assert [line.text for line in await deck.jobs.log(job.id or 0) if line.stream == "out"] == ["root", "root"]
    await deck.secrets.set("sudo", Sensitive("not the one"), kind="password", actor=BOSS)
    job = await deck.jobs.run(command("id -un", sudo=True), BOSS)
    (step,) = await deck.jobs.steps(job.id or 0)
    assert (step.state, step.fault) == ("failed", "SudoRefused")
    assert "Next:" in step.error


async def test_no_secret_is_seen_in_the_processes_of_a_host(deck: Deck, fleet: Fleet) -> None:
    (secret,) = [(await deck.secrets.reveal("sudo", actor=BOSS, purpose="test")).reveal()]
    running = asyncio.create_task(deck.jobs.run(command("sleep 3; cat /proc/self/environ", sudo=True), BOSS))
    await asyncio.sleep(1.5)
    look = "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'"
    seen = await asyncio.to_thread(fleet.host("web1").execute, ["sh", "-c", look])
    assert "sleep" in seen
    assert secret not in seen
    job = await running
    assert not any(secret in line.text for line in await deck.jobs.log(job.id or 0))


async def test_a_killed_console_and_a_pulled_cable_do_not_end_a_detached_command(deck: Deck, fleet: Fleet) -> None:
    text = "echo x >> count; for i in $(seq 1 60); do echo line $i; sleep 0.1; done; rm count"
    words = ("plugin", "run", "core", "command", "--command", text, "--sudo", "--detach", "--on", "web1")
    environment = {**os.environ, "OPSDECK_HOME": str(deck.settings.home)}
    console = await asyncio.create_subprocess_exec(*OPSDECK, *words, env=environment, stdout=-3, stderr=-3)
    try:
        async with asyncio.timeout(30):
            while not any(line.text == "line 3" for line in await _log(deck)):  # noqa: ASYNC110 - the rows of another process
                await asyncio.sleep(0.1)
    finally:
        console.kill()
        await console.wait()
    host = fleet.host("web1")
    host.cut()
    async with deck.db.write() as session:
        await session.exec(update(Job).values(lease_until=utcnow() - timedelta(seconds=1)))  # type: ignore[call-overload]
    recovering = asyncio.create_task(deck.jobs.recover())
    await asyncio.sleep(1)
    host.mend()
    assert await recovering == 1
    job = await deck.jobs.get(1)
    assert (job.state, job.error, job.fence) == ("succeeded", "", 2)
    said = [line.text for line in await deck.jobs.log(1) if line.stream == "out"]
    assert said == [f"line {number}" for number in range(1, 61)]


async def _log(deck: Deck) -> tuple[object, ...]:
    with contextlib.suppress(Exception):
        return await deck.jobs.log(1)
    return ()


async def test_a_cancel_ends_what_root_runs(deck: Deck, fleet: Fleet) -> None:
    running = asyncio.create_task(deck.jobs.run(command("sleep 4711 | sleep 4711", "all", sudo=True), BOSS))
    async with asyncio.timeout(20):
        while not all([step.remote for step in await deck.jobs.steps(1)] or [None]):  # noqa: ASYNC110 - the rows are what is looked at
            await asyncio.sleep(0.1)
    await asyncio.sleep(0.5)
    await deck.jobs.cancel(1, BOSS)
    job = await running
    assert job.state == "cancelled"
    assert {step.note for step in await deck.jobs.steps(1)} == {"ended on the host"}
    for name in ("web1", "web2"):
        assert "4711" not in fleet.host(name).execute(["ps", "-eo", "args"])
