"""Keys of purges, what edges print, and the judgement over their health."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from opsdeck_cdn import caddy, delegation, draining, edgehost, probing, purging, settings, sight, warming
from opsdeck_cdn.health import UP_AFTER, Watch
from opsdeck_cdn.sites import CaddySource, Edge, Origin, Rule, Site

from opsdeck.errors import Invalid, OpsDeckError
from opsdeck.ssh.command import Completed


def site(*rules: str) -> Site:
    return Site("s", ("a.test",), (Origin.parse("http://192.0.2.1"),), tuple(map(Rule.parse, rules)), epoch=3)


def test_a_url_has_one_key_for_each_way_to_keep_it():
    made = site("static /a/*", "static /b/* query=ignore", "static /c/* query=only:v,w", "dynamic /d/*")
    assert purging.keys(made, "a.test", "/x?w=1&V=2&z=3") == (
        "s|3|a.test|/x?w=1&V=2&z=3",
        "s|3|a.test|/x",
        "s|3|a.test|/x?v=2&w=1",
    )
    assert purging.keys(made, "a.test", "/x") == ("s|3|a.test|/x", "s|3|a.test|/x?v=&w=")


@pytest.mark.parametrize("url", [
    "https://a.test/a b", "https:///x", "https://*.test/", "file:///etc/passwd", "nonsense", "https://[a.test/", "",
    "https://a.test/ä", "https://a.test/" + 2000 * "a",
])  # fmt: skip
def test_what_cannot_be_purged(url):
    with pytest.raises(OpsDeckError):
        purging.split(url)
    assert purging.split("http://A.test?x=1") == ("a.test", "/?x=1")
    with pytest.raises(ValueError, match="no URL"):
        purging.PurgeParams(urls=["a.test/x"])
    for params in ({"urls": [url]}, {"what": "prefix", "urls": ["https://a.test/", url]}):
        with pytest.raises(ValueError):
            purging.PurgeParams(**params)
    with pytest.raises(ValueError):
        warming.WarmParams(urls=f"https://a.test/x\n{url or 'x'}")
    with pytest.raises(ValueError, match="which site"):
        purging.PurgeParams(what="site")


@pytest.mark.parametrize("params", [{"acme_email": "a@b.test{env.HOME}"}, {"acme_email": "{file./etc/passwd}@b.test"},
                                    {"acme_directory": "https://ca.test/{file./etc/passwd}"}])  # fmt: skip
def test_no_setting_is_read_by_caddy_as_something_to_look_up(params):
    with pytest.raises(ValueError, match="pattern"):
        settings.SetupParams(**params)


def completed(text: str) -> Completed:
    return Completed(0, None, text.encode(), b"", 0.1)


def test_the_look_at_an_edge():
    text = "current 20261123T000000Z-abc\nport 80 tcp 0.0.0.0 nginx\nport 443 udp [::]%eth0 \nclock 1000\nfree 123\n"
    text += "account ab12 /x/u.key\ncaddy v2.6.2\nname o.test 192.0.2.9\nname o.test 2001:db8::9\nend\n"
    seen = edgehost.parse_look("e", completed(text), sent=900.0, received=901.0)
    assert (seen.current, seen.free_kb, seen.caddy) == ("20261123T000000Z-abc", 123, "v2.6.2")
    assert (seen.skew, seen.accounts) == (99.0, {"/x/u.key": "ab12"})
    assert seen.names == {"o.test": {"192.0.2.9", "2001:db8::9"}}
    edge = Edge("e", 0, 0, "192.0.2.1")
    assert [fault.message for fault in edgehost.wrong(edge, seen)] == [
        "port 80 is taken by nginx.",
        "port 443 (UDP) is taken by a program.",
        "its clock is 99 s ahead.",
        "no room: 0 MB are free where caches lie.",
    ]
    same = edgehost.parse_look("e", completed("current \nclock 900\nend\n"), sent=900.4, received=900.9)
    assert same.skew == 0.0
    with pytest.raises(OpsDeckError, match="broke off"):
        edgehost.parse_look("e", completed("current x\n"), sent=0, received=0)


@pytest.mark.parametrize(
    ("address", "program", "bind", "met"),
    [
        ("0.0.0.0", "nginx", False, True),
        ("192.0.2.7", "nginx", False, True),
        ("0.0.0.0", "caddy", False, False),
        ("192.0.2.7", "xray", True, False),
        ("192.0.2.1", "xray", True, True),
        ("[2001:db8::1]", "xray", True, True),
        ("*", "xray", True, True),
        ("[::]", "xray", True, True),
    ],
)
def test_who_is_in_the_way_of_an_edge(address, program, bind, met):
    edge = Edge("e", 0, 0, "192.0.2.1", "2001:db8::1", bind=bind)
    assert edgehost.Listener(443, "tcp", address, program).meets(edge) is met


def test_who_is_left_at_a_drain():
    left = draining.parse("e", b"open 3\nbusy 1\nasked 2\nlog 77 900\nend\n")
    assert (left, left.none) == (draining.Left(3, 1, 2, ("77", "900")), False)
    assert draining.Left(3, 0, 0).none
    for bad in (b"", b"open 3\nbusy 1\n", b"open x\nbusy 1\nasked 2\nlog 7 9\n"):
        with pytest.raises(OpsDeckError, match="broke off"):
            draining.parse("e", bad)


WANTED = {"ns1.cdn.test": "192.0.2.1", "ns2.cdn.test": "192.0.2.2"}


@pytest.mark.parametrize(
    ("servers", "glue", "words"),
    [
        ({"ns1.cdn.test", "ns2.cdn.test"}, WANTED, []),
        (set(), {}, [("broken", "delegates it to nobody")]),
        ({"ns1.cdn.test"}, WANTED, [("attention", "ns2.cdn.test do not stand there")]),
        ({"a.test"}, WANTED, [("broken", "a.test stand there too"), ("broken", "ns1.cdn.test, ns2.cdn.test do not")]),
        (
            {"ns1.cdn.test", "ns2.cdn.test"},
            WANTED | {"ns2.cdn.test": "192.0.2.9"},
            [("broken", "with 192.0.2.9, and is")],
        ),
        ({"ns1.cdn.test", "ns2.cdn.test"}, {"ns1.cdn.test": "192.0.2.1"}, [("broken", "without an address")]),
    ],
)
def test_what_is_wrong_with_a_delegation(servers, glue, words):
    addresses = {name: frozenset({address, "2001:db8::1"}) for name, address in glue.items()}
    found = delegation.judge(WANTED, delegation.Delegation("192.0.2.53", frozenset(servers), addresses))
    assert len(found) == len(words)
    assert all(state == want and word in text for (state, text), (want, word) in zip(found, words, strict=True)), found


def test_the_sums_of_an_edge():
    tally = sight.parse("e", b"sum 3600 a.test:443 HIT 2 5 600\nat 77 1234\n")
    assert tally == sight.Tally(
        (sight.Sum(datetime(1970, 1, 1, 1, tzinfo=UTC), "a.test", "HIT", 2, 5, 600),), "77", 1234
    )
    for bad in (b"", b"sum x\nat 1 2\n", b"sum 3600 a.test HIT 2 5 600\n", b"at 1\n"):
        with pytest.raises(OpsDeckError):
            sight.parse("e", bad)


def test_an_edge_is_up_again_after_several_good_looks_in_a_row_only():
    watch = Watch("down")
    for _ in range(UP_AFTER - 1):
        watch = watch.after(True)
        assert not watch.recovered
    watch = watch.after(False)
    for _ in range(UP_AFTER):
        assert not watch.recovered
        watch = watch.after(True)
    assert watch.recovered
    assert not Watch("up").after(True).recovered


def test_caddy_must_be_new_enough():
    assert caddy.artefact(CaddySource()).version >= "2.11"
    for version in ("2.6.2", "2.10.9", "v2.10"):
        with pytest.raises(Invalid, match="too old"):
            caddy.check_version(version)
    with pytest.raises(Invalid, match="no version"):
        caddy.check_version("newest")


async def test_a_server_that_talks_nonsense_is_no_answer():
    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"\xff\xfe hello\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(nonsense, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(probing.NoAnswer):
            await probing.ask("127.0.0.1", "a.test", port=port, timeout=2)
    with pytest.raises(probing.NoAnswer, match="does not answer"):
        await probing.ask("127.0.0.1", "a.test", port=port, timeout=2)


def test_chunks_are_put_together():
    assert probing._unchunk(b"3\r\nabc\r\n2;x=1\r\nde\r\n0\r\n\r\n") == b"abcde"
    assert probing._unchunk(b"3\r\nab") == b"ab"
