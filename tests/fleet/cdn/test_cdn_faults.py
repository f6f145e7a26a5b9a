"""What goes wrong on the way to the edges: nothing half-done is left, and each fault says what to do."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from opsdeck_cdn import book

from opsdeck.errors import Invalid

E1, E2, E3 = EDGES = ("cdn-e1", "cdn-e2", "cdn-e3")


@pytest.fixture
async def served(cdn: Any) -> Any:
    """The site, served by all edges."""
    await cdn.fresh_site(rules=["static /assets/*"], probe_static="")
    cdn.pebble.point("www.site.test", cdn.fleet.host(E1).address)
    await cdn.deployed()
    return cdn


def generations(cdn: Any) -> dict[str, str]:
    """Give the generation in force on each edge, as the edge has it."""
    return {name: cdn.fleet.host(name).execute(["readlink", "/etc/opsdeck/cdn/current"]).strip() for name in EDGES}


async def test_what_a_person_gets_wrong_is_said_with_its_field(served: Any) -> None:
    cdn = served
    for params, words in (
        ({"name": "other", "names": ["www.site.test"], "origins": ["http://192.0.2.1"]}, "belongs to the site site"),
        ({"name": "other", "names": ["*.site.test"], "origins": ["http://192.0.2.1"]}, "wildcards"),
        ({"name": "other", "names": ["a.test"]}, "has no origin"),
        ({"name": "other", "names": ["a.test"], "origins": ["https://a", "http://b"]}, "all https or all http"),
        ({"name": "other", "names": ["a.test"], "origins": ["http://x/y"]}, "has a path"),
        ({"name": "other", "names": ["a.test"], "origins": ["http://x"], "rules": ["static /a ttl=1y"]}, "ttl=10m"),
        ({"name": "other", "names": ["a.test"], "origins": ["http://x"], "rules": ["keep /a"]}, "static or dynamic"),
    ):
        try:
            job, _ = await cdn.run("site", **params)
            said = job.error if job.state == "failed" else ""
        except Invalid as fault:
            said = fault.message
        assert words in said, (params, said)
    assert [site.name for site in (await book.load(cdn.deck.db)).sites] == ["site"]


async def test_an_origin_that_is_an_edge_is_refused(served: Any) -> None:
    cdn = served
    before = generations(cdn)
    await cdn.good("site", name="site", origins=[f"http://{cdn.fleet.host(E2).address}"])
    try:
        job, _ = await cdn.run("deploy")
        assert job.state == "failed"
        assert f"is the edge {E2}: a loop" in job.error
        assert generations(cdn) == before
    finally:
        await cdn.good("site", name="site", origins=[cdn.origin.url])


async def test_a_configuration_that_one_edge_refuses_changes_none(served: Any) -> None:
    cdn = served
    before = generations(cdn)
    await cdn.good("site", name="site", rules=["static /assets/* ttl=2h"])
    fake = "#!/bin/sh\ncase $* in *-t*) echo 'nginx: [emerg] no such thing' >&2; exit 1;; esac\n"
    fake += 'exec /usr/sbin/nginx.real "$@"\n'
    host = cdn.fleet.host(E3)
    host.execute(["mv", "/usr/sbin/nginx", "/usr/sbin/nginx.real"])
    host.execute(["sh", "-c", "cat > /usr/sbin/nginx; chmod 755 /usr/sbin/nginx"], stdin=fake)
    try:
        job, steps = await cdn.run("deploy")
    finally:
        host.execute(["mv", "/usr/sbin/nginx.real", "/usr/sbin/nginx"])
    assert job.state == "failed"
    assert f"nothing was switched: {E3}" in job.error
    assert "nginx refuses the configuration: nginx: [emerg] no such thing" in steps[E3].error
    assert generations(cdn) == before
    assert len(host.execute(["ls", "/etc/opsdeck/cdn/generations"]).split()) <= 5


async def test_an_edge_that_does_not_work_goes_back_and_the_others_are_left(served: Any) -> None:
    cdn = served
    before = generations(cdn)
    await cdn.good("site", name="site", rules=["static /assets/* ttl=3h"])
    cdn.origin.fail = 502
    try:
        job, steps = await cdn.run("deploy")
    finally:
        cdn.origin.fail = 0
    assert job.receipt["failed"] == 1
    assert "does not reach the origin: 502" in steps[E1].error
    assert steps[E1].note == "went back"
    assert (steps[E2].state, steps[E3].state) == ("skipped", "skipped")
    assert generations(cdn) == before
    assert (await cdn.get(E1, "/page")).status == 200
    row = (await book.load(cdn.deck.db)).rows[E1]
    assert row.admitted
    planned = await cdn.plan("deploy")
    assert {change.host for change in planned.changes} == set(EDGES)


async def test_a_change_by_hand_is_shown_and_taken_back(served: Any) -> None:
    cdn = served
    host = cdn.fleet.host(E1)
    host.execute(["sh", "-c", "echo '# by hand' >> /etc/opsdeck/cdn/current/nginx.conf"])
    planned = await cdn.plan("deploy", edges=[E1])
    assert any("changed by hand" in note and "nginx.conf" in note for note in planned.notes)
    (change,) = planned.changes
    assert "-# by hand" in change.diff()
    await cdn.good("deploy", edges=[E1])
    assert "by hand" not in host.execute(["cat", "/etc/opsdeck/cdn/current/nginx.conf"])[200:]


@pytest.mark.campaign
async def test_an_edge_that_is_lost_is_left_out_and_the_rest_go_on(served: Any) -> None:
    cdn = served
    await cdn.good("site", name="site", rules=["static /assets/* ttl=4h"])
    cdn.fleet.host(E2).cut()
    cdn.deck.ssh.drop(E2)
    job, steps = await cdn.run("deploy")
    assert job.receipt["not_reached"] == [E2]
    assert (steps[E1].state, steps[E2].state, steps[E3].state) == ("succeeded", "failed", "succeeded")
    assert not (await book.load(cdn.deck.db)).edge(E2).admitted
    cdn.fleet.host(E2).mend()
    await cdn.good("deploy", edges=[E2])
    assert (await book.load(cdn.deck.db)).edge(E2).admitted


async def test_a_taken_port_is_named_with_who_holds_it(served: Any) -> None:
    cdn = served
    host = cdn.fleet.host(E3)
    host.execute(["systemctl", "stop", "opsdeck-cdn-front"])
    host.execute(["systemctl", "start", "nginx"])
    try:
        job, steps = await cdn.run("deploy", edges=[E3])
        assert job.state == "failed"
        assert "port 80 is taken by nginx" in steps[E3].error
    finally:
        host.execute(["systemctl", "stop", "nginx"])
        host.execute(["systemctl", "start", "opsdeck-cdn-front"])


@pytest.mark.campaign
async def test_a_slow_origin_and_a_second_one(served: Any) -> None:
    cdn = served
    await cdn.good("site", name="site", origins=["http://192.0.2.77:81", cdn.origin.url])
    await cdn.good("deploy", edges=[E1])
    for _ in range(2):
        assert (await cdn.get(E1, "/page", timeout=30)).status == 200
    await cdn.good("site", name="site", origins=[cdn.origin.url])
    await cdn.good("deploy", edges=[E1])
    await asyncio.sleep(0)


@pytest.mark.campaign
async def test_an_edge_serves_on_and_survives_a_reboot_without_us(served: Any) -> None:
    cdn = served
    assert (await cdn.get(E3, "/assets/kept")).status == 200
    host = cdn.fleet.host(E3)
    host.kill()
    host.start()
    cdn.deck.ssh.drop(E3)
    for _ in range(50):
        try:
            answer = await cdn.get(E3, "/assets/kept", timeout=3)
            break
        except Exception:
            await asyncio.sleep(0.2)
    assert (answer.status, answer.header("x-cache")) == (200, "HIT")


@pytest.mark.campaign
async def test_a_full_disk_stops_a_deploy_and_not_the_visitors(served: Any) -> None:
    cdn = served
    before = generations(cdn)
    host = cdn.fleet.host(E3)
    assert (await cdn.get(E3, "/assets/kept-before")).status == 200
    await cdn.good("site", name="site", rules=["static /assets/* ttl=6h"])
    host.fill()
    try:
        job, steps = await cdn.run("deploy")
        assert job.state == "failed"
        assert "no room" in steps[E3].error.lower()
        assert generations(cdn) == before
        assert (await cdn.get(E3, "/assets/kept-before")).header("x-cache") == "HIT"
        answer = await cdn.get(E3, "/assets/new-while-full")
        assert (answer.status, len(answer.body) > 5) == (200, True)
    finally:
        host.empty()
    await cdn.good("deploy")
