"""What the SOCKS port costs, against the same tunnel used directly in its namespace, by turns in one run."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from opsdeck_vpn.render.gateway import SOCKS_USER

from opsdeck.actor import SYSTEM

pytestmark = [
    pytest.mark.fleet,
    pytest.mark.skipif(not os.environ.get("OPSDECK_BENCH"), reason="a benchmark: tests/bench/vpn.py runs it"),
]

if TYPE_CHECKING:
    Office = Any
    Gateway = Any

TURNS = 6
ECHO = """
import selectors, socket
watch = selectors.DefaultSelector()
watch.register(server := socket.create_server(("10.78.0.1", 7), backlog=500), selectors.EVENT_READ)
while True:
    for key, _ in watch.select():
        if key.fileobj is server:
            one = server.accept()[0]
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            watch.register(one, selectors.EVENT_READ)
        elif data := key.fileobj.recv(1000):
            key.fileobj.send(data)
        else:
            watch.unregister(key.fileobj)
            key.fileobj.close()
"""
PING = """
import socket, sys, time
words = sys.stdin.read().split()
def dial():
    if not words:
        one = socket.create_connection(("10.78.0.1", 7), 5)
    else:
        one = socket.create_connection(("127.0.0.1", 1080), 5)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if words:
        user, password = words[0].encode(), words[1].encode()
        one.send(bytes([5, 1, 2])); one.recv(2)
        one.send(bytes([1, len(user)]) + user + bytes([len(password)]) + password); one.recv(2)
        one.send(bytes([5, 1, 0, 1, 10, 78, 0, 1, 0, 7])); assert one.recv(10)[1] == 0
    return one
def timed(name, work, times):
    for _ in range(times):
        begun = time.perf_counter(); work(); print(name, (time.perf_counter() - begun) * 1000)
one = dial()
def ask():
    one.send(b"x" * 64); one.recv(100)
timed("open", ask, 300)
def connect():
    dial().close()
timed("connect", connect, 60)
"""


async def test_the_cost_of_the_port(office: Office, gateway: Gateway) -> None:
    office.open()
    office.sh("head -c 64M /dev/urandom > /srv/site/big; chmod 644 /srv/site/big")
    tunnel = await gateway.take_in("office", office.profile())
    assert (await gateway.run("up", "office")).state == "succeeded"
    password = (await gateway.deck.secrets.reveal(tunnel.socks_secret, actor=SYSTEM, purpose="bench")).reveal()
    inside = ["ip", "netns", "exec", "ov-office"]
    ways = {"direct": [], "socks": ["--proxy", f"socks5h://{SOCKS_USER}:{password}@127.0.0.1:1080"]}
    seen: dict[str, dict[str, list[float]]] = {way: {} for way in ways}

    async def run(way: str, argv: list[str], stdin: str = "") -> str:
        whole = [*(inside if way == "direct" else []), *argv]
        return str(await asyncio.to_thread(gateway.host.execute, whole, stdin=stdin, timeout=120))

    async def fetch(way: str, what: str, path: str, times: int) -> list[float]:
        outs = [word for _ in range(times) for word in ("-o", "/dev/null", f"http://10.78.0.1/{path}")]
        said = await run(way, ["curl", *ways[way], "-s", "-w", f"%{{{what}}}\\n", *outs])
        return [float(line) for line in said.split()]

    def burnt(unit: str) -> float:
        pid = gateway.sh(f"systemctl show -P MainPID {unit}").strip()
        fields = gateway.sh(f"cat /proc/{pid}/stat").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    argv = ["ip", "netns", "exec", office.host.namespace, sys.executable, "-c", ECHO]
    with subprocess.Popen(argv) as echo:
        await asyncio.sleep(1)
        try:
            for _ in range(TURNS):
                for way, found in seen.items():
                    found.setdefault("mbit", []).extend(
                        8e-6 * speed for speed in await fetch(way, "speed_download", "big", 1)
                    )
                    found.setdefault("page", []).extend(
                        1000 * took for took in await fetch(way, "time_total", "index.html", 20)
                    )
                    login = f"{SOCKS_USER} {password}" if way == "socks" else ""
                    for line in (await run(way, ["python3", "-I", "-S", "-c", PING], login)).splitlines():
                        name, took = line.split()
                        found.setdefault(name, []).append(float(took))
        finally:
            echo.kill()
    units = {"tunnel": "opsdeck-vpn-office-dial.service", "port": "opsdeck-vpn-office-door.service"}
    before = {name: burnt(unit) for name, unit in units.items()}
    await fetch("socks", "speed_download", "big", 4)
    work = {name: round((burnt(unit) - before[name]) / (4 * 64 / 1024), 2) for name, unit in units.items()}
    back = []
    for away in (2, 25):
        office.sh("systemctl kill -s KILL office-vpn; sleep 1; systemctl reset-failed office-vpn")
        await asyncio.sleep(away)
        office.serve()
        begun = time.monotonic()
        while "hello" not in await gateway.curl(tunnel, "http://10.78.0.1/index.html", seconds=1):
            await asyncio.sleep(0.1)
            assert time.monotonic() - begun < 60
        back.append(round(time.monotonic() - begun, 1))
    middle = {way: {name: statistics.median(values) for name, values in found.items()} for way, found in seen.items()}
    direct, socks = middle["direct"], middle["socks"]
    figures = {
        "throughput_ratio": round(socks["mbit"] / direct["mbit"], 3),
        **{f"added_ms_{name}": round(socks[name] - direct[name], 3) for name in ("open", "connect", "page")},
        "cpu_s_per_gib": work,
        "back_s_after_2_and_25_away": back,
        **{way: {name: round(value, 3) for name, value in found.items()} for way, found in middle.items()},
    }
    print(json.dumps(figures))
    assert len(seen["socks"]["open"]) == TURNS * 300
