"""What is kept and what never is, and forgetting it again: on real engines, with a real origin."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from opsdeck_cdn import book
from opsdeck_cdn.models import SiteRow
from sqlalchemy import update

E1, E2, E3 = "cdn-e1", "cdn-e2", "cdn-e3"
PATIENCE = 3
"""Seconds that the site's origin has to begin an answer, as the fixture makes it."""


@pytest.fixture
async def served(cdn: Any) -> Any:
    """The site, served by all edges."""
    await cdn.fresh_site()
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
    host, port = cdn.fleet.host(E1), cdn.origin.server.server_port
    rules = f"""table inet {host.network.table} {{
        chain out {{ type filter hook output priority 0; tcp dport {port} reject with tcp reset; }}
    }}"""
    host._inside(["nft", "-f", "-"], stdin=rules)
    cdn.origin.behave()
    for _ in range(3):
        answer = await cdn.get(E1, "/assets/stale")
        assert (answer.status, answer.header("x-cache") in ("STALE", "UPDATING")) == (200, True)
    assert [(await cdn.get(E1, path)).status for path in ("/assets/never-seen-2", "/page")] == [502, 502]
    host.unblock()
    assert (await cdn.get(E1, "/page")).status == 200


async def test_what_is_fetched_anew_meanwhile_is_asked_for_as_it_was(served: Any, wait_until: Any) -> None:
    cdn, path = served, "/assets/stale%2fa%20b//c;d?q=%41&r=a+b?%zz"
    assert await cache(cdn, path) == "MISS"
    await asyncio.sleep(2.2)
    assert await cache(cdn, path) in ("STALE", "UPDATING")
    await wait_until(lambda: cdn.origin.hits[path] == 2)
    assert set(cdn.origin.hits) == {path}


async def test_an_origin_that_is_slow_is_waited_for_no_longer_than_its_patience(served: Any) -> None:
    cdn = served
    assert await cache(cdn, "/assets/stale-slow") == "MISS"
    await asyncio.sleep(2.2)
    cdn.origin.delay = 3 * PATIENCE
    kept = await cdn.get(E1, "/assets/stale-slow", timeout=PATIENCE / 2)
    assert (kept.status, kept.header("x-cache") in ("STALE", "UPDATING")) == (200, True)
    slow = [cdn.get(E1, path, timeout=2.5 * PATIENCE) for path in ("/assets/slow", "/page", "/x/slow.css")]
    assert [answer.status for answer in await asyncio.gather(*slow)] == [504, 504, 504]
    cdn.origin.delay = 0
    assert await cache(cdn, "/assets/slow") == "MISS"


async def test_an_answer_of_another_length_than_promised_is_never_kept(served: Any) -> None:
    cdn, origin = served, served.origin
    whole = (await cdn.get(E1, "/assets/stale-cut")).body
    await asyncio.sleep(2.2)
    origin.lie, origin.broken = 1000, True
    answer = await cdn.get(E1, "/assets/cut", timeout=5)
    assert len(answer.body) < int(answer.header("content-length"))
    assert b"/assets/chunks" in (await cdn.get(E1, "/assets/chunks", timeout=5)).body
    for _ in range(2):
        # What it kept is given whole, however often fetching it anew breaks off.
        answer = await cdn.get(E1, "/assets/stale-cut")
        assert (answer.status, answer.body) == (200, whole)
        await asyncio.sleep(0.3)
    origin.lie, origin.broken = -3, False
    for number in range(4):
        answer = await cdn.get(E1, f"/assets/more-{number}")
        assert answer.body == f"/assets/more-{number} 1 \n".encode()[:-3]
    origin.behave()
    for path in ("/assets/cut", "/assets/chunks"):
        assert await cache(cdn, path) == "MISS", path
        answer = await cdn.get(E1, path)
        assert (answer.header("x-cache"), answer.body.split()[0].decode()) == ("HIT", path)


async def test_many_who_ask_for_what_is_not_kept_do_not_wait_for_each_other(served: Any) -> None:
    cdn = served
    many = 40
    answers = await asyncio.gather(*(cdn.get(E1, "/account/x.css", timeout=8) for _ in range(many)))
    assert {answer.status for answer in answers} == {200}
    assert cdn.origin.hits["/account/x.css"] == many


async def test_nobody_is_tricked_into_leaving_his_page_in_the_cache(served: Any) -> None:
    cdn = served
    mine = {"Cookie": "session=secret-of-one"}
    for path in ("/account/x.css", "/account/me;x.css", "/account/me%2fx.css", "/account/%2e%2e%2fassets/x",
                 "/account/..%2fassets/x", "/assets/%2e%2e/account/me", "/assets/..%2faccount/me",
                 "/assets//account/me", "/account/me?x.css"):  # fmt: skip
        await cdn.get(E1, path, headers=mine)
        seen = await cdn.get(E1, path)
        assert b"secret-of-one" not in seen.body, path
        assert b"secret-of-one" not in (await cdn.get(E1, path, headers={"Cookie": "session=other"})).body, path


async def test_what_no_key_has_does_not_reach_the_origin_of_what_is_kept(served: Any) -> None:
    cdn = served
    words = ("X-Forwarded-Host", "X-Host", "X-Original-URL", "X-Rewrite-URL", "Forwarded", "X-HTTP-Method-Override",
             "X-Forwarded-Scheme", "X-Forwarded-Prefix", "X-OpsDeck-Host")  # fmt: skip
    await cdn.get(E1, "/assets/unkeyed", headers=dict.fromkeys(words, "evil.test"))
    got = cdn.origin.seen[-1]
    assert "evil.test" not in got.values()
    assert (got["x-forwarded-proto"], got["x-forwarded-host"]) == ("https", "www.site.test")
    assert got["host"] == "www.site.test"


@pytest.mark.campaign
async def test_a_cache_that_is_frozen_is_passed_by(served: Any) -> None:
    cdn = served
    host = cdn.fleet.host(E1)
    host.execute(["systemctl", "kill", "--signal=STOP", "opsdeck-cdn-cache"])
    try:
        answer = await cdn.get(E1, "/assets/frozen", timeout=PATIENCE + 30)
        assert (answer.status, answer.header("x-cache")) == (200, "PASS")
    finally:
        host.execute(["systemctl", "kill", "--signal=CONT", "opsdeck-cdn-cache"])


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


async def test_what_is_on_its_way_during_a_purge_is_not_kept(served: Any, wait_until: Any) -> None:
    """One answer has begun and waits in its midst, one comes in slices, one has not begun."""
    cdn, origin, host = served, served.origin, served.fleet.host(E1)
    await cdn.fresh_site(origin_timeout=60)
    await cdn.deployed()
    begun, late = ("/assets/hold", "/assets/big/hold?x=1"), "/assets/late"

    async def being_written() -> bool:
        # The first byte of each that has begun lies in the cache, in a file that nobody finds yet.
        found = host.execute(["find", "/var/cache/opsdeck-cdn/site", "-type", "f", "-name", "*.[0-9]*"])
        return len(found.split()) == len(begun)

    for what in (
        {"urls": [f"https://www.site.test{path}" for path in (*begun, late)]},
        {"what": "prefix", "urls": ["https://www.site.test/assets/"]},
        {"what": "site", "site": "site"},
    ):
        origin.hits.clear()
        asked = [asyncio.create_task(cdn.get(E1, path, timeout=100)) for path in (*begun, late)]
        await wait_until(lambda: len(origin.hits) == 3)
        await wait_until(being_written)
        await cdn.good("purge", **what)
        assert not any(one.done() for one in asked)
        origin.held.set()
        assert {answer.status for answer in await asyncio.gather(*asked)} == {200}
        for path in (*begun, late):
            before = origin.hits[path]
            assert await cache(cdn, path) == "MISS", (what, path)
            assert origin.hits[path] > before
            assert await cache(cdn, path) == "HIT", (what, path)
        origin.behave()
        await cdn.good("purge", what="site", site="site")


async def test_a_purge_of_a_site_holds_where_the_cache_was_not_told(served: Any) -> None:
    """The link may end between the epoch's file and the word to the cache: settling tells it again."""
    cdn = served
    await cache(cdn, "/assets/told")
    epoch = (await book.load(cdn.deck.db)).site("site").epoch + 1
    host = cdn.fleet.host(E1)
    async with cdn.deck.db.write() as session:
        await session.exec(update(SiteRow).values(epoch=epoch))
    host.execute(["sh", "-c", "cat >/etc/opsdeck/cdn/epochs/site.conf"], stdin=f"set $cdn_epoch {epoch};\n")
    assert await cache(cdn, "/assets/told") == "HIT"
    await book.owe(cdn.deck.db, [book.Debt(E1, "site", "site", "")])
    await cdn.good("settle", host=E1)
    assert await cache(cdn, "/assets/told") == "MISS"


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
    assert (await book.load(cdn.deck.db)).rows[E2].owing
    cdn.fleet.host(E2).mend()
    assert await cache(cdn, "/assets/owed", E2) == "HIT"
    await cdn.good("deploy", edges=[E2])
    assert await cache(cdn, "/assets/owed", E2) == "MISS"
    assert not (await book.load(cdn.deck.db)).rows[E2].owing
