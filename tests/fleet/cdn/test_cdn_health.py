"""Edges die, are cut off from us alone, come back: visitors are led by what is true; and what they got is counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from opsdeck_cdn import book, certificates, resolving, sight

E1, E2, E3 = EDGES = ("cdn-e1", "cdn-e2", "cdn-e3")


@pytest.fixture
async def watched(cdn: Any, name_servers: tuple[str, ...], wait_until: Any) -> AsyncIterator[Any]:
    """The site served by all edges, two name servers, and the services running."""
    known = {row.host for row in (await book.load(cdn.deck.db)).servers}
    for name in set(name_servers) - known:
        await cdn.add_host(name)
        await cdn.good("nameserver", host=name)
    await cdn.good("setup", zone="cdn.test", ttl=5)
    await cdn.fresh_site()
    cdn.pebble.point("www.site.test", cdn.fleet.host(E1).address)
    await cdn.deployed()
    if set(name_servers) - known:
        await cdn.good("dns")
    stop = asyncio.Event()
    work = asyncio.create_task(cdn.deck.jobs.serve(stop))
    await wait_until(cdn.probed, 60)
    yield cdn
    stop.set()
    await work
    assert not [one for one in cdn.deck.services.status() if one.phase == "stuck"]


async def named(cdn: Any, server: str = "cdn-ns1") -> set[str]:
    """Give the edges that a visitor from nowhere in particular, or from the first region, may be led to."""
    seen: set[str] = set()
    for client in ("100.64.1.0/24", "100.64.2.0/24", "100.64.3.0/24"):
        found = await resolving.ask(cdn.fleet.host(server).address, "site.cdn.test", client=client)
        seen |= {edge for edge in EDGES if cdn.fleet.host(edge).address in found}
    return seen


async def test_a_dead_edge_leaves_dns_at_once_and_returns_after_its_purges(watched: Any, wait_until: Any) -> None:
    cdn = watched
    loop = asyncio.get_running_loop()
    await cdn.get(E3, "/assets/owed")

    async def all_named() -> bool:
        return await named(cdn) == set(EDGES)

    await wait_until(all_named, 30)
    cdn.fleet.host(E3).cut()
    begun = loop.time()

    async def gone() -> bool:
        return E3 not in await named(cdn) and E3 not in await named(cdn, "cdn-ns2")

    await wait_until(gone, 15)
    took = loop.time() - begun
    print(f"an edge that died was out of DNS after {took:.1f} s")
    assert (await book.load(cdn.deck.db)).rows[E3].health == "down"
    assert [item.host for item in await cdn.deck.incidents.open_now() if item.key == f"cdn:edge:{E3}"] == [E3]
    cdn.deck.ssh.drop(E3)
    job, _ = await cdn.run("purge", urls=["https://www.site.test/assets/owed"])
    assert job.receipt["owing"] == [E3]
    cdn.fleet.host(E3).mend()
    await wait_until(all_named, 60)
    assert not await book.owed(cdn.deck.db)
    assert (await cdn.get(E3, "/assets/owed")).header("x-cache") == "MISS"


@pytest.mark.parametrize("what", [{"urls": ["https://www.site.test/assets/ssh"]}, {"what": "site", "site": "site"}])
async def test_an_edge_that_only_we_lost_during_a_purge_settles_by_itself(
    watched: Any, wait_until: Any, what: dict[str, Any]
) -> None:
    """It serves visitors all the while, so it never was down; its debts are collected once we reach it again."""
    cdn = watched

    async def all_named() -> bool:
        return await named(cdn) == set(EDGES)

    await wait_until(all_named, 30)
    await cdn.get(E3, "/assets/ssh")
    assert (await cdn.get(E3, "/assets/ssh")).header("x-cache") == "HIT"
    host = cdn.fleet.host(E3)
    host._inside(
        ["nft", "-f", "-"],
        stdin=f"""table inet {host.network.table} {{
        chain in {{ type filter hook input priority -150; tcp dport 22 reject with tcp reset; }}
    }}""",
    )
    cdn.deck.ssh.drop(E3)
    job, _ = await cdn.run("purge", **what)
    assert job.receipt["owing"] == [E3]
    assert {debt.edge for debt in await book.owed(cdn.deck.db)} == {E3}
    row = (await book.load(cdn.deck.db)).rows[E3]
    assert (row.owing, row.admitted, row.health) == (True, True, "up")

    async def gone() -> bool:
        return E3 not in await named(cdn)

    await wait_until(gone, 15)
    # Longer than the first tries take: what failed once is tried again.
    await asyncio.sleep(8)
    assert await book.owed(cdn.deck.db)
    host.unblock()
    await wait_until(all_named, 30)
    assert not await book.owed(cdn.deck.db)
    assert (await cdn.get(E3, "/assets/ssh")).header("x-cache") == "MISS"


async def test_with_all_edges_gone_nobody_is_taken_out(watched: Any, wait_until: Any) -> None:
    cdn = watched

    async def all_named() -> bool:
        return await named(cdn) == set(EDGES)

    await wait_until(all_named, 30)
    for edge in EDGES:
        cdn.fleet.host(edge).cut()
    for _ in range(8):
        assert await named(cdn) == set(EDGES)
        await asyncio.sleep(1)
    for edge in EDGES:
        cdn.fleet.host(edge).mend()
    for edge in EDGES:
        assert (await cdn.get(edge, "/page")).status == 200


@pytest.mark.campaign
async def test_what_only_we_cannot_reach_stays(watched: Any) -> None:
    cdn = watched
    host = cdn.fleet.host(E3)
    us = str(cdn.fleet.network.subnet()[1])
    rules = f"""table inet {host.network.table} {{
        chain in {{ type filter hook input priority -150; ip saddr {us} tcp dport 80 drop; }}
    }}"""
    host._inside(["nft", "-f", "-"], stdin=rules)
    await asyncio.sleep(8)
    assert (await book.load(cdn.deck.db)).rows[E3].health == "up"
    assert E3 in await named(cdn)


async def test_what_visitors_got_is_counted_once(watched: Any, wait_until: Any) -> None:
    cdn = watched
    await cdn.good("stats")
    before = await sight.traffic(cdn.deck.db, site="site", edge=E1)
    for path in ("/assets/count", "/assets/count", "/assets/count", "/page"):
        forged = {"X-Cache": "HIT", "X-Forged": '","size":9,"status":500,'}
        assert (await cdn.get(E1, path, headers=forged)).status == 200

    async def counted() -> bool:
        # A line of the log comes after the answer that it is about.
        await cdn.good("stats")
        return (await sight.traffic(cdn.deck.db, site="site", edge=E1)).requests - before.requests >= 4

    await wait_until(counted, 30)
    await cdn.good("stats")
    after = await sight.traffic(cdn.deck.db, site="site", edge=E1)
    assert after.requests - before.requests == 4
    assert (after.held - before.held, after.passed - before.passed) == (2, 1)
    assert after.faults == before.faults
    assert after.bytes > before.bytes


async def test_certificates_are_watched_where_they_are_shown(cdn: Any) -> None:
    await cdn.fresh_site()
    cdn.pebble.point("www.site.test", cdn.fleet.host(E1).address)
    await cdn.deployed()
    model = await book.load(cdn.deck.db)
    names = ("www.site.test",)
    lives, wrong = await certificates.look(model.edge(E1), names, model.setup.visitor_roots)
    assert (set(lives), wrong) == ({"www.site.test"}, {})
    lives, wrong = await certificates.look(model.edge(E1), names, "")
    assert lives == {}
    assert "the certificate of www.site.test" in wrong["www.site.test"]


async def test_a_list_of_urls_is_warmed(watched: Any) -> None:
    cdn = watched
    urls = "\n".join(f"https://www.site.test/assets/warm-{number}" for number in range(5))
    _, steps = await cdn.good("warm", urls=urls, rate=50)
    assert all(step.receipt["seen"] == {"MISS": 5} for step in steps.values())
    assert (await cdn.get(E2, "/assets/warm-3")).header("x-cache") == "HIT"
