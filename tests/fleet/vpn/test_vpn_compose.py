"""The Compose form on a host with a real Docker. What stands for `debian:bookworm-slim` is the lab's own Debian."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from opsdeck.actor import SYSTEM
from opsdeck.lab.fleet import Fleet, HostSpec, LabHost
from opsdeck.lab.fleet.images import base

pytestmark = [pytest.mark.fleet, pytest.mark.campaign]

if TYPE_CHECKING:
    Office = Any
    Gateway = Any

SITE = "the intranet says hello"
# A lab host has its control groups read-only and no kernel keyrings: neither is asked for. Everything else of Docker is
# as Debian has it.
PREPARE = """
set -e
systemctl stop docker.socket docker containerd
for each in cpu memory cpuset blkio cpuacct pids freezer; do umount /sys/fs/cgroup/$each 2>/dev/null || :; done
if [ -d /sys/fs/cgroup/devices ]; then mount -o remount,bind,rw /sys/fs/cgroup/devices; fi
cat >/usr/local/bin/runc-lab <<'R'
#!/bin/sh
for word; do
    shift
    set -- "$@" "$word"
    [ "$word" != create ] || set -- "$@" --no-new-keyring
done
exec runc "$@"
R
chmod 755 /usr/local/bin/runc-lab
mkdir -p /etc/docker
cat >/etc/docker/daemon.json <<'J'
{"runtimes": {"lab": {"path": "/usr/local/bin/runc-lab"}}, "default-runtime": "lab", "storage-driver": "vfs"}
J
systemctl start docker
docker import /var/tmp/base.tar debian:bookworm-slim >/dev/null
rm /var/tmp/base.tar
"""
END = """
docker ps -aq | xargs -r docker rm -f
systemctl stop docker.socket docker containerd
find /sys/fs/cgroup/devices/docker -depth -type d -exec rmdir {} +
"""
LEFT_OUT = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/i18n",
    "var/cache/apt/archives/*.deb",
    "var/lib/apt/lists",
    "boot",
)


@pytest.fixture(scope="module")
def docker(lab: Fleet) -> Iterator[LabHost]:
    """A host with Docker and Compose, as Debian brings them."""
    spec = HostSpec("vpn-docker", ("docker.io", "docker-compose", "iptables"), disk_mb=5000, tun=True)
    lab.up([spec])
    host = lab.host("vpn-docker")
    (layer,) = base().layers
    left_out = [f"--exclude=./{each}" for each in (*LEFT_OUT, "dev", "proc", "sys", "run")]
    argv = ["tar", "-C", str(layer), *left_out, "-cf", str(host.root / "var/tmp/base.tar"), "."]
    subprocess.run(argv, check=True, timeout=120)
    host.execute(["sh", "-c", PREPARE], timeout=180)
    yield host
    host.execute(
        ["sh", "-c", "docker ps -aq | xargs -r docker rm -f; systemctl stop docker.socket docker"], check=False
    )


@pytest.fixture
def dialler(docker: LabHost) -> LabHost:
    """Dial on the host with Docker."""
    return docker


async def test_two_containers_reach_the_office_that_has_docker_s_own_network(office: Office, gateway: Gateway) -> None:
    assert "172.17.0.1" in gateway.sh("ip address show docker0")
    office.open(net="172.17.0.0")
    tunnel = await gateway.take_in("office", office.profile(), driver="compose")
    job = await gateway.run("up", "office")
    assert job.state == "succeeded", await gateway.said(job)
    tunnel = await gateway.row("office")
    assert (tunnel.state, tunnel.local, tunnel.pushed["dns"]) == ("up", "172.17.0.2", ["172.17.0.1"])
    assert SITE in await gateway.curl(tunnel, "http://intra.corp.test/")
    assert await gateway.curl(tunnel, f"http://{gateway.host.address}:22/", "--http0.9") == ""
    outside = f'import socket; print(socket.create_connection(("{gateway.host.address}", 22), 5).recv(3))'
    assert "SSH" in gateway.host.execute(["docker", "exec", "opsdeck-vpn-office-dial", "python3", "-c", outside])
    assert "0.0.0.0:1080" not in gateway.sh("ss -ltn")
    password = await gateway.deck.secrets.reveal(tunnel.socks_secret, actor=SYSTEM, purpose="test")
    seen = gateway.sh("docker inspect opsdeck-vpn-office-dial opsdeck-vpn-office-door; cat /proc/[0-9]*/cmdline")
    assert password.reveal() not in seen
    assert "20080" in gateway.sh("grep -h Uid /proc/$(pgrep -f '^python3.*door.py')/status")
    for action in ("check", "leak_test"):
        job = await gateway.run(action, "office")
        assert job.state == "succeeded", await gateway.said(job)
    async with gateway.watching():
        gateway.sh("docker exec opsdeck-vpn-office-dial sh -c 'kill $(cat /run/opsdeck-vpn/office/pid)'")
        await gateway.comes("office", lambda row: row.state != "up")
        await gateway.comes("office", lambda row: row.state == "up")
        assert SITE in await gateway.curl(tunnel, "http://intra.corp.test/")
    assert (await gateway.run("up", "office")).state == "succeeded"
    job = await gateway.run("remove", "office")
    assert job.state == "succeeded", await gateway.said(job)
    assert gateway.sh("docker ps -aq") == ""
    assert "opsdeck" not in gateway.sh("docker network ls; ls /etc/tmpfiles.d; ls /etc/opsdeck/vpn")
