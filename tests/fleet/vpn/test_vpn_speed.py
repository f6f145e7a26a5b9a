"""What the SOCKS port costs: throughput and latency against the same tunnel used directly, by turns in one run."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
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


async def test_the_cost_of_the_port(office: Office, gateway: Gateway) -> None:
    office.open()
    office.sh("head -c 64M /dev/urandom > /srv/site/big; chmod 644 /srv/site/big")
    tunnel = await gateway.take_in("office", office.profile())
    assert (await gateway.run("up", "office")).state == "succeeded"
    password = await gateway.deck.secrets.reveal(tunnel.socks_secret, actor=SYSTEM, purpose="bench")
    ways = {
        "direct": ["ip", "netns", "exec", "ov-office", "curl"],
        "socks": ["curl", "--proxy", f"socks5h://{SOCKS_USER}:{password.reveal()}@127.0.0.1:1080"],
    }

    async def measure(way: str, what: str, path: str, times: int) -> list[float]:
        urls = [f"http://10.78.0.1/{path}"] * times
        outs = [word for _ in urls for word in ("-o", "/dev/null")]
        argv = [*ways[way], "-s", *outs, "-w", f"%{{{what}}}\\n", *urls]
        said = await asyncio.to_thread(gateway.host.execute, argv, timeout=120)
        return [float(line) for line in said.split()]

    speed: dict[str, list[float]] = {"direct": [], "socks": []}
    delay: dict[str, list[float]] = {"direct": [], "socks": []}
    for _ in range(4):
        for way in ways:
            speed[way] += await measure(way, "speed_download", "big", 1)
            delay[way] += await measure(way, "time_total", "index.html", 30)
    figures = {
        "direct_mbit": round(statistics.median(speed["direct"]) * 8e-6, 1),
        "socks_mbit": round(statistics.median(speed["socks"]) * 8e-6, 1),
        "throughput_ratio": round(statistics.median(speed["socks"]) / statistics.median(speed["direct"]), 3),
        "added_ms": round((statistics.median(delay["socks"]) - statistics.median(delay["direct"])) * 1000, 3),
    }
    print(json.dumps(figures))
    assert len(delay["socks"]) == 120
