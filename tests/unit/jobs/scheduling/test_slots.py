"""Every planned time becomes a job or a record, exactly once: downtime, clocks that jump, nodes that meet or die."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlmodel import select

from opsdeck.accounts.models import User
from opsdeck.actor import Actor, Door, Role
from opsdeck.errors import Unavailable
from opsdeck.events import IncidentClosed, IncidentOpened, SlotMissed
from opsdeck.jobs.models import Schedule, Slot
from opsdeck.jobs.slots import EACH, LISTED

ADA = Actor("ada@cli", Role.ADMIN, Door.CLI, stepped_up=True)


async def look(bench: Any, **by: float) -> None:
    bench.clock.move(**by)
    await bench.slots.look()
    await bench.slots.recover()


async def test_a_due_time_becomes_one_job(bench: Any) -> None:
    await bench.add(params={"word": "x"})
    await look(bench, minutes=14)
    assert await bench.found() == []
    await look(bench, minutes=1)
    await look(bench, seconds=1)
    (job,) = await bench.jobs()
    assert (job.params, job.hosts, job.door, job.actor) == ({"word": "x", "count": 1}, ["web1"], "schedule", "ada@cli")
    async with bench.deck.db.read() as session:
        (slot,) = (await session.exec(select(Slot))).all()
    assert (slot.state, slot.job_id, job.slot_id) == ("fired", job.id, slot.id)


@pytest.mark.parametrize(
    ("misfire", "fired", "others"),
    [("skip", 0, "missed"), ("once", 1, "skipped"), ("each", 12, "")],
)
async def test_three_hours_of_downtime(bench: Any, misfire: str, fired: int, others: str) -> None:
    await bench.add(misfire=misfire, overlap="allow")
    await look(bench, hours=3, minutes=5)
    states = [state for _, state, _ in await bench.found()]
    assert len(states) == 12
    assert states == [others] * (12 - fired) + ["fired"] * fired
    assert len(await bench.jobs()) == fired
    await look(bench)
    assert len(await bench.found()) == 12
    if misfire == "skip":
        assert await bench.open_incidents() == ["schedule-missed:s"]
        assert len([event for event in bench.events if isinstance(event, SlotMissed)]) == 12
        assert len([event for event in bench.events if isinstance(event, IncidentOpened)]) == 1
        await look(bench, minutes=10)
        assert await bench.open_incidents() == []
        assert isinstance(bench.events[-1], IncidentClosed)
    else:
        assert await bench.open_incidents() == []
    if misfire == "once":
        assert {reason for _, _, reason in await bench.found()} == {"covered by the run of 20261123T150000Z", ""}


async def test_each_runs_one_after_another_where_runs_must_not_meet(bench: Any) -> None:
    await bench.add(misfire="each", overlap="skip")
    await look(bench, hours=1, minutes=5)
    assert [state for _, state, _ in await bench.found()] == ["fired", "due", "due", "due"]
    for done in range(2, 5):
        await look(bench)
        assert len(await bench.jobs()) == done - 1
        await bench.deck.jobs.end()
        await look(bench)
        assert len(await bench.jobs()) == done
    assert [state for _, state, _ in await bench.found()] == ["fired"] * 4
    assert [job.slot_id for job in await bench.jobs()] == sorted(job.slot_id for job in await bench.jobs())


async def test_each_is_bounded(bench: Any) -> None:
    await bench.add(misfire="each", overlap="allow", every_seconds=60)
    await look(bench, hours=3, seconds=59)
    states = [state for _, state, _ in await bench.found()]
    # The newest slot is in time and not one of the late ones.
    assert states == ["missed"] * (179 - EACH) + ["fired"] * (EACH + 1)
    assert await bench.open_incidents() == []


@pytest.mark.parametrize(("misfire", "state"), [("skip", "missed"), ("once", "skipped"), ("each", "missed")])
async def test_a_year_of_downtime_is_bounded_and_told(bench: Any, misfire: str, state: str) -> None:
    await bench.add(misfire=misfire, overlap="allow", every_seconds=60)
    await look(bench, days=365)
    found = await bench.found()
    assert len(found) == LISTED + 1
    assert found[0][1] == state
    assert "only the newest" in found[0][2]
    await look(bench)
    assert len(await bench.found()) == LISTED + 1


async def test_a_clock_set_back_fires_nothing_twice(bench: Any) -> None:
    await bench.add()
    for _ in range(4):
        await look(bench, minutes=15)
        await bench.deck.jobs.end()
    assert len(await bench.jobs()) == 4
    bench.clock.move(minutes=-40)
    for _ in range(9):
        await look(bench, minutes=5)
        await bench.deck.jobs.end()
    assert await bench.states() == ["12:15 fired", "12:30 fired", "12:45 fired", "13:00 fired"]
    await look(bench, minutes=15)
    assert (await bench.states())[-1] == "13:15 fired"


async def test_a_clock_set_far_ahead_and_back_again_goes_on(bench: Any) -> None:
    await bench.add(misfire="once")
    await look(bench, days=365 * 4)
    await bench.deck.jobs.end()
    assert len(await bench.jobs()) == 1
    await look(bench, days=-365 * 4)
    await look(bench, minutes=15)
    assert (await bench.states())[0] == "12:00 skipped"  # the row for all that was not listed
    assert len(await bench.jobs()) == 2


async def test_a_clock_set_forward_is_like_downtime(bench: Any) -> None:
    await bench.add(misfire="skip")
    await look(bench, hours=2, minutes=3)
    assert {state for _, state, _ in await bench.found()} == {"missed"}


async def test_a_small_skew_between_nodes_moves_nothing(bench: Any, second: Any) -> None:
    await bench.add()
    await look(bench, minutes=15)
    before = (await bench.schedules.get("s")).looked_at
    bench.clock.move(seconds=-20)
    await second.slots.look()
    assert (await bench.schedules.get("s")).looked_at == before
    assert len(await bench.jobs()) == 1


async def test_the_repeated_hour_fires_once(bench: Any) -> None:
    bench.clock.at = datetime(2026, 10, 24, 20, tzinfo=UTC)
    await bench.add(cron="30 2 * * *", time_zone="Europe/Berlin")
    for _ in range(24):
        await look(bench, minutes=30)
    assert await bench.states() == ["00:30 fired"]


async def test_the_hour_left_out_fires_once(bench: Any) -> None:
    bench.clock.at = datetime(2026, 3, 28, 20, tzinfo=UTC)
    await bench.add(cron="30 2 * * *", time_zone="Europe/Berlin")
    for _ in range(24):
        await look(bench, minutes=30)
    assert await bench.states() == ["01:30 fired"]


async def test_two_nodes_make_one_job_of_a_slot(bench: Any, second: Any) -> None:
    for number in range(5):
        await bench.add(name=f"s{number}", overlap="allow")
    for _ in range(6):
        bench.clock.move(minutes=15)
        await asyncio.gather(
            *(node.slots.look() for node in (bench, second, bench, second)),
            *(node.slots.recover() for node in (bench, second)),
        )
    assert len(await bench.jobs()) == 30
    assert len(await bench.found()) == 30
    assert {state for _, state, _ in await bench.found()} == {"fired"}


class Died(BaseException):
    """The process ends here."""


def die(_submission: Any) -> None:
    raise Died


async def test_a_crash_before_the_job_is_taken_up_once(bench: Any, second: Any) -> None:
    await bench.add()
    bench.clock.move(minutes=15)
    bench.deck.jobs.before = die
    with pytest.raises(Died):
        await bench.slots.look()
    assert await bench.states() == ["12:15 due"]
    await look(second, seconds=5)
    assert await bench.states() == ["12:15 due"], "the first node may still be at it"
    bench.clock.move(seconds=40)
    tries: list[Any] = []
    bench.deck.jobs.before = second.deck.jobs.before = tries.append
    await asyncio.gather(*(node.slots.recover() for node in (bench, second, bench, second)))
    assert await bench.states() == ["12:15 fired"]
    assert len(await bench.jobs()) == 1
    assert len(tries) == 1


async def test_a_crash_after_the_job_is_taken_up_without_a_second_one(bench: Any, second: Any) -> None:
    await bench.add()
    bench.clock.move(minutes=15)
    bench.deck.jobs.after = die
    with pytest.raises(Died):
        await bench.slots.look()
    assert (await bench.states(), len(await bench.jobs())) == (["12:15 due"], 1)
    await look(second, minutes=5)
    assert (await bench.states(), len(await bench.jobs())) == (["12:15 fired"], 1)


async def test_a_job_that_appears_in_the_last_moment_is_found(bench: Any, second: Any) -> None:
    await bench.add()
    bench.clock.move(minutes=15)
    bench.deck.jobs.before = die
    with pytest.raises(Died):
        await bench.slots.look()
    bench.deck.jobs.before = lambda _submission: None
    submit = second.deck.jobs.submit

    async def too_late(submission: Any, actor: Actor) -> Any:
        await bench.deck.jobs.submit(submission, actor)
        return await submit(submission, actor)

    second.deck.jobs.submit = too_late
    await look(second, seconds=40)
    assert (await bench.states(), len(await bench.jobs())) == (["12:15 fired"], 1)
    assert await bench.open_incidents() == []


async def test_a_slot_waits_for_an_earlier_one_that_was_left(bench: Any, second: Any) -> None:
    await bench.add(overlap="queue")
    bench.clock.move(minutes=15)
    bench.deck.jobs.before = die
    with pytest.raises(Died):
        await bench.slots.look()
    second.clock.move(minutes=15)
    await second.slots.look()
    assert await bench.found() == [
        ("12:15", "due", ""),
        ("12:30", "due", "waits: the run of 20261123T121500Z has not started yet"),
    ]
    await second.slots.recover()
    assert await bench.states() == ["12:15 fired", "12:30 due"]


async def test_a_node_that_was_only_slow_makes_no_second_job(bench: Any, second: Any) -> None:
    await bench.add()
    bench.clock.move(minutes=15)
    reached, go_on = asyncio.Event(), asyncio.Event()
    submit = bench.deck.jobs.submit

    async def slowly(submission: Any, actor: Actor) -> Any:
        reached.set()
        await go_on.wait()
        return await submit(submission, actor)

    bench.deck.jobs.submit = slowly
    slow = asyncio.create_task(bench.slots.look())
    await reached.wait()
    await look(second, seconds=45)
    assert len(await bench.jobs()) == 1
    go_on.set()
    await slow
    assert (await bench.states(), len(await bench.jobs())) == (["12:15 fired"], 1)


@pytest.mark.parametrize(("misfire", "state"), [("skip", "missed"), ("once", "fired"), ("each", "fired")])
async def test_a_crash_found_hours_later_follows_the_policy(bench: Any, second: Any, misfire: str, state: str) -> None:
    await bench.add(misfire=misfire, every_seconds=86400)
    bench.clock.move(days=1)
    bench.deck.jobs.before = die
    with pytest.raises(Died):
        await bench.slots.look()
    await look(second, hours=3)
    assert await bench.states() == [f"12:00 {state}"]


@pytest.mark.parametrize(
    ("overlap", "states", "jobs"),
    [
        ("skip", ["fired", "skipped", "skipped"], 1),
        ("queue", ["fired", "due", "due"], 1),
        ("allow", ["fired", "fired", "fired"], 3),
    ],
)
async def test_while_the_run_before_goes_on(bench: Any, overlap: str, states: list[str], jobs: int) -> None:
    await bench.add(overlap=overlap)
    for _ in range(3):
        await look(bench, minutes=15)
    found = await bench.found()
    assert [state for _, state, _ in found] == states
    assert len(await bench.jobs()) == jobs
    if overlap == "skip":
        assert found[1][2] == "the run before (job 1) still goes on"
        assert await bench.open_incidents() == ["schedule-missed:s"]
    if overlap == "queue":
        await bench.deck.jobs.end()
        await look(bench, seconds=5)
        assert [state for _, state, _ in await bench.found()] == ["fired", "fired", "due"]


async def test_a_wait_has_an_end(bench: Any) -> None:
    await bench.add(overlap="queue", every_seconds=7200)
    for _ in range(15):
        await look(bench, hours=2)
    states = [state for _, state, _ in await bench.found()]
    assert states[:2] == ["fired", "missed"]
    assert states[-1] == "due"
    assert await bench.open_incidents() == ["schedule-missed:s"]


async def test_paused_meanwhile(bench: Any) -> None:
    await bench.add(overlap="queue")
    await look(bench, minutes=15)
    await look(bench, minutes=15)
    await bench.schedules.pause("s", ADA)
    await bench.deck.jobs.end()
    await look(bench, seconds=40)
    assert (await bench.found())[-1] == ("12:30", "skipped", "the schedule was paused meanwhile")
    assert len(await bench.jobs()) == 1


async def test_paused_between_the_look_and_the_record(bench: Any) -> None:
    row = await bench.add()
    await bench.schedules.pause("s", ADA)
    bench.clock.move(minutes=15)
    assert await bench.slots._record(row.id) == []
    assert await bench.found() == []


async def break_action(bench: Any) -> None:
    bench.deck.plugins.manifests.clear()


async def break_host(bench: Any) -> None:
    await bench.deck.inventory.remove("web1", ADA)


async def break_params(bench: Any) -> None:
    def check(_submission: Any) -> None:
        raise RuntimeError("the plugin's own check is broken")

    bench.deck.jobs.before = check


async def break_user(bench: Any) -> None:
    async with bench.deck.db.write() as session:
        (await session.exec(select(Schedule).where(Schedule.name == "s"))).one().actor = "bob"


async def disable_user(bench: Any) -> None:
    await break_user(bench)
    async with bench.deck.db.write() as session:
        session.add(User(name="bob", role="admin", disabled=True))


@pytest.mark.parametrize(
    ("breaking", "reason"),
    [
        (break_action, "no plugin is called 'greeter'"),
        (break_host, "web1"),
        (break_params, "greeter.greet could not be made a job: RuntimeError"),
        (break_user, "is no user any more"),
        (disable_user, "is disabled"),
    ],
)
async def test_what_is_gone_at_its_time_is_missed_with_the_reason(bench: Any, breaking: Any, reason: str) -> None:
    await bench.add()
    await bench.add(name="other", selector="all")
    await breaking(bench)
    await look(bench, minutes=15)
    found = await bench.found()
    assert len(found) == 2
    assert any(state == "missed" and reason in why for _, state, why in found), found
    assert "schedule-missed:s" in await bench.open_incidents()


async def test_a_schedule_has_the_rights_its_maker_still_has(bench: Any) -> None:
    await bench.add(action="wipe", confirm="web1")
    await break_user(bench)
    async with bench.deck.db.write() as session:
        session.add(User(name="bob", role="viewer"))
    await look(bench, minutes=15)
    assert await bench.found() == [("12:15", "missed", "bob may not greeter.wipe.")]
    assert await bench.jobs() == []


async def test_a_zone_that_is_gone_stops_this_schedule_only(bench: Any) -> None:
    await bench.add(name="bad")
    await bench.add(name="good")
    async with bench.deck.db.write() as session:
        row = (await session.exec(select(Schedule).where(Schedule.name == "bad"))).one()
        row.time_zone = "Mars/Base"
    await look(bench, minutes=15)
    assert await bench.states() == ["12:15 fired"]
    assert await bench.open_incidents() == ["schedule-missed:bad"]


async def test_a_thing_that_is_away_for_a_while_is_waited_for(bench: Any) -> None:
    await bench.add()

    def away(_submission: Any) -> None:
        raise Unavailable("the key file is away")

    bench.deck.jobs.before = away
    await look(bench, minutes=15)
    assert await bench.found() == [("12:15", "due", "waits: the key file is away")]
    bench.deck.jobs.before = lambda _submission: None
    await look(bench, minutes=5)
    assert await bench.states() == ["12:15 fired"]


async def test_a_slot_says_when_it_was_planned_and_decided(bench: Any) -> None:
    await bench.add()
    await look(bench, minutes=15, seconds=7)
    (slot,) = await bench.schedules.slots("s")
    assert slot.planned == datetime(2026, 11, 23, 12, 15, tzinfo=UTC)
    assert slot.decided - slot.planned == timedelta(seconds=7)
