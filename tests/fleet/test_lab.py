"""The fleet itself: what a host has, what can be done to it, and that nothing of a fleet stays behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import asyncssh
import pytest

from opsdeck.errors import Invalid, NotFound, Unavailable
from opsdeck.lab.fleet import Fleet, HostSpec, LabFault, LabHost, fleets, machine
from opsdeck.ssh.endpoint import Sudo


async def dial(host: LabHost, user: str = "root") -> asyncssh.SSHClientConnection:
    endpoint = host.endpoint(user)
    return await asyncssh.connect(
        endpoint.address,
        endpoint.port,
        username=endpoint.user,
        client_keys=[asyncssh.import_private_key(endpoint.credential.secret.reveal())],
        known_hosts=([asyncssh.import_public_key(endpoint.host_keys[0])], [], []),
        config=None,
        agent_path=None,
        login_timeout=3,
        connect_timeout=3,
    )


async def said(host: LabHost, command: str, user: str = "root", **options: str) -> str:
    async with await dial(host, user) as connection:
        return str((await connection.run(f"({command}) 2>&1", **options)).stdout).strip()


def wait_for_state(host: LabHost, wanted: str) -> None:
    deadline = time.monotonic() + 30
    while host.state() != wanted:
        assert time.monotonic() < deadline, host.state()
        time.sleep(0.1)


async def test_a_host_is_a_whole_system(fleet: Fleet) -> None:
    host = fleet.host("web1")
    assert await said(host, "systemctl is-system-running; hostname") == "running\nweb1"
    assert "it ran" in await said(host, "systemd-run --quiet --wait --pipe echo it ran")
    assert await said(host, "ping -c1 -W3 web2 >/dev/null && echo reached") == "reached"


async def test_each_user_has_its_way_to_root(fleet: Fleet) -> None:
    host = fleet.host("web1")
    assert await said(host, "sudo -n id -u", "ops") == "0"
    assert "password is required" in await said(host, "sudo -n id -u", "opspw")
    assert await said(host, "sudo -k -S -p '' id -u", "opspw", input=f"{host.password}\n") == "0"
    assert host.endpoint("opspw").sudo is Sudo.PASSWORD
    assert host.endpoint("ops").sudo_password is None


def test_hosts_do_not_share_their_control_groups(fleet: Fleet) -> None:
    def groups(host: LabHost) -> set[str]:
        found = set()
        for pid in host.processes():
            with contextlib.suppress(OSError):  # it ended meanwhile
                found |= set(Path(f"/proc/{pid}/cgroup").read_text().splitlines())
        return {line for line in found if line.split(":")[1] in ("", "name=systemd") and line.endswith(".service")}

    one, other = groups(fleet.host("web1")), groups(fleet.host("web2"))
    assert one
    assert other
    assert not one & other


async def test_a_cut_cable_tells_nobody_and_can_be_mended(fleet: Fleet) -> None:
    host = fleet.host("web1")
    async with await dial(host) as connection:
        host.cut()
        with pytest.raises((OSError, asyncssh.Error, TimeoutError)):
            await dial(host)
        host.mend()
        assert (await connection.run("echo still here")).stdout == "still here\n"


async def test_a_blocked_port_is_silent(fleet: Fleet) -> None:
    host = fleet.host("web1")
    host.block(22)
    with pytest.raises((OSError, asyncssh.Error, TimeoutError)):
        await dial(host)
    host.unblock()
    assert await said(host, "echo back") == "back"


async def test_a_slow_line_is_slow_both_ways(fleet: Fleet) -> None:
    host = fleet.host("web1")
    host.slow(2000)
    async with await dial(host) as connection:
        before = time.monotonic()
        assert len((await connection.run("head -c 300000 /dev/zero", encoding=None)).stdout or b"") == 300_000
        await connection.run("cat >/dev/null", input=bytes(300_000), encoding=None)
        assert time.monotonic() - before > 1.6  # 2 × 300 kB at 2 Mbit/s are 2.4 s, less the bursts


async def test_a_full_disk_is_full_and_empties(fleet: Fleet) -> None:
    host = fleet.host("small1")
    host.fill()
    assert "No space left" in await said(host, "head -c 100000 /dev/zero > /root/more")
    host.empty()
    assert await said(host, "echo fits > /root/more && cat /root/more") == "fits"
    with pytest.raises(Invalid):
        fleet.host("web1").fill()


async def test_a_killed_host_keeps_its_disk_and_comes_back(fleet: Fleet) -> None:
    host = fleet.host("web2")
    await said(host, "echo kept > /root/note")
    host.kill()
    assert host.state() == "off"
    assert not host.processes()
    with pytest.raises((OSError, asyncssh.Error, TimeoutError)):
        await dial(host)
    host.start()
    assert await said(host, "cat /root/note") == "kept"


async def test_a_host_reboots(fleet: Fleet) -> None:
    host = fleet.host("web2")
    before = await said(host, "systemctl show --value --property UserspaceTimestampMonotonic")
    await said(host, "systemd-run --quiet --on-active=100ms systemctl reboot")
    deadline = time.monotonic() + 30
    after = before
    while after == before and time.monotonic() < deadline:
        await asyncio.sleep(0.3)
        try:
            after = await said(host, "systemctl show --value --property UserspaceTimestampMonotonic")
        except (OSError, asyncssh.Error, TimeoutError):
            continue
    assert after != before
    wait_for_state(host, "running")


async def test_a_host_may_have_packages_and_tunnels(lab: Fleet) -> None:
    lab.up([HostSpec("tun1", packages=("netcat-openbsd",), tun=True)])
    assert await said(lab.host("tun1"), "ip tuntap add dev tun0 mode tun && ip netns add x && command -v nc") == (
        "/usr/bin/nc"
    )


def test_the_inventory_says_how_to_reach_each_host(fleet: Fleet) -> None:
    found = json.loads(fleet.inventory_file.read_text())
    assert fleet.inventory_file.stat().st_mode & 0o077 == 0
    host = found["hosts"][0]
    assert host["host_key"].startswith("ssh-ed25519 ")
    assert Path(host["private_key"]).stat().st_mode & 0o077 == 0
    with pytest.raises(NotFound):
        fleet.host("nobody")


async def test_two_fleets_do_not_meet_and_one_leaves_without_a_trace(fleet: Fleet) -> None:
    other = Fleet(f"{fleet.name}-b"[:30])
    try:
        other.up([HostSpec("web1")])
        assert other.host("web1").address != fleet.host("web1").address
        assert other.traces()
        own, stranger = other.host("web1").address, fleet.host("web1").address
        ask = "timeout 2 bash -c 'exec 3<>/dev/tcp/{0}/22' && echo met || echo nothing"
        assert await said(other.host("web1"), ask.format(own)) == "met"
        assert await said(other.host("web1"), ask.format(stranger)) == "nothing"
    finally:
        other.down()
    assert other.traces() == []
    assert other.name not in fleets()
    assert fleet.host("web1").state() == "running"


def test_a_fleet_whose_maker_was_killed_is_removed_all_the_same(fleet: Fleet) -> None:
    name = f"{fleet.name}-c"[:30]
    code = f"from opsdeck.lab.fleet import *; Fleet({name!r}).up([HostSpec(f'x{{n}}') for n in range(6)])"
    with subprocess.Popen([sys.executable, "-c", code]) as maker:
        other = Fleet(name)
        deadline = time.monotonic() + 60
        while not other.network.processes() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(maker.pid, signal.SIGKILL)
    assert other.traces()
    other.down()
    assert other.traces() == []


def test_when_a_host_cannot_be_made_the_fleet_is_as_before(fleet: Fleet) -> None:
    names = [host.name for host in fleet.hosts()]
    with pytest.raises(LabFault, match="no-such-package"):
        fleet.up([HostSpec("web9", packages=("no-such-package",))])
    assert [host.name for host in fleet.hosts()] == names
    assert not any("web9" in trace for trace in fleet.traces())
    with pytest.raises(Invalid):
        fleet.up([HostSpec("same"), HostSpec("same")])


@pytest.mark.parametrize("name", ["", "Web", "a b", "../x", "-a", "a-", "a" * 31])
def test_a_bad_name_is_refused_before_anything_is_done(fleet: Fleet, name: str) -> None:
    with pytest.raises(Invalid):
        HostSpec(name)
    with pytest.raises(Invalid):
        Fleet(name)


def test_what_is_missing_is_named_with_the_next_step(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    for reasons, word in (
        (("not root",), "as root"),
        (("no nft (package nftables)",), "apt-get install nftables"),
        (("no right to mount an overlay: permission denied",), "privileged"),
    ):
        monkeypatch.setattr(machine, "missing", lambda reasons=reasons: reasons)
        with pytest.raises(Unavailable) as caught:
            machine.require()
        assert reasons[0] in caught.value.message
        assert word in str(caught.value.hint)
