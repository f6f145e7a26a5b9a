"""A deck of real rooms on a real database file, with a clock that tests move by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel, Field
from sqlmodel import SQLModel, select

from opsdeck.actor import Actor, Door, Role
from opsdeck.api import API, Action, Manifest, Risk, hookimpl
from opsdeck.db import Database, tables
from opsdeck.errors import Refused
from opsdeck.events import Bus, Event
from opsdeck.inventory.hosts import Inventory
from opsdeck.inventory.models import Host
from opsdeck.jobs.models import Job, Slot, State
from opsdeck.jobs.schedules import ScheduleIn, Schedules
from opsdeck.jobs.slots import Slots
from opsdeck.notify.incidents import Incidents
from opsdeck.plugins import Plugins

assert tables.ROOMS

START = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
ADA = Actor("ada@cli", Role.ADMIN, Door.CLI, stepped_up=True)


class Clock:
    """The time, moved by hand."""

    def __init__(self, at: datetime = START) -> None:
        self.at = at

    def __call__(self) -> datetime:
        return self.at

    def move(self, **by: float) -> None:
        self.at += timedelta(**by)


class Params(BaseModel):
    word: str = "hello"
    count: int = Field(1, ge=1)


async def _nothing(_run: Any, _params: Any) -> None:
    return None


class Greeter:
    """A plugin: one harmless action on hosts, one that destroys."""

    @hookimpl
    def opsdeck_manifest(self) -> Manifest:
        return Manifest(
            name="greeter",
            version="1",
            api=API,
            package="greeter",
            actions=(
                Action("greet", "Greet", "Say a word.", params=Params, risk=Risk.READ, step=_nothing),
                Action("wipe", "Wipe", "Take all away.", risk=Risk.DESTROY, step=_nothing),
            ),
        )


@dataclass
class Accounts:
    """Lets admins do all and others only look."""

    def authorise(self, actor: Actor, action: Action, plugin: str) -> None:
        if actor.role is not Role.ADMIN and action.risk is not Risk.READ:
            raise Refused(f"{actor.name} may not {plugin}.{action.name}.")


@dataclass
class Audit:
    entries: list[tuple[str, str, str]] = field(default_factory=list)

    async def append(self, _session: Any, actor: Actor, verb: str, target: str, **_body: Any) -> int:
        self.entries.append((actor.name, verb, target))
        return len(self.entries)

    async def record(self, actor: Actor, verb: str, target: str, **body: Any) -> int:
        return await self.append(None, actor, verb, target, **body)


class Jobs:
    """Writes the rows that the way through jobs writes, and runs nothing. `before` and `after` can break it."""

    def __init__(self, deck: Any) -> None:
        self._deck = deck
        self.before: Callable[[Any], None] = lambda _submission: None
        self.after: Callable[[Any], None] = lambda _submission: None
        self.actors: list[Actor] = []

    async def submit(self, submission: Any, actor: Actor) -> Job:
        self.before(submission)
        action = self._deck.plugins.action(submission.plugin, submission.action)
        self._deck.accounts.authorise(actor, action, submission.plugin)
        hosts = await self._deck.inventory.select(submission.selector)
        row = Job(
            plugin=submission.plugin,
            action=submission.action,
            params=dict(submission.params),
            selector=submission.selector,
            hosts=[host.name for host in hosts],
            actor=actor.name,
            role=actor.role.value,
            door=actor.door.value,
            slot_id=submission.slot_id,
        )
        async with self._deck.db.write() as session:
            session.add(row)
        self.actors.append(actor)
        self.after(submission)
        return row

    async def end(self, state: State = State.SUCCEEDED) -> None:
        async with self._deck.db.write() as session:
            for row in (await session.exec(select(Job))).all():
                row.state = state.value


@dataclass
class Bench:
    """What a test needs: the deck, the clock, and short ways to look."""

    deck: Any
    clock: Clock
    schedules: Schedules
    slots: Slots
    events: list[Event]

    async def add(self, **given: Any) -> Any:
        rule = {} if "cron" in given or "every_seconds" in given else {"every_seconds": 900}
        defaults = {"name": "s", "plugin": "greeter", "action": "greet", "selector": "web1", **rule}
        return await self.schedules.add(ScheduleIn(**(defaults | given)), ADA)

    async def found(self) -> list[tuple[str, str, str]]:
        async with self.deck.db.read() as session:
            rows = (await session.exec(select(Slot).order_by(Slot.planned, Slot.id))).all()  # type: ignore[arg-type]
        return [(f"{row.planned:%H:%M}", row.state, row.reason) for row in rows]

    async def states(self) -> list[str]:
        return [f"{at} {state}" for at, state, _ in await self.found()]

    async def jobs(self) -> list[Job]:
        async with self.deck.db.read() as session:
            return list((await session.exec(select(Job).order_by(Job.id))).all())  # type: ignore[arg-type]

    async def open_incidents(self) -> list[str]:
        return [row.key for row in await self.deck.incidents.open_now()]


def make_bench(db: Database, clock: Clock) -> Bench:
    events: list[Event] = []
    bus = Bus()
    bus.listen(events.append)
    plugins = Plugins()
    plugins.add("greeter", Greeter())
    audit = Audit()
    deck = SimpleNamespace(db=db, events=bus, plugins=plugins, accounts=Accounts(), audit=audit, node="deck1")
    deck.incidents = Incidents(db, bus)
    deck.inventory = Inventory(db, audit, bus)  # type: ignore[arg-type]
    deck.jobs = Jobs(deck)
    deck.schedules = Schedules(deck, now=clock)  # type: ignore[arg-type]
    return Bench(deck, clock, deck.schedules, Slots(deck, now=clock), events)  # type: ignore[arg-type]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def db(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    sqlite = request.param == "sqlite"
    database = Database(
        f"sqlite+aiosqlite:///{tmp_path / 'deck.db'}" if sqlite else request.getfixturevalue("postgres_url")
    )
    async with database.engine.begin() as connection:
        await connection.run_sync(SQLModel.metadata.drop_all)
        await connection.run_sync(SQLModel.metadata.create_all)
    async with database.write() as session:
        session.add(Host(name="web1", address="192.0.2.1", user="root"))
    yield database
    await database.close()


@pytest.fixture
async def bench(db: Database, clock: Clock) -> Bench:
    return make_bench(db, clock)


@pytest.fixture
async def second(db: Database, clock: Clock) -> AsyncIterator[Bench]:
    """Another node on the same database."""
    other = Database(db.url)
    yield make_bench(other, clock)
    await other.close()
