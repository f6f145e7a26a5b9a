"""One ACME account, and every edge answers the CA for every other: with and without an e-mail, and after another."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest
from opsdeck_cdn import account, probing

EDGES = ("cdn-e1", "cdn-e2", "cdn-e3")


async def answers(cdn: Any, edge: str, name: str) -> str:
    """Ask an edge as a CA would; give the thumbprint, which must be the same each time."""
    path = "/.well-known/acme-challenge/tok_-1"
    seen = {(await probing.ask(cdn.fleet.host(edge).address, name, path)).body.decode() for _ in range(2)}
    (one,) = seen
    token, _, thumbprint = one.partition(".")
    assert token == "tok_-1", one
    return thumbprint


def keys(cdn: Any, edge: str, directory: str) -> dict[str, str]:
    """Give the thumbprints of all keys that an edge has for a CA, by their user's folder."""
    host = cdn.fleet.host(edge)
    root = host.root / account.folder(directory).lstrip("/")
    return {path.parent.name: account.Account.of(path.read_text()).thumbprint for path in root.glob("*/*.key")}


@pytest.mark.timeout(300)
async def test_every_edge_answers_for_every_other(cdn: Any) -> None:
    await cdn.fresh_site()
    cdn.pebble.point("www.site.test", cdn.fleet.host("cdn-e1").address)
    before = ""
    try:
        for email in ("ops@site.test", "new+er@site.test", ""):
            await cdn.good("setup", acme_email=email)
            await cdn.good("deploy")
            found = {await answers(cdn, edge, name) for edge in EDGES for name in ("www.site.test", "unknown.test")}
            assert len(found) == 1, email
            thumbprint = found.pop()
            assert before in ("", thumbprint)
            before = thumbprint
            for edge in EDGES:
                held = keys(cdn, edge, cdn.pebble.directory)
                assert held[email or "default"] if "+" not in email else held["new_plus_er@site.test"]
                assert set(held.values()) == {thumbprint}, (edge, email, held)
        # Caddy took them as they lie there, and ordered with the last one: a name that is new on all edges at once,
        # where the CA meets edges that order the same name themselves.
        names = [f"n{number}.site.test" for number in range(4)]
        for number, name in enumerate(names):
            cdn.pebble.point(name, cdn.fleet.host(EDGES[number % 3]).address)
        await cdn.good("site", name="many", names=names, origins=[cdn.origin.url])
        await cdn.good("deploy", certificate_wait=40)
        for edge in EDGES:
            assert set(keys(cdn, edge, cdn.pebble.directory).values()) == {before}
            root = cdn.fleet.host(edge).root / account.folder(cdn.pebble.directory).lstrip("/")
            told = [json.loads(path.read_text())["status"] for path in root.glob("*/*.json")]
            assert "valid" in told, (edge, told)
    finally:
        await cdn.run("remove_site", name="many")
        await cdn.good("setup", acme_email="ops@site.test")
        await cdn.good("deploy")


async def test_an_edge_answers_for_another_while_it_orders_the_same_name(cdn: Any, wait_until: Any) -> None:
    """An order of its own is open for as long as the CA does not get an answer: it leads to nobody."""
    await cdn.fresh_site()
    cdn.pebble.point("www.site.test", cdn.fleet.host("cdn-e1").address)
    await cdn.deployed()
    thumbprint = await answers(cdn, "cdn-e2", "unknown.test")
    # An address that drops what it is sent keeps the CA, and with it the order of the edge, busy.
    cdn.pebble.point("open.site.test", "203.0.113.1")
    await cdn.good("site", name="open", names=["open.site.test"], origins=[cdn.origin.url])
    work = asyncio.create_task(cdn.run("deploy", edges=["cdn-e2"], certificate_wait=12))
    try:
        seen = set()
        while not work.done():
            # Going back restarts the front, which answers nobody for a moment.
            with contextlib.suppress(probing.NoAnswer):
                seen.add(await answers(cdn, "cdn-e2", "open.site.test"))
            await asyncio.sleep(0.3)
        assert seen == {thumbprint}
    finally:
        await work
        await cdn.good("remove_site", name="open")
        await cdn.good("deploy")
