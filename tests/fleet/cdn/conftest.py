"""A CDN to try on: edges, a certificate authority (Pebble) and an origin, on the fleet."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opsdeck_cdn import book, plugin, probing
from opsdeck_cdn.render.generation import generation

from opsdeck.actor import Actor, Door, Role
from opsdeck.builtin import plugin as core_plugin
from opsdeck.db import Database, migrate
from opsdeck.deck import Deck
from opsdeck.inventory.models import Host, HostKey
from opsdeck.jobs.jobs import Submission
from opsdeck.lab import pebble as authority
from opsdeck.lab.fleet import Fleet, HostSpec
from opsdeck.lab.pebble import Pebble
from opsdeck.plugins import Plugins
from opsdeck.secrets.keyring import Keyring
from opsdeck.secrets.sensitive import Sensitive
from opsdeck.settings import Settings

BOSS = Actor("boss@cli", Role.ADMIN, Door.CLI, stepped_up=True)
EDGES = ("cdn-e1", "cdn-e2", "cdn-e3")
SERVERS = ("cdn-ns1", "cdn-ns2")
RULES = [
    "static /assets/only/* query=only:v",
    "static /assets/ignore/* query=ignore",
    "static /assets/session/* cookie=session",
    "static /assets/small/* max=20kB",
    "static /assets/big/* big",
    "static /assets/*",
    "static *.css",
]
PLACES = {"cdn-e1": (52.4, 4.9), "cdn-e2": (37.3, -121.9), "cdn-e3": (1.35, 103.8)}


class OriginServer:
    """A real HTTP server that counts what it is asked and answers as it is told.

    `fail` is a status to answer with, `delay` the seconds before an answer, `lie` what the length it promises has too
    much; with `broken` an answer in chunks ends in the midst of one. What is asked for with "hold" in its path comes
    to its end when `held` is set; with "late" it begins then.
    """

    def __init__(self, address: str) -> None:
        self.hits: Counter[str] = Counter()
        self.seen: list[dict[str, str]] = []
        self.behave()
        origin = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                origin.answer(self)

            do_HEAD = do_POST = do_GET

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer((address, 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://{address}:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def behave(self) -> None:
        """Be a good origin again."""
        self.fail, self.delay, self.lie, self.broken = 0, 0.0, 0, False
        self.held = threading.Event()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path
        self.hits[path] += 1
        self.seen.append({"path": path} | {name.lower(): value for name, value in request.headers.items()})
        if self.delay:
            time.sleep(self.delay)
        if "late" in path:
            self.held.wait(120)
        if self.fail:
            body = b"broken\n"
            request.send_response(self.fail)
        else:
            body = f"{path} {self.hits[path]} {request.headers.get('Accept-Language', '')}\n".encode()
            if path.startswith("/assets/big"):
                body = bytes(range(256)) * 12_000
            if "account" in path:
                body = f"account of {request.headers.get('Cookie', 'nobody')}\n".encode()
            request.send_response(404 if "opsdeck-probe" in path else 200)
        if "cookie" in path:
            request.send_header("Set-Cookie", "a=b")
        if "private" in path:
            request.send_header("Cache-Control", "private")
        if "public" in path:
            request.send_header("Cache-Control", "public, max-age=600")
        if "stale" in path:
            request.send_header("Cache-Control", "public, max-age=1")
        if "vary" in path:
            request.send_header("Vary", "Accept-Language")
        if "/big" in path:
            span = request.headers.get("Range", "")
            request.send_header("ETag", '"big"')
            request.send_header("Accept-Ranges", "bytes")
            if span.startswith("bytes="):
                first, _, last = span[6:].partition("-")
                total = len(body)
                end = min(int(last or total - 1), total - 1)
                body = body[int(first) : end + 1]
                request._headers_buffer[0] = b"HTTP/1.1 206 Partial Content\r\n"  # type: ignore[attr-defined]
                request.send_header("Content-Range", f"bytes {first}-{end}/{total}")
        chunked = "chunks" in path
        if chunked:
            request.send_header("Transfer-Encoding", "chunked")
            body = b"%x\r\n%s\r\n" % (len(body), body) + (b"40\r\nbroken" if self.broken else b"0\r\n\r\n")
        else:
            request.send_header("Content-Length", str(len(body) + self.lie))
        request.end_headers()
        if request.command != "HEAD":
            with contextlib.suppress(OSError):
                if "hold" in path:
                    request.wfile.write(body[:1])
                    self.held.wait(120)
                    body = body[1:]
                request.wfile.write(body)
        if self.lie > 0 or (chunked and self.broken):
            request.close_connection = True

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Cdn:
    """What a test works with."""

    def __init__(self, deck: Deck, fleet: Fleet, origin: OriginServer, pebble: Pebble) -> None:
        self.deck, self.fleet, self.origin, self.pebble = deck, fleet, origin, pebble

    async def run(self, action: str, **params: Any) -> Any:
        """Run an action; give the job and its steps by host."""
        job = await self.deck.jobs.run(Submission("cdn", action, params, "", confirm=action), BOSS)
        assert job.id
        return job, {step.host: step for step in await self.deck.jobs.steps(job.id)}

    async def good(self, action: str, **params: Any) -> Any:
        """Run an action that must succeed."""
        job, steps = await self.run(action, **params)
        if job.state != "succeeded" or (job.receipt or {}).get("failed"):
            log = [f"{line.host}: {line.text}" for line in await self.deck.jobs.log(job.id)]
            raise AssertionError("\n".join([str(job.error), *(f"{s.host} {s.error}" for s in steps.values()), *log]))
        return job, steps

    async def add_host(self, name: str, latitude: float | None = None, longitude: float | None = None) -> None:
        """Put a lab host into the inventory, its key pinned."""
        host = self.fleet.host(name)
        async with self.deck.db.write() as session:
            row = Host(
                name=name, address=host.address, user="ops", credential="lab", sudo="nopasswd",
                latitude=latitude, longitude=longitude,
            )  # fmt: skip
            session.add(row)
            await session.flush()
            pinned = {"algorithm": host.host_key.split()[0], "public": host.host_key, "state": "pinned"}
            session.add(HostKey(host_id=row.id, fingerprint="x", **pinned))

    async def plan(self, action: str, **params: Any) -> Any:
        """Plan an action."""
        return await self.deck.jobs.plan(Submission("cdn", action, params), BOSS)

    async def get(self, edge: str, path: str, name: str = "www.site.test", **more: Any) -> probing.Answer:
        """Ask one edge over HTTPS, as a visitor."""
        trust = probing.context(self.pebble.visitor_roots)
        return await probing.ask(self.fleet.host(edge).address, name, path, tls=trust, **more)

    def probed(self) -> bool:
        """Tell whether the prober runs here."""
        return any((one.service, one.phase) == ("prober", "running") for one in self.deck.services.status())

    async def deployed(self) -> None:
        """Have all edges serve what the model says; nothing is done when they do."""
        model = await book.load(self.deck.db)
        for edge in model.edges:
            row = model.rows[edge.host]
            if not edge.admitted or dict(row.files) != generation(model.sites, model.setup, edge).digests:
                await self.good("deploy")
                return

    async def fresh_site(self, **more: Any) -> None:
        """Have one site on the origin, as all tests use it but for what is said here; it may be deployed already."""
        given = {
            "names": ["www.site.test"], "origins": [self.origin.url], "rules": RULES, "origin_timeout": 3,
            "probe_static": "",
        }  # fmt: skip
        await self.good("site", name="site", **(given | more))


@pytest.fixture(scope="session")
def cdn_home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tmp_path_factory.mktemp("cdn") / "deck"


@pytest.fixture(scope="session")
def cdn_hosts(lab: Fleet) -> Iterator[Fleet]:
    """Bring up the edges and the CA."""
    lab.up([*(HostSpec(name, ("nginx",), disk_mb=700) for name in EDGES), HostSpec("cdn-ca", authority.PACKAGES)])
    for name in EDGES:
        lab.host(name).execute(["systemctl", "disable", "--quiet", "--now", "nginx"])
    yield lab


@pytest.fixture(scope="session")
def origin(cdn_hosts: Fleet) -> Iterator[OriginServer]:
    subnet = cdn_hosts.network.subnet()
    assert subnet
    server = OriginServer(str(subnet[1]))
    yield server
    server.close()


@pytest.fixture
def spare_origin(origin: OriginServer) -> Iterator[OriginServer]:
    """A second origin."""
    server = OriginServer(str(origin.server.server_address[0]))
    yield server
    server.close()


@pytest.fixture(scope="session")
def pebble(cdn_hosts: Fleet) -> Pebble:
    return Pebble(cdn_hosts.host("cdn-ca"))


@pytest.fixture(scope="session")
def name_servers(cdn_hosts: Fleet) -> tuple[str, ...]:
    """Bring up two hosts with gdnsd, not set up."""
    cdn_hosts.up([HostSpec(name, ("gdnsd",)) for name in SERVERS])
    return SERVERS


@pytest.fixture(scope="session")
def city_file(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Make GeoIP data in which three networks lie in three regions."""
    from mmdb_writer import MMDBWriter
    from netaddr import IPSet

    writer = MMDBWriter(ip_version=6, ipv4_compatible=True, database_type="GeoLite2-City", languages=["en"])
    for network, continent, country, (latitude, longitude) in (
        ("100.64.1.0/24", "EU", "DE", (50.1, 8.7)),
        ("100.64.2.0/24", "NA", "US", (40.7, -74.0)),
        ("100.64.3.0/24", "OC", "AU", (-33.9, 151.2)),
    ):
        place = {
            "continent": {"code": continent}, "country": {"iso_code": country},
            "location": {"latitude": latitude, "longitude": longitude},
        }  # fmt: skip
        writer.insert_network(IPSet([network]), place)
    path = tmp_path_factory.mktemp("geoip") / "city.mmdb"
    writer.to_db_file(str(path))
    return path


@pytest.fixture
async def cdn(
    cdn_home: Any, cdn_hosts: Fleet, fleet: Fleet, origin: OriginServer, pebble: Pebble
) -> AsyncIterator[Cdn]:
    """The CDN of this session: its deck keeps what tests before did."""
    first = not cdn_home.exists()
    origin.behave()
    async with open_deck(cdn_home) as deck:
        made = Cdn(deck, fleet, origin, pebble)
        if first:
            await _enrol(made)
        yield made


@contextlib.asynccontextmanager
async def open_deck(home: Path) -> AsyncIterator[Deck]:
    """Open a deck with the core's plugin and ours; made anew when it is not there."""
    plugins = Plugins()
    plugins.add("core", core_plugin)
    plugins.add("cdn", plugin)
    assert not plugins.faults
    settings = Settings(home=home)
    if not home.exists():
        home.mkdir(mode=0o700)
        Keyring.create(settings.key_file)
        database = Database(settings.url)
        await migrate.upgrade(database, plugins)
        await database.close()
    async with Deck.open(settings, plugins=plugins, kind="server") as deck:
        yield deck


@pytest.fixture
async def bare(lab: Fleet, origin: OriginServer, tmp_path: Path) -> AsyncIterator[Cdn]:
    """A console that knows nothing, and six hosts: three to be edges, two name servers, all bare, and a CA."""
    lab.up([*(HostSpec(f"cdn-b{number}") for number in (1, 2, 3, 4, 5)), HostSpec("cdn-ca2", authority.PACKAGES)])
    pebble = Pebble(lab.host("cdn-ca2"), resolver=f"{lab.host('cdn-b4').address}:53")
    async with open_deck(tmp_path / "deck") as deck:
        made = Cdn(deck, lab, origin, pebble)
        yield made
    for number in (1, 2, 3, 4, 5):
        lab.host(f"cdn-b{number}").kill()


async def _enrol(cdn: Cdn) -> None:
    key = cdn.fleet.host(EDGES[0]).private_key.read_text()
    await cdn.deck.secrets.set("lab", Sensitive(key), kind="ssh-key", actor=BOSS)
    for name in EDGES:
        await cdn.add_host(name, *PLACES[name])
    pebble = cdn.pebble
    await cdn.good(
        "setup", acme_directory=pebble.directory, acme_roots=pebble.roots, visitor_roots=pebble.visitor_roots,
        acme_email="ops@site.test",
    )  # fmt: skip
    for name in EDGES:
        await cdn.good("edge", host=name)


@pytest.fixture
def wait_until() -> Callable[..., Any]:
    """Wait for a condition, within a bound."""

    async def wait(condition: Callable[[], Any], seconds: float = 20.0) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while True:
            found = condition()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return
            assert loop.time() < end, "it did not come about in time"
            await asyncio.sleep(0.2)

    return wait
