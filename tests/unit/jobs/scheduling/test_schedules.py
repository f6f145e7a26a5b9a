"""Making, changing and showing schedules: what a person can get wrong is said when it is entered."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from opsdeck.actor import Actor, Door, Role
from opsdeck.errors import Conflict, Invalid, NotFound, OpsDeckError, Refused
from opsdeck.jobs import holds
from opsdeck.jobs.schedules import Overlap, ScheduleIn, SchedulePatch

ADA = Actor("ada@cli", Role.ADMIN, Door.CLI, stepped_up=True)
EVE = Actor("eve", Role.VIEWER, Door.WEB)


async def test_a_schedule_is_kept_as_given(bench: Any) -> None:
    made = await bench.add(name="nightly", cron="30 2 * * *", time_zone="Europe/Berlin", params={"word": "x"})
    kept = await bench.schedules.get("nightly")
    assert kept.id == made.id
    assert (kept.params, kept.misfire, kept.overlap) == ({"word": "x", "count": 1}, "once", "skip")
    assert (kept.actor, kept.role) == ("ada@cli", "admin")
    assert bench.deck.audit.entries == [("ada@cli", "schedule.added", "schedule:nightly")]
    assert [row.name for row in await bench.schedules.list()] == ["nightly"]


@pytest.mark.parametrize(
    ("given", "kind", "field"),
    [
        ({"plugin": "gone"}, NotFound, "plugin"),
        ({"action": "gone"}, NotFound, "action"),
        ({"params": {"count": 0}}, Invalid, "count"),
        ({"params": {"wrod": "x"}}, Invalid, "wrod"),
        ({"selector": ""}, Invalid, "selector"),
        ({"selector": "web9"}, NotFound, None),
        ({"cron": "61 * * * *"}, Invalid, "cron"),
        ({"cron": "0 0 30 2 *"}, Invalid, "cron"),
        ({"time_zone": "Mars/Base"}, Invalid, "time_zone"),
        ({"every_seconds": 3}, Invalid, "every"),
        ({"action": "wipe"}, Refused, "confirm"),
    ],
)
async def test_what_is_wrong_is_said_when_it_is_made(
    bench: Any, given: dict[str, Any], kind: type[OpsDeckError], field: str | None
) -> None:
    with pytest.raises(kind) as fault:
        await bench.add(**given)
    if field is not None:
        assert fault.value.field == field
    assert await bench.schedules.list() == ()
    assert bench.deck.audit.entries == []


@pytest.mark.parametrize("name", ["", "a b", "-x", "../x", "x" * 101, "é"])
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        ScheduleIn(name=name, plugin="greeter", action="greet")


async def test_consent_is_given_once_when_it_is_made(bench: Any) -> None:
    made = await bench.add(action="wipe", confirm="web1")
    assert made.action == "wipe"


async def test_who_may_not_run_it_may_not_plan_it(bench: Any) -> None:
    given = ScheduleIn(name="s", plugin="greeter", action="wipe", selector="web1", every_seconds=900, confirm="web1")
    with pytest.raises(Refused):
        await bench.schedules.add(given, EVE)
    await bench.schedules.add(given, ADA)
    for work in (bench.schedules.pause, bench.schedules.resume, bench.schedules.remove):
        with pytest.raises(Refused):
            await work("s", EVE)
    with pytest.raises(Refused):
        await bench.schedules.edit("s", SchedulePatch(every_seconds=60), EVE)


async def test_a_name_is_taken_once(bench: Any) -> None:
    await bench.add()
    with pytest.raises(Conflict):
        await bench.add()


async def test_a_schedule_of_a_plugin_that_is_gone_can_be_removed(bench: Any) -> None:
    await bench.add()
    bench.deck.plugins.manifests.clear()
    with pytest.raises(Refused):
        await bench.schedules.remove("s", EVE)
    await bench.schedules.remove("s", ADA)
    assert await bench.schedules.list() == ()


async def test_an_edit_changes_the_rule_from_now_on(bench: Any) -> None:
    await bench.add(every_seconds=900)
    bench.clock.move(hours=3)
    kept = await bench.schedules.edit("s", SchedulePatch(cron="0 9 * * *", overlap=Overlap.QUEUE), ADA)
    assert (kept.cron, kept.every_seconds, kept.overlap, kept.version) == ("0 9 * * *", None, "queue", 2)
    await bench.slots.look()
    assert await bench.found() == []
    back = await bench.schedules.edit("s", SchedulePatch(every_seconds=60), ADA)
    assert (back.cron, back.every_seconds) == ("", 60)


async def test_an_edit_is_checked_whole(bench: Any) -> None:
    await bench.add()
    with pytest.raises(Invalid):
        await bench.schedules.edit("s", SchedulePatch(params={"count": -1}), ADA)
    with pytest.raises(NotFound):
        await bench.schedules.edit("s", SchedulePatch(selector="web9"), ADA)
    with pytest.raises(NotFound):
        await bench.schedules.edit("other", SchedulePatch(), ADA)
    assert (await bench.schedules.get("s")).version == 1


async def test_the_next_times_in_both_zones_with_a_note(bench: Any) -> None:
    bench.clock.at = datetime(2026, 10, 24, 12, tzinfo=UTC)
    await bench.add(cron="30 2 * * *", time_zone="Europe/Berlin")
    runs = await bench.schedules.next("s")
    assert len(runs) == 5
    assert [run.utc.hour for run in runs[:2]] == [0, 1]
    assert {run.local.hour for run in runs} == {2}
    assert "comes twice" in runs[0].note
    assert not runs[1].note
    with pytest.raises(NotFound):
        await bench.schedules.next("other")


async def test_a_preview_of_what_is_being_made(bench: Any) -> None:
    given = ScheduleIn(name="s", plugin="greeter", action="greet", cron="0 9 * * mon", time_zone="Asia/Shanghai")
    assert [run.local.weekday() for run in bench.schedules.preview(given, 3)] == [0, 0, 0]


async def test_nothing_is_planned_while_paused(bench: Any) -> None:
    await bench.add(every_seconds=900)
    await bench.schedules.pause("s", ADA)
    bench.clock.move(hours=2)
    await bench.slots.look()
    await bench.schedules.resume("s", ADA)
    await bench.slots.look()
    assert await bench.found() == []
    bench.clock.move(minutes=15)
    await bench.slots.look()
    assert await bench.states() == ["14:15 fired"]
    verbs = [verb for _, verb, _ in bench.deck.audit.entries]
    assert verbs == ["schedule.added", "schedule.paused", "schedule.resumed"]


async def hold(bench: Any, job: int, purpose: str, *names: str) -> tuple[str, ...]:
    async with bench.deck.db.write() as session:
        return await holds.take(session, job, purpose, lambda row: row.name in names)


async def test_holding_and_letting_go(bench: Any) -> None:
    for name in ("backup-a", "backup-b", "other"):
        await bench.add(name=name)
    held = ("backup-a", "backup-b")
    assert await hold(bench, 1, "restore of shop", *held) == held
    assert await hold(bench, 1, "restore of shop", *held) == held  # a job that was resumed
    with pytest.raises(Conflict, match="restore of shop"):
        await hold(bench, 11, "somebody else", "other", "backup-b")
    assert (await bench.schedules.get("other")).held_by == ""
    bench.clock.move(minutes=15)
    await bench.slots.look()
    assert sorted(await bench.found()) == [
        ("12:15", "fired", ""),
        ("12:15", "skipped", "held by job 1: restore of shop"),
        ("12:15", "skipped", "held by job 1: restore of shop"),
    ]
    assert await bench.open_incidents() == []
    await hold(bench, 11, "somebody else", "other")
    async with bench.deck.db.write() as session:
        await holds.let_go(session, 1)
    assert [(await bench.schedules.get(name)).held_by != "" for name in (*held, "other")] == [False, False, True]
    bench.clock.move(minutes=15)
    await bench.slots.look()
    assert len([state for state in await bench.states() if state == "12:30 fired"]) == 2


async def test_a_removed_schedule_leaves_its_jobs(bench: Any) -> None:
    await bench.add()
    bench.clock.move(minutes=15)
    await bench.slots.look()
    await bench.schedules.remove("s", ADA)
    assert len(await bench.jobs()) == 1
    assert await bench.found() == []


async def test_the_job_of_a_removed_schedule_is_not_taken_for_the_run_of_another(bench: Any) -> None:
    await bench.add()
    bench.clock.move(minutes=15)
    await bench.slots.look()
    await bench.schedules.remove("s", ADA)
    await bench.add(name="other")
    bench.clock.move(minutes=15)
    await bench.slots.look()
    assert await bench.found() == [("12:30", "fired", "")]
    assert len(await bench.jobs()) == 2
