"""Each part of the pipe killed at each point: an orphan at most, never a backup, and the next run goes on well."""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import timedelta
from typing import Any

import pytest
from opsdeck_backup import catalogue
from sqlmodel import update

from opsdeck.clock import utcnow
from opsdeck.jobs.models import Job

AFTER = (10, 50, 99)
BEFORE = (10, 50, 90)
"""Percent of what a part does before it is killed. Before the compressor the last tenth passes within one look."""
EVERY = {"engine": ("raw", BEFORE), "scan": ("raw", BEFORE), "zstd": ("raw", AFTER), "age": ("stored", AFTER),
         "hash": ("stored", AFTER), "digest": ("stored", AFTER), "store": ("stored", AFTER)}  # fmt: skip
QUICK = (("engine", 50), ("zstd", 50), ("store", 10))


async def measured(world: Any) -> Any:
    """Take a full backup that is as large as those after it: without the log of what was just written."""
    await world.slow(32, limit="off")
    world.db.execute(["systemctl", "restart", "mariadb"])
    return await world.good("run", target="shop")


async def kill(world: Any, name: str, amount: int) -> str:
    """Kill a part of a full backup when it has come so far; give what was said."""
    running = asyncio.create_task(world.bad("run", target="shop", full=True))
    await world.streaming(name, amount, end=True)
    return str(await running)


async def settle(world: Any, full: str) -> None:
    """See that nothing of the killed runs counts, and that the chain before goes on and restores."""
    assert [file.stem for file in world.s3.files("shop/manifests/*")] == [full]
    world.sql("INSERT INTO shop.orders (note) VALUES ('after the kills')")
    told = await world.good("run", target="shop")
    assert told["kind"] == "incremental"
    (item, *_) = [one for one in await catalogue.items(world.deck, "shop") if one.state == "good"]
    assert (item.id, item.parent) == (told["backup"], full)
    await world.set()
    assert world.db.execute(["ls", "-A", "/run/opsdeck-backup"]).strip() == ""
    before = world.sql("CHECKSUM TABLE shop.orders, shop.bulk")
    await world.good("restore", target="shop", onto="bk-spare")
    assert world.sql("CHECKSUM TABLE shop.orders, shop.bulk", host=world.spare) == before


async def test_a_killed_part_leaves_an_orphan_at_most_and_the_next_run_goes_on_from_the_last_good_one(world):
    full = await measured(world)
    await world.set(limit="6M", full_hours=1000)
    for name, percent in QUICK:
        said = await kill(world, name, full[EVERY[name][0]] * percent // 100)
        assert name in said, (name, percent, said)
    items = await catalogue.items(world.deck, "shop")
    assert [item.state for item in items] == ["failed"] * len(QUICK) + ["good"]
    assert (await world.good("clean", target="shop"))["removed"] == []
    assert (await world.good("clean", target="shop", older_hours=0))["removed"]
    assert len(world.s3.files("shop/data/*")) == 2
    await settle(world, full["backup"])


@pytest.mark.campaign
@pytest.mark.timeout(1500)
async def test_every_part_killed_at_every_point(world):
    full = await measured(world)
    await world.set(limit="6M", throttle=20, full_hours=1000)
    for name, (unit, points) in EVERY.items():
        for percent in points:
            said = await kill(world, name, full[unit] * percent // 100)
            assert name.replace("digest", "sha256") in said, (name, percent, said)
            assert [file.stem for file in world.s3.files("shop/manifests/*")] == [full["backup"]]
    await settle(world, full["backup"])


@pytest.mark.campaign
async def test_a_run_that_is_killed_whole_leaves_no_secret_behind_the_next(world):
    await world.slow()
    running = asyncio.create_task(world.bad("run", target="shop"))
    await world.streaming(amount=1 << 20)
    world.db.execute(["sh", "-c", "kill -KILL $(cat /run/opsdeck-backup/*/pid)"])
    await running
    assert world.db.execute(["sh", "-c", "ls /run/opsdeck-backup/*/rclone.conf"]).strip()
    await world.set()
    await world.good("run", target="shop")
    assert world.db.execute(["ls", "-A", "/run/opsdeck-backup"]).strip() == ""


@pytest.mark.campaign
async def test_a_console_that_is_killed_finds_its_backup_again(world):
    await world.slow(mib=80)  # so that it still runs when the console is gone and the job was taken over
    others = "cdn,vpn,search_sync,web"
    given = {"OPSDECK_HOME": str(world.deck.settings.home), "OPSDECK_DISABLED_PLUGINS": others}
    words = ("plugin", "run", "backup", "run", "--target", "shop")
    console = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from opsdeck.cli import main; main()", *words), env=os.environ | given
    )
    engine = await world.streaming(amount=1 << 20)
    console.kill()
    await console.wait()
    (job,) = await world.deck.jobs.list(plugin="backup", action="run")
    assert job.state == "running"
    over = update(Job).where(Job.id == job.id).values(lease_until=utcnow() - timedelta(seconds=1))
    async with world.deck.db.write() as session:
        await session.exec(over)
    taken = asyncio.create_task(world.deck.jobs.recover())
    await asyncio.sleep(1)
    assert world.part("engine") == engine, "it was begun again, or ended with the console"
    assert await taken == 1
    job = await world.deck.jobs.ended(job.id)
    assert job.state == "succeeded", job.error
    (item,) = await catalogue.items(world.deck, "shop")
    assert (item.state, item.job_id) == ("good", job.id)
