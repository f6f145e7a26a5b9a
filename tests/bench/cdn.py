"""What a CDN of OpsDeck serves and how fast it is changed, on lab hosts. Needs root and the lab.

    ./run bench cdn              hits over TLS: the edge as it is deployed, the same by hand, nginx alone, Varnish
    ./run bench cdn --edges 10   a purge of one URL and a deploy of one changed rule, on that many edges

Hits: wrk on a host of its own asks for one object in the cache, all peers in turns in every round, all on one edge with
the same certificate, on the same cores. Requests a second, and the CPU time that a peer's own processes spent on each,
which other work on the machine disturbs less; ratios are to the hand-written Caddy and nginx. Prints Markdown.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import statistics
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import opsdeck_cdn.plugin
from opsdeck_cdn import book

from opsdeck.actor import Actor, Door, Role
from opsdeck.builtin import plugin as core_plugin
from opsdeck.db import Database
from opsdeck.db.migrate import upgrade
from opsdeck.deck import Deck
from opsdeck.inventory.models import Host, HostKey
from opsdeck.jobs.jobs import Submission
from opsdeck.lab import pebble as authority
from opsdeck.lab.fleet import Fleet, HostSpec, LabHost
from opsdeck.plugins import Plugins
from opsdeck.secrets.keyring import Keyring
from opsdeck.secrets.sensitive import Sensitive
from opsdeck.settings import Settings

BOSS = Actor("bench@cli", Role.ADMIN, Door.CLI, stepped_up=True)
NAME = "www.bench.test"
SIZES = {"1": 1024, "10": 10 * 1024, "100": 100 * 1024}
CADDY = "/opt/opsdeck/artefacts/caddy/current/caddy"
HAND = "Caddy and nginx by hand"
PEERS = {
    "OpsDeck's edge": (443, ("/etc/opsdeck/cdn/current/",)),
    HAND: (8443, ("/srv/bench/hand.conf", "/srv/bench/Caddyfile")),
    "nginx alone": (9443, ("/srv/bench/bare.conf",)),
    "hitch and Varnish": (10443, ("varnishd", "hitch")),
}
"""Each with its port, and what the command lines of its processes have in them."""

# By hand, with what an edge of ours has: JSON log, compression on offer, CDN-Loop, headers of its own and none that
# visitors forge, a unix socket between the two, a cache that is dead or frozen passed by, what has Authorization sent
# past it, an epoch in the keys, one request for a missed object, stale answers, revalidation.
CADDYFILE = """
{{
  admin off
  auto_https disable_redirects
  log default {{
    output file /var/log/hand-caddy.json
    format json
  }}
}}
https://{name}:8443 {{
  tls /srv/bench/cert.pem /srv/bench/key.pem
  log
  encode zstd gzip
  header X-Edge hand
  @loop header CDN-Loop *hand*
  @static {{
    path /assets/*
    method GET HEAD
    not header Authorization *
  }}
  route {{
    respond @loop 508
    request_header +CDN-Loop hand
    request_header -X-Cache
    handle @static {{
      vars way static
      reverse_proxy unix//run/hand-cache.sock {{
        transport http {{
          dial_timeout 2s
          response_header_timeout 50s
          keepalive_idle_conns_per_host 256
          compression off
        }}
      }}
    }}
    reverse_proxy {origin}
  }}
  handle_errors {{
    @kept vars way static
    route {{
      reverse_proxy @kept {origin}
      respond {{err.status_code}}
    }}
  }}
}}
"""
NGINX = """
worker_processes auto; pid /run/{role}.pid; error_log /var/log/{role}.err; worker_rlimit_nofile 65536;
events {{ worker_connections 4096; }}
http {{
  access_log {log}; sendfile on; tcp_nopush on; keepalive_requests 100000; server_tokens off;
  proxy_cache_path /var/cache/{role} levels=1:2 use_temp_path=off keys_zone=c:8m inactive=30d max_size=1024m;
  upstream origin {{ server {origin}; keepalive 64; }}
  server {{
    listen {listen};
    set $epoch 1;
    location / {{
      proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host {name};
      proxy_set_header Cookie ""; proxy_set_header Accept-Encoding ""; proxy_hide_header X-Cache;
      proxy_cache c; proxy_cache_key $epoch$host$request_uri; proxy_cache_valid 200 1h; proxy_cache_lock on;
      proxy_cache_revalidate on; proxy_cache_background_update on; proxy_ignore_client_abort on;
      proxy_cache_use_stale error timeout updating http_500 http_502 http_503 http_504;
      proxy_no_cache $http_authorization; proxy_cache_bypass $http_authorization;
      add_header X-Cache $upstream_cache_status always;
    }}
  }}
}}
"""
TLS_LISTEN = (
    "9443 ssl; ssl_certificate /srv/bench/cert.pem; ssl_certificate_key /srv/bench/key.pem; keepalive_timeout 75s"
)
VCL = 'vcl 4.1; backend default {{ .host = "{host}"; .port = "{port}"; }} sub vcl_recv {{ unset req.http.Cookie; }}'
HITCH = """
frontend = "[*]:10443"
backend = "[127.0.0.1]:6081"
pem-file = "/srv/bench/both.pem"
workers = 2
user = "nobody"
"""


class Origin(BaseHTTPRequestHandler):
    """Answers any path with as many kilobytes as its last part says."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = b"x" * SIZES.get(self.path.rpartition("/")[2], 10)
        self.send_response(200)
        self.send_header("Cache-Control", "public, max-age=3600")
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: Any) -> None:
        pass


async def run(deck: Deck, action: str, **params: Any) -> dict[str, Any]:
    """Run an action that must succeed; give its receipt."""
    job = await deck.jobs.run(Submission("cdn", action, params, confirm=action), BOSS)
    receipt = dict(job.receipt or {})
    if job.state != "succeeded" or receipt.get("failed"):
        raise SystemExit(f"{action}: {job.error} {[step.error for step in await deck.jobs.steps(job.id or 0)]}")
    return receipt


@contextlib.asynccontextmanager
async def cdn(fleet: Fleet, edges: list[str], ca: LabHost, origin: str) -> AsyncIterator[Deck]:
    """Give a console whose edges serve one site."""
    with tempfile.TemporaryDirectory() as folder:
        plugins = Plugins()
        plugins.add("core", core_plugin)
        plugins.add("cdn", opsdeck_cdn.plugin)
        settings = Settings(home=Path(folder) / "deck")
        settings.home.mkdir(mode=0o700)
        Keyring.create(settings.key_file)
        database = Database(settings.url)
        await upgrade(database, plugins)
        await database.close()
        async with Deck.open(settings, plugins=plugins, kind="server") as deck:
            await deck.secrets.set("lab", Sensitive(fleet.private_key.read_text()), kind="ssh-key", actor=BOSS)
            async with deck.db.write() as session:
                for lab in map(fleet.host, edges):
                    row = Host(name=lab.name, address=lab.address, user="root", credential="lab")
                    session.add(row)
                    await session.flush()
                    pinned = {"algorithm": lab.host_key.split()[0], "public": lab.host_key, "state": "pinned"}
                    session.add(HostKey(host_id=row.id or 0, fingerprint="x", **pinned))
            pebble = authority.Pebble(ca)
            pebble.point(NAME, fleet.host(edges[0]).address)
            for edge in edges:
                await run(deck, "edge", host=edge)
            await run(deck, "setup", acme_directory=pebble.directory, acme_roots=pebble.roots,
                      visitor_roots=pebble.visitor_roots)  # fmt: skip
            await run(deck, "site", name="bench", names=[NAME], origins=[f"http://{origin}"])
            for edge in edges:
                fleet.host(edge).execute(["systemctl", "disable", "--now", "nginx"], check=False)
            await run(deck, "deploy", certificate_wait=300)
            yield deck


def put(host: LabHost, path: str, text: str) -> None:
    """Write a file on a lab host."""
    host.execute(["sh", "-c", f"mkdir -p $(dirname {path}); cat >{path}"], stdin=text)


def peers(edge: LabHost, origin: str) -> None:
    """Start what the edge is compared with, beside it."""
    store = "/var/lib/opsdeck-cdn/caddy/certificates"
    edge.execute(["sh", "-c", f"mkdir -p /srv/bench; cp {store}/*/{NAME}/{NAME}.crt /srv/bench/cert.pem; "
                  f"cp {store}/*/{NAME}/{NAME}.key /srv/bench/key.pem; cd /srv/bench; cat cert.pem key.pem >both.pem; "
                  "chmod 644 *.pem"])  # fmt: skip
    host, _, port = origin.partition(":")
    put(edge, "/srv/bench/Caddyfile", CADDYFILE.format(name=NAME, origin=origin))
    for role, listen, log in (("hand", "unix:/run/hand-cache.sock", "off"), ("bare", TLS_LISTEN, "/var/log/bare.log")):
        text = NGINX.format(role=role, listen=listen, log=log, name=NAME, origin=origin)
        put(edge, f"/srv/bench/{role}.conf", text)
    put(edge, "/srv/bench/default.vcl", VCL.format(host=host, port=port))
    put(edge, "/srv/bench/hitch.conf", HITCH)
    edge.execute(["systemctl", "stop", "varnish", "hitch"], check=False)
    start = ["systemd-run", "--quiet", "--collect", "-p", "LimitNOFILE=65536"]
    for unit, *words in (
        ("hand-cache", "nginx", "-c", "/srv/bench/hand.conf", "-g", "daemon off;"),
        ("hand-front", CADDY, "run", "--adapter", "caddyfile", "--config", "/srv/bench/Caddyfile"),
        ("bare", "nginx", "-c", "/srv/bench/bare.conf", "-g", "daemon off;"),
        (
            "bench-varnish",
            "varnishd",
            "-F",
            "-a",
            "127.0.0.1:6081",
            "-f",
            "/srv/bench/default.vcl",
            "-s",
            "malloc,256m",
        ),
        ("bench-hitch", "hitch", "--config=/srv/bench/hitch.conf"),
    ):
        edge.execute([*start, f"--unit={unit}", "-E", "HOME=/root", "--", *words])


@dataclass
class Seen:
    """What the runs of one peer and size gave: the requests a second of each, and CPU seconds for all requests."""

    rates: list[float] = field(default_factory=list)
    requests: int = 0
    cpu: float = 0.0


def cpu(edge: LabHost, peer: str) -> float:
    """Give the CPU seconds that a peer's processes have used on the edge."""
    lines: dict[int, str] = {}
    used: dict[int, tuple[int, float]] = {}
    for pid in edge.processes():
        with contextlib.suppress(OSError):
            lines[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            used[pid] = (int(words[1]), (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK"))
    # nginx's workers do not say whose they are; their master does.
    mine = [
        pid
        for pid, (above, _) in used.items()
        if any(mark in lines[pid] + lines.get(above, "") for mark in PEERS[peer][1])
    ]
    return sum(used[pid][1] for pid in mine)


def wrk(edge: LabHost, load: LabHost, peer: str, size: str, seconds: int, seen: Seen) -> None:
    """Ask for one object for a while. All answers must be good."""
    url = f"https://{NAME}:{PEERS[peer][0]}/assets/{size}"
    before = cpu(edge, peer)
    said = load.execute(["wrk", "-t2", "-c32", f"-d{seconds}s", "-H", f"Host: {NAME}", url], timeout=seconds + 30)
    seen.cpu += cpu(edge, peer) - before
    if "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(said)
    seen.rates.append(float(re.findall(r"Requests/sec:\s+([\d.]+)", said)[0]))
    seen.requests += int(re.findall(r"(\d+) requests in", said)[0])


def hits(edge: LabHost, load: LabHost, given: argparse.Namespace) -> None:
    """Measure and print."""
    put(load, "/etc/hosts", f"127.0.0.1 localhost\n{edge.address} {NAME}\n")
    for size in SIZES:
        for peer in PEERS:
            wrk(edge, load, peer, size, 1, Seen())
    table = {(peer, size): Seen() for peer in PEERS for size in SIZES}
    for turn in range(given.repeat):
        for size in SIZES:
            # In turns, and each of the two that are compared as often before the other as after it.
            for peer in list(PEERS) if turn % 2 else list(PEERS)[::-1]:
                wrk(edge, load, peer, size, given.seconds, table[peer, size])
    for what, value in (
        ("hits/s, median", lambda seen: statistics.median(seen.rates)),
        ("hits/s, best", lambda seen: max(seen.rates)),
        ("CPU for a hit, µs", lambda seen: seen.cpu / max(1, seen.requests) * 1e6),
    ):
        print(f"| {what} | " + " | ".join(f"{size} KB | of by hand" for size in SIZES) + " |")
        print("|---|" + "--:|--:|" * len(SIZES))
        for peer in PEERS:
            cells = []
            for size in SIZES:
                one, hand = value(table[peer, size]), value(table[HAND, size])
                cells += [f"{one:.0f}", f"{one / hand:.2f}"]
            print(f"| {peer} | " + " | ".join(cells) + " |")
        print()


async def changes(deck: Deck, edges: list[str], given: argparse.Namespace) -> None:
    """Measure how long a purge and a deploy take on all edges."""
    took: dict[str, list[float]] = {"purge of one URL": [], "deploy of a changed rule": []}
    for number in range(given.repeat):
        await run(deck, "warm", urls=f"https://{NAME}/assets/10", rate=100)
        begun = time.monotonic()
        receipt = await run(deck, "purge", urls=[f"https://{NAME}/assets/10"])
        took["purge of one URL"].append(time.monotonic() - begun)
        if receipt["owing"]:
            raise SystemExit(f"owing: {receipt['owing']}")
        await run(deck, "site", name="bench", rules=[f"static /assets/* ttl={number + 2}h"])
        begun = time.monotonic()
        await run(deck, "deploy")
        took["deploy of a changed rule"].append(time.monotonic() - begun)
        rows = (await book.load(deck.db)).rows
        if len({row.generation.rpartition("-")[2] for row in rows.values()}) != len(edges):
            raise SystemExit("not all edges have a generation of their own")
    print(f"| on {len(edges)} edges | median, s | best, s |\n|---|--:|--:|")
    for what, times in took.items():
        print(f"| {what} | {statistics.median(times):.2f} | {min(times):.2f} |")


async def main(given: argparse.Namespace) -> None:
    """Set the stage, measure, clear it."""
    fleet = Fleet("bench-cdn")
    fleet.down()
    try:
        count = given.edges or 1
        edges = [f"bench-e{number}" for number in range(count)]
        packages = ("nginx",) if given.edges else ("nginx", "varnish", "hitch")
        specs = [HostSpec(name, packages) for name in edges]
        if not given.edges:
            specs.append(HostSpec("bench-load", ("wrk",)))
        fleet.up([*specs, HostSpec("bench-ca", authority.PACKAGES)])
        subnet = fleet.network.subnet()
        server = ThreadingHTTPServer((str(subnet[1]) if subnet else "", 0), Origin)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        origin = f"{server.server_address[0]!s}:{server.server_port}"
        async with cdn(fleet, edges, fleet.host("bench-ca"), origin) as deck:
            if given.edges:
                await changes(deck, edges, given)
            else:
                peers(fleet.host(edges[0]), origin)
                await asyncio.sleep(3)
                hits(fleet.host(edges[0]), fleet.host("bench-load"), given)
    finally:
        fleet.down()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=int, default=0, help="measure purges and deploys on so many edges instead")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4, help="of each run of wrk")
    asyncio.run(main(parser.parse_args()))
