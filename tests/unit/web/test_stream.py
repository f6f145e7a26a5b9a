"""A job's stream: what a page gets that is further behind than it can hold."""

from __future__ import annotations

import json
from typing import Any

from opsdeck_web.pages.jobs import ROWS, events
from sqlalchemy import insert

from opsdeck.deck import Deck
from opsdeck.jobs import log
from opsdeck.jobs.models import Job, LogChunk, State, number


async def begin(deck: Deck) -> int:
    async with deck.db.write() as session:
        job = Job(plugin="core", action="command", actor="admin", role="admin", door="page", state=State.RUNNING)
        session.add(job)
        await session.flush()
        return number(job)


async def say(deck: Deck, job: int, first: int, count: int) -> None:
    rows = log.chunks(job, first, [(0, "", "out", f"line {first + at}") for at in range(count)])
    async with deck.db.write() as session:
        await (await session.connection()).execute(insert(LogChunk), rows)


async def end(deck: Deck, job: int) -> None:
    async with deck.db.write() as session:
        found = await session.get(Job, job)
        assert found is not None
        found.state = State.SUCCEEDED
        session.add(found)


async def test_a_page_that_falls_behind_is_told_and_gets_the_newest(deck: Deck) -> None:
    job = await begin(deck)
    await say(deck, job, 1, 3)
    stream = events(deck, job, 0, None)
    seen: list[Any] = []
    gaps: list[int] = []
    step = 0
    async for message in stream:
        if message.event == "lines":
            seen += [row[0] for row in json.loads(message.data)]
        if message.event == "gap":
            gaps.append(json.loads(message.data))
        if step == 0 and seen[-1:] == [3]:
            step = 1
            await say(deck, job, 4, ROWS + 700)
            await end(deck, job)
    last = 3 + ROWS + 700
    assert gaps == [700]
    assert seen == [1, 2, 3, *range(last - ROWS + 1, last + 1)]
    assert message.event == "done"


async def test_a_lane_of_one_host_has_no_gaps(deck: Deck) -> None:
    job = await begin(deck)
    await say(deck, job, 1, ROWS + 10)
    await end(deck, job)
    kinds = [message.event async for message in events(deck, job, 0, "web1")]
    assert "gap" not in kinds
