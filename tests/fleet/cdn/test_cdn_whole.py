"""The whole way in one go: from bare hosts to visitors of three regions, and an edge that dies under them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from opsdeck_cdn import resolving

pytestmark = pytest.mark.campaign
TTL = 5
REGIONS = {"100.64.1.0/24": "cdn-b1", "100.64.2.0/24": "cdn-b2", "100.64.3.0/24": "cdn-b3"}


async def visit(cdn: Any, client: str) -> str:
    """Go where DNS leads a visitor of a network, and give the edge that answers."""
    (address, *_) = await resolving.ask(cdn.fleet.host("cdn-b5").address, "www.cdn.test", client=client)
    edge = next(host.name for host in cdn.fleet.hosts() if host.address == address)
    answer = await cdn.get(edge, "/assets/seen", name="www.cdn.test", timeout=3)
    return str(answer.header("x-edge"))


@pytest.mark.timeout(600)
async def test_bare_hosts_become_a_cdn_that_outlives_an_edge(bare: Any, city_file: Path, wait_until: Any) -> None:
    cdn = bare
    for name in ("cdn-b1", "cdn-b2", "cdn-b3"):
        await cdn.good("edge", host=name)
    for name in ("cdn-b4", "cdn-b5"):
        await cdn.good("nameserver", host=name)
    pebble = cdn.pebble
    await cdn.good(
        "setup", acme_directory=pebble.directory, acme_roots=pebble.roots, visitor_roots=pebble.visitor_roots,
        zone="cdn.test", ttl=TTL,
    )  # fmt: skip
    await cdn.good(
        "site", name="www", names=["www.cdn.test"], origins=[cdn.origin.url], probe_static="/assets/probe",
    )  # fmt: skip
    digest = hashlib.sha256(city_file.read_bytes()).hexdigest()
    await cdn.good("geoip", name="other", source=str(city_file), sha256=digest)
    program = str(Path(sys.executable).with_name("opsdeck"))
    env = os.environ | {"OPSDECK_HOME": str(cdn.deck.settings.home)}
    done = await asyncio.create_subprocess_exec(
        program, "plugin", "run", "cdn", "deploy", "--json", env=env, stdout=-1, stderr=-1
    )
    out, err = await done.communicate()
    assert done.returncode == 0, err.decode() + out.decode()
    assert json.loads(out)["job"]["receipt"]["failed"] == 0
    for client, edge in REGIONS.items():
        assert await visit(cdn, client) == edge
    stop = asyncio.Event()
    work = asyncio.create_task(cdn.deck.services.serve(stop))
    try:
        await asyncio.sleep(8)
        cdn.fleet.host("cdn-b3").kill()
        begun = asyncio.get_running_loop().time()

        async def moved() -> bool:
            with contextlib.suppress(Exception):
                return await visit(cdn, "100.64.3.0/24") in ("cdn-b1", "cdn-b2")
            return False

        await wait_until(moved, TTL + 15)
        took = asyncio.get_running_loop().time() - begun
        print(f"visitors of a dead edge were served by the next after {took:.1f} s, plus at most the TTL of {TTL} s")
        assert await visit(cdn, "100.64.1.0/24") == "cdn-b1"
    finally:
        stop.set()
        await work
