"""The whole way in one go: from bare hosts to visitors of three regions, and an edge that dies under them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import opsdeck_cdn
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


def guide(cdn: Any, city_file: Path) -> list[list[str]]:
    """Give the commands of the README, with the lab's own names and addresses in the place of the examples."""
    text = (Path(opsdeck_cdn.__file__).parents[1] / "README.md").read_text()
    first = text.partition("## From nothing to the first site")[2].partition("\n## ")[0]
    lines = [line for block in re.findall(r"```sh\n(.*?)```", first, re.S) for line in block.splitlines()]
    ours = {
        "~/.ssh/id_ed25519": str(cdn.fleet.private_key),
        "www.example.com": "www.cdn.test",
        "https://origin.example.com": cdn.origin.url,
        "cdn.example.com": "cdn.test",
        "you@example.com": "ops@cdn.test",
        "dbip-city-lite": "other",
        "https://data.example/city.mmdb.gz": str(city_file),
        "0123abcd": hashlib.sha256(city_file.read_bytes()).hexdigest(),
    }
    for number, name in enumerate(("ams1", "sjc1", "sin1", "ns-a", "ns-b"), 1):
        ours |= {name: f"cdn-b{number}", f"192.0.2.{number}": cdn.fleet.host(f"cdn-b{number}").address}
    return [[ours.get(word, word) for word in shlex.split(line)] for line in lines if line.strip() and line[0] != "#"]


async def say(cdn: Any, words: list[str]) -> str:
    """Run a command of the guide, as a person would."""
    program = str(Path(sys.executable).with_name("opsdeck"))
    env = os.environ | {"OPSDECK_HOME": str(cdn.deck.settings.home)}
    done = await asyncio.create_subprocess_exec(program, *words[1:], env=env, stdin=-3, stdout=-1, stderr=-1)
    out, err = await done.communicate()
    assert done.returncode == 0, f"{shlex.join(words)}\n{out.decode()}\n{err.decode()}"
    return out.decode()


@pytest.mark.timeout(900)
async def test_bare_hosts_become_a_cdn_that_outlives_an_edge(bare: Any, city_file: Path, wait_until: Any) -> None:
    cdn = bare
    pebble = cdn.pebble
    await cdn.good(
        "setup", acme_directory=pebble.directory, acme_roots=pebble.roots, visitor_roots=pebble.visitor_roots, ttl=TTL
    )
    commands = guide(cdn, city_file)
    assert commands[-1] == ["opsdeck", "plugin", "run", "cdn", "deploy"]
    for words in commands[:-1]:
        await say(cdn, words)
    told = json.loads(await say(cdn, [*commands[-1], "--json"]))
    assert told["job"]["receipt"]["failed"] == 0
    for step in told["steps"]:
        if step["host"] in REGIONS.values():
            assert "www.cdn.test" in step["receipt"]["probe"]["certificates"]
    for client, edge in REGIONS.items():
        assert await visit(cdn, client) == edge
    # A site that comes later: the CA is led to edges that do not have it yet.
    await cdn.good("site", name="shop", names=["shop.cdn.test"], origins=[cdn.origin.url])
    _, steps = await cdn.good("deploy")
    assert all("shop.cdn.test" in steps[edge].receipt["probe"]["certificates"] for edge in REGIONS.values())
    stop = asyncio.Event()
    work = asyncio.create_task(cdn.deck.services.serve(stop))
    try:
        await wait_until(cdn.probed, 60)
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
