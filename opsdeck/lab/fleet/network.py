"""The network of one fleet: a bridge, a subnet nobody else uses, a namespace per host, a way out by translation.

All names are made of the fleet's name, so what a crash left behind can be found and removed without any notes.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import json
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opsdeck.errors import Unavailable
from opsdeck.lab.fleet.machine import LabFault, held, run, unmount_under

RUN_FOLDER = Path("/run/opsdeck-lab")

_NSPAWN = Path("/run/systemd/nspawn")
_POOLS = ("10.83.0.0/16", "172.27.0.0/16", "192.168.128.0/17", "198.18.0.0/15")
_SETTINGS = {"net/ipv4/ip_forward": 1, "fs/inotify/max_user_instances": 4096}


@dataclass(frozen=True)
class Network:
    """The names that a fleet's network has on this machine, and what can be done with it."""

    fleet: str

    @property
    def tag(self) -> str:
        """Give the six letters that mark everything of this fleet."""
        return hashlib.sha256(self.fleet.encode()).hexdigest()[:6]

    @property
    def bridge(self) -> str:
        """Give the bridge's name."""
        return f"od{self.tag}"

    @property
    def table(self) -> str:
        """Give the name of the fleet's nftables table."""
        return f"opsdeck_{self.tag}"

    def namespace(self, host: str) -> str:
        """Give the name of a host's network namespace."""
        return f"od{self.tag}-{host}"

    def machine(self, host: str) -> str:
        """Give the name that a host has among the machines of systemd-nspawn."""
        return f"od{self.tag}-{host}"

    def notes(self, host: str = "") -> list[Path]:
        """Give what systemd-nspawn keeps of the fleet's hosts (of one, when named) and leaves when it is killed."""
        name = f"od{self.tag}-{host or '*'}"
        return [*_NSPAWN.glob(f"propagate/{name}"), *_NSPAWN.glob(f"unix-export/{name}")]

    def forget_machine(self, host: str = "") -> None:
        """Remove `notes`, once nothing of the host runs."""
        for folder in self.notes(host):
            unmount_under(folder)
            with contextlib.suppress(OSError):
                shutil.rmtree(folder)

    def device(self, index: int) -> str:
        """Give the name of the machine's end of a host's link."""
        return f"od{self.tag}{index:03d}"

    def subnet(self) -> ipaddress.IPv4Network | None:
        """Give the subnet of the bridge, or None when the network is not up."""
        for device in _devices():
            if device.name == self.bridge:
                return device.subnets[0] if device.subnets else None
        return None

    def up(self) -> ipaddress.IPv4Network:
        """Make the bridge and its way out, if they are not there, and give the subnet.

        Nobody but this machine gets in: other fleets and other machines could otherwise be routed here.

        Raises Unavailable when every subnet tried is in use.
        """
        with held(RUN_FOLDER / "network.lock"):
            if found := self.subnet():
                return found
            self.down()
            subnet = _free_subnet()
            _change_settings()
            run(["ip", "link", "add", self.bridge, "type", "bridge"])
            run(["ip", "addr", "add", f"{subnet[1]}/{subnet.prefixlen}", "dev", self.bridge])
            run(["ip", "link", "set", self.bridge, "up"])
            rules = f"""table ip {self.table} {{
                chain out {{
                    type nat hook postrouting priority 100;
                    ip saddr {subnet} oifname != "{self.bridge}" masquerade;
                }}
                chain through {{
                    type filter hook forward priority 0;
                    iifname != "{self.bridge}" oifname "{self.bridge}" ct state new drop;
                }}
            }}"""
            run(["nft", "-f", "-"], stdin=rules)
            return subnet

    def attach(self, host: str, index: int, subnet: ipaddress.IPv4Network) -> str:
        """Make a host's namespace with its link and give the host's address."""
        namespace, device = self.namespace(host), self.device(index)
        address = str(subnet[index + 10])
        inside = ["ip", "-n", namespace]
        run(["ip", "netns", "add", namespace])
        run(["ip", "link", "add", device, "type", "veth", "peer", "name", "host0", "netns", namespace])
        run(["ip", "link", "set", device, "master", self.bridge, "up"])
        run([*inside, "link", "set", "lo", "up"])
        run([*inside, "addr", "add", f"{address}/{subnet.prefixlen}", "dev", "host0"])
        run([*inside, "link", "set", "host0", "up"])
        run([*inside, "route", "add", "default", "via", str(subnet[1])])
        return address

    def namespaces(self) -> list[str]:
        """Give the namespaces of this fleet that exist."""
        folder = Path("/run/netns")
        return sorted(each.name for each in folder.glob(f"od{self.tag}-*")) if folder.is_dir() else []

    def processes(self) -> set[int]:
        """Give the processes that live in the fleet's namespaces."""
        found = set()
        for namespace in self.namespaces():
            found |= {int(pid) for pid in run(["ip", "netns", "pids", namespace], check=False).split() if pid.isdigit()}
        return found

    def devices(self) -> list[str]:
        """Give the fleet's network devices that exist."""
        return [device.name for device in _devices() if device.name.startswith(f"od{self.tag}")]

    def tables(self) -> list[str]:
        """Give the fleet's nftables tables that exist."""
        said = run(["nft", "list", "tables"], check=False).split()
        return [self.table] if self.table in said else []

    def down(self) -> None:
        """Remove namespaces, links, bridge and table, whatever of them is there."""
        for namespace in self.namespaces():
            run(["ip", "netns", "delete", namespace], check=False)
        for _ in range(20):
            if not (devices := self.devices()):
                break
            for device in devices:
                run(["ip", "link", "delete", device], check=False)
            time.sleep(0.05)
        for table in self.tables():
            run(["nft", "delete", "table", "ip", table], check=False)


def restore_settings() -> None:
    """Put the kernel settings back that the first fleet changed. Call it when the last one is gone."""
    note = RUN_FOLDER / "settings.json"
    if not note.exists():
        return
    for name, value in json.loads(note.read_text()).items():
        Path("/proc/sys", name).write_text(f"{value}\n")
    note.unlink()


def wait_for_ssh(address: str, port: int, timeout: float) -> None:
    """Wait until an SSH server greets at `address`. Raises LabFault after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((address, port), timeout=2) as connection:
                connection.settimeout(2)
                if connection.recv(4) == b"SSH-":
                    return
        except OSError:
            pass
        time.sleep(0.1)
    raise LabFault(f"No SSH server answered at {address}:{port} within {timeout:g} s.")


def _change_settings() -> None:
    before = {}
    for name, wanted in _SETTINGS.items():
        path = Path("/proc/sys", name)
        value = int(path.read_text())
        if value < wanted:
            before[name] = value
            path.write_text(f"{wanted}\n")
    if before:
        (RUN_FOLDER / "settings.json").write_text(json.dumps(before))


def _free_subnet() -> ipaddress.IPv4Network:
    taken = list(_taken())
    for pool in _POOLS:
        for subnet in ipaddress.IPv4Network(pool).subnets(new_prefix=22):
            if not any(subnet.overlaps(other) for other in taken):
                return subnet
    raise Unavailable("Every private subnet that the lab may use is taken.", hint="opsdeck lab down, or drop a route")


def _taken() -> Iterator[ipaddress.IPv4Network]:
    for device in _devices():
        yield from device.subnets
    for route in _told("-4", "route", "show", "table", "all"):
        if route["dst"] != "default":
            yield ipaddress.IPv4Network(route["dst"], strict=False)
    for line in Path("/etc/resolv.conf").read_text().splitlines():
        if line.startswith("nameserver") and "." in line:
            yield ipaddress.IPv4Network(line.split()[1])


@dataclass(frozen=True)
class _Device:
    name: str
    subnets: tuple[ipaddress.IPv4Network, ...]


def _devices() -> list[_Device]:
    return [
        _Device(
            link["ifname"],
            tuple(
                ipaddress.IPv4Network(f"{one['local']}/{one['prefixlen']}", strict=False)
                for one in link["addr_info"]
                if one["family"] == "inet"
            ),
        )
        for link in _told("addr")
    ]


def _told(*words: str) -> list[dict[str, Any]]:
    """Ask `ip` for a list. While others make and remove links it warns that some may lack, and is asked again."""
    for _ in range(20):
        said = run(["ip", "-j", *words])
        with contextlib.suppress(json.JSONDecodeError):
            return list(json.loads(said or "[]"))
        time.sleep(0.05)
    raise LabFault(f"`ip {' '.join(words)}` gives no whole list: {said[-200:]}")
