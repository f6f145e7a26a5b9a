"""The clock looks when it should, hears of changes, and outlives what goes wrong in a look."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from opsdeck.actor import Actor, Door, Role
from opsdeck.errors import Unavailable
from opsdeck.jobs.clockwork import Clockwork
from opsdeck.jobs.schedules import SchedulePatch

ADA = Actor("ada@cli", Role.ADMIN, Door.CLI, stepped_up=True)


@contextlib.asynccontextmanager
async def running(bench: Any) -> AsyncIterator[Clockwork]:
    stop = asyncio.Event()
    clockwork = Clockwork(bench.deck, now=bench.clock, poll=0.02)
    task = asyncio.create_task(clockwork.run(stop))
    try:
        yield clockwork
    finally:
        stop.set()
        await asyncio.wait_for(task, 10)


async def until(look: Any, wanted: Any) -> None:
    async with asyncio.timeout(10):
        while await look() != wanted:  # noqa: ASYNC110 - what is waited for is in the database
            await asyncio.sleep(0.02)


async def test_due_times_become_jobs_while_it_runs(bench: Any) -> None:
    await bench.add()
    async with running(bench):
        for count in range(1, 4):
            bench.clock.move(minutes=15)
            await until(lambda: number_of_jobs(bench), count)
            await bench.deck.jobs.end()


async def number_of_jobs(bench: Any) -> int:
    return len(await bench.jobs())


async def test_a_schedule_that_changes_meanwhile_is_heard_of(bench: Any) -> None:
    await bench.add(every_seconds=86400)
    clock = AsyncIOScheduler(timezone=UTC)
    clock.start(paused=True)
    clockwork = Clockwork(bench.deck)
    try:
        await clockwork._set(clock)
        (job,) = clock.get_jobs()
        before = job.next_run_time
        await clockwork._set(clock)
        assert clock.get_jobs()[0].next_run_time == before
        await bench.schedules.edit("s", SchedulePatch(every_seconds=60), ADA)
        await clockwork._set(clock)
        (job,) = clock.get_jobs()
        assert job.next_run_time < before
        await bench.schedules.pause("s", ADA)
        await clockwork._set(clock)
        assert clock.get_jobs() == []
    finally:
        clock.shutdown(wait=False)


async def test_the_clock_gives_our_times_and_not_its_own(bench: Any) -> None:
    await bench.add(cron="0 0 * * 0", time_zone="Europe/Berlin")
    clock = AsyncIOScheduler(timezone=UTC)
    clock.start(paused=True)
    try:
        await Clockwork(bench.deck)._set(clock)
        (job,) = clock.get_jobs()
        at = job.trigger.get_next_fire_time(None, datetime(2026, 11, 23, tzinfo=UTC))
        assert at == datetime(2026, 11, 28, 23, tzinfo=UTC)
        assert job.trigger.get_next_fire_time(at, at) == datetime(2026, 12, 5, 23, tzinfo=UTC)
        assert job.misfire_grace_time is None
    finally:
        clock.shutdown(wait=False)


@pytest.mark.parametrize("fault", [Unavailable("the database is locked"), RuntimeError("a bug")])
async def test_a_look_that_fails_is_tried_again(bench: Any, fault: Exception, caplog: pytest.LogCaptureFixture) -> None:
    await bench.add()
    async with running(bench) as clockwork:
        look = clockwork._slots.look
        failed = asyncio.Event()

        async def broken(schedule_id: int | None = None) -> None:
            failed.set()
            raise fault

        clockwork._slots.look = broken  # type: ignore[method-assign]
        bench.clock.move(minutes=15)
        await asyncio.wait_for(failed.wait(), 10)
        clockwork._slots.look = look  # type: ignore[method-assign]
        await until(bench.states, ["12:15 fired"])
    assert str(fault) in caplog.text


async def test_stopping_lets_a_look_come_to_its_end(bench: Any) -> None:
    await bench.add()
    submit = bench.deck.jobs.submit
    begun = asyncio.Event()

    async def slowly(submission: Any, actor: Actor) -> Any:
        begun.set()
        await asyncio.sleep(0.2)
        return await submit(submission, actor)

    bench.deck.jobs.submit = slowly
    async with running(bench):
        bench.clock.move(minutes=15)
        await asyncio.wait_for(begun.wait(), 10)
    assert await bench.states() == ["12:15 fired"]
