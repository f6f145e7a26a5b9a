from __future__ import annotations

from typing import Any

import pytest

from opsdeck.actor import SYSTEM, Actor, Door, Role
from opsdeck.errors import Conflict, Invalid, NotFound, Refused
from opsdeck.events import Bus, HostChanged
from opsdeck.forms import checked
from opsdeck.inventory.forms import HostIn, HostPatch
from opsdeck.inventory.hosts import Inventory
from opsdeck.inventory.models import Reach
from opsdeck.inventory.reach import ReachSeen
from opsdeck.secrets.sensitive import Sensitive


def form(name: str, **given: Any) -> HostIn:
    return checked(HostIn, {"name": name, "address": "192.0.2.1"} | given)


def patch(**given: Any) -> HostPatch:
    return checked(HostPatch, given)


async def test_added_read_edited_removed(inventory: Inventory, bus: Bus, heard: Any) -> None:
    told: list[str] = []
    bus.listen(lambda event: told.append(event.what) if isinstance(event, HostChanged) else None)
    await inventory.add(form("Web1", tags="role=web", quota_bytes="1TB"), SYSTEM)
    assert (await inventory.get("WEB1")).tags == {"role": "web"}
    await inventory.edit("web1", patch(region="fra", quota_bytes=None), SYSTEM)
    host = await inventory.get("web1")
    assert (host.region, host.quota_bytes) == ("fra", None)
    await inventory.remove("web1", SYSTEM)
    assert await inventory.list() == ()
    assert told == ["added", "edited", "removed"]
    assert await heard.verbs() == ["host.added", "host.edited", "host.removed"]
    edited = (await heard.entries())[1]
    assert edited["before"] == {"region": "", "quota_bytes": 10**12}
    assert edited["after"] == {"region": "fra", "quota_bytes": None}


async def test_an_edit_that_changes_nothing_leaves_no_trace(inventory: Inventory, heard: Any) -> None:
    await inventory.add(form("web1", region="fra"), SYSTEM)
    await inventory.edit("web1", patch(region="fra"), SYSTEM)
    assert await heard.verbs() == ["host.added"]


async def test_an_unknown_host(inventory: Inventory) -> None:
    await inventory.add(form("web1"), SYSTEM)
    for work in (
        inventory.get("web2"),
        inventory.edit("web2", patch(region="x"), SYSTEM),
        inventory.remove("web2", SYSTEM),
        inventory.select("web2"),
    ):
        with pytest.raises(NotFound, match="web1") as fault:
            await work
        assert fault.value.host == "web2"


async def test_a_selection_of_nothing_is_an_error_and_a_list_of_nothing_is_not(inventory: Inventory) -> None:
    with pytest.raises(NotFound, match="opsdeck host add"):
        await inventory.select("all")
    await inventory.add(form("web1"), SYSTEM)
    assert await inventory.list("tag:role=edge") == ()
    with pytest.raises(NotFound, match="No host matches 'tag:role=edge'"):
        await inventory.select("tag:role=edge")


async def test_a_name_is_taken_once(inventory: Inventory) -> None:
    await inventory.add(form("web1"), SYSTEM)
    await inventory.add(form("web2"), SYSTEM)
    with pytest.raises(Conflict, match="there already"):
        await inventory.add(form("WEB1"), SYSTEM)
    with pytest.raises(Conflict, match="there already"):
        await inventory.edit("web2", patch(name="web1"), SYSTEM)


async def test_jump_hosts_do_not_go_in_circles(inventory: Inventory) -> None:
    await inventory.add(form("gate"), SYSTEM)
    await inventory.add(form("inner", jump="gate"), SYSTEM)
    with pytest.raises(Invalid, match="gate → inner → gate") as fault:
        await inventory.edit("gate", patch(jump="inner"), SYSTEM)
    assert fault.value.field == "jump"
    assert (await inventory.get("gate")).jump is None
    with pytest.raises(Invalid, match="self → self"):
        await inventory.add(form("self", jump="self"), SYSTEM)
    with pytest.raises(Invalid, match=r"'gat'.*did you mean gate"):
        await inventory.add(form("far", jump="gat"), SYSTEM)
    assert [host.name for host in await inventory.list()] == ["gate", "inner"]


async def test_a_jump_host_is_kept_while_others_need_it(inventory: Inventory, heard: Any) -> None:
    await inventory.add(form("gate"), SYSTEM)
    await inventory.add(form("a", jump="gate"), SYSTEM)
    await inventory.add(form("b", jump="gate"), SYSTEM)
    with pytest.raises(Conflict, match="jump host of a, b"):
        await inventory.remove("gate", SYSTEM)
    await inventory.remove("gate", SYSTEM, force=True)
    assert [host.jump for host in await inventory.list()] == [None, None]
    assert (await heard.entries())[-1]["detail"] == {"no_longer_behind_it": ["a", "b"]}


async def test_those_behind_a_renamed_jump_host_follow(inventory: Inventory) -> None:
    await inventory.add(form("gate"), SYSTEM)
    await inventory.add(form("a", jump="gate"), SYSTEM)
    await inventory.edit("gate", patch(name="door"), SYSTEM)
    assert (await inventory.get("a")).jump == "door"


async def test_a_credential_must_be_there_and_log_in(inventory: Inventory, keys: Any) -> None:
    with pytest.raises(Invalid, match="no secret named 'web-key'") as fault:
        await inventory.add(form("web1", credential="web-key"), SYSTEM)
    assert fault.value.field == "credential"
    assert "opsdeck secret set web-key" in (fault.value.hint or "")
    await keys.store.set("web-key", Sensitive("a long token"), kind="token", actor=SYSTEM)
    with pytest.raises(Invalid, match="does not log in"):
        await inventory.add(form("web1", credential="web-key"), SYSTEM)
    await keys.password("pw", "hunter22")
    await inventory.add(form("web1", credential="pw", sudo="password"), SYSTEM)
    with pytest.raises(Invalid, match="sudo asks for a password") as fault:
        await inventory.edit("web1", patch(credential="agent"), SYSTEM)
    assert fault.value.field == "sudo_secret"
    await inventory.edit("web1", patch(credential="agent", sudo_secret="pw"), SYSTEM)


async def test_many_are_applied_all_or_none(inventory: Inventory) -> None:
    await inventory.add(form("old"), SYSTEM)
    with pytest.raises(Invalid, match="no host named 'none'"):
        await inventory.apply([form("a"), form("b", jump="none")], {"old": patch(region="x")}, SYSTEM)
    assert [(host.name, host.region) for host in await inventory.list()] == [("old", "")]
    await inventory.apply([form("a", jump="b"), form("b")], {"old": patch(region="x")}, SYSTEM)
    assert [(host.name, host.region) for host in await inventory.list()] == [("a", ""), ("b", ""), ("old", "x")]


async def test_reach_is_noted_for_many_and_told_when_it_changes(inventory: Inventory, bus: Bus, heard: Any) -> None:
    for name in ("a", "b", "c"):
        await inventory.add(form(name), SYSTEM)
    told: list[tuple[str, str]] = []
    bus.listen(lambda event: told.append((event.host, event.what)) if isinstance(event, HostChanged) else None)
    seen = [ReachSeen("a", Reach.OK), ReachSeen("b", Reach.UNREACHABLE, "no route"), ReachSeen("gone", Reach.OK)]
    assert set(await inventory.set_reach(seen)) == {"a", "b"}
    assert await inventory.set_reach(seen) == ()
    assert sorted(told) == [("a", "reach ok"), ("b", "reach unreachable")]
    a, b, c = await inventory.list()
    assert (a.reach, a.last_seen is not None, a.reach_since is not None) == ("ok", True, True)
    assert (b.reach, b.reach_detail, b.last_seen) == ("unreachable", "no route", None)
    assert c.reach == "unknown"
    assert await heard.verbs() == ["host.added"] * 3


async def test_another_address_is_another_reach(inventory: Inventory) -> None:
    await inventory.add(form("a"), SYSTEM)
    await inventory.set_reach([ReachSeen("a", Reach.OK)])
    await inventory.edit("a", patch(region="x"), SYSTEM)
    assert (await inventory.get("a")).reach == "ok"
    await inventory.edit("a", patch(address="192.0.2.9"), SYSTEM)
    assert (await inventory.get("a")).reach == "unknown"


async def test_below_operator_nothing_changes(inventory: Inventory) -> None:
    viewer = Actor("vi", Role.VIEWER, Door.WEB)
    limited = Actor("ci", Role.ADMIN, Door.API, scopes=("cdn.*",))
    await inventory.add(form("web1"), SYSTEM)
    for who in (viewer, limited):
        for work in (
            inventory.add(form("web2"), who),
            inventory.apply([form("web2")], {}, who),
            inventory.edit("web1", patch(region="x"), who),
            inventory.remove("web1", who),
        ):
            with pytest.raises(Refused):
                await work
    assert [(host.name, host.region) for host in await inventory.list()] == [("web1", "")]
