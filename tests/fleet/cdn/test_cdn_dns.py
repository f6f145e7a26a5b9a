"""Visitors of three regions, each led to their own edge; drained and dead edges leave, answers never end."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest
from opsdeck_cdn import book, resolving
from opsdeck_cdn.render.gdnsd import GEOIP_FILE

EDGES = ("cdn-e1", "cdn-e2", "cdn-e3")
REGIONS = {"100.64.1.0/24": "cdn-e1", "100.64.2.0/24": "cdn-e2", "100.64.3.0/24": "cdn-e3"}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
async def named(cdn: Any, name_servers: tuple[str, ...], city_file: Path) -> Any:
    """The site served by all edges, and two name servers that know where visitors are."""
    if not (await book.load(cdn.deck.db)).servers:
        for name in name_servers:
            await cdn.add_host(name)
            await cdn.good("nameserver", host=name)
        await cdn.good("setup", zone="cdn.test", ttl=5)
    await cdn.fresh_site()
    cdn.pebble.point("www.site.test", cdn.fleet.host("cdn-e1").address)
    await cdn.deployed()
    await cdn.good("dns")
    if not (await book.load(cdn.deck.db)).geoip.sha256:
        await cdn.good("geoip", name="other", source=str(city_file), sha256=digest(city_file))
    return cdn


async def led(cdn: Any, client: str, server: str = "cdn-ns1", name: str = "site.cdn.test") -> list[str]:
    """Give the edges to which a visitor of a network is led."""
    found = await resolving.ask(cdn.fleet.host(server).address, name, client=client)
    return [edge for edge in EDGES if cdn.fleet.host(edge).address in found]


async def test_each_region_is_led_to_its_own_edge(named: Any) -> None:
    cdn = named
    for server in ("cdn-ns1", "cdn-ns2"):
        for client, edge in REGIONS.items():
            assert await led(cdn, client, server) == [edge]
        address = cdn.fleet.host(server).address
        assert await resolving.ask(address, "cdn.test", "NS") == ("ns1.cdn.test.", "ns2.cdn.test.")
    assert (await cdn.plan("dns")).empty


async def test_a_drained_edge_leaves_and_comes_back(named: Any, wait_until: Any) -> None:
    cdn = named
    await cdn.good("drain", host="cdn-e3", wait=0)

    async def gone() -> bool:
        return await led(cdn, "100.64.3.0/24") in (["cdn-e2"], ["cdn-e1"])

    await wait_until(gone)
    assert (await cdn.get("cdn-e3", "/page")).status == 200
    await cdn.good("drain", host="cdn-e3", back=True)

    async def back() -> bool:
        return await led(cdn, "100.64.3.0/24") == ["cdn-e3"]

    await wait_until(back)


async def test_a_drain_waits_for_visitors_to_leave(named: Any, wait_until: Any) -> None:
    cdn = named
    visitor = asyncio.create_task(cdn.get("cdn-e3", "/page/hold", timeout=120))
    await wait_until(lambda: cdn.origin.hits["/page/hold"])
    try:
        job, steps = await cdn.good("drain", host="cdn-e3", wait=1)
        assert job.receipt["left"]["under_way"] == 1
        assert any("they are not cut off" in line.text for line in await cdn.deck.jobs.log(job.id))
        asyncio.get_running_loop().call_later(4, cdn.origin.held.set)
        job, steps = await cdn.good("drain", host="cdn-e3", wait=100)
        assert visitor.done()
        assert (await visitor).status == 200
        assert (job.receipt["left"]["under_way"], job.receipt["left"]["lately"]) == (0, 0)
        assert "0 requests under way" in steps["cdn-e3"].note
    finally:
        cdn.origin.held.set()
        await cdn.good("drain", host="cdn-e3", back=True)


async def test_bad_data_and_bad_zones_change_nothing(named: Any, city_file: Path, tmp_path: Path) -> None:
    cdn = named
    whole = city_file.read_bytes()
    before = (await book.load(cdn.deck.db)).geoip
    bad = tmp_path / "bad.mmdb"
    for data in (b"this is no database" * 1000, whole[: len(whole) // 2], b"\xff" * 4000 + whole[4000:]):
        bad.write_bytes(data)
        job, _ = await cdn.run("geoip", name="other", source=str(bad), sha256=digest(bad))
        assert job.state == "failed"
        assert (await book.load(cdn.deck.db)).geoip == before
        for client, edge in REGIONS.items():
            assert await led(cdn, client) == [edge]
    job, _ = await cdn.run("geoip", name="other", source=str(bad), sha256="0" * 64)
    assert "sha256" in job.error


async def test_data_that_is_spoiled_on_a_name_server_is_brought_again(named: Any) -> None:
    cdn = named
    host = cdn.fleet.host("cdn-ns1")
    host.execute(["sh", "-c", f"head -c 9999 /dev/urandom >{GEOIP_FILE}"])
    for client in REGIONS:
        assert await led(cdn, client)
    host.execute(["systemctl", "restart", "gdnsd"], check=False)
    for client, edge in REGIONS.items():
        assert await led(cdn, client, "cdn-ns2") == [edge]
    assert not (await cdn.plan("dns")).empty
    await cdn.good("dns")
    for client, edge in REGIONS.items():
        assert await led(cdn, client) == [edge]


async def test_with_all_edges_down_an_answer_is_still_given(named: Any) -> None:
    cdn = named
    for edge in EDGES:
        await book.change_edge(cdn.deck.db, edge, health="down")
    await cdn.good("dns")
    for client in REGIONS:
        assert await led(cdn, client)
    for edge in EDGES:
        await book.change_edge(cdn.deck.db, edge, health="up")
    await cdn.good("dns")


async def test_a_removed_edge_is_named_no_more(named: Any, wait_until: Any) -> None:
    cdn = named
    await cdn.good("remove_edge", host="cdn-e3")
    try:

        async def gone() -> bool:
            return await led(cdn, "100.64.3.0/24") in (["cdn-e1"], ["cdn-e2"])

        await wait_until(gone)
    finally:
        await cdn.good("edge", host="cdn-e3")
        await cdn.good("deploy")
    await wait_until(lambda: led_to_own(cdn))


async def led_to_own(cdn: Any) -> bool:
    """Tell whether every region is led to its own edge."""
    return all([await led(cdn, client) == [edge] for client, edge in REGIONS.items()])


async def test_a_name_server_that_refuses_the_zones_keeps_what_it_has(named: Any) -> None:
    cdn = named
    host = cdn.fleet.host("cdn-ns1")
    host.execute(["sh", "-c", "echo 'this is no zone' >/etc/gdnsd/zones/by-hand.test"])
    await cdn.good("site", name="second", names=["second.cdn.test"], origins=[cdn.origin.url])
    try:
        job, steps = await cdn.run("dns")
        assert job.receipt["failed"] == 1
        assert "by-hand.test" in steps["cdn-ns1"].error
        for client, edge in REGIONS.items():
            assert await led(cdn, client) == [edge]
            assert await led(cdn, client, "cdn-ns2", "second.cdn.test") == [edge]
        with pytest.raises(resolving.NoName, match="NXDOMAIN"):
            await led(cdn, "100.64.1.0/24", name="second.cdn.test")
    finally:
        host.execute(["rm", "/etc/gdnsd/zones/by-hand.test"])
        await cdn.good("remove_site", name="second")
        await cdn.good("dns")


async def test_a_site_that_comes_later_gets_its_certificate_through_any_edge(named: Any) -> None:
    cdn = named
    cdn.pebble.point("later.cdn.test", cdn.fleet.host("cdn-e3").address)
    await cdn.good("site", name="later", names=["later.cdn.test"], origins=[cdn.origin.url])
    try:
        _, steps = await cdn.good("deploy", edges=["cdn-e1"], certificate_wait=20)
        assert "later.cdn.test" in steps["cdn-e1"].receipt["probe"]["certificates"]
    finally:
        await cdn.good("remove_site", name="later")
        await cdn.good("deploy")
