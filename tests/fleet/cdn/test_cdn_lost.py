"""Edges that are lost in the midst of something: they are left out, and the rest go on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from opsdeck_cdn import book, deploy, edgehost

from opsdeck.errors import Unavailable

pytestmark = pytest.mark.campaign
E1, E2, E3 = EDGES = ("cdn-e1", "cdn-e2", "cdn-e3")


@pytest.fixture
async def changed(cdn: Any, request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """The site, served by all edges, and a change that the next deploy brings; whole again afterwards."""
    await cdn.fresh_site()
    cdn.pebble.point("www.site.test", cdn.fleet.host(E1).address)
    await cdn.deployed()
    await cdn.good("site", name="site", rules=[f"static /assets/* ttl={len(request.node.name)}m"])
    yield cdn
    for name in EDGES:
        cdn.fleet.host(name).mend()
        cdn.deck.ssh.drop(name)
    await cdn.good("deploy")
    assert all(edge.admitted for edge in (await book.load(cdn.deck.db)).edges)
    assert len({(await cdn.get(name, "/page")).status for name in EDGES}) == 1


def cut(cdn: Any, name: str) -> None:
    """Pull an edge's cable; the console's own link to it is gone at once."""
    cdn.fleet.host(name).cut()
    cdn.deck.ssh.drop(name)


async def left_out(cdn: Any, name: str, job: Any, steps: Any) -> None:
    assert job.receipt["not_reached"] == [name], job.error
    assert {host: steps[host].state for host in EDGES} == {
        host: "failed" if host == name else "succeeded" for host in EDGES
    }
    model = await book.load(cdn.deck.db)
    assert {edge.host for edge in model.edges if not edge.admitted} == {name}
    assert model.rows[name].health == "down"


async def test_an_edge_that_is_away_from_the_start(changed: Any) -> None:
    cdn = changed
    cut(cdn, E2)
    await left_out(cdn, E2, *await cdn.run("deploy"))


async def test_an_edge_that_is_lost_between_its_check_and_its_switch(
    changed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cdn = changed
    go_on = deploy._find_account

    async def lose(*given: Any) -> None:
        cut(cdn, E1)
        await go_on(*given)

    monkeypatch.setattr(deploy, "_find_account", lose)
    # The first edge, on which the others wait: the next one takes its part.
    await left_out(cdn, E1, *await cdn.run("deploy"))


async def test_an_edge_that_is_lost_in_the_midst_of_its_switch(changed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cdn = changed
    go_on = edgehost.take

    async def lose(step: Any, *given: Any, **more: Any) -> None:
        if step.host.name == E2:
            cut(cdn, E2)
        await go_on(step, *given, **more)

    monkeypatch.setattr(edgehost, "take", lose)
    await left_out(cdn, E2, *await cdn.run("deploy"))


async def test_all_edges_lost_is_said_as_such(changed: Any) -> None:
    cdn = changed
    for name in EDGES:
        cut(cdn, name)
    with pytest.raises(Unavailable, match="none of the edges can be reached"):
        await cdn.plan("deploy")
    job, _ = await cdn.run("deploy")
    assert (job.state, "none of the edges can be reached" in job.error) == ("failed", True)
