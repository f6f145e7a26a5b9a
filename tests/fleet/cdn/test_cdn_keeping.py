"""What is kept and what never is, and forgetting it again: on real engines, with a real origin."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from opsdeck_cdn import book

E1, E2, E3 = "cdn-e1", "cdn-e2", "cdn-e3"


@pytest.fixture
async def served(cdn: Any) -> Any:
    """The site, served by all edges."""
    await cdn.fresh_site(
        rules=[
            "static /assets/only/* query=only:v",
            "static /assets/ignore/* query=ignore",
            "static /assets/session/* cookie=session",
            "static /assets/small/* max=20kB",
            "static /assets/big/* big",
            "static /assets/*",
            "static *.css",
        ]
    )
    cdn.pebble.point("www.site.test", cdn.fleet.host(E1).address)
    await cdn.deployed()
    await cdn.good("purge", what="site", site="site")
    cdn.origin.hits.clear()
    return cdn


async def cache(cdn: Any, path: str, edge: str = E1, **more: Any) -> str:
    return str((await cdn.get(edge, path, **more)).header("x-cache"))


async def test_what_may_not_be_kept_never_is(served: Any) -> None:
    cdn = served
    for path in ("/assets/cookie", "/assets/private", "/account/x.css"):
        assert [await cache(cdn, path), await cache(cdn, path)][1] in ("MISS", "DYNAMIC"), path
        assert cdn.origin.hits[path] == 2, path
    secret = {"Authorization": "Basic eDp5"}
    assert await cache(cdn, "/assets/auth", headers=secret) == "DYNAMIC"
    assert await cache(cdn, "/assets/auth") == "MISS"
    assert await cache(cdn, "/assets/auth", headers=secret) == "DYNAMIC"
    assert await cache(cdn, "/assets/session/a", headers={"Cookie": "x=1; session=2"}) == "DYNAMIC"
    assert await cache(cdn, "/assets/session/a", headers={"Cookie": "x=1"}) == "MISS"
    assert "cookie" not in cdn.origin.seen[-1]
    assert await cache(cdn, "/assets/session/a") == "HIT"
    assert await cache(cdn, "/public/x.css") == "MISS"
    assert await cache(cdn, "/public/x.css") == "HIT"
    assert await cache(cdn, "/assets/post", method="POST") == "DYNAMIC"
    loop = await cdn.get(E1, "/", headers={"CDN-Loop": f"other, {await mark(cdn)}"})
    assert loop.status == 508
    climbed = await cdn.get(E1, "/assets/../account/me")
    assert climbed.header("x-cache") == "DYNAMIC"


async def mark(cdn: Any) -> str:
    return (await book.load(cdn.deck.db)).setup.id


async def test_queries_sizes_and_ranges(served: Any) -> None:
    cdn = served
    assert [await cache(cdn, f"/assets/only/a?v=1&x={count}") for count in (1, 2)] == ["MISS", "HIT"]
    assert await cache(cdn, "/assets/only/a?v=2") == "MISS"
    assert cdn.origin.hits["/assets/only/a?v=1"] == 1
    assert [await cache(cdn, f"/assets/ignore/a?x={count}") for count in (1, 2)] == ["MISS", "HIT"]
    assert [await cache(cdn, f"/assets/a?x={count}") for count in (1, 2)] == ["MISS", "MISS"]
    assert [await cache(cdn, "/assets/A"), await cache(cdn, "/assets/A", name="WWW.site.test")] == ["MISS", "HIT"]
    for _ in range(2):
        part = await cdn.get(E1, "/assets/big/file", headers={"Range": "bytes=1500000-1500003"})
        assert (part.status, part.body) == (206, bytes((1500000 + n) % 256 for n in range(4)))
    assert part.header("x-cache") == "HIT"
    assert cdn.origin.hits["/assets/big/file"] == 1


@pytest.mark.parametrize("many", [50, pytest.param(500, marks=pytest.mark.campaign)])
async def test_one_request_reaches_the_origin_however_many_ask(served: Any, many: int) -> None:
    cdn = served
    cdn.origin.delay = 1.0
    answers = await asyncio.gather(*(cdn.get(E1, "/assets/herd", timeout=60) for _ in range(many)))
    assert {answer.status for answer in answers} == {200}
    assert cdn.origin.hits["/assets/herd"] == 1


async def test_an_origin_in_trouble_is_covered_by_what_is_kept(served: Any) -> None:
    cdn = served
    assert await cache(cdn, "/assets/stale") == "MISS"
    await asyncio.sleep(2.2)
    cdn.origin.fail = 503
    for _ in range(3):
        answer = await cdn.get(E1, "/assets/stale")
        assert (answer.status, answer.header("x-cache") in ("STALE", "UPDATING")) == (200, True)
    assert (await cdn.get(E1, "/assets/never-seen")).status == 503
    cdn.origin.fail, cdn.origin.short = 0, True
    answer = await cdn.get(E1, "/assets/cut", timeout=5)
    assert len(answer.body) < int(answer.header("content-length"))
    cdn.origin.short = False
    assert await cache(cdn, "/assets/cut") == "MISS"


async def test_a_dead_cache_lets_requests_through(served: Any) -> None:
    cdn = served
    host = cdn.fleet.host(E1)
    host.execute(["systemctl", "stop", "opsdeck-cdn-cache"])
    try:
        answer = await cdn.get(E1, "/assets/through")
        assert (answer.status, answer.header("x-cache")) == (200, "PASS")
    finally:
        host.execute(["systemctl", "start", "opsdeck-cdn-cache"])


async def test_purges_by_url_prefix_and_site(served: Any) -> None:
    cdn = served
    tongues = ({"Accept-Language": "de"}, {"Accept-Language": "fr"})
    for edge in (E1, E2, E3):
        for headers in tongues:
            await cache(cdn, "/assets/vary", edge, headers=headers)
            assert await cache(cdn, "/assets/vary", edge, headers=headers) == "HIT"
        for path in ("/assets/one?a=1", "/assets/one?a=2", "/assets/only/b?v=1&x=1"):
            await cache(cdn, path, edge)
    _, steps = await cdn.good(
        "purge",
        urls=["https://www.site.test/assets/vary", "http://www.site.test/assets/one?a=1",
              "https://www.site.test/assets/only/b?x=9&v=1"],
    )  # fmt: skip
    assert [step.receipt["removed"] for step in steps.values()] == [4, 4, 4]
    for edge in (E1, E2, E3):
        for headers in tongues:
            assert await cache(cdn, "/assets/vary", edge, headers=headers) == "MISS"
        assert await cache(cdn, "/assets/one?a=1", edge) == "MISS"
        assert await cache(cdn, "/assets/one?a=2", edge) == "HIT"
        assert await cache(cdn, "/assets/only/b?v=1", edge) == "MISS"
    await cdn.good("purge", what="prefix", urls=["https://www.site.test/assets/on"])
    assert await cache(cdn, "/assets/one?a=2") == "MISS"
    assert await cache(cdn, "/assets/vary", headers=tongues[0]) == "HIT"
    await cdn.good("purge", what="site", site="site")
    assert await cache(cdn, "/assets/vary", headers=tongues[0]) == "MISS"


@pytest.mark.campaign
async def test_an_edge_that_was_away_owes_its_purges(served: Any) -> None:
    cdn = served
    for edge in (E1, E2):
        await cache(cdn, "/assets/owed", edge)
    cdn.fleet.host(E2).cut()
    cdn.deck.ssh.drop(E2)
    job, steps = await cdn.run("purge", urls=["https://www.site.test/assets/owed"])
    assert job.receipt["owing"] == [E2]
    assert steps[E1].receipt["removed"] == 1
    assert not (await book.load(cdn.deck.db)).edge(E2).admitted
    cdn.fleet.host(E2).mend()
    assert await cache(cdn, "/assets/owed", E2) == "HIT"
    await cdn.good("deploy", edges=[E2])
    assert await cache(cdn, "/assets/owed", E2) == "MISS"
    assert (await book.load(cdn.deck.db)).edge(E2).admitted
