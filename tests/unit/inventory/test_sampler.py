from __future__ import annotations

import asyncio
import contextlib
from datetime import date, timedelta

import asyncssh
import pytest

from opsdeck.actor import SYSTEM
from opsdeck.audit.log import Filters
from opsdeck.builtin import sampler as sampler_module
from opsdeck.builtin.sampler import Sampler, offset
from opsdeck.builtin.termwatch import terms_due, watch_terms
from opsdeck.clock import utcnow
from opsdeck.deck import Deck
from opsdeck.forms import checked
from opsdeck.inventory.forms import HostIn, HostPatch
from opsdeck.inventory.models import Host
from opsdeck.inventory.samples.book import MonthTraffic, Polled
from opsdeck.inventory.samples.reading import Counters
from opsdeck.lab.inprocess import PlayHosts


async def rounds(sampler: Sampler, count: int = 1) -> None:
    """Poll every target `count` times and write what came of it."""
    for _ in range(count):
        outcomes = await asyncio.gather(*(sampler.poll(target) for target in sampler.targets.values()))
        for outcome in outcomes:
            outcome.target.misses = 0 if outcome.fault is None else outcome.target.misses + 1
            sampler._outcomes.append(outcome)
        await sampler.flush()


async def test_hosts_are_sampled_and_found_well(deck: Deck, pinned: PlayHosts) -> None:
    sampler = Sampler(deck, 60)
    await sampler.refresh()
    await rounds(sampler, 2)
    assert {host.reach for host in await deck.inventory.list()} == {"ok"}
    samples = await deck.samples.latest()
    assert set(samples) == {"web1", "web2", "web3"}
    assert samples["web1"].memory_total > 0
    assert samples["web1"].cpu is not None
    assert len(await deck.audit.list(Filters(verb="secret.revealed"))) == 1
    await rounds(sampler)
    await sampler.refresh()
    assert len(await deck.audit.list(Filters(verb="secret.revealed"))) == 1


async def test_one_miss_is_nothing_two_are_an_incident_one_answer_ends_it(deck: Deck, pinned: PlayHosts) -> None:
    sampler = Sampler(deck, 60)
    await sampler.refresh()
    await rounds(sampler)
    await pinned["web1"].stop()
    await rounds(sampler)
    assert (await deck.inventory.get("web1")).reach == "ok"
    assert await deck.incidents.open_now() == ()
    await rounds(sampler, 3)
    host = await deck.inventory.get("web1")
    assert host.reach == "unreachable"
    assert host.reach_detail
    (incident,) = await deck.incidents.open_now()
    assert (incident.key, incident.count) == ("unreachable:web1", 1)
    assert (await deck.inventory.get("web2")).reach == "ok"
    await pinned["web1"].start()
    async with asyncio.timeout(60):
        while (await deck.inventory.get("web1")).reach != "ok":
            await rounds(sampler)
    assert await deck.incidents.open_now() == ()


async def test_a_restarted_sampler_closes_what_an_earlier_one_opened(deck: Deck, pinned: PlayHosts) -> None:
    await deck.incidents.open("unreachable:web1", "web1 cannot be reached", host="web1")
    running = asyncio.create_task(Sampler(deck, 0.2).run())
    try:
        async with asyncio.timeout(30):
            while await deck.incidents.open_now() or len(await deck.samples.latest()) < 3:
                assert not running.done()
                await asyncio.sleep(0.1)
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    (entry,) = await deck.audit.list(Filters(verb="sampling.ran"))
    assert entry.target == "fleet"


async def test_a_changed_key_is_an_incident_once(deck: Deck, pinned: PlayHosts) -> None:
    sampler = Sampler(deck, 60)
    await sampler.refresh()
    await rounds(sampler)
    await pinned["web1"].change_host_key()
    await pinned["web1"].drop()
    await rounds(sampler, 3)
    assert (await deck.inventory.get("web1")).reach == "key_changed"
    (incident,) = await deck.incidents.open_now()
    assert (incident.key, incident.count) == ("host-key:web1", 1)


async def test_a_key_that_somebody_else_saw_change_is_not_hidden_by_an_older_connection(
    deck: Deck, pinned: PlayHosts
) -> None:
    sampler = Sampler(deck, 60)
    await sampler.refresh()
    await rounds(sampler)
    await pinned["web1"].change_host_key()
    await deck.host_keys.contact("web1", SYSTEM)
    await sampler.refresh()
    await rounds(sampler)
    assert (await deck.inventory.get("web1")).reach == "key_changed"
    assert (await deck.inventory.get("web2")).reach == "ok"


async def test_the_alarm_is_over_when_the_pinned_key_is_shown_again(deck: Deck, pinned: PlayHosts) -> None:
    sampler = Sampler(deck, 60)
    first = asyncssh.read_private_key(pinned["web1"].folder / "host_key")
    await pinned["web1"].change_host_key()
    await deck.host_keys.contact("web1", SYSTEM)
    await sampler.refresh()
    await rounds(sampler)
    assert [incident.key for incident in await deck.incidents.open_now()] == ["host-key:web1"]
    await pinned["web1"]._use(first)
    await rounds(sampler)
    assert (await deck.inventory.get("web1")).reach == "ok"
    assert await deck.incidents.open_now() == ()


async def test_a_refused_login_is_told_as_such(deck: Deck, pinned: PlayHosts) -> None:
    pinned["web1"].behaviour.refuse_keys = True
    sampler = Sampler(deck, 60)
    await sampler.refresh()
    await rounds(sampler, 2)
    host = await deck.inventory.get("web1")
    assert (host.reach, (await deck.inventory.get("web2")).reach) == ("refused", "ok")
    assert [incident.key for incident in await deck.incidents.open_now()] == ["unreachable:web1"]
    assert len(pinned["web1"].logins) <= 2


async def test_without_a_pinned_key_nothing_is_dialled(deck: Deck, hosts: PlayHosts) -> None:
    running = asyncio.create_task(Sampler(deck, 0.2).run())
    await asyncio.sleep(1.5)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert sum(host.dials for host in hosts) == 0
    assert {host.reach for host in await deck.inventory.list()} == {"untrusted"}


async def test_a_host_that_changes_while_it_waits_is_polled_on(
    deck: Deck, hosts: PlayHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler_module, "FLEET_SECONDS", 0.2)
    running = asyncio.create_task(Sampler(deck, 1.0).run())
    try:
        await asyncio.sleep(0.5)
        assert await deck.samples.latest() == {}
        for host in hosts:
            await deck.host_keys.pin(host.name, host.host_key, SYSTEM)
        async with asyncio.timeout(40):
            while len(await deck.samples.latest()) < 3:
                assert not running.done()
                await asyncio.sleep(0.1)
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def test_the_fleet_is_followed(deck: Deck, pinned: PlayHosts) -> None:
    sampler = Sampler(deck, 60)
    await sampler.refresh()
    old = sampler.targets["web2"].endpoint
    await deck.inventory.remove("web1", SYSTEM)
    await deck.inventory.edit("web2", checked(HostPatch, {"user": "other"}), SYSTEM)
    await deck.inventory.add(HostIn(name="new", address="192.0.2.1"), SYSTEM)
    await sampler.refresh()
    assert set(sampler.targets) == {"web2", "web3", "new"}
    assert (old.user, sampler.targets["web2"].endpoint.user) == ("ops", "other")


async def test_a_credential_that_cannot_be_opened_harms_no_other(deck: Deck, pinned: PlayHosts) -> None:
    async with deck.db.write() as session:
        session.add(Host(name="lost", address="192.0.2.1", credential="gone"))
    sampler = Sampler(deck, 60)
    await sampler.refresh()
    assert set(sampler.targets) == {"web1", "web2", "web3"}
    assert (await deck.inventory.get("lost")).reach == "refused"


async def test_an_answer_that_makes_no_sense_is_no_sample(deck: Deck, pinned: PlayHosts) -> None:
    pinned["web1"].behaviour.shell = ("/bin/false",)
    sampler = Sampler(deck, 60)
    await sampler.refresh()
    await rounds(sampler)
    assert set(await deck.samples.latest()) == {"web2", "web3"}


def test_polls_are_spread_over_the_interval() -> None:
    offsets = [offset(f"host-{number}", 60) for number in range(1000)]
    assert all(0 <= one < 60 for one in offsets)
    for quarter in range(4):
        assert 150 < sum(quarter * 15 <= one < quarter * 15 + 15 for one in offsets) < 350
    assert offset("a", 60) == offset("a", 60)


@pytest.mark.parametrize(
    ("renewal", "words"),
    [
        (date(2026, 11, 30), "renews in 7 days"),
        (date(2026, 11, 24), "renews tomorrow"),
        (date(2026, 11, 23), "renews today"),
        (date(2026, 11, 20), "was to renew 3 days ago"),
        (date(2026, 12, 24), None),
        (None, None),
    ],
)
def test_renewals(renewal: date | None, words: str | None) -> None:
    host = Host(name="a", address="x", renewal=renewal)
    month = MonthTraffic("a", date(2026, 11, 1), date(2026, 12, 1), 0, 0, 0, None)
    due = terms_due(host, month, date(2026, 11, 23))
    assert [key for key, _ in due] == ([] if words is None else ["renewal:a"])
    assert all(words in title for _, title in due if words)


async def test_terms_become_incidents_and_cease_to_be(deck: Deck) -> None:
    at = utcnow()
    form = HostIn(name="a", address="x", quota_bytes=1000, renewal=(at + timedelta(days=3)).date())
    host = await deck.inventory.add(form, SYSTEM)
    await watch_terms(deck)
    assert [incident.key for incident in await deck.incidents.open_now()] == ["renewal:a"]
    for minutes, received in ((2, 0), (1, 900)):
        counters = Counters("b", 0, 0, 0.0, 0, 0, 0, 0, received, 0, ("eth0",))
        await deck.samples.store([Polled(host.id or 0, 1, at - timedelta(minutes=minutes), counters)])
    same_month = (at - timedelta(minutes=2)).month == at.month
    await watch_terms(deck)
    await watch_terms(deck)
    found = {incident.key: incident for incident in await deck.incidents.open_now()}
    if same_month:
        assert set(found) == {"renewal:a", "quota:a"}
        assert "90%" in found["quota:a"].title
    assert {incident.count for incident in found.values()} == {1}
    await deck.inventory.edit("a", checked(HostPatch, {"renewal": None, "quota_bytes": "1TB"}), SYSTEM)
    await watch_terms(deck)
    assert await deck.incidents.open_now() == ()
