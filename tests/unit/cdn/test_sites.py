"""What a person may write for a site, and what is refused with a reason."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from opsdeck_cdn.sites import DEFAULT_RULES, Life, Origin, Policy, Rule, Site, domain

from opsdeck.errors import Invalid


@pytest.mark.parametrize(
    ("text", "dial", "tls"),
    [
        ("https://origin.example.com", "origin.example.com:443", True),
        ("http://Origin.Example.com:8080/", "origin.example.com:8080", False),
        ("http://192.0.2.1", "192.0.2.1:80", False),
        ("https://[2001:db8::1]:8443", "[2001:db8::1]:8443", True),
        ("https://[2001:DB8::0:1]", "[2001:db8::1]:443", True),
    ],
)
def test_origins(text, dial, tls):
    found = Origin.parse(text)
    assert (found.dial, found.tls) == (dial, tls)
    assert Origin.parse(str(found)) == found


NO_ORIGINS = """
    origin ftp://x.test http:// http://x.test/path http://u:p@x.test http://x.test:99999 http://x.test?q=1 http://${jndi}
    http://x;y http://*.x.test http://[fe80::1%{env.HOME}]
"""


@pytest.mark.parametrize("text", ["", *NO_ORIGINS.split()])
def test_what_is_no_origin(text):
    with pytest.raises(Invalid) as caught:
        Origin.parse(text)
    assert caught.value.field == "origins"


def test_rules():
    rule = Rule.parse("static /a/*,/b ttl=2d query=only:v,A1 cookie=s,t max=20MB method=get".replace("A1", "a1"))
    assert (rule.static, rule.paths, rule.ttl) == (True, ("/a/*", "/b"), 172800)
    assert (rule.query, rule.arguments, rule.cookies) == (Policy.ONLY, ("a1", "v"), ("s", "t"))
    assert (rule.max_bytes, rule.methods) == (20_000_000, ("GET",))
    assert not Rule.parse("dynamic /a/* method=POST").static
    assert Rule.parse("static *.css,*.js").by_ending
    assert all(Rule.parse(text).static for text in DEFAULT_RULES)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("static", "begin it with"),
        ("keep /a", "begin it with"),
        ("static a/*", "is no path"),
        ('static /a"*', "is no path"),
        ("static /a{b}", "is no path"),
        ("static /a/*/b", "is no path"),
        ("static /a,*.css", "rules of their own"),
        ("static /a ttl=1", "ttl=10m"),
        ("static /a ttl=3651d", "at most 3650d"),
        ("static /a ttl=1h ttl=2h", "there twice"),
        ("static /a query=some", "query is"),
        ("static /a query=only:a-b", "names of arguments"),
        ("static /a max=1", "max=500kB"),
        ("static /a method=POST", "only GET and HEAD"),
        ("static /a method=BREW", "methods are"),
        ("static /a speed=9", "says nothing here"),
        ("static /a cookie=a;b", "is no name"),
        ("static /a cookie=,", "is no name"),
        ("static /a max=0kB", "max=500kB"),
        ("dynamic /a ttl=1h", "for static rules"),
        ("static /a host=x", "is no domain name"),
    ],
)
def test_rules_that_cannot_be_used(text, words):
    with pytest.raises(Invalid, match=words):
        Rule.parse(text)


@pytest.mark.parametrize(
    "text", ["", "localhost", "*.a.test", "a..test", "-a.test", "a_b.test", "192.0.2.1", "a" * 64 + ".test", "é.test"]
)
def test_what_is_no_domain(text):
    with pytest.raises(Invalid):
        domain(text)
    assert domain("WWW.Example.COM.") == "www.example.com"


def test_a_site_needs_a_name_and_an_origin_and_no_more():
    origin = Origin.parse("http://192.0.2.1")
    assert Site("a", ("a.test",), (origin,), ()).quota_mb == 1024
    for names, origins, words in (
        ((), (origin,), "has no name"),
        (("a.test",), (), "has no origin"),
        (("a.test", "a.test"), (origin,), "twice"),
        (("a.test",), (origin, Origin.parse("https://b.test")), "all https or all http"),
    ):
        with pytest.raises(Invalid, match=words):
            Site("a", names, origins, ())
    with pytest.raises(Invalid, match="which the site is not"):
        Site("a", ("a.test",), (origin,), (Rule.parse("static /a host=b.test"),))


def test_a_certificate_is_late_when_a_fifth_of_its_life_is_left():
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    for days in (6, 90):
        life = Life(begin, begin + timedelta(days=days))
        assert Life.parse(str(life)) == life
        assert not life.late(begin + timedelta(days=days * 0.7))
        assert life.late(begin + timedelta(days=days * 0.9))
