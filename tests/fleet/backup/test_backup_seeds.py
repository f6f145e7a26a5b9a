"""How scripts lose backups: a half one as a parent, a mirror of nothing, a second run, a schedule after a restore."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import timedelta

import pytest

from opsdeck.actor import Actor, Door, Role
from opsdeck.clock import utcnow
from opsdeck.jobs.engine import served
from opsdeck.jobs.schedules import ScheduleIn
from opsdeck.jobs.slots import Slots

BOSS = Actor("boss@cli", Role.ADMIN, Door.CLI, stepped_up=True)
HOURLY = {"plugin": "backup", "action": "run", "params": {"target": "shop"}, "every_seconds": 3600}


def prints(world):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in world.s3.files("shop/*/*")}


async def test_what_is_lost_on_the_host_and_on_the_console_takes_nothing_from_the_store(world):
    first = await world.good("run", target="shop")
    kept = prints(world)
    world.db.execute(["sh", "-c", "rm -rf /run/opsdeck-backup /var/lib/opsdeck-backup /var/lib/opsdeck /opt/opsdeck"])
    await world.good("drop", target="shop")
    await world.set(keep_daily=1, keep_chains=1)
    second = await world.good("run", target="shop")
    assert (second["kind"], second["removed"]) == ("incremental", [])
    assert kept.items() <= prints(world).items()
    assert (await world.good("drill", target="shop", host="bk-spare", depth="prepare"))["links"] == 2
    assert first["backup"] != second["backup"]


async def test_a_restore_holds_the_schedule_and_what_comes_after_begins_anew(world):
    schedules = world.deck.schedules
    await schedules.add(ScheduleIn(name="hourly", **HOURLY), BOSS)
    await schedules.add(ScheduleIn(name="others", **HOURLY | {"params": {"target": "wiki"}}), BOSS)
    first = await world.good("run", target="shop")
    kept = prints(world)
    before = world.sql("CHECKSUM TABLE shop.orders")
    world.sql("DROP TABLE shop.orders")
    restoring = asyncio.create_task(world.run("restore", target="shop", onto="bk-db"))
    async with asyncio.timeout(60):
        while not (held := (await schedules.get("hourly")).held_by):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert "restore of shop onto bk-db" in held
    assert (await schedules.get("others")).held_by == ""
    await Slots(world.deck, now=lambda: utcnow() + timedelta(minutes=61)).look()
    (slot,) = await schedules.slots("hourly")
    assert (slot.state, slot.reason) == ("skipped", f"held by {held}")
    job = await restoring
    assert (job.state, job.receipt["links"]) == ("succeeded", 1)
    assert world.sql("CHECKSUM TABLE shop.orders") == before
    assert (await schedules.get("hourly")).held_by == ""
    await schedules.remove("others", BOSS)
    async with served(world.deck.jobs.engine):
        await Slots(world.deck, now=lambda: utcnow() + timedelta(minutes=121)).look()
        (slot, _) = await schedules.slots("hourly")
        assert slot.state == "fired", slot.reason
        job = await world.deck.jobs.ended(slot.job_id, 60)
    assert (job.state, job.receipt["kind"], "data folder" in job.receipt["reason"]) == ("succeeded", "full", True)
    assert job.receipt["backup"] > first["backup"]
    assert kept.items() <= prints(world).items()


@pytest.mark.campaign
async def test_a_run_longer_than_the_interval_is_one_run_and_its_chain_is_one(world):
    await world.slow()
    await world.deck.schedules.add(ScheduleIn(name="hourly", **HOURLY), BOSS)
    async with served(world.deck.jobs.engine):
        for hours in (1, 2):
            await Slots(world.deck, now=lambda: utcnow() + timedelta(hours=hours, minutes=1)).look()  # noqa: B023
            if hours == 1:
                await world.streaming(amount=1 << 20)
        second, first = await world.deck.schedules.slots("hourly")
        assert (first.state, second.state) == ("fired", "skipped")
        assert "still goes on" in second.reason
        assert "is held by job" in await world.bad("run", target="shop")
        job = await world.deck.jobs.ended(first.job_id, 60)
    assert job.state == "succeeded"
    assert len(world.s3.files("shop/manifests/*")) == 1


@pytest.mark.campaign
async def test_a_half_increment_is_no_parent(world):
    await world.good("run", target="shop")
    await world.slow()
    running = asyncio.create_task(world.bad("run", target="shop"))
    await world.streaming(amount=10 << 20, end=True)
    await running
    world.sql("INSERT INTO shop.orders (note) VALUES ('after')")
    told = await world.good("run", target="shop")
    assert told["kind"] == "incremental"
    before = world.sql("CHECKSUM TABLE shop.orders, shop.bulk")
    assert (await world.good("restore", target="shop", onto="bk-spare"))["links"] == 2
    assert world.sql("CHECKSUM TABLE shop.orders, shop.bulk", host=world.spare) == before
