"""A server under constant writes is lost; its newest backup comes back on a new host, row by row."""

from __future__ import annotations

import subprocess
import threading
import time
from datetime import timedelta
from typing import Any

import pytest
from opsdeck_backup import keep, take

from opsdeck.actor import Actor, Door, Role
from opsdeck.clock import utcnow
from opsdeck.jobs.engine import served
from opsdeck.jobs.schedules import ScheduleIn
from opsdeck.jobs.slots import Slots
from opsdeck.lab.fleet import HostSpec

BOSS = Actor("boss@cli", Role.ADMIN, Door.CLI, stepped_up=True)

ROUNDS = 5


class Client(threading.Thread):
    """Writes one row after another and notes each commit that the server confirmed, with its time."""

    def __init__(self, host: Any) -> None:
        super().__init__(daemon=True)
        quiet = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR")
        words = ["ssh", "-i", str(host.private_key), *(word for option in quiet for word in ("-o", option))]
        words += [f"root@{host.address}", "mariadb -N -B -n shop"]
        self._talk = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.confirmed: list[tuple[int, float]] = []
        self._go = True

    def run(self) -> None:
        number = 0
        talk = self._talk
        assert talk.stdin is not None and talk.stdout is not None
        while self._go:
            number += 1
            text = f"INSERT INTO ledger VALUES ({number}, REPEAT(MD5({number}), 4)); SELECT {number};\n"  # noqa: S608
            try:
                talk.stdin.write(text)
                talk.stdin.flush()
                if talk.stdout.readline().strip() != str(number):
                    return
            except (BrokenPipeError, ValueError):
                return
            self.confirmed.append((number, time.time()))
            time.sleep(0.005)

    def stop(self) -> None:
        """Write no more."""
        self._go = False
        self.join(10)
        self._talk.kill()
        self._talk.wait()


def check(world: Any, client: Client, host: Any, began: float, ended: float) -> None:
    """Compare a restored host row by row with what the client knows to be committed when the backup was taken."""
    said = world.sql("SELECT id, what = REPEAT(MD5(id), 4) FROM shop.ledger ORDER BY id", host=host)
    rows = [line.split("\t") for line in said.split("\n")]
    there = [int(number) for number, _ in rows]
    assert all(right == "1" for _, right in rows)
    assert there == list(range(1, len(there) + 1)), "a commit is missing between others"
    before = sum(1 for _, at in client.confirmed if at < began)
    after = sum(1 for _, at in client.confirmed if at <= ended) + 1
    assert 0 < before <= len(there) <= after


async def test_a_lost_server_comes_back_as_it_was_when_its_newest_backup_was_taken(world):
    world.sql("CREATE TABLE shop.ledger (id INT PRIMARY KEY, what CHAR(128)) ENGINE=InnoDB")
    client = Client(world.db)
    client.start()
    try:
        made = []
        for _ in range(ROUNDS):
            began = time.time()
            made.append((await world.good("run", target="shop"), began, time.time()))
        assert [one["kind"] for one, _, _ in made] == ["full"] + ["incremental"] * (ROUNDS - 1)
        world.db.kill()
    finally:
        client.stop()
    try:
        told = await world.good("restore", target="shop", onto="bk-spare")
        last, began, ended = made[-1]
        assert (told["backup"], told["links"]) == (last["backup"], ROUNDS)
        check(world, client, world.spare, began, ended)
    finally:
        world.db.start()


@pytest.mark.campaign
@pytest.mark.timeout(5400)
async def test_a_week_of_hourly_backups_and_one_action_that_brings_the_newest_onto_a_new_host(world, lab, monkeypatch):
    hours = 0
    for module in (take, keep):
        monkeypatch.setattr(module, "utcnow", lambda: utcnow() + timedelta(hours=hours))
    await world.set(full_hours=24, keep_daily=2, keep_chains=2, read_back=True)
    given = ScheduleIn(name="hourly", plugin="backup", action="run", params={"target": "shop"}, every_seconds=3600)
    await world.deck.schedules.add(given, BOSS)
    slots = Slots(world.deck, now=lambda: utcnow() + timedelta(hours=hours, minutes=1))
    world.sql("CREATE TABLE shop.ledger (id INT PRIMARY KEY, what CHAR(128)) ENGINE=InnoDB")
    client = Client(world.db)
    client.start()
    removed = 0
    try:
        async with served(world.deck.jobs.engine):
            for hour in range(1, 7 * 24 + 1):
                hours = hour
                began = time.time()
                await slots.look()
                (slot,) = await world.deck.schedules.slots("hourly", limit=1)
                assert slot.state == "fired", slot.reason
                job = await world.deck.jobs.ended(slot.job_id)
                assert job.state == "succeeded", (hour, job.error)
                removed += len(job.receipt["removed"])
        ended = time.time()
        world.db.kill()
    finally:
        client.stop()
    try:
        report = await world.good("refresh", target="shop")
        assert (report["damaged"], report["orphans"]) == ({}, 0)
        fulls = [file for file in world.s3.files("shop/manifests/*") if '"kind":"full"' in file.read_text()]
        assert 2 <= len(fulls) <= 4
        assert report["backups"] + removed == 7 * 24
        lab.up([HostSpec("bk-new")])
        new = lab.host("bk-new")
        await world.enrol(new)
        told = await world.good("restore", target="shop", onto="bk-new")
        assert told["backup"] == job.receipt["backup"]
        check(world, client, new, began, ended)
    finally:
        world.db.start()
