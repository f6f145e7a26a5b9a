"""The catalogue from the store alone, retention and orphans, through the real actions on a real store."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta

import pytest
from opsdeck_backup import catalogue, chains, health, watch
from opsdeck_backup.models import Item, Proof
from opsdeck_backup.stores import Changed, Store

from opsdeck.actor import Actor, Door, Role
from opsdeck.clock import stamp, utcnow
from opsdeck.errors import Invalid, OpsDeckError, Unavailable
from opsdeck.jobs.consent import ConsentNeeded
from opsdeck.jobs.jobs import Submission
from opsdeck.jobs.services import Pace, Services
from opsdeck.secrets.sensitive import Sensitive

BOSS = Actor("boss@cli", Role.ADMIN, Door.CLI, stepped_up=True)
RULED = {"name": "shop", "host": "db", "remote": "store:backups", "store_secret": "s3", "key_secret": "key"}


async def test_the_list_comes_from_the_store_alone(shelf):
    now = utcnow()
    full = shelf.put(now - timedelta(hours=3))
    link = shelf.put(now - timedelta(hours=2), full, salt=1)
    assert (await shelf.good("refresh", target="shop"))["backups"] == 2
    assert [item.id for item in await catalogue.items(shelf.deck, "shop")] == [link.id, full.id]
    await shelf.good("drop", target="shop")
    assert await catalogue.items(shelf.deck, "shop") == ()
    assert len(shelf.names("manifests/*")) == 2
    assert (await shelf.good("target", **RULED))["backups"] == 2
    assert len(await catalogue.items(shelf.deck, "shop")) == 2


async def test_many_manifests_are_read_at_once(shelf):
    for hours in range(9):
        shelf.put(utcnow() - timedelta(hours=hours + 1))
    assert (await shelf.good("refresh", target="shop"))["backups"] == 9


async def test_what_is_gone_or_cut_in_the_store_is_named_and_stays_named(shelf):
    now = utcnow()
    one, two = shelf.put(now - timedelta(hours=3)), shelf.put(now - timedelta(hours=2), salt=1)
    await shelf.good("refresh", target="shop")
    (shelf.folder / one.planned.object).unlink()
    (shelf.folder / two.planned.object).write_bytes(b"short")
    told = await shelf.good("refresh", target="shop")
    assert set(told["damaged"]) == {one.id, two.id}
    items = await catalogue.items(shelf.deck, "shop")
    assert {item.state for item in items} == {"missing"}
    (standing,) = await health.standings(shelf.deck)
    assert standing.state == "broken"


async def test_a_manifest_of_somebody_else_is_not_ours(shelf):
    made = shelf.put(utcnow() - timedelta(hours=1))
    file = shelf.folder / "manifests" / f"{made.id}.json"
    file.write_text(file.read_text().replace('"target":"shop"', '"target":"wiki"'))
    (shelf.folder / "manifests" / "20260101T000000Z-00000000.json").write_text("{")
    told = await shelf.good("refresh", target="shop")
    assert told["backups"] == 0
    assert len(told["damaged"]) == 2


async def test_retention_is_shown_first_and_removes_whole_chains(shelf):
    now = utcnow()
    for age in range(12, 0, -1):
        full = shelf.put(now - timedelta(days=age), salt=age)
        shelf.put(now - timedelta(days=age) + timedelta(hours=1), full, salt=age + 100)
    await shelf.good("target", **RULED | {"keep_daily": 3, "keep_chains": 1})
    before = shelf.names()
    plan = await shelf.plan("prune", target="shop")
    assert shelf.names() == before
    assert len(plan.notes) >= 3
    told = await shelf.good("prune", target="shop")
    assert set(told["removed"]) == {change.target for change in plan.changes}
    left = shelf.names("manifests/*")
    assert len(left) == told["left"]
    assert len(left) in (6, 8)
    assert {name.split("/")[1][:25] for name in shelf.names("data/*")} == {name.split("/")[1][:25] for name in left}
    assert (await shelf.plan("prune", target="shop")).empty


async def test_nothing_is_removed_while_something_is_damaged(shelf):
    now = utcnow()
    for age in range(9, 0, -1):
        shelf.put(now - timedelta(days=age), salt=age)
    await shelf.good("target", **RULED | {"keep_daily": 2, "keep_chains": 1})
    (shelf.folder / "data" / shelf.names("data/*.age")[-1].split("/")[1]).unlink()
    assert (await shelf.good("prune", target="shop"))["removed"] == []


async def test_what_is_damaged_or_gone_goes_when_it_is_asked_to_and_retention_goes_on(shelf):
    now = utcnow()
    made = [shelf.put(now - timedelta(hours=age), salt=age) for age in range(4, 0, -1)]
    cut, gone, *whole = made
    await shelf.good("refresh", target="shop")
    (shelf.folder / cut.planned.object).write_bytes(b"short")
    for name in shelf.names(f"*/{gone.id}*"):
        (shelf.folder / name).unlink()
    await shelf.good("refresh", target="shop")
    before = shelf.names()
    assert (await shelf.plan("clean", target="shop")).empty
    assert (await shelf.good("clean", target="shop", older_hours=0))["removed"] == []
    plan = await shelf.plan("clean", target="shop", damaged=True)
    assert {change.target for change in plan.changes} == {cut.id, gone.id}
    assert shelf.names() == before
    assert set((await shelf.good("clean", target="shop", damaged=True))["removed"]) == {cut.id, gone.id}
    assert {name.split("/")[1][:25] for name in shelf.names()} == {one.id for one in whole}
    assert {item.id: item.state for item in await catalogue.items(shelf.deck, "shop")} == {
        one.id: "good" for one in whole
    }
    (standing,) = await health.standings(shelf.deck)
    assert "damaged" not in str(standing.wrong)
    await shelf.good("target", **RULED | {"keep_hourly": 1, "keep_chains": 1})
    assert len((await shelf.good("prune", target="shop"))["removed"]) == 1


async def test_a_chain_that_a_drill_reads_is_not_removed_under_it(shelf):
    now = utcnow()
    old, new = shelf.put(now - timedelta(days=9)), shelf.put(now - timedelta(hours=1), salt=1)
    await shelf.good("target", **RULED | {"keep_daily": 1, "keep_chains": 1})
    async with shelf.deck.leases.hold([chains.use_of("shop", old.id)], "job:999", "drill of shop"):
        assert (await shelf.good("prune", target="shop"))["removed"] == []
    assert (await shelf.good("prune", target="shop"))["removed"] == [old.id]
    assert shelf.names("manifests/*") == [f"manifests/{new.id}.json"]


async def test_the_newest_proof_says_whether_the_store_has_what_was_sent(shelf):
    async def prove(depth, fault=None):
        with contextlib.suppress(OpsDeckError):
            proof = Proof(target="shop", item="a", depth=depth, ok=False)
            async with catalogue.proving(shelf.deck, proof):
                if fault is not None:
                    raise fault
        return await catalogue.changed(shelf.deck, "shop")

    assert await prove("server") == frozenset()
    assert await prove("server", OpsDeckError("no room")) == frozenset()
    assert await prove("read", Changed("its sha256 is another")) == {"a"}
    assert await prove("key") == {"a"}
    assert await prove("read") == frozenset()


async def test_removing_asks_for_consent(shelf):
    with pytest.raises(ConsentNeeded):
        await shelf.deck.jobs.run(Submission("backup", "prune", {"target": "shop"}), BOSS)


async def test_orphans_are_listed_and_only_old_ones_of_ours_go(shelf):
    kept = shelf.put(utcnow() - timedelta(hours=1))
    old, new = stamp(utcnow() - timedelta(days=3)), stamp(utcnow())
    for name in (
        f"{old}-0000000a.xb.zst.age",
        f"{old}-0000000a.xb.zst.age.config",
        f"{new}-0000000b.xb.zst.age",
        "notes.txt",
    ):
        (shelf.folder / "data" / name).write_bytes(b"x")
    plan = await shelf.plan("clean", target="shop")
    assert [change.target for change in plan.changes] == [
        f"data/{old}-0000000a.xb.zst.age",
        f"data/{old}-0000000a.xb.zst.age.config",
    ]
    await shelf.good("clean", target="shop")
    left = shelf.names("data/*")
    assert f"data/{new}-0000000b.xb.zst.age" in left
    assert "data/notes.txt" in left
    assert kept.planned.object in left
    assert len(left) == 4


async def test_a_store_that_is_gone_is_unavailable_not_empty(shelf):
    shelf.put(utcnow() - timedelta(hours=1))
    await shelf.good("refresh", target="shop")
    text = "[store]\ntype = s3\nprovider = Other\nendpoint = http://127.0.0.1:9\n"
    config = Sensitive(f"{text}access_key_id = a\nsecret_access_key = b\n")
    with pytest.raises(Unavailable, match="store:backups/shop"):
        await Store(config, "store:backups/shop").files()


async def test_a_target_names_a_section_that_its_configuration_has(shelf):
    job = await shelf.run("target", **RULED | {"remote": "elsewhere:backups"})
    assert job.state == "failed"
    assert "[elsewhere]" in job.error
    with pytest.raises(Invalid):
        await shelf.plan("target", **RULED | {"key_secret": "", "name": "other"})


async def test_a_run_that_was_ended_from_outside_does_not_count_as_running_for_ever(shelf):
    now = utcnow()
    for name in ("20260101T000000Z-0000000a", "20260101T000001Z-0000000b"):
        await catalogue.begin(shelf.deck, Item(id=name, target="shop", chain=name, kind="full", started=now))
    await catalogue.give_up(shelf.deck, "shop", but="20260101T000001Z-0000000b")
    assert [item.state for item in await catalogue.items(shelf.deck, "shop")] == ["running", "failed"]


async def test_the_watch_speaks_up_once_and_closes(shelf):
    row = await catalogue.find(shelf.deck, "shop")
    now = utcnow()
    assert not watch.late(row, None, now)
    assert "No good backup" in str(watch.late(row, None, now + timedelta(hours=3)))
    assert "2.5 h old" in str(watch.late(row, now - timedelta(hours=2.5), now))
    assert not watch.late(row, now - timedelta(hours=1), now)
    assert not watch.late(row, now + timedelta(minutes=1), now)
    assert "from the future" in str(watch.late(row, now + timedelta(days=1), now))
    shelf.put(now - timedelta(hours=3))
    await shelf.good("refresh", target="shop")
    (standing,) = await health.standings(shelf.deck)
    assert (standing.state, standing.count) == ("broken", 1)


async def test_a_missing_middle_link_ends_the_chain_there(shelf):
    now = utcnow()
    full = shelf.put(now - timedelta(hours=3))
    middle = shelf.put(now - timedelta(hours=2), full, salt=1)
    last = shelf.put(now - timedelta(hours=1), middle, salt=2)
    await shelf.good("refresh", target="shop")
    for name in shelf.names(f"*/{middle.id}*"):
        (shelf.folder / name).unlink()
    job = await shelf.run("drill", target="shop", backup=last.id)
    assert job.state == "failed"
    assert "a backup before it is missing" in job.error
    assert full.id in job.error


async def test_an_incident_opens_when_no_good_backup_arrived_and_closes_with_the_next(shelf, monkeypatch):
    """Nothing ran and nothing failed here: the absence alone is told, by the service as a server runs it."""
    monkeypatch.setattr(watch, "PAUSE", 0.1)
    async with shelf.deck.db.write() as session:
        row = await catalogue.find(shelf.deck, "shop")
        row.created = utcnow() - timedelta(hours=5)
        await session.merge(row)
    stop = asyncio.Event()
    serving = asyncio.create_task(Services(shelf.deck, pace=Pace(ask=0.1)).serve(stop))

    async def until(opened: bool) -> None:
        async with asyncio.timeout(20):
            while ("backup:shop:rpo" in [one.key for one in await shelf.deck.incidents.open_now()]) is not opened:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    try:
        await until(True)
        shelf.put(utcnow() - timedelta(minutes=1))
        await shelf.good("refresh", target="shop")
        await until(False)
        for name in shelf.names("data/*"):
            (shelf.folder / name).unlink()
        await shelf.good("refresh", target="shop")
        await until(True)
    finally:
        stop.set()
        await asyncio.wait_for(serving, 20)
