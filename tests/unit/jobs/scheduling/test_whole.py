"""A schedule from its making to a command's output on a real host, through a node that serves."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from sqlmodel import select

from opsdeck.clock import utcnow
from opsdeck.jobs.models import Job, Schedule
from opsdeck.jobs.schedules import ScheduleIn


async def test_a_due_time_ends_as_output_of_a_real_host(deck: Any, boss: Any, until: Any) -> None:
    given = ScheduleIn(
        name="hello", plugin="test", action="sh", params={"command": "echo hi"}, selector="h1,h2", every_seconds=3600
    )
    await deck.schedules.add(given, boss)
    async with deck.db.write() as session:
        row = (await session.exec(select(Schedule))).one()
        row.created = row.looked_at = utcnow() - timedelta(hours=1, seconds=1)
    stop = asyncio.Event()
    serving = asyncio.create_task(deck.jobs.serve(stop))
    try:

        async def over() -> list[Job]:
            return [job for job in await deck.jobs.list() if job.state == "succeeded"]

        await until(over)
    finally:
        stop.set()
        await asyncio.wait_for(serving, 20)
    (job,) = await deck.jobs.list()
    (slot,) = await deck.schedules.slots("hello")
    assert (slot.state, slot.job_id, job.slot_id) == ("fired", job.id, slot.id)
    assert (job.door, job.actor, job.source) == ("schedule", boss.name, "schedule:hello")
    lines = await deck.jobs.log(job.id)
    assert [line.text for line in lines if line.stream == "out"] == ["hi", "hi"]
    verbs = [entry.verb for entry in await deck.audit.list()]
    assert {"schedule.added", "job.submitted", "command.ran"} <= set(verbs)
