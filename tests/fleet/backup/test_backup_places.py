"""Stores, hosts and clocks that are full, slow, away or wrong while a backup or a restore runs."""

from __future__ import annotations

import asyncio
import subprocess
from datetime import timedelta

import pytest
from opsdeck_backup import health, keep, take

from opsdeck.actor import Actor, Door, Role
from opsdeck.clock import utcnow
from opsdeck.lab.fleet import HostSpec
from opsdeck.secrets.sensitive import Sensitive

BOSS = Actor("boss@cli", Role.ADMIN, Door.CLI, stepped_up=True)
MARIADB = ("mariadb-server", "mariadb-backup", "zstd", "age")
SHOP = {"remote": "store:backups", "store_secret": "s3", "key_secret": "key"}


async def test_a_host_with_too_little_room_is_refused_before_anything_is_done(world, lab):
    small = lab.host("small1")
    await world.enrol(small)
    await world.good("run", target="shop")
    small.fill(leave_kb=20_000)
    said = await world.bad("restore", target="shop", onto="small1")
    assert "MiB left, and unpacking takes" in said
    assert "MiB left, and unpacking takes" in await world.bad("drill", target="shop", host="small1", depth="read")
    there = "command -v mariadbd; ls -d /var/lib/opsdeck-backup 2>/dev/null"
    assert small.execute(["sh", "-c", there], check=False).strip() == ""


async def test_a_store_that_refuses_the_login_is_named_and_loses_nothing(world):
    first = await world.good("run", target="shop")
    wrong = world.s3.config.replace(world.s3.secret, "wrong")
    await world.deck.secrets.set("s3", Sensitive(wrong), kind="rclone-config", actor=BOSS)
    assert "the store store:backups/shop" in await world.bad("run", target="shop")
    assert "the store store:backups/shop" in await world.bad("refresh", target="shop")
    await world.deck.secrets.set("s3", Sensitive(world.s3.config), kind="rclone-config", actor=BOSS)
    told = await world.good("run", target="shop")
    assert (told["kind"], len(world.s3.files("shop/manifests/*"))) == ("incremental", 2)
    assert first["backup"] != told["backup"]


@pytest.mark.campaign
@pytest.mark.timeout(1200)
async def test_a_store_that_dies_under_a_run_is_named(world):
    await world.slow()
    running = asyncio.create_task(world.bad("run", target="shop"))
    await world.streaming("store", 4 << 20)
    world.s3.stop()
    assert "store (" in await running
    assert "store" in await world.bad("run", target="shop")
    world.s3.start()
    assert (await world.good("run", target="shop"))["reason"] == "the first backup"


@pytest.mark.campaign
@pytest.mark.timeout(1200)
async def test_a_store_that_is_full_is_named_and_takes_the_next_when_there_is_room(world):
    folder = world.s3.folder / "backups"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", folder], check=True)
    try:
        await world.slow(limit="off")
        assert "store (" in await world.bad("run", target="shop")
        assert world.s3.files("shop/manifests/*") == []
        subprocess.run(["mount", "-o", "remount,size=200m", folder], check=True)
        assert (await world.good("run", target="shop"))["kind"] == "full"
    finally:
        world.s3.stop()
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.campaign
async def test_a_store_that_answers_nobody_for_a_minute_costs_a_minute(world):
    await world.slow()
    running = asyncio.create_task(world.good("run", target="shop"))
    await world.streaming("store", 4 << 20)
    world.s3.pause(True)
    await asyncio.sleep(60)
    world.s3.pause(False)
    assert (await running)["kind"] == "full"


@pytest.mark.campaign
@pytest.mark.timeout(900)
async def test_a_cable_that_is_out_for_five_minutes_costs_five_minutes(world):
    await world.slow()
    running = asyncio.create_task(world.good("run", target="shop"))
    await world.streaming("store", 4 << 20)
    world.db.cut()
    await asyncio.sleep(300)
    world.db.mend()
    told = await running
    assert told["kind"] == "full"
    await world.good("drill", target="shop", host="bk-spare", depth="prepare")


@pytest.mark.campaign
async def test_room_that_runs_out_under_a_restore_leaves_the_old_data_serving(world, lab):
    lab.up([HostSpec("bk-small", MARIADB, disk_mb=700)])
    small = lab.host("bk-small")
    await world.enrol(small)
    await world.slow(120, limit="off")
    await world.good("run", target="shop")
    world.sql("CREATE DATABASE mine", host=small)
    running = asyncio.create_task(world.bad("restore", target="shop", onto="bk-small"))
    async with asyncio.timeout(60):
        while not small.execute(["sh", "-c", "ls -d /var/lib/opsdeck-backup/*/0 2>/dev/null"], check=False):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    small.fill(leave_kb=30_000)
    said = await running
    assert "no room is left in /var/lib/opsdeck-backup" in said, said
    small.empty()
    assert "mine" in world.sql("SHOW DATABASES", host=small).split()
    assert small.execute(["ls", "-A", "/var/lib/opsdeck-backup"]).strip() == ""
    await world.good("restore", target="shop", onto="bk-small")
    assert world.sql("SELECT COUNT(*) FROM shop.bulk", host=small) == "120000"


@pytest.mark.campaign
@pytest.mark.parametrize("mounted", [False, True], ids=["a folder", "a mount"])
async def test_what_does_not_serve_is_taken_back_and_what_serves_leaves_a_mount_its_own(world, mounted):
    spare = world.spare

    def on_spare(text):
        spare.execute(["sh", "-ec", text], timeout=120)

    def databases():
        return world.sql("SHOW DATABASES", host=spare).split()

    if mounted:
        on_spare("systemctl stop mariadb; cd /var/lib; mv mysql mysql.disk; mkdir mysql; "
                 "mount -t tmpfs -o size=900m,mode=755 none mysql; cp -a mysql.disk/. mysql/; chown mysql: mysql; "
                 "mkdir -m 700 mysql/lost+found; systemctl start mariadb")  # fmt: skip
    try:
        await world.good("run", target="shop")
        world.sql("CREATE DATABASE mine", host=spare)
        # The server is made to refuse what is restored: it insists on a file that only the present data has.
        picky = '#!/bin/sh\n[ -e /var/lib/mysql/token ] || exit 1\nexec /usr/sbin/mariadbd.real "$@"\n'
        on_spare("touch /var/lib/mysql/token; mv /usr/sbin/mariadbd /usr/sbin/mariadbd.real")
        spare.execute(["sh", "-ec", "cat >/usr/sbin/mariadbd; chmod 755 /usr/sbin/mariadbd"], stdin=picky)
        try:
            assert "does not start on what was restored" in await world.bad("restore", target="shop", onto="bk-spare")
            assert "mine" in databases()
        finally:
            on_spare("mv /usr/sbin/mariadbd.real /usr/sbin/mariadbd; systemctl restart mariadb; "
                     "rm -rf /var/lib/mysql.before-*.failed /var/lib/mysql/.opsdeck-before-*.failed")  # fmt: skip
        assert "mine" in databases()
        plan = await world.plan("restore", target="shop", onto="bk-spare")
        kept = "/var/lib/mysql/.opsdeck-before-" if mounted else "/var/lib/mysql.before-"
        assert any(kept in change.detail for change in plan.changes)
        told = await world.good("restore", target="shop", onto="bk-spare")
        assert told["aside"].startswith(kept)
        on_spare(f"ls -d {told['aside']}/mine")
        assert "mine" not in databases()
        # MariaDB takes every folder of its data for a database, and so it does that of the old data.
        assert [name for name in databases() if "opsdeck" in name] == (
            ["#mysql50#" + told["aside"].rsplit("/", 1)[1]] if mounted else []
        )
        orders = "CHECKSUM TABLE shop.orders"
        assert world.sql(orders, host=spare) == world.sql(orders)
        if mounted:
            on_spare("mountpoint -q /var/lib/mysql; test -d /var/lib/mysql/lost+found; systemctl restart mariadb")
            await world.good("target", **SHOP | {"name": "spare", "host": "bk-spare"})
            await world.good("run", target="spare")
            assert (await world.good("drill", target="spare", host="bk-db"))["tables"] > 10
    finally:
        if mounted:
            on_spare("systemctl stop mariadb; cd /var/lib; umount -l mysql; rmdir mysql; mv mysql.disk mysql; "
                     "systemctl start mariadb")  # fmt: skip


@pytest.mark.campaign
async def test_clocks_that_stand_wrong_neither_break_chains_nor_hide_that_backups_are_old(world, monkeypatch):
    off = timedelta(days=3)
    world.db.execute(["sh", "-c", "cat >/usr/local/bin/date; chmod +x /usr/local/bin/date"],
                     stdin='#!/bin/sh\nexec /bin/date -d "3 days" "$@"\n')  # fmt: skip
    try:
        first = await world.good("run", target="shop")
        (standing,) = await health.standings(world.deck)
        assert standing.since is not None
        assert abs(standing.since - utcnow()) < timedelta(minutes=2), "an age by the host's clock"
        jobs = await world.deck.jobs.list(plugin="backup", action="run")
        said = [line.text for line in await world.deck.jobs.log(jobs[0].id)]
        assert any("the clock of bk-db is +4320 min off" in line for line in said), said[-5:]
    finally:
        world.db.execute(["rm", "/usr/local/bin/date"])
    for module in (take, keep):
        monkeypatch.setattr(module, "utcnow", lambda: utcnow() + off)
    ahead = await world.good("run", target="shop")
    assert ahead["kind"] == "incremental"
    (standing,) = await health.standings(world.deck)
    assert "from the future" in str(standing.wrong)
    monkeypatch.undo()
    back = await world.good("run", target="shop")
    assert (back["kind"], "the clock stands before" in back["reason"], back["removed"]) == ("full", True, [])
    assert first["backup"] < ahead["backup"] < back["backup"]
    (standing,) = await health.standings(world.deck)
    assert "from the future" not in str(standing.wrong)
    await world.good("drill", target="shop", host="bk-spare", backup=ahead["backup"], depth="prepare")


@pytest.mark.campaign
async def test_a_server_that_was_upgraded_begins_a_chain_and_one_that_the_tool_does_not_fit_is_refused(world):
    def be(version):
        world.db.execute(["sh", "-c", "cat >/etc/mysql/mariadb.conf.d/99-version.cnf; systemctl restart mariadb"],
                         stdin=f"[mariadbd]\nversion = {version}\n" if version else "")  # fmt: skip

    await world.good("run", target="shop")
    try:
        be("10.11.99-MariaDB")
        told = await world.good("run", target="shop")
        assert (told["kind"], "and is 10.11.99" in told["reason"]) == ("full", True)
        be("11.4.2-MariaDB")
        assert "might not restore" in await world.bad("run", target="shop")
        assert len(world.s3.files("shop/manifests/*")) == 2
    finally:
        be("")
