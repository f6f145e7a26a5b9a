"""What goes wrong on the way to the edges: nothing half-done is left, and each fault says what to do."""

from __future__ import annotations

import contextlib
import hashlib
import random
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opsdeck_cdn import book, probing
from opsdeck_cdn.render.generation import generation
from opsdeck_cdn.sites import Rule

from opsdeck.errors import Invalid

E1, E2, E3 = EDGES = ("cdn-e1", "cdn-e2", "cdn-e3")


@pytest.fixture
async def served(cdn: Any) -> Any:
    """The site, served by all edges."""
    await cdn.fresh_site()
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
    address = cdn.fleet.host(E2).address
    for name in EDGES:
        cdn.fleet.host(name).execute(["sh", "-c", f"echo '{address} loop.test' >>/etc/hosts"])
    try:
        for origin, words in (
            (f"http://{address}", f"is the edge {E2}: a loop"),
            ("http://loop.test", f"is the edge {E2}, as {E1} finds it: a loop"),
            ("https://www.site.test", "is a name of the site site: a loop"),
        ):
            await cdn.good("site", name="site", origins=[origin])
            job, _ = await cdn.run("deploy")
            assert (job.state, words in job.error) == ("failed", True), job.error
            assert generations(cdn) == before
    finally:
        await cdn.good("site", name="site", origins=[cdn.origin.url])
    mark = (await book.load(cdn.deck.db)).setup.id
    for tls in (True, False):
        trust = probing.context(cdn.pebble.visitor_roots) if tls else None
        looped = await probing.ask(address, "www.site.test", "/", tls=trust, headers={"CDN-Loop": mark})
        assert looped.status == 508


@pytest.mark.parametrize(
    ("engine", "obstacle", "words"),
    [
        ("nginx", "/run/opsdeck-cdn-cache/nginx.pid", "emerg"),
        ("Caddy", "/var/log/opsdeck-cdn/edge.json", "is a directory"),
    ],
)
async def test_what_one_engine_refuses_changes_no_edge(served: Any, engine: str, obstacle: str, words: str) -> None:
    cdn = served
    before = generations(cdn)
    await cdn.good("site", name="site", rules=["static /assets/* ttl=2h"])
    host = cdn.fleet.host(E3)
    host.execute(["sh", "-c", f"mv {obstacle} {obstacle}.aside && mkdir {obstacle}"])
    try:
        job, steps = await cdn.run("deploy")
    finally:
        host.execute(["sh", "-c", f"rm -rf {obstacle} && mv {obstacle}.aside {obstacle}"])
    assert job.state == "failed"
    assert f"nothing was switched: {E3}" in job.error
    assert f"{engine} refuses the configuration: " in steps[E3].error
    assert words in steps[E3].error
    assert generations(cdn) == before
    assert len(host.execute(["ls", "/etc/opsdeck/cdn/generations"]).split()) <= 5
    assert (await cdn.get(E3, "/page")).status == 200


def any_rule(chance: random.Random) -> str:
    """Write a rule as somebody might, right by the grammar."""
    word = lambda: "".join(chance.choices("abcXYZ019._~!$&'()+,;=:@%-", k=chance.randint(1, 30))).replace(",", "")  # noqa: E731
    if chance.random() < 0.2:
        return f"dynamic /{word()}* method={chance.choice(['GET', 'POST', 'PUT'])}"
    if chance.random() < 0.3:
        text = "static " + ",".join(f"*.{chance.choice(['css', 'js', 'MP4'])}{number}" for number in range(3))
    else:
        text = "static " + ",".join(f"/{word()}{chance.choice(['', '*', '/*'])}" for _ in range(chance.randint(1, 3)))
    more = {
        "ttl": chance.choice(["0s", "1s", "30d", "3650d"]), "query": chance.choice(["all", "ignore", "only:a,b_1"]),
        "cookie": chance.choice(["a.b-c", "s"]), "max": chance.choice(["1kB", "999999999GB", "10MB"]),
        "method": "get,head", "host": "www.site.test",
    }  # fmt: skip
    for key in chance.sample(sorted(more), chance.randint(0, 4)):
        text += f" {key}={more[key]}"
    return text + (" big" if chance.random() < 0.2 else "")


async def test_every_rule_that_is_let_in_is_taken_by_both_engines(served: Any) -> None:
    cdn = served
    host, model = cdn.fleet.host(E1), await book.load(cdn.deck.db)
    chance = random.Random(11)
    rules = tuple(Rule.parse(any_rule(chance)) for _ in range(200))
    folder = "/tmp/rules"
    made = generation([replace(model.sites[0], rules=rules)], model.setup, model.edge(E1))
    host.execute(["mkdir", "-p", folder])
    for file, data in made.files.items():
        host.execute(["sh", "-c", f"cat >{folder}/{file}"], stdin=data.decode())
    host.execute(["nginx", "-t", "-q", "-c", f"{folder}/nginx.conf"])
    host.execute(["/opt/opsdeck/artefacts/caddy/current/caddy", "validate", "--config", f"{folder}/caddy.json"])


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
    for _ in range(2):
        kept = await cdn.get(E1, "/assets/kept-through-a-reload")
    lives = (await book.load(cdn.deck.db)).rows[E1].certificates
    host.execute(["sh", "-c", "echo '# by hand' >> /etc/opsdeck/cdn/current/nginx.conf"])
    planned = await cdn.plan("deploy", edges=[E1])
    assert any("changed by hand" in note and "nginx.conf" in note for note in planned.notes)
    (change,) = planned.changes
    assert "-# by hand" in change.diff()
    await cdn.good("deploy", edges=[E1])
    assert "by hand" not in host.execute(["cat", "/etc/opsdeck/cdn/current/nginx.conf"])[200:]
    host.execute(["systemctl", "reload", "opsdeck-cdn-front"])
    again = await cdn.get(E1, "/assets/kept-through-a-reload")
    assert (again.header("x-cache"), again.body) == ("HIT", kept.body)
    # No deploy and no reload orders a certificate anew: a CA refuses the fifth in a week.
    assert (await book.load(cdn.deck.db)).rows[E1].certificates == lives


@pytest.mark.campaign
async def test_the_next_origin_is_asked_when_the_first_is_slow_or_dead(served: Any, spare_origin: Any) -> None:
    cdn = served
    origins = [cdn.origin.url, spare_origin.url]
    await cdn.good("site", name="site", origins=origins, origin_timeout=2)
    await cdn.good("deploy", edges=[E1])
    cdn.origin.delay = 20
    assert (await cdn.get(E1, "/page", timeout=10)).status == 200
    assert (await cdn.get(E1, "/assets/of-the-second", timeout=10)).status == 200
    assert spare_origin.hits["/page"] == 1
    cdn.origin.behave()
    await cdn.good("site", name="site", origins=["http://192.0.2.77:81", spare_origin.url])
    await cdn.good("deploy", edges=[E1])
    for _ in range(2):
        assert (await cdn.get(E1, "/page", timeout=10)).status == 200
    await cdn.good("site", name="site", origins=[cdn.origin.url], origin_timeout=30)
    await cdn.good("deploy", edges=[E1])


@pytest.mark.campaign
async def test_an_edge_serves_on_and_survives_a_reboot_without_us(served: Any, wait_until: Any) -> None:
    cdn = served
    assert (await cdn.get(E3, "/assets/kept")).status == 200
    host = cdn.fleet.host(E3)
    host.kill()
    host.start()
    cdn.deck.ssh.drop(E3)

    async def serves() -> bool:
        with contextlib.suppress(probing.NoAnswer):
            # The front is up a moment before the cache, and passes through until then.
            return (await cdn.get(E3, "/assets/kept", timeout=3)).header("x-cache") != "PASS"
        return False

    await wait_until(serves, 60)
    answer = await cdn.get(E3, "/assets/kept")
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


@pytest.mark.campaign
async def test_an_edge_shares_its_ports_with_a_program_on_another_address(served: Any) -> None:
    cdn = served
    host, other = cdn.fleet.host(E3), "198.18.7.7"
    server = f"use IO::Socket::INET; my $s = IO::Socket::INET->new(LocalAddr => '{other}:443', Listen => 5) or die;"
    host.execute(["ip", "address", "add", f"{other}/32", "dev", "lo"])
    try:
        await cdn.good("edge", host=E3, bind=True)
        await cdn.good("deploy", edges=[E3])
        host.execute(["systemd-run", "--quiet", "--collect", "--unit=other443", "perl", "-e", f"{server} sleep 600"])
        await cdn.good("deploy", edges=[E3])
        assert (await cdn.get(E3, "/page")).status == 200
        await cdn.good("edge", host=E3, bind=False)
        _, steps = await cdn.run("deploy", edges=[E3])
        assert "port 443 is taken by perl" in steps[E3].error
    finally:
        host.execute(["systemctl", "stop", "other443"], check=False)
        host.execute(["ip", "address", "delete", f"{other}/32", "dev", "lo"])
        await cdn.good("edge", host=E3, bind=False)
        await cdn.good("deploy", edges=[E3])


@pytest.mark.campaign
async def test_a_name_without_a_certificate_changes_nothing(served: Any) -> None:
    cdn = served
    before = generations(cdn)
    await cdn.good("site", name="lost", names=["lost.test"], origins=[cdn.origin.url])
    try:
        job, steps = await cdn.run("deploy", certificate_wait=3)
        assert job.receipt["failed"] == 1
        assert "see that lost.test leads to an edge in DNS" in steps[E1].error
        assert (steps[E1].note, steps[E2].state) == ("went back", "skipped")
        assert generations(cdn) == before
        assert (await cdn.get(E1, "/page")).status == 200
    finally:
        await cdn.good("remove_site", name="lost")


@pytest.mark.campaign
async def test_a_caddy_that_does_not_run_is_taken_back(served: Any, tmp_path: Path) -> None:
    cdn = served
    before = generations(cdn)
    # It passes its own check, and then does not start.
    program = b"#!/bin/sh\ncase $1 in validate) exit 0;; version) echo v2.99.0;; *) exit 7;; esac\n"
    (tmp_path / "caddy").write_bytes(program)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    source = f"http://127.0.0.1:{server.server_port}/caddy"
    await cdn.good(
        "setup", caddy_version="2.99.0", caddy_source=source, caddy_sha256=hashlib.sha256(program).hexdigest()
    )
    try:
        job, steps = await cdn.run("deploy")
        assert job.receipt["failed"] == 1
        assert "opsdeck-cdn-front.service is" in steps[E1].error
        assert steps[E1].note == "went back"
        assert generations(cdn) == before
        for name in EDGES:
            current = cdn.fleet.host(name).execute(["readlink", "/opt/opsdeck/artefacts/caddy/current"])
            assert "2.99.0" not in current
            assert (await cdn.get(name, "/page")).status == 200
    finally:
        server.shutdown()
        await cdn.good("setup", caddy_source="")
    await cdn.good("deploy")


@pytest.mark.campaign
async def test_an_edge_that_joins_gets_the_account_of_the_others(served: Any) -> None:
    cdn = served
    host = cdn.fleet.host(E3)
    host.execute(["systemctl", "stop", "opsdeck-cdn-front"])
    host.execute(["rm", "-rf", "/var/lib/opsdeck-cdn/caddy"])
    await cdn.good("remove_edge", host=E3)
    await cdn.good("edge", host=E3)
    # The name leads to another edge, which answers the CA by the account that both have.
    await cdn.good("deploy", edges=[E3], certificate_wait=60)
    # One key, under however many e-mails an edge has had it.
    find = "find /var/lib/opsdeck-cdn/caddy/acme -name '*.key' -exec sha256sum {} +"
    look = ["sh", "-c", f"{find} | cut -c -64 | sort -u"]
    assert host.execute(look) == cdn.fleet.host(E1).execute(look)
