"""An incident is told once when it begins and once when it is over, whoever else sees the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import SQLModel

from opsdeck.db import Database, tables
from opsdeck.errors import Invalid
from opsdeck.events import Bus, Event, IncidentClosed, IncidentOpened
from opsdeck.notify.incidents import Incidents

assert tables.ROOMS


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def db(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    sqlite = request.param == "sqlite"
    database = Database(
        f"sqlite+aiosqlite:///{tmp_path / 'deck.db'}" if sqlite else request.getfixturevalue("postgres_url")
    )
    async with database.engine.begin() as connection:
        await connection.run_sync(SQLModel.metadata.drop_all)
        await connection.run_sync(SQLModel.metadata.create_all)
    yield database
    await database.close()


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def incidents(db: Database, events: list[Event]) -> Incidents:
    bus = Bus()
    bus.listen(events.append)
    return Incidents(db, bus)


async def test_seen_again_is_counted_and_told_once(incidents: Incidents, events: list[Event]) -> None:
    assert await incidents.open("host:web1", "web1 is away", detail="refused", host="web1")
    assert not await incidents.open("host:web1", "web1 is still away", detail="timed out")
    (row,) = await incidents.open_now()
    assert (row.title, row.detail, row.host, row.count) == ("web1 is still away", "timed out", "web1", 2)
    assert row.seen >= row.opened
    assert await incidents.close("host:web1")
    assert not await incidents.close("host:web1")
    assert await incidents.open_now() == ()
    assert [type(event) for event in events] == [IncidentOpened, IncidentClosed]


async def test_the_same_again_after_its_end_is_another(incidents: Incidents, events: list[Event]) -> None:
    for _ in range(2):
        await incidents.open("k", "t")
        await incidents.close("k")
    assert len(await incidents.list()) == 2
    assert len(events) == 4


async def test_many_who_see_it_at_once_open_one(incidents: Incidents, db: Database, events: list[Event]) -> None:
    others = [Incidents(db, Bus()) for _ in range(3)]
    await asyncio.gather(*(one.open("k", "t") for one in (incidents, *others) for _ in range(3)))
    (row,) = await incidents.list()
    assert row.count == 12
    await asyncio.gather(*(incidents.close("k") for _ in range(5)))
    assert len([event for event in events if isinstance(event, IncidentClosed)]) == 1


async def test_broken_comes_before_attention_and_the_oldest_first(incidents: Incidents) -> None:
    await incidents.open("a", "a", severity="attention")
    await incidents.open("b", "b")
    await incidents.open("c", "c")
    assert [row.key for row in await incidents.open_now()] == ["b", "c", "a"]
    assert [row.key for row in await incidents.list()] == ["c", "b", "a"]


async def test_a_page_of_them(incidents: Incidents) -> None:
    for number in range(5):
        await incidents.open(f"k{number}", "t", host=f"h{number % 2}", plugin="cdn" if number else "core")
    first = await incidents.list(limit=2)
    rest = await incidents.list(before=first[-1].id)
    assert [row.key for row in (*first, *rest)] == ["k4", "k3", "k2", "k1", "k0"]
    assert {row.host for row in await incidents.list(host="h1")} == {"h1"}
    assert [row.key for row in await incidents.list(plugin="core")] == ["k0"]
    assert [row.key for row in await incidents.list(key="k3")] == ["k3"]


@pytest.mark.parametrize("given", [{"key": ""}, {"key": "x" * 256}, {"severity": "bad"}])
async def test_what_cannot_be_kept_is_refused(incidents: Incidents, given: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        await incidents.open(**({"key": "k", "title": "t"} | given))


async def test_long_texts_are_cut(incidents: Incidents) -> None:
    await incidents.open("k", "t" * 1000, detail="d" * 100_000)
    (row,) = await incidents.open_now()
    assert len(row.title) == 300
    assert len(row.detail) == 20_000
    assert row.detail.endswith("…")


async def test_a_change_that_is_rolled_back_opens_nothing(
    incidents: Incidents, db: Database, events: list[Event]
) -> None:
    with pytest.raises(ZeroDivisionError):
        async with db.write() as session:
            assert await incidents.record(session, "k", "t") is not None
            raise ZeroDivisionError
    assert await incidents.list() == ()
    assert events == []
