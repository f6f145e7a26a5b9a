"""What time spoils is seen before visitors see it: ports, clocks, disks, Caddy, certificates, the delegation."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import dns.message
import dns.rrset
import pytest
from opsdeck_cdn import book, doctor
from opsdeck_cdn.sites import Life

from opsdeck.clock import utcnow
from opsdeck.lab.pebble import Pebble

E1, E2, E3 = EDGES = ("cdn-e1", "cdn-e2", "cdn-e3")
CADDY = "/opt/opsdeck/artefacts/caddy/current/caddy"
SHORT = 60
"""Seconds that a certificate lasts, where one has to end."""


@pytest.fixture
async def served(cdn: Any) -> Any:
    """The site, served by all edges."""
    await cdn.fresh_site()
    cdn.pebble.point("www.site.test", cdn.fleet.host(E1).address)
    await cdn.deployed()
    return cdn


async def said(cdn: Any, subject: str) -> list[str]:
    """Check now, and give what the doctor says of a subject and what is not well with it."""
    await cdn.good("check")
    return [item.text for item in await doctor.findings(cdn.deck) if item.subject == subject and item.text != "serves"]


async def test_what_keeps_a_host_from_being_an_edge_is_said_and_refused(served: Any) -> None:
    cdn = served
    host = cdn.fleet.host(E3)
    assert await said(cdn, f"edge {E3}") == []
    host.execute(["systemctl", "stop", "opsdeck-cdn-front"])
    host.execute(["systemctl", "start", "nginx"])
    host.execute(["sh", "-c", f"mv {CADDY} {CADDY}.aside; cat >{CADDY}; chmod 755 {CADDY}"],
                 stdin="#!/bin/sh\necho v2.6.2\n")  # fmt: skip
    # The hosts share this machine's clock, so the program that tells it is wrong instead.
    host.execute(["sh", "-c", "cat >/usr/local/bin/date; chmod 755 /usr/local/bin/date"],
                 stdin='#!/bin/sh\necho $(($(/bin/date "$@") + 3600))\n')  # fmt: skip
    host.fill()
    try:
        found = await said(cdn, f"edge {E3}")
        _, steps = await cdn.run("deploy", edges=[E3])
        assert "port 80 is taken by nginx" in steps[E3].error
        host.execute(["systemctl", "stop", "nginx"])
        _, steps = await cdn.run("deploy", edges=[E3])
        assert re.search("its clock is (3599|3600) s ahead", steps[E3].error)
    finally:
        host.empty()
        host.execute(["rm", "/usr/local/bin/date"])
        host.execute(["mv", f"{CADDY}.aside", CADDY])
        host.execute(["systemctl", "stop", "nginx"])
        host.execute(["systemctl", "start", "opsdeck-cdn-front"])
    assert f"cdn:checkup:{E3}" in [item.key for item in await cdn.deck.incidents.open_now()]
    for words in ("port 80 is taken by nginx.", "its clock is 3", "no room: ", "Caddy v2.6.2 is too old"):
        assert any(text.startswith(words) for text in found), (words, found)
    assert await said(cdn, f"edge {E3}") == []
    assert f"cdn:checkup:{E3}" not in [item.key for item in await cdn.deck.incidents.open_now()]


class Parent(asyncio.DatagramProtocol):
    """A server of the zone above `cdn.test`: it refers to `servers`, name and address, or says nothing at all."""

    def __init__(self) -> None:
        self.servers: dict[str, str] | None = {}

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, sender: Any) -> None:
        if self.servers is None:
            return
        answer = dns.message.make_response(dns.message.from_wire(data))
        if self.servers:
            names = [f"{name}." for name in self.servers]
            answer.authority.append(dns.rrset.from_text("cdn.test.", 60, "IN", "NS", *names))
            answer.additional += [
                dns.rrset.from_text(f"{name}.", 60, "IN", "A", address)
                for name, address in self.servers.items()
                if address
            ]
        self.transport.sendto(answer.to_wire(), sender)


@pytest.fixture
async def parent(cdn: Any, name_servers: tuple[str, ...]) -> AsyncIterator[Parent]:
    """The zone above, asked on this machine's end of the lab's network; both name servers are known."""
    known = {row.host for row in (await book.load(cdn.deck.db)).servers}
    for name in sorted(set(name_servers) - known):
        await cdn.add_host(name)
        await cdn.good("nameserver", host=name)
    address = str(cdn.fleet.network.subnet()[1])
    transport, made = await asyncio.get_running_loop().create_datagram_endpoint(Parent, local_addr=(address, 53))
    await cdn.good("setup", zone="cdn.test", parent=address)
    yield made
    transport.close()
    await cdn.good("setup", parent="")


async def test_a_delegation_that_leads_elsewhere_is_said(served: Any, parent: Parent) -> None:
    cdn = served
    right = {f"ns{row.number}.cdn.test": row.address for row in (await book.load(cdn.deck.db)).servers}
    first, second = right
    for servers, words in (
        (right, []),
        ({}, ["delegates it to nobody"]),
        (None, ["it cannot be seen: "]),
        ({first: right[first]}, [f"{second} do not stand there."]),
        (right | {"ns.old.test": "192.0.2.1"}, ["ns.old.test stand there too and are not ours"]),
        (right | {first: "192.0.2.1"}, [f"{first} stands there with 192.0.2.1, and is {right[first]}."]),
        (right | {first: ""}, [f"{first} stands there without an address"]),
    ):
        parent.servers = servers
        found = await said(cdn, "delegation of cdn.test")
        assert len(found) == len(words)
        assert all(word in text for word, text in zip(words, found, strict=True)), (servers, found)


async def life(cdn: Any) -> Life:
    """Give the life of the third edge's certificate, as it was last seen."""
    return Life.parse((await book.load(cdn.deck.db)).rows[E3].certificates["www.site.test"])


async def until_moment(moment: datetime) -> None:
    await asyncio.sleep(max(0.0, (moment - utcnow()).total_seconds()))


@pytest.mark.campaign
@pytest.mark.timeout(300)
async def test_a_certificate_that_ends_is_said_and_renewed(served: Any) -> None:
    cdn = served
    before = (await book.load(cdn.deck.db)).setup
    brief = Pebble(cdn.fleet.host("cdn-ca"), port=14100, life=SHORT)
    await cdn.good("setup", acme_directory=brief.directory, acme_roots=before.acme_roots + brief.roots,
                   visitor_roots=brief.visitor_roots)  # fmt: skip
    cdn.pebble.point("www.site.test", cdn.fleet.host(E3).address)
    subject = "certificate www.site.test"
    try:
        await cdn.good("deploy", edges=[E3])
        first = await life(cdn)
        await until_moment(first.begin + 0.82 * (first.end - first.begin))
        assert [text for text in await said(cdn, subject) if f"was not renewed on {E3}" in text]
        keys = [item.key for item in await cdn.deck.incidents.open_now()]
        assert f"cdn:certificate:{E3}" in keys
        await until_moment(first.end + timedelta(seconds=1))
        assert [text for text in await said(cdn, subject) if f"has ended on {E3}" in text]
        # What Caddy does every ten minutes by itself, it also does when it starts.
        cdn.fleet.host(E3).execute(["systemctl", "restart", "opsdeck-cdn-front"])
        for _ in range(60):
            if not [text for text in await said(cdn, subject) if E3 in text]:
                break
            await asyncio.sleep(0.5)
        assert (await life(cdn)).begin > first.begin
        assert f"cdn:certificate:{E3}" not in [item.key for item in await cdn.deck.incidents.open_now()]
    finally:
        brief.stop()
        await cdn.good("setup", acme_directory=before.acme_directory, acme_roots=before.acme_roots,
                       visitor_roots=before.visitor_roots)  # fmt: skip
        await cdn.good("deploy", edges=[E3])
