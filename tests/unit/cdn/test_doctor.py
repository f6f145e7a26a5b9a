"""What is said of edges, certificates and DNS, from rows alone; and which edges may be named."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from opsdeck_cdn import book, certificates, checkup, doctor, edgehost, naming, plugin, purging, sight
from opsdeck_cdn.models import DebtRow, NameServerRow, SetupRow, TrafficRow
from opsdeck_cdn.sites import Life
from opsdeck_cdn.web.views import edge_line, site_line
from sqlmodel import select

from opsdeck.actor import Actor, Door, Role
from opsdeck.builtin import plugin as core_plugin
from opsdeck.db import Database, migrate
from opsdeck.deck import Deck
from opsdeck.errors import Invalid
from opsdeck.inventory.models import Host
from opsdeck.jobs.jobs import Submission
from opsdeck.plugins import Plugins
from opsdeck.secrets.keyring import Keyring
from opsdeck.settings import Settings

BOSS = Actor("boss@cli", Role.ADMIN, Door.CLI, stepped_up=True)


@pytest.fixture
async def deck(tmp_path: Path) -> AsyncIterator[Deck]:
    """Give a deck with two hosts that are edges of one site; nothing is deployed."""
    plugins = Plugins()
    plugins.add("core", core_plugin)
    plugins.add("cdn", plugin)
    settings = Settings(home=tmp_path / "deck")
    settings.home.mkdir(mode=0o700)
    Keyring.create(settings.key_file)
    database = Database(settings.url)
    await migrate.upgrade(database, plugins)
    await database.close()
    async with Deck.open(settings, plugins=plugins, kind="server") as deck:
        async with deck.db.write() as session:
            for number in (1, 2):
                session.add(Host(name=f"e{number}", address=f"192.0.2.{number}", latitude=1.0, longitude=2.0))
        await do(deck, "site", name="s", names=["a.test"], origins=["http://192.0.2.9"])
        for number in (1, 2):
            await do(deck, "edge", host=f"e{number}")
        yield deck


async def do(deck: Deck, action: str, **params: Any) -> Any:
    job = await deck.jobs.run(Submission("cdn", action, params, confirm=action), BOSS)
    assert job.state == "succeeded", job.error
    return job.receipt


async def said(deck: Deck) -> dict[str, tuple[str, str]]:
    return {item.subject: (item.state, item.text) for item in await doctor.findings(deck)}


async def test_each_state_of_an_edge_is_said(deck):
    assert (await said(deck))["edge e1"] == ("attention", "not deployed yet")
    life = Life(datetime.now(UTC) - timedelta(days=1), datetime.now(UTC) + timedelta(days=89))
    for host in ("e1", "e2"):
        await book.deployed(deck.db, host, "g", {}, {"a.test": life})
    assert (await said(deck))["edge e1"] == ("ok", "serves")
    await book.change_edge(deck.db, "e1", health="down", health_text="it is gone")
    assert (await said(deck))["edge e1"] == ("broken", "it is gone")
    await book.change_edge(deck.db, "e1", health="up", drained=True)
    assert (await said(deck))["edge e1"] == ("attention", "drained")
    await book.change_edge(deck.db, "e1", drained=False)
    debt = book.Debt("e1", "s", "url", "a.test/x")
    await book.owe(deck.db, [debt, debt])
    await book.owe(deck.db, [debt])
    assert await book.owed(deck.db, "e1") == (debt,)
    assert "owes purges" in (await said(deck))["edge e1"][1]
    await book.paid(deck.db, [debt])
    assert (await said(deck))["edge e1"] == ("ok", "serves")


async def test_a_certificate_that_was_not_renewed_is_said(deck):
    now = datetime.now(UTC)
    await book.deployed(deck.db, "e1", "g", {}, {"a.test": Life(now - timedelta(days=80), now + timedelta(days=10))})
    state, text = (await said(deck))["certificate a.test"]
    assert (state, "was not renewed on e1" in text) == ("attention", True)
    await book.deployed(deck.db, "e1", "g", {}, {"a.test": Life(now - timedelta(days=91), now - timedelta(days=1))})
    assert (await said(deck))["certificate a.test"] == ("broken", "has ended on e1")
    model = await book.load(deck.db)
    assert site_line(model, model.sites[0]).state == ("broken", "certificate ends")


async def test_only_certificates_that_a_deploy_has_proven_are_missed(deck, monkeypatch):
    now = datetime.now(UTC)
    life = Life(now - timedelta(days=1), now + timedelta(days=89))
    await book.deployed(deck.db, "e1", "g", {}, {"a.test": life, "gone.test": life})
    await do(deck, "site", name="t", names=["not-deployed.test"], origins=["http://192.0.2.9"])
    asked: list[str] = []

    async def look(edge: Any, names: Any, roots: str) -> Any:
        asked.extend(names)
        return {}, {name: "it has none" for name in names}

    monkeypatch.setattr(certificates, "look", look)
    told: dict[str, str] = {}

    class Run:
        db = deck.db

        async def open_incident(self, key: str, title: str, *, detail: str, **_more: Any) -> None:
            told[key] = detail

    model = await book.load(deck.db)
    faults = await checkup._certificates(cast(Any, Run()), model, model.edge("e1"))
    assert asked == ["a.test"]
    assert [(fault.subject, fault.text) for fault in faults] == [("certificate a.test", "it has none")]
    assert told["cdn:certificate:e1"].startswith("it has none")


async def test_an_edge_is_placed_by_its_region(deck):
    async with deck.db.write() as session:
        session.add(Host(name="e3", address="192.0.2.3", region="Hong Kong"))
        session.add(Host(name="e4", address="192.0.2.4", region="under the sea"))
    await do(deck, "edge", host="e3")
    await do(deck, "edge", host="e4")
    assert [(edge.latitude, edge.longitude) for edge in (await book.load(deck.db)).edges[2:]] == [(22.3, 114.2), (0, 0)]
    await do(deck, "nameserver", host="e1")
    await do(deck, "setup", zone="cdn.test")
    async with deck.db.write() as session:
        (await session.exec(select(SetupRow))).one().geoip_sha256 = "0" * 64
    assert (await said(deck))["places of edges"] == ("attention", "none is known for e4")
    await do(deck, "edge", host="e4", region="SIN")
    assert "places of edges" not in await said(deck)
    with pytest.raises(Invalid, match="no city that is known here"):
        await do(deck, "edge", host="e4", region="atlantis")
    for wrong in ({"v6": "fe80::1%eth0"}, {"v6": "192.0.2.4"}, {"v4": "2001:db8::1"}, {"v4": "e4.test"}):
        with pytest.raises(Invalid, match="is no"):
            await do(deck, "edge", host="e4", **wrong)
    await do(deck, "edge", host="e4", v6="2001:DB8::0:1")
    assert (await book.load(deck.db)).edge("e4").v6 == "2001:db8::1"
    job = await deck.jobs.run(Submission("cdn", "edge", {"host": "e4", "v4": "192.0.2.3"}), BOSS)
    assert "192.0.2.3 is the address of the edge e3" in job.error


async def test_who_may_be_named(deck):
    model = await book.load(deck.db)
    assert model.new_names == {"a.test"}
    assert naming.up(model) == frozenset()
    assert naming.up(model, "e1") == {"e1"}
    for host in ("e1", "e2"):
        await book.deployed(deck.db, host, "g", {}, {})
    assert naming.up(await book.load(deck.db)) == {"e1", "e2"}
    await book.change_edge(deck.db, "e1", health="down")
    model = await book.load(deck.db)
    assert naming.up(model) == {"e2"}
    assert [edge_line(model, edge, 0).named for edge in model.edges] == [False, True]
    await book.change_edge(deck.db, "e2", health="down")
    assert naming.up(await book.load(deck.db)) == {"e1", "e2"}


async def test_an_edge_that_owes_is_out_of_dns_and_one_that_failed_stays_out_when_it_has_settled(deck):
    for host in ("e1", "e2"):
        await book.deployed(deck.db, host, "g", {}, {})
    await book.change_edge(deck.db, "e1", owing=True)
    assert naming.up(await book.load(deck.db)) == {"e2"}
    assert await book.overdue(deck.db) == {"e1"}
    assert "owes purges" in (await said(deck))["edge e1"][1]
    # A debt that a purge under way is about to pay is nobody else's business; one that it left behind is.
    await book.owe(deck.db, [book.Debt("e2", "s", "site", "")])
    assert await book.overdue(deck.db) == {"e1"}
    async with deck.db.write() as session:
        (await session.exec(select(DebtRow))).one().made = datetime.now(UTC) - 2 * book.OVERDUE
    assert await book.overdue(deck.db) == {"e1", "e2"}
    # Whether it owes and whether its deploy ended well are two things.
    await book.change_edge(deck.db, "e1", owing=False, admitted=False)
    assert naming.up(await book.load(deck.db)) == {"e2"}
    assert "last deploy" in (await said(deck))["edge e1"][1]
    # When all owe, any answer is better than none.
    await book.change_edge(deck.db, "e2", owing=True)
    assert naming.up(await book.load(deck.db)) == {"e2"}


async def test_settling_lets_in_nobody_whose_deploy_failed(deck, monkeypatch):
    await book.deployed(deck.db, "e1", "g", {}, {})
    await book.change_edge(deck.db, "e1", admitted=False, owing=True)
    await book.owe(deck.db, [book.Debt("e1", "s", "url", "a.test/x"), book.Debt("e1", "s", "site", "")])
    brought: list[str] = []

    async def epochs(step: Any, given: Any) -> None:
        brought.extend(given)

    async def forget(step: Any, site: Any, debts: Any) -> int:
        return len(debts)

    monkeypatch.setattr(edgehost, "take_epochs", epochs)
    monkeypatch.setattr(purging, "_forget", forget)
    assert (await do(deck, "settle", host="e1"))["removed"] == 2
    row = (await book.load(deck.db)).rows["e1"]
    assert (row.owing, row.admitted, await book.owed(deck.db), set(brought)) == (False, False, (), {"s"})


async def test_name_servers_keep_their_numbers(deck):
    await do(deck, "setup", zone="cdn.test")
    await do(deck, "nameserver", host="e2")
    await do(deck, "nameserver", host="e1")

    async def numbers() -> dict[str, int]:
        return {row.host: row.number for row in (await book.load(deck.db)).servers}

    assert await numbers() == {"e2": 1, "e1": 2}
    await do(deck, "nameserver", host="e1", address="192.0.2.77")
    assert await numbers() == {"e2": 1, "e1": 2}
    await do(deck, "remove_nameserver", host="e2")
    assert await numbers() == {"e1": 2}
    await do(deck, "nameserver", host="e2")
    assert await numbers() == {"e2": 1, "e1": 2}
    model = await book.load(deck.db)
    zone = naming.wanted(model, model.servers[0]).files[0]
    assert "ns2" in str(zone.content) and "192.0.2.77" in str(zone.content)


async def test_a_purge_that_reaches_no_edge_at_all_says_so(deck):
    job = await deck.jobs.run(Submission("cdn", "purge", {"what": "site", "site": "s"}), BOSS)
    assert (job.state, "no edge keeps anything yet" in job.error) == ("failed", True)


async def test_the_last_edge_that_dns_can_name_is_not_removed(deck):
    await do(deck, "setup", zone="cdn.test")
    async with deck.db.write() as session:
        session.add(NameServerRow(host="ns", address="192.0.2.8", number=1))
        session.add(Host(name="e3", address="192.0.2.3"))
    await book.deployed(deck.db, "e1", "g", {}, {})
    job = await deck.jobs.run(Submission("cdn", "remove_edge", {"host": "e1"}, confirm="remove_edge"), BOSS)
    assert "the last edge that DNS can name" in job.error
    assert [edge.host for edge in (await book.load(deck.db)).edges] == ["e1", "e2"]
    # It may go when there is nothing that it would have to be named for.
    await do(deck, "remove_site", name="s")
    async with deck.db.write() as session:
        await session.delete((await session.exec(select(NameServerRow))).one())
    await do(deck, "remove_edge", host="e1")


@pytest.mark.parametrize("alone", [{"caddy_version": "2.99.0"}, {"caddy_sha256": "0" * 64}, {"caddy_arch": "arm64"}])
async def test_settings_of_caddy_that_would_do_nothing_are_refused(deck, alone):
    with pytest.raises(Invalid, match="says nothing without its source"):
        await do(deck, "setup", **alone)
    given = {"caddy_source": "https://a.test/caddy", "caddy_sha256": "0" * 64, "caddy_version": "2.11.7"}
    await do(deck, "setup", **given, caddy_arch="arm64")
    caddy = (await book.load(deck.db)).setup.caddy
    assert (caddy.version, caddy.arch) == ("2.11.7", "arm64")


async def test_the_last_edge_that_serves_is_not_drained(deck):
    for host in ("e1", "e2"):
        await book.deployed(deck.db, host, "g", {}, {})
    assert (await do(deck, "drain", host="e1", wait=0))["drained"]
    job = await deck.jobs.run(Submission("cdn", "drain", {"host": "e2"}), BOSS)
    assert "beside e2 no edge serves" in job.error
    assert not (await do(deck, "drain", host="e1", back=True))["drained"]
    # One that is down would be all that is left to name.
    await book.change_edge(deck.db, "e1", health="down")
    job = await deck.jobs.run(Submission("cdn", "drain", {"host": "e2"}), BOSS)
    assert "beside e2 no edge serves" in job.error
    assert naming.up(await book.load(deck.db)) == {"e2"}


async def test_the_card_of_a_host_and_the_sums_of_a_day(deck):
    host = await deck.inventory.get("e1")
    (card,) = await doctor.cards(deck, host)
    assert (card.state, card.link) == ("idle", "/p/cdn/edges/e1")
    assert await doctor.cards(deck, Host(name="other", address="x")) == ()
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    async with deck.db.write() as session:
        for cache, status, count in (("HIT", 2, 6), ("MISS", 2, 2), ("DYNAMIC", 5, 3)):
            session.add(
                TrafficRow(site="s", edge="e1", hour=hour, cache=cache, status=status, requests=count, bytes=10)
            )
        old = hour - timedelta(hours=30)
        session.add(TrafficRow(site="s", edge="e1", hour=old, cache="HIT", status=2, requests=9, bytes=10))
    found = await sight.traffic(deck.db, site="s")
    assert (found.requests, found.bytes, found.hit_ratio, found.faults) == (11, 30, 0.75, 3)
    assert (found.by_hour[-1], found.hits_by_hour[-1], found.hits_by_hour[0]) == (11.0, 0.75, None)


async def test_the_names_of_name_servers_are_theirs(deck):
    job = await deck.jobs.run(Submission("cdn", "setup", {"zone": "cdn.test"}), BOSS)
    assert job.state == "succeeded"
    job = await deck.jobs.run(Submission("cdn", "site", {"name": "s", "names": ["a.test", "ns2.cdn.test"]}), BOSS)
    assert "ns2.cdn.test is the name of a name server" in job.error
    await do(deck, "site", name="s", names=["a.test", "ns2.other.test"])
    job = await deck.jobs.run(Submission("cdn", "setup", {"zone": "other.test"}), BOSS)
    assert "ns2.other.test is the name of a name server" in job.error
    model = await book.load(deck.db)
    assert (model.sites[0].names, model.setup.zone) == (("a.test", "ns2.other.test"), "cdn.test")


async def test_a_site_that_goes_takes_its_names_with_it(deck):
    await do(deck, "remove_site", name="s")
    await do(deck, "site", name="t", names=["a.test"], origins=["http://192.0.2.9"])
    assert [site.name for site in (await book.load(deck.db)).sites] == ["t"]
