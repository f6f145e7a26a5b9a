"""The two engines of an edge behind their protocol: either can be replaced without the other knowing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from opsdeck_cdn import edgehost
from opsdeck_cdn.engines import ENGINES, Cache, Engine, Front
from opsdeck_cdn.render.generation import generation
from opsdeck_cdn.sites import Edge, Origin, Rule, Setup, Site

from opsdeck.api import CheckRefused, Command, Completed

SETUP = Setup("opsdeck-abc", "https://acme.test/dir")
EDGE = Edge("e1", 52.4, 4.9, "192.0.2.1")
SITE = Site("blog", ("www.blog.test",), (Origin.parse("https://o.test"),), (Rule.parse("static /a/*"),))
GOOD = Completed(0, None, b"v2.11.7 h1:x\n", b"", 0.1)


class Other:
    """A third engine, which takes the place of one of the two."""

    name = "Varnish"
    unit = "other.service"
    file = "other.vcl"

    def config(self, sites: Any, setup: Setup, edge: Edge, generation: str) -> bytes:
        return f"{edge.host} {generation} {[site.name for site in sites]}".encode()

    def service(self, setup: Setup) -> bytes:
        return b"[Service]\n"

    def check(self, folder: str) -> Command:
        return Command(("varnishd", "-C", "-f", f"{folder}/{self.file}"))

    def refusal(self, done: Completed) -> str:
        return done.stderr.decode()


class Host:
    """Runs what the engines ask for, as they were told to answer."""

    host = SimpleNamespace(name="e1")

    def __init__(self, *answers: Completed) -> None:
        self.asked: list[str] = []
        self._answers = list(answers)

    async def run(self, command: Any, **_more: Any) -> Completed:
        self.asked.append(" ".join(command.words()))
        return self._answers.pop(0)


@pytest.mark.parametrize("engines", [(Other(), Front()), (Cache(), Other())])
async def test_an_edge_is_made_and_checked_whichever_engines_it_has(engines: tuple[Engine, ...]):
    made = generation([SITE], SETUP, EDGE, engines)
    usual = generation([SITE], SETUP, EDGE)
    kept = next(engine for engine in engines if engine.name != "Varnish")
    assert set(made.files) == {kept.file, "other.vcl"}
    assert made.units[kept.unit] == usual.units[kept.unit]
    assert made.units["other.service"] == b"[Service]\n"
    assert made.files["other.vcl"] == f"e1 {made.id} ['blog']".encode()
    assert made.files[kept.file].replace(made.id.encode(), usual.id.encode()) == usual.files[kept.file]
    host: Any = Host(GOOD, GOOD)
    await edgehost.checked(host, "/g", engines)
    assert [engine.file in asked for engine, asked in zip(engines, host.asked, strict=True)] == [True, True]
    host = Host(*(Completed(0, None, GOOD.stdout, b"no such thing", 0.1) for _ in engines))
    with pytest.raises(CheckRefused, match="Varnish refuses the configuration: no such thing"):
        await edgehost.checked(host, "/g", engines)


def test_each_says_why_it_refuses():
    cache, front = ENGINES
    assert (cache.refusal(GOOD), front.refusal(GOOD)) == ("", "")
    said = b"2026/11/23 nginx: [warn] old\nnginx: [emerg] unknown directive\n"
    assert cache.refusal(Completed(1, None, b"", said, 0.1)) == "nginx: [emerg] unknown directive"
    assert cache.refusal(Completed(1, None, b"", b"killed\n", 0.1)) == "killed"
    assert cache.refusal(Completed(1, None, b"", b"", 0.1)) == "it ended with 1"
    said = b'{"level":"info"}\nError: loading config: unknown field "distributed"\n'
    assert front.refusal(Completed(1, None, b"v2.11.7 h1:x\n", said, 0.1)).startswith("Error: loading config")
    logged = b'{"level":"error","ts":1.5,"msg":"loading http app module: no"}\n'
    assert front.refusal(Completed(1, None, b"v2.11.7 h1:x\n", logged, 0.1)) == "loading http app module: no"
    assert "2.6.2 is too old" in front.refusal(Completed(0, None, b"2.6.2\n", b"Valid configuration\n", 0.1))
    assert "2.6.2 is too old" in front.refusal(Completed(1, None, b"2.6.2\n", said, 0.1))
    assert "is no version" in front.refusal(Completed(127, None, b"", b"not found\n", 0.1))
