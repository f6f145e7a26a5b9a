"""A tunnel on real hosts: up, closed by construction, healed, refused, rebooted."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from opsdeck_vpn import attend, enrol, tunnels

from opsdeck.actor import SYSTEM
from opsdeck.secrets.sensitive import Sensitive as secret

pytestmark = pytest.mark.fleet

if TYPE_CHECKING:
    Office = Any
    Gateway = Any

SITE = "the intranet says hello"


async def test_a_profile_becomes_a_socks_port_that_reaches_the_office_and_nothing_else(
    office: Office, gateway: Gateway
) -> None:
    office.open()
    tunnel = await gateway.take_in("office", office.profile())
    job = await gateway.run("up", "office")
    assert job.state == "succeeded", await gateway.said(job)
    tunnel = await gateway.row("office")
    assert (tunnel.state, tunnel.local) == ("up", "10.77.0.2")
    assert tunnel.pushed == {"route": ["10.78.0.0/255.255.0.0"], "dns": ["10.77.0.1"], "domain": ["corp.test"]}
    assert SITE in await gateway.curl(tunnel, "http://intra.corp.test/")
    assert SITE in await gateway.curl(tunnel, "http://10.78.0.1/")
    assert "10.78" not in gateway.sh("ip route")
    assert "corp.test" not in gateway.sh("cat /etc/resolv.conf")
    assert await gateway.curl(tunnel, f"http://{gateway.host.address}:22/", "--http0.9") == ""
    assert "0.0.0.0:1080" not in gateway.sh("ss -ltn")
    password = (await gateway.deck.secrets.reveal(tunnel.socks_secret, actor=SYSTEM, purpose="test")).reveal()
    seen = gateway.sh("cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'")
    assert "door.py" in seen
    assert password not in seen
    assert gateway.sh("curl -s --max-time 3 --proxy socks5h://127.0.0.1:1080 http://10.78.0.1/") == ""


async def test_a_host_without_docker_is_said_to_have_none(office: Office, gateway: Gateway) -> None:
    office.open()
    await gateway.take_in("office", office.profile(), driver="compose")
    job = await gateway.run("up", "office")
    assert job.state == "failed"
    assert "there is no Docker Compose on the host" in await gateway.said(job)
    assert "office" not in gateway.sh("ls /etc/opsdeck/vpn /etc/tmpfiles.d 2>/dev/null")


async def test_a_dead_tunnel_lets_nothing_out_and_heals(office: Office, gateway: Gateway) -> None:
    office.open()
    tunnel = await gateway.take_in("office", office.profile())
    assert (await gateway.run("up", "office")).state == "succeeded"
    async with gateway.watching():
        await gateway.comes("office", lambda row: row.state == "up")
        gateway.sh("systemctl stop opsdeck-vpn-office-dial.service")
        assert await gateway.curl(tunnel, "http://10.78.0.1/", seconds=4) == ""
        assert await gateway.curl(tunnel, f"http://{office.host.address}:22/", "--http0.9", seconds=4) == ""
        assert "SSH" in gateway.sh(f"timeout 4 curl -s --http0.9 --max-time 3 http://{office.host.address}:22/")
        await gateway.comes("office", lambda row: row.state == "reconnecting")
        gateway.sh("systemctl start opsdeck-vpn-office-dial.service")
        await gateway.comes("office", lambda row: row.state == "up")
        gateway.sh("systemctl kill -s KILL opsdeck-vpn-office-dial.service")
        await gateway.comes("office", lambda row: row.state != "up")
        await gateway.comes("office", lambda row: row.state == "up")
        assert SITE in await gateway.curl(tunnel, "http://intra.corp.test/")
        office.sh("systemctl stop office-vpn; systemctl reset-failed office-vpn 2>/dev/null; true")
        await gateway.comes("office", lambda row: row.state != "up")
        office.serve()
        await gateway.comes("office", lambda row: row.state == "up")
        job = await gateway.run("leak_test", "office")
        assert job.state == "succeeded", await gateway.said(job)
        names = "/run/opsdeck-vpn/office/resolv.conf"
        good = gateway.sh(f"cat {names}")
        for sabotage, mend, words in (
            (f"echo nameserver 192.0.2.53 >>{names}", f"cat >{names} <<'E'\n{good}\nE", "the office did not name"),
            (
                "ip -n ov-office route add 10.77.0.1/32 dev lo",
                "ip -n ov-office route delete 10.77.0.1/32 dev lo",
                "not reached through the tunnel",
            ),
        ):
            gateway.sh(sabotage)
            job = await gateway.run("check", "office")
            assert job.state == "failed"
            assert words in await gateway.said(job)
            gateway.sh(mend)
        job = await gateway.run("check", "office")
        assert job.state == "succeeded", await gateway.said(job)


@pytest.mark.campaign
async def test_what_is_taken_down_while_it_is_lost_stays_down(office: Office, gateway: Gateway) -> None:
    office.open()
    await gateway.take_in("office", office.profile(), probe="10.78.0.1:80")
    assert (await gateway.run("up", "office")).state == "succeeded"
    async with gateway.watching():
        await gateway.comes("office", lambda row: row.latency_ms is not None)
        office.close()
        await gateway.comes("office", lambda row: row.state != "up")
        for _ in range(3):
            job = await gateway.run("down", "office")
            assert job.state == "succeeded", await gateway.said(job)
            await asyncio.sleep(4)
            row = await gateway.row("office")
            assert (row.state, row.reason) == ("down", "")
            await tunnels.change(gateway.deck.db, "office", wanted=True)
            await gateway.comes("office", lambda row: row.state != "down")


@pytest.mark.campaign
async def test_an_expired_certificate_is_named(office: Office, gateway: Gateway) -> None:
    office.open(days=-1)
    await gateway.take_in("office", office.profile())
    job = await gateway.run("up", "office", wait=20)
    assert job.state == "failed"
    assert "certificate has expired" in await gateway.said(job)


@pytest.mark.campaign
@pytest.mark.parametrize("net", ["10.77.0", "172.17.0"])
async def test_two_tunnels_with_the_same_network_which_the_host_or_its_docker_has_too(
    office: Office, gateway: Gateway, net: str
) -> None:
    gateway.sh(f"ip link add clash type bridge; ip address add {net}.9/24 dev clash; ip link set clash up")
    try:
        office.open(net=f"{net}.0")
        first = await gateway.take_in("one", office.profile())
        second = await gateway.take_in("one-net", office.profile())
        assert (first.port, second.port) == (1080, 1081)
        for name in ("one", "one-net"):
            job = await gateway.run("up", name)
            assert job.state == "succeeded", await gateway.said(job)
        for tunnel in (first, second):
            assert SITE in await gateway.curl(tunnel, "http://intra.corp.test/")
        assert f"{net}.0/24 dev clash" in gateway.sh("ip route")
        assert (await gateway.run("remove", "one")).state == "succeeded"
        assert SITE in await gateway.curl(second, "http://intra.corp.test/")
        left = gateway.sh("ls /etc/systemd/system /etc/opsdeck/vpn; ip netns list").split()
        assert [each for each in left if each.startswith("opsdeck-vpn-one") and "one-net-" not in each] == []
        assert {"one", "ov-one"}.isdisjoint(left)
    finally:
        gateway.sh("ip link delete clash")


async def test_hooks_and_metacharacters_of_a_profile_run_nothing(office: Office, gateway: Gateway) -> None:
    bad = 'push "dhcp-option DOMAIN $(touch${IFS}/tmp/owned)"\npush "dhcp-option DNS 1.2.3.4;touch /tmp/owned"'
    office.open(extra=bad)
    extra = '\n'.join(
        (
            'up "/bin/touch /tmp/owned"', "script-security 3", "plugin /tmp/evil.so", "log /etc/passwd",
            'setenv PATH "/tmp"', 'verify-x509-name "`touch /tmp/owned`; $(touch /tmp/owned)" subject', "cd /tmp",
            "management 0.0.0.0 7505", 'route-up "sh -c id"', "config /etc/shadow",
        )
    )  # fmt: skip
    await gateway.take_in("office", office.profile(extra=extra))
    await gateway.run("up", "office", wait=5)
    assert gateway.sh("ls /tmp/owned 2>/dev/null") == ""
    await gateway.run("remove", "office")
    await gateway.take_in("office", office.profile())
    job = await gateway.run("up", "office")
    assert job.state == "succeeded", await gateway.said(job)
    assert gateway.sh("ls /tmp/owned 2>/dev/null") == ""
    assert "touch" not in gateway.sh("cat /run/opsdeck-vpn/office/resolv.conf")


@pytest.mark.campaign
async def test_a_rebooted_gateway_dials_again_by_itself(office: Office, gateway: Gateway) -> None:
    office.open()
    tunnel = await gateway.take_in("office", office.profile())
    assert (await gateway.run("up", "office")).state == "succeeded"
    gateway.host.kill()
    gateway.host.start()
    await gateway.reaches(tunnel)  # without a console
    await gateway.run("remove", "office")
    office.open(login=True)
    tunnel = await gateway.take_in("office", office.profile(login=True), username="alice", password=secret("right-one"))
    async with gateway.watching():
        assert (await gateway.run("up", "office")).state == "succeeded"
        gateway.host.kill()
        gateway.host.start()
        await gateway.reaches(tunnel)
        await gateway.comes("office", lambda row: row.state == "up")


def open_wireguard(office: Office, endpoint: str) -> str:
    """Open the office to WireGuard; give the profile of somebody who reaches it at `endpoint`."""
    office.open()
    keys = office.sh("for i in 1 2; do k=$(wg genkey); echo $k; echo $k | wg pubkey; done").split()
    office.write("/etc/office/wg.conf", f"[Interface]\nPrivateKey = {keys[0]}\nListenPort = 51820\n"
                 f"[Peer]\nPublicKey = {keys[3]}\nAllowedIPs = 10.99.0.2/32\n")  # fmt: skip
    office.sh("systemd-run -q --unit=office-wg --setenv=WG_PROCESS_FOREGROUND=1 wireguard-go wgoffice; sleep 1; "
              "wg setconf wgoffice /etc/office/wg.conf; ip address add 10.99.0.1/24 dev wgoffice; "
              "ip link set wgoffice up mtu 1420")  # fmt: skip
    names = "--address=/intra.corp.test/10.78.0.1 --no-resolv --no-hosts --bind-dynamic"
    office.sh("systemctl stop office-dns")
    office.sh(f"systemd-run -q --unit=office-dns dnsmasq -k --listen-address=10.99.0.1 {names}")
    return f"""[Interface]
PrivateKey = {keys[2]}
Address = 10.99.0.2/32
DNS = 10.99.0.1, corp.test
PostUp = touch /tmp/owned
[Peer]
PublicKey = {keys[1]}
AllowedIPs = 10.99.0.0/24, 10.78.0.0/16
Endpoint = {endpoint}:51820
"""


async def test_wireguard_with_the_one_in_user_space(office: Office, gateway: Gateway) -> None:
    tunnel = await gateway.take_in("wg", open_wireguard(office, office.host.address))
    assert tunnel.kind == "wireguard"
    job = await gateway.run("up", "wg")
    assert job.state == "succeeded", await gateway.said(job)
    assert SITE in await gateway.curl(tunnel, "http://intra.corp.test/")
    job = await gateway.run("leak_test", "wg")
    assert job.state == "succeeded", await gateway.said(job)
    row = await gateway.row("wg")
    assert row.received > 0
    assert row.sent > 0
    assert row.state == "up"  # it shakes hands again without anybody's traffic
    assert gateway.sh("ls /tmp/owned 2>/dev/null") == ""


@contextlib.contextmanager
def moving(office: Office, gateway: Gateway) -> Iterator[Callable[[], None]]:
    """Let the gateway know the server as vpn.corp.test; what is given moves it to another address."""
    first, second = office.host.address, office.host.address.rpartition(".")[0] + ".250"
    hosts = gateway.host.root / "etc/hosts"
    before = hosts.read_text()

    def move() -> None:
        office.sh(f"ip address add {second}/22 dev host0")
        drop = f"ip daddr {first} udp dport {{ 1194, 51820 }} drop"
        office.sh(
            f"nft add table inet moved; nft 'add chain inet moved in {{ type filter hook input priority 0; {drop}; }}'"
        )
        hosts.write_text(f"{before}{second} vpn.corp.test\n")

    try:
        hosts.write_text(f"{before}{first} vpn.corp.test\n")
        yield move
    finally:
        hosts.write_text(before)
        office.sh(f"nft delete table inet moved; ip address delete {second}/22 dev host0", check=False)


@pytest.mark.campaign
async def test_a_server_that_moved_is_found_by_its_name(office: Office, gateway: Gateway) -> None:
    office.open(extra="multihome")  # it answers from the address it was asked at
    with moving(office, gateway) as move:
        profile = office.profile().replace(f"remote {office.host.address}", "remote vpn.corp.test")
        tunnel = await gateway.take_in("office", profile)
        assert (await gateway.run("up", "office")).state == "succeeded"
        move()
        async with gateway.watching():
            await gateway.comes("office", lambda row: row.state in ("degraded", "reconnecting"))
            await gateway.comes("office", lambda row: row.state == "up")
        assert SITE in await gateway.curl(tunnel, "http://intra.corp.test/")


@pytest.mark.campaign
async def test_a_wireguard_peer_that_moved_is_found_by_its_name(
    office: Office, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    with moving(office, gateway) as move:
        tunnel = await gateway.take_in("wg", open_wireguard(office, "vpn.corp.test"))
        assert (await gateway.run("up", "wg")).state == "succeeded"
        move()
        monkeypatch.setattr(attend, "HANDSHAKE_SECONDS", 5)  # three minutes and one are long
        monkeypatch.setattr(attend, "REDIAL_SECONDS", 3)
        async with gateway.watching():
            await gateway.comes("wg", lambda row: row.state == "reconnecting")
            await gateway.comes("wg", lambda row: row.state == "up")
            monkeypatch.undo()
            await gateway.reaches(tunnel)
            await gateway.comes("wg", lambda row: row.state == "up")


@pytest.mark.campaign
async def test_a_path_on_which_large_packets_vanish(office: Office, gateway: Gateway) -> None:
    office.open()
    office.sh("head -c 300000 /dev/zero | tr '\\0' x > /srv/site/big; chmod 644 /srv/site/big")
    hole = "udp dport 1194 meta length > 1280 drop; udp sport 1194 meta length > 1280 drop;"
    chains = " ".join(f"chain {way} {{ type filter hook {way} priority 0; {hole} }};" for way in ("input", "output"))
    try:
        office.host.execute(["nft", "-f", "-"], stdin=f"table inet hole {{ {chains} }}\n")
        tunnel = await gateway.take_in("office", office.profile())
        assert (await gateway.run("up", "office")).state == "succeeded"
        page = await gateway.curl(tunnel, "http://intra.corp.test/big", seconds=15)
        assert len(page) == 300000
        assert (await gateway.run("remove", "office")).state == "succeeded"
        tunnel = await gateway.take_in("office", office.profile(extra="mssfix 0"))
        job = await gateway.run("up", "office")
        said = await gateway.said(job)
        assert "pages hang while pings go through" in said
        assert len(await gateway.curl(tunnel, "http://intra.corp.test/big", seconds=5)) < 300000
        job = await gateway.run("check", "office")
        assert job.state == "failed"
        (size,) = re.findall(r"opsdeck vpn set office --mtu ([0-9]+)", said)
        assert 1100 < int(size) < 1280
        await enrol.adjust(gateway.deck, "office", SYSTEM, mtu=int(size))
        assert (await gateway.run("up", "office")).state == "succeeded"
        assert len(await gateway.curl(tunnel, "http://intra.corp.test/big", seconds=15)) == 300000
        job = await gateway.run("check", "office")
        assert job.state == "succeeded", await gateway.said(job)
    finally:
        office.sh("nft delete table inet hole", check=False)
