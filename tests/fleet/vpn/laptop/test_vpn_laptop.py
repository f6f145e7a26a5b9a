"""From an office to a laptop: the served profile reaches the intranet by name, and everything else directly."""

from __future__ import annotations

import asyncio
import json
import shutil
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
COUNT = """
table inet leak
delete table inet leak
table inet leak { chain out { type filter hook output priority 0; ip daddr { 10.77.0.0/16, 10.78.0.0/16 } counter; }; }
"""


@pytest.mark.parametrize("core", [pytest.param(Core.MIHOMO, marks=pytest.mark.campaign), Core.SING_BOX])
async def test_a_laptop_reaches_the_intranet_by_name_and_the_rest_directly(
    office: Office, gateway: Gateway, machines: dict[str, Any], udp: Any, core: Core
) -> None:
    laptop = machines["vpn-laptop"]

    def sh(text: str) -> str:
        return str(laptop.execute(["sh", "-c", text], check=False, timeout=40))

    binary = program(core)
    assert binary is not None
    shutil.copy(binary, laptop.root / f"usr/local/bin/{core.value}")
    office.open()
    office.tells_who()
    tunnel = await gateway.take_in("office", office.profile(), listen=gateway.host.address)
    job = await gateway.run("up", "office")
    assert job.state == "succeeded", await gateway.said(job)
    await book.take_over(gateway.deck, "office", SYSTEM)
    token = (await book.add_device(gateway.deck, "laptop", SYSTEM)).reveal()
    console = sh("ip route show default").split()[2]
    sock = serve.listen(console, 0)
    proxied = "curl -s --max-time 20 --proxy http://127.0.0.1:7890"
    try:
        async with serve.console(gateway.deck, sock):
            url = f"http://{console}:{sock.getsockname()[1]}/p/vpn/profile/{token}/{core.file}"
            sh("systemctl stop core; rm -rf /srv/core; mkdir -p /srv/core")
            said = await asyncio.to_thread(sh, f"curl -s -D- -o /srv/core/{core.file} {url}")
            assert " 200 " in said.splitlines()[0]
            assert "etag:" in said.lower()
        sh(f"systemd-run -q --unit=core {RUN[core]}")
        for _ in range(120):
            if ":7890" in sh("ss -ltn"):
                break
            await asyncio.sleep(0.25)
        laptop.execute(["nft", "-f", "-"], stdin=COUNT)
        assert SITE in await asyncio.to_thread(sh, f"{proxied} http://intra.corp.test/"), sh("journalctl -u core -n 20")
        assert SITE in await asyncio.to_thread(sh, f"{proxied} http://10.78.0.1/")
        direct = f"{proxied} http://{office.host.address}:8081/"
        assert await asyncio.to_thread(sh, direct) == laptop.address
        assert "silence" in await udp(laptop)
        gateway.sh("systemctl stop opsdeck-vpn-office-dial.service")
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
