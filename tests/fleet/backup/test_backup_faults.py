"""What goes wrong while a backup runs, lies in the store, or is brought back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from opsdeck_backup import catalogue, keys

from opsdeck.actor import Actor, Door, Role
from opsdeck.deck import Deck
from opsdeck.secrets.sensitive import Sensitive

BOSS = Actor("boss@cli", Role.ADMIN, Door.CLI, stepped_up=True)
SLOW = {"name": "shop", "host": "bk-db", "remote": "store:backups", "store_secret": "s3", "key_secret": "key"}
FILL = (
    "USE shop; CREATE OR REPLACE TABLE bulk (id INT PRIMARY KEY AUTO_INCREMENT, noise VARBINARY(1000)); "
    "INSERT INTO bulk (noise) SELECT RANDOM_BYTES(1000) FROM seq_1_to_3000"
)


def sql(host: Any, text: str) -> str:
    return str(host.execute(["mariadb", "-N", "-B"], stdin=text, timeout=120)).strip()


async def streaming(host: Any, seconds: float = 60) -> None:
    """Wait until a backup streams on a host."""
    for _ in range(int(seconds / 0.1)):
        if host.execute(["pgrep", "-x", "mariadb-backup"], check=False).strip():
            await asyncio.sleep(1.5)
            return
        await asyncio.sleep(0.1)
    pytest.fail(f"no backup began on {host.name}")


async def slowed(world: Any, limit: str = "300k") -> None:
    """Make a backup take some seconds: data that does not shrink, and a narrow way."""
    sql(world.db, FILL)
    await world.good("target", **SLOW | {"limit": limit, "full_hours": 1000})


@pytest.mark.parametrize(
    "part",
    [
        "mariadb-backup",
        "zstd",
        pytest.param("age", marks=pytest.mark.campaign),
        "rclone",
        pytest.param("sha256sum", marks=pytest.mark.campaign),
    ],
)
async def test_a_killed_part_leaves_an_orphan_and_never_a_backup(world, part):
    await slowed(world)
    running = asyncio.create_task(world.bad("run", target="shop", full=True))
    await streaming(world.db)
    world.db.execute(["pkill", "-KILL", "-x", part])
    said = await running
    assert (
        part.replace("mariadb-backup", "engine").replace("rclone", "store").replace("sha256sum", "was killed") in said
    )
    assert world.s3.files("shop/manifests/*") == []
    (item,) = await catalogue.items(world.deck, "shop")
    assert (item.state, item.error != "") == ("failed", True)
    if part == "zstd":
        await world.good("target", **SLOW)
        assert (await world.good("run", target="shop"))["kind"] == "full"
        orphans = [file.name for file in world.s3.files("shop/data/*")]
        assert len(orphans) >= 3
        assert (await world.good("clean", target="shop"))["removed"] == []
        assert (await world.good("clean", target="shop", older_hours=0))["removed"]
        assert len(world.s3.files("shop/data/*")) == 2
        await world.good("drill", target="shop", depth="prepare")
    assert world.db.execute(["ls", "-A", "/run/opsdeck-backup"]).strip() == ""


async def test_secrets_are_in_no_command_line_and_no_environment(world):
    await slowed(world)
    secret = world.s3.secret
    running = asyncio.create_task(world.good("run", target="shop"))
    await streaming(world.db)
    seen = world.db.execute(["sh", "-c", "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'"])
    told = await running
    assert "rcat" in seen
    assert secret not in seen
    lines = await world.deck.jobs.list(plugin="backup", action="run")
    log = "\n".join(line.text for line in await world.deck.jobs.log(lines[0].id))
    assert secret not in log
    assert told["read_back"] is True


async def test_a_cut_cable_costs_nothing(world):
    await slowed(world)
    running = asyncio.create_task(world.good("run", target="shop"))
    await streaming(world.db)
    world.db.cut()
    await asyncio.sleep(6)
    world.db.mend()
    assert (await running)["kind"] == "full"


@pytest.mark.campaign
async def test_a_console_that_dies_finds_its_backup_again(world):
    await slowed(world, "150k")
    running = asyncio.create_task(world.run("run", target="shop"))
    await streaming(world.db)
    (job,) = await world.deck.jobs.list(plugin="backup", action="run")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    settings, plugins = world.deck.settings, world.deck.plugins
    await world.deck.close()
    async with Deck.open(settings, plugins=plugins, kind="server") as again:
        for _ in range(60):
            await again.jobs.recover()
            job = await again.jobs.get(job.id)
            if job.state not in ("running", "queued"):
                break
            await asyncio.sleep(1)
        job = await again.jobs.ended(job.id, 60)
        assert job.state == "succeeded", job.error
        (item,) = await catalogue.items(again, "shop")
        assert (item.state, item.job_id) == ("good", job.id)
        await again.jobs.close()


@pytest.mark.campaign
async def test_a_store_that_refuses_or_dies_is_named(world):
    await slowed(world)
    running = asyncio.create_task(world.bad("run", target="shop"))
    await streaming(world.db)
    world.s3.stop()
    assert "store" in await running
    assert "store" in await world.bad("run", target="shop")
    world.s3.start()
    assert (await world.good("run", target="shop"))["reason"] == "the first backup"


async def test_what_was_changed_in_the_store_is_found_before_it_is_believed(world):
    await world.good("run", target="shop")
    sql(world.db, "INSERT INTO shop.orders (note) VALUES ('x')")
    await world.good("run", target="shop")
    (last,) = world.s3.files("shop/data/*.age")[-1:]
    text = bytearray(last.read_bytes())
    text[len(text) // 2] ^= 1
    last.write_bytes(text)
    assert "was changed" in await world.bad("drill", target="shop", host="bk-spare", depth="read")
    incidents = [one.key for one in await world.deck.incidents.open_now()]
    assert "backup:shop:proof" in incidents
    last.write_bytes(text[:-10])
    report = await world.good("refresh", target="shop")
    assert list(report["damaged"]) == [last.name[:25]]
    told = await world.good("run", target="shop")
    assert told["kind"] in ("full", "incremental")
    await world.good("drill", target="shop", host="bk-spare", depth="prepare")
    assert "backup:shop:proof" not in [one.key for one in await world.deck.incidents.open_now()]


async def test_a_missing_middle_link_ends_the_chain_there(world):
    made = []
    for _ in range(3):
        sql(world.db, "INSERT INTO shop.orders (note) VALUES ('more')")
        made.append((await world.good("run", target="shop"))["backup"])
    for file in world.s3.files(f"shop/*/{made[1]}*"):
        file.unlink()
    world.s3.stop()  # what it remembers of the folder is five minutes old at most
    world.s3.start()
    assert "a backup before it is missing" in await world.bad("drill", target="shop", backup=made[2])
    told = await world.good("run", target="shop")
    assert (told["kind"], "gap" in told["reason"]) == ("full", True)


async def test_another_key_does_not_open_it(world):
    await world.good("run", target="shop")
    other, _ = keys.new_identity()
    await world.deck.secrets.set("other", other, kind="age-identity", actor=BOSS)
    assert "key does not open" in await world.bad("drill", target="shop", host="bk-spare", depth="read", key="other")


async def test_a_login_without_the_rights_is_refused_before_anything_is_sent(world):
    sql(
        world.db,
        "CREATE OR REPLACE USER weak@localhost IDENTIFIED BY 'weak-password'; GRANT RELOAD ON *.* TO weak@localhost",
    )
    await world.deck.secrets.set(
        "weak", Sensitive("[client]\nuser=weak\npassword=weak-password\n"), kind="text", actor=BOSS
    )
    await world.good("target", **SLOW | {"login_secret": "weak"})
    assert "lacks PROCESS" in await world.bad("run", target="shop")
    assert world.s3.files("shop/**/*") == []


@pytest.mark.campaign
async def test_two_runs_at_once_make_one_chain(world):
    await slowed(world)
    jobs = await asyncio.gather(world.run("run", target="shop"), world.run("run", target="shop"))
    items = [item for item in await catalogue.items(world.deck, "shop") if item.state == "good"]
    assert len(items) == len([job for job in jobs if job.state == "succeeded"])
    assert len({item.chain for item in items}) == 1
    assert len({item.parent for item in items}) == len(items)


async def test_after_a_restore_in_place_the_next_backup_is_full(world):
    await world.good("run", target="shop")
    before = sql(world.db, "CHECKSUM TABLE shop.orders")
    sql(world.db, "DROP TABLE shop.orders")
    told = await world.good("restore", target="shop", onto="bk-db")
    assert sql(world.db, "CHECKSUM TABLE shop.orders") == before
    assert told["links"] == 1
    told = await world.good("run", target="shop")
    assert (told["kind"], "data folder" in told["reason"]) == ("full", True)


@pytest.mark.campaign
async def test_changes_of_tables_during_a_run_come_back_whole(world):
    await slowed(world)
    sql(
        world.db,
        "CREATE TABLE shop.old (id INT PRIMARY KEY, t TEXT) ENGINE=MyISAM; INSERT INTO shop.old VALUES (1, 'a')",
    )
    running = asyncio.create_task(world.good("run", target="shop"))
    await streaming(world.db)
    sql(
        world.db,
        "USE shop; ALTER TABLE orders ADD COLUMN more INT DEFAULT 5, ALGORITHM=COPY; OPTIMIZE TABLE bulk; "
        "CREATE TABLE t2 (id INT PRIMARY KEY); INSERT INTO t2 VALUES (1), (2); INSERT INTO old VALUES (2, 'b'); "
        "TRUNCATE TABLE bulk",
    )
    await running
    sql(world.db, "INSERT INTO shop.t2 VALUES (3)")
    await world.good("run", target="shop")
    tables = "CHECKSUM TABLE shop.orders, shop.bulk, shop.t2, shop.old"
    before = sql(world.db, tables)
    await world.good("restore", target="shop", onto="bk-spare")
    assert sql(world.spare, tables) == before
