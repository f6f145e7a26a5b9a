"""A whole deck on SQLite with hosts to play with: real SSH, real rows, real secrets."""

from __future__ import annotations

import asyncio
import contextlib
import types
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from pydantic import BaseModel, Field

from opsdeck.actor import Actor, Door, Role
from opsdeck.db import Database, migrate
from opsdeck.deck import Deck
from opsdeck.hookspecs import hookimpl
from opsdeck.inventory.models import Host, HostKey
from opsdeck.lab.inprocess import PlayHosts
from opsdeck.manifest import API, Action, Manifest, NoParams, Recover, Risk, SecretName, Targets
from opsdeck.plan import Change, Plan, Verb
from opsdeck.plugins import Plugins
from opsdeck.secrets.keyring import Keyring
from opsdeck.secrets.sensitive import Sensitive
from opsdeck.settings import Settings
from opsdeck.ssh.command import Script

BOSS = Actor("boss@cli", Role.ADMIN, Door.CLI, stepped_up=True)


class Line(BaseModel):
    """A line for sh."""

    command: str
    sudo: bool = False


class Long(Line):
    """A line for sh that outlives the link."""

    label: str = "main"


class Titled(Line):
    """A line for sh, and what the log says in its place."""

    title: str


class WithSecret(BaseModel):
    """Names a secret."""

    name: SecretName
    times: int = Field(1, ge=1, le=5)


async def sh(step, given):
    done = await step.run(Script(given.command), sudo=given.sudo)
    return {"bytes": len(done.stdout)}


async def titled(step, given):
    await step.run(Script(given.command, title=given.title))
    await step.detached("titled", Script(given.command, title=given.title))


async def detached(step, given):
    done = await step.detached(given.label, Script(given.command))
    return {"resumed": step.resuming, "exit": done.exit_status}


async def plan(run, given):
    found = await run.gather(lambda host: host.run(["cat", "motd"], check=False))
    return Plan(
        tuple(
            Change(name, Verb.UPDATE, "motd", before=done.stdout.decode(), after=given.command)
            for name, done in found.items()
            if done.stdout.decode() != given.command
        )
    )


async def reveal(step, given):
    for _ in range(given.times):
        value = await step.job.secret(given.name)
        await step.run(["cat"], stdin=value)
        await step.run(["sh", "-c", 'printf "%s\\n" "$1" | base64', "sh", "x" + value.reveal()])


async def forget(run, given):
    await run.remove_secret(given.name)


async def leave(_step, _given):
    raise SystemExit(3)


async def bad(_step, _given):
    raise ValueError("nobody thought of this")


async def garbage(step, _given):
    step.log("nul \0 half \udc80 end")
    step.note("note \0 \udc80")
    raise ValueError("\0 \udcff")


async def hang(_step, _given):
    await asyncio.sleep(3600)


async def stubborn(_step, _given):
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(3600)
    await asyncio.sleep(3600)


async def nothing(step):
    await step.run(["true"])


async def whole(run, _given):
    run.log("first one, then the rest")
    names = [host.name for host in run.hosts]
    async with run.step(names[0]) as step:
        await step.run(["true"])
    run.skip(names[1], "does not need it")
    async with run.lease("thing:1", "to test"):
        failed = await run.each(nothing, names[2:])
    return {"failed": failed}


async def console(run, _given):
    async with run.step("h1") as step:
        await step.run(["echo", "from the console"])

    async def work(step):
        await step.run(["echo", "one after the other"])

    return {"ok": True, "failed": await run.each(work, ["h2", "h3"], parallel=1)}


async def holding(run, given):
    async with run.hold_schedules(
        "a test", lambda action, params: (action, params["command"]) == ("sh", "mine")
    ) as held:
        async with run.step("h1") as step:
            await step.run(Script(given.command))
        run.log("held")
    return {"held": held}


async def plan_console(run, _given):
    found = await run.gather(lambda host: host.run(["echo", "seen"], log=False), ["h3", "h1"])
    return Plan(tuple(Change(name, Verb.RUN, done.stdout.decode().strip()) for name, done in found.items()))


def plugin() -> types.ModuleType:
    """Make a plugin with one action for each thing to try."""
    actions = (
        Action("sh", "Run a line", "…", params=Line, step=sh, plan=plan),
        Action("titled", "Titled", "…", params=Titled, step=titled),
        Action("look", "Look", "…", params=Line, risk=Risk.READ, step=sh),
        Action("wipe", "Wipe", "…", params=Line, risk=Risk.DESTROY, step=sh),
        Action("carefully", "Carefully", "…", params=Line, step=sh, parallel=1, stop_after=1),
        Action("alone", "Alone", "…", params=Line, step=sh, touches=lambda _given, hosts: [f"box:{h}" for h in hosts]),
        Action("detached", "Detached", "…", params=Long, step=detached, recover=Recover.RESUME),
        Action("detached_lost", "Detached", "…", params=Long, step=detached, recover=Recover.LOST),
        Action("reveal", "Reveal", "…", params=WithSecret, step=reveal),
        Action("forget", "Forget", "…", params=WithSecret, run=forget, targets=Targets.CONSOLE),
        Action("leave", "Leave", "…", step=leave),
        Action("bad", "Bad", "…", step=bad),
        Action("garbage", "Garbage", "…", step=garbage),
        Action("hang", "Hang", "…", step=hang),
        Action("stubborn", "Stubborn", "…", step=stubborn),
        Action("whole", "Whole", "…", run=whole),
        Action("holding", "Holding", "…", params=Line, run=holding, targets=Targets.CONSOLE),
        Action("console", "Console", "…", params=NoParams, run=console, plan=plan_console, targets=Targets.CONSOLE),
    )

    @hookimpl
    def opsdeck_manifest() -> Manifest:
        return Manifest("test", "1", API, "test", actions=actions)

    module = types.ModuleType("opsdeck_test")
    module.opsdeck_manifest = opsdeck_manifest
    return module


def plugins() -> Plugins:
    """Load nothing but the plugin for tests."""
    found = Plugins()
    found.add("test", plugin())
    assert not found.faults
    return found


async def enrol(deck: Deck, hosts: PlayHosts) -> None:
    """Put play hosts into the inventory, their keys pinned."""
    await deck.secrets.set("play", Sensitive(hosts.private_key), kind="ssh-key", actor=BOSS)
    async with deck.db.write() as session:
        for host in hosts:
            row = Host(name=host.name, address=host.address, port=host.port, user=host.user, credential="play")
            session.add(row)
            await session.flush()
            algorithm = host.host_key.split()[0]
            session.add(
                HostKey(host_id=row.id, algorithm=algorithm, public=host.host_key, fingerprint="x", state="pinned")
            )


@pytest.fixture
def boss() -> Actor:
    """Give the data folder's owner."""
    return BOSS


@pytest.fixture
def database_url() -> str:
    """Name the database of these tests; a module on PostgreSQL brings its own."""
    return ""


@pytest.fixture
async def home(tmp_path: Path, database_url: str) -> Path:
    """Make a data folder with a key and a database that is up to date."""
    settings = Settings(home=tmp_path / "deck", database_url=database_url)
    settings.home.mkdir(mode=0o700)
    Keyring.create(settings.key_file)
    database = Database(settings.url)
    await migrate.upgrade(database, plugins())
    await database.close()
    return settings.home


@pytest.fixture
def open_deck(home: Path, database_url: str) -> Callable[..., contextlib.AbstractAsyncContextManager[Deck]]:
    """Give a way to open the same data folder as one more process would."""

    @contextlib.asynccontextmanager
    async def opened(node: str = "deck", kind: str = "server") -> AsyncIterator[Deck]:
        async with Deck.open(
            Settings(home=home, node=node, database_url=database_url), plugins=plugins(), kind=kind
        ) as deck:
            yield deck

    return opened


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[PlayHosts]:
    """Start three hosts: h1, h2, h3."""
    async with PlayHosts(tmp_path / "hosts", ["h1", "h2", "h3"]) as hosts:
        yield hosts


@pytest.fixture
async def deck(open_deck, hosts: PlayHosts) -> AsyncIterator[Deck]:
    """Give a deck that knows the three hosts."""
    async with open_deck() as deck:
        await enrol(deck, hosts)
        yield deck


@pytest.fixture
def until() -> Callable[..., Awaitable[None]]:
    """Give a bounded wait for something to become true."""

    async def wait(true: Callable[[], object], seconds: float = 20.0) -> None:
        async with asyncio.timeout(seconds):
            while True:
                result = true()
                if asyncio.iscoroutine(result):
                    result = await result
                if result:
                    return
                await asyncio.sleep(0.02)

    return wait
