"""From an office to a laptop: the served profile reaches the intranet by name, and everything else directly."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from opsdeck_vpn import book
from opsdeck_vpn.cores import Core, program
from opsdeck_web import serve

from opsdeck.actor import SYSTEM

pytestmark = pytest.mark.fleet

if TYPE_CHECKING:
    Office = Any
    Gateway = Any

SITE = "the intranet says hello"
RUN = {
    Core.MIHOMO: "mihomo -d /srv/core -f /srv/core/config.yaml",
    Core.SING_BOX: "sing-box run -c /srv/core/config.json",
}
WHO = """#!/bin/sh
read -r line
printf 'HTTP/1.0 200 OK\\r\\n\\r\\n%s' "$SOCAT_PEERADDR"
"""
COUNT = """
table inet leak
delete table inet leak
table inet leak { chain out { type filter hook output priority 0; ip daddr { 10.77.0.0/16, 10.78.0.0/16 } counter; }; }
"""
UDP = """
import socket, struct
tcp = socket.create_connection(("127.0.0.1", 7890), 5)
tcp.sendall(bytes([5, 1, 0])); tcp.recv(2)
tcp.sendall(bytes([5, 3, 0, 1, 0, 0, 0, 0, 0, 0])); answer = tcp.recv(10)
port = struct.unpack(">H", answer[8:10])[0]
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.settimeout(2)
for name in (b"\\x01" + socket.inet_aton("10.78.0.1"), b"\\x03\\x0fintra.corp.test"):
    for _ in range(3):
        udp.sendto(bytes([0, 0, 0]) + name + struct.pack(">H", 5353) + b"hello", ("127.0.0.1", port))
try:
    print("answered", udp.recv(100))
except OSError:
    print("silence")
"""


@pytest.mark.parametrize("core", list(Core))
async def test_a_laptop_reaches_the_intranet_by_name_and_the_rest_directly(
    office: Office, gateway: Gateway, machines: dict[str, Any], core: Core
) -> None:
    laptop = machines["vpn-laptop"]

    def sh(text: str) -> str:
        return str(laptop.execute(["sh", "-c", text], check=False, timeout=40))

    binary = program(core)
    assert binary is not None
    shutil.copy(binary, laptop.root / f"usr/local/bin/{core.value}")
    office.open()
    office.write("/etc/office/who", WHO, 0o755)
    office.sh("systemd-run -q --unit=office-who socat TCP-LISTEN:8081,fork,reuseaddr EXEC:/etc/office/who")
    tunnel = await gateway.take_in("office", office.profile(), listen=gateway.host.address)
    job = await gateway.run("up", "office")
    assert job.state == "succeeded", await gateway.said(job)
    await book.take_over(gateway.deck, "office", SYSTEM)
    token = (await book.add_device(gateway.deck, "laptop", SYSTEM)).reveal()
    console = sh("ip route show default").split()[2]
    sock = serve.listen(console, 0)
    proxied = "curl -s --max-time 6 --proxy http://127.0.0.1:7890"
    try:
        async with serve.console(gateway.deck, sock):
            url = f"http://{console}:{sock.getsockname()[1]}/p/vpn/profile/{token}/{core.file}"
            sh("systemctl stop core; rm -rf /srv/core; mkdir -p /srv/core")
            said = await asyncio.to_thread(sh, f"curl -s -D- -o /srv/core/{core.file} {url}")
            assert " 200 " in said.splitlines()[0]
            assert "etag:" in said.lower()
        sh(f"systemd-run -q --unit=core {RUN[core]}")
        for _ in range(40):
            if ":7890" in sh("ss -ltn"):
                break
            await asyncio.sleep(0.25)
        laptop.execute(["nft", "-f", "-"], stdin=COUNT)
        assert SITE in await asyncio.to_thread(sh, f"{proxied} http://intra.corp.test/"), sh("journalctl -u core -n 20")
        assert SITE in await asyncio.to_thread(sh, f"{proxied} http://10.78.0.1/")
        direct = f"{proxied} http://{office.host.address}:8081/"
        assert await asyncio.to_thread(sh, direct) == laptop.address
        argv = ["ip", "netns", "exec", laptop.namespace, sys.executable, "-c", UDP]
        udp = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, timeout=20)
        assert "silence" in udp.stdout, udp
        gateway.sh("systemctl stop opsdeck-vpn-office.service")
        assert SITE not in await asyncio.to_thread(sh, f"{proxied} http://intra.corp.test/")
        assert SITE not in await asyncio.to_thread(sh, f"{proxied} http://10.78.0.1/")
        assert await asyncio.to_thread(sh, direct) == laptop.address
        counted = json.loads(sh("nft -j list table inet leak"))["nftables"]
        (rule,) = [item["rule"] for item in counted if "rule" in item]
        (counter,) = [part["counter"] for part in rule["expr"] if "counter" in part]
        assert counter["packets"] == 0
        (fetch,) = await book.fetches(gateway.deck)
        assert (fetch.device, fetch.core, fetch.source) == ("laptop", core.value, laptop.address)
        assert tunnel.listen == gateway.host.address
    finally:
        sh("systemctl stop core; nft delete table inet leak")
        sock.close()
