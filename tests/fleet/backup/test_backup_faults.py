"""What goes wrong while a backup runs, lies in the store, or is brought back."""

from __future__ import annotations

import asyncio

import pytest
from opsdeck_backup import keys

from opsdeck.actor import Actor, Door, Role
from opsdeck.secrets.sensitive import Sensitive

BOSS = Actor("boss@cli", Role.ADMIN, Door.CLI, stepped_up=True)


async def test_secrets_are_in_no_command_line_and_no_environment(world):
    await world.slow()
    secret = world.s3.secret
    running = asyncio.create_task(world.good("run", target="shop"))
    await world.streaming(amount=1 << 20)
    seen = world.db.execute(["sh", "-c", "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'"])
    told = await running
    assert "rcat" in seen
    assert secret not in seen
    lines = await world.deck.jobs.list(plugin="backup", action="run")
    log = "\n".join(line.text for line in await world.deck.jobs.log(lines[0].id))
    assert secret not in log
    assert told["read_back"] is True


async def test_a_cut_cable_costs_nothing(world):
    await world.slow()
    running = asyncio.create_task(world.good("run", target="shop"))
    await world.streaming(amount=1 << 20)
    world.db.cut()
    await asyncio.sleep(6)
    world.db.mend()
    assert (await running)["kind"] == "full"


async def test_what_was_changed_in_the_store_is_found_before_it_is_believed(world):
    await world.good("run", target="shop")
    await world.slow(8, limit="off")  # more than the pipe holds: the store is cut off where age stops
    await world.good("run", target="shop")
    (last,) = world.s3.files("shop/data/*.age")[-1:]
    text = bytearray(last.read_bytes())
    text[len(text) // 2] ^= 1
    last.write_bytes(text)
    assert "was changed" in await world.bad("drill", target="shop", host="bk-spare", depth="read")
    incidents = [one.key for one in await world.deck.incidents.open_now()]
    assert "backup:shop:proof" in incidents
    anew = await world.good("run", target="shop")
    assert (anew["kind"], "was changed" in anew["reason"]) == ("full", True)
    last.write_bytes(text[:-10])
    report = await world.good("refresh", target="shop")
    assert list(report["damaged"]) == [last.name[:25]]
    told = await world.good("run", target="shop")
    assert (told["kind"], told["removed"]) == ("incremental", [])
    await world.good("drill", target="shop", host="bk-spare", depth="prepare")
    assert "backup:shop:proof" not in [one.key for one in await world.deck.incidents.open_now()]


async def test_a_missing_middle_link_ends_the_chain_there(world):
    made = []
    for _ in range(3):
        world.sql("INSERT INTO shop.orders (note) VALUES ('more')")
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
    world.sql(
        "CREATE OR REPLACE USER weak@localhost IDENTIFIED BY 'weak-password'; GRANT RELOAD ON *.* TO weak@localhost",
    )
    await world.deck.secrets.set(
        "weak", Sensitive("[client]\nuser=weak\npassword=weak-password\n"), kind="text", actor=BOSS
    )
    await world.set(login_secret="weak")
    assert "lacks PROCESS" in await world.bad("run", target="shop")
    assert world.s3.files("shop/**/*") == []


@pytest.mark.campaign
async def test_changes_of_tables_during_a_run_come_back_whole(world):
    await world.slow()
    world.sql(
        "CREATE TABLE shop.old (id INT PRIMARY KEY, t TEXT) ENGINE=MyISAM; INSERT INTO shop.old VALUES (1, 'a')",
    )
    running = asyncio.create_task(world.good("run", target="shop"))
    await world.streaming(amount=1 << 20)
    world.sql(
        "USE shop; ALTER TABLE orders ADD COLUMN more INT DEFAULT 5, ALGORITHM=COPY; OPTIMIZE TABLE bulk; "
        "CREATE TABLE t2 (id INT PRIMARY KEY); INSERT INTO t2 VALUES (1), (2); INSERT INTO old VALUES (2, 'b'); "
        "TRUNCATE TABLE bulk",
    )
    await running
    world.sql("INSERT INTO shop.t2 VALUES (3)")
    await world.good("run", target="shop")
    tables = "CHECKSUM TABLE shop.orders, shop.bulk, shop.t2, shop.old"
    before = world.sql(tables)
    await world.good("restore", target="shop", onto="bk-spare")
    assert world.sql(tables, host=world.spare) == before
