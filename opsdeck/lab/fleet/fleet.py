"""A named fleet: brought up, looked at, taken down without a trace, also after a crash."""

from __future__ import annotations

import json
import re
import secrets
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from opsdeck.errors import Invalid, NotFound
from opsdeck.lab.fleet import cgroups, images
from opsdeck.lab.fleet.host import PORT, USERS, HostSpec, LabHost, end, mentioning
from opsdeck.lab.fleet.machine import LabFault, held, mounts_under, require, run, unmount_under
from opsdeck.lab.fleet.network import RUN_FOLDER, Network, restore_settings
from opsdeck.secrets.kinds import new_ssh_key

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?")


def fleets_folder() -> Path:
    """Give the folder that keeps the fleets."""
    return Path("/var/lib/opsdeck-lab")


def fleets() -> list[str]:
    """Give the names of the fleets that are up, or half up after a crash."""
    folder = fleets_folder()
    return sorted(each.name for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else []


@dataclass(frozen=True)
class HostStatus:
    """A host of a fleet as it is now; `state` is systemd's word for the whole system, or `off`."""

    name: str
    address: str
    port: int
    packages: tuple[str, ...]
    state: str


class Fleet:
    """The lab hosts under one name; two fleets with different names never meet.

    Raises Invalid for a name that is not made of a-z, 0-9 and '-'.
    """

    def __init__(self, name: str = "dev") -> None:
        if not _NAME.fullmatch(name):
            raise Invalid(f"{name!r} cannot name a fleet.", field="name", hint="use a-z, 0-9 and '-', at most 30")
        self.name = name
        self.folder = fleets_folder() / name
        self.network = Network(name)

    @property
    def inventory_file(self) -> Path:
        """Give the JSON file that tells how to reach the hosts; readable by root only."""
        return self.folder / "inventory.json"

    @property
    def private_key(self) -> Path:
        """Give the file of the key that lets in every user of every host."""
        return self.folder / "login_key"

    def up(self, hosts: Sequence[HostSpec]) -> list[LabHost]:
        """Make and boot the hosts that are not there yet, all at once, and give all of the fleet.

        When one fails, those made by this call are taken away again and the first error is raised: Unavailable when
        this machine cannot carry a fleet, LabFault when a step failed, Invalid for a name used twice.
        """
        require()
        names = [spec.name for spec in hosts]
        if len(set(names)) != len(names):
            raise Invalid("Two lab hosts would have the same name.", field="name", hint="name each host once")
        with self._lock():
            there = {host.name: host for host in self._load()}
            specs = [spec for spec in hosts if spec.name not in there]
            layers = {spec.packages: images.image_for(spec.packages) for spec in specs}
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            public_key = self._login_key()
            subnet = self.network.up()
            used = {host.index for host in there.values()}
            free = (index for index in range(900) if index not in used)
            password = next((host.password for host in there.values()), secrets.token_urlsafe(9))
            planned = [(self._plan(spec, next(free), password), layers[spec.packages]) for spec in specs]
            known = "".join(f"{subnet[host.index + 10]} {host.name}\n" for host, _ in planned)
            known += "".join(f"{host.address} {host.name}\n" for host in there.values())

            def make(host: LabHost, image: images.Image) -> LabHost:
                address = self.network.attach(host.name, host.index, subnet)
                private, public = new_ssh_key(host.name)
                whole = replace(host, address=address, host_key=public)
                names = f"127.0.0.1 localhost\n{known}"
                whole.prepare(image, public_key, private.encode(), names)
                whole.start()
                return whole

            with ThreadPoolExecutor(max_workers=4) as pool:
                work = [pool.submit(make, host, image) for host, image in planned]
            failed = [one.exception() for one in work if one.exception()]
            if failed:
                for host, _ in planned:
                    self._remove(host)
                if not there:
                    self._down()
                raise failed[0] or LabFault("A lab host could not be made.")
            made = [one.result() for one in work]
            for host in there.values():
                host.start()
            self._save([*there.values(), *made])
            return [*there.values(), *made]

    def hosts(self) -> list[LabHost]:
        """Give the hosts of the fleet; none when it is down."""
        return self._load()

    def host(self, name: str) -> LabHost:
        """Give one host. Raises NotFound."""
        for host in self._load():
            if host.name == name:
                return host
        raise NotFound(f"The fleet {self.name!r} has no host {name!r}.", hint="opsdeck lab status")

    def status(self) -> list[HostStatus]:
        """Give each host as it is now."""
        return [HostStatus(host.name, host.address, PORT, host.spec.packages, host.state()) for host in self._load()]

    def down(self) -> None:
        """Remove every trace of the fleet: processes, mounts, network, files. Nothing happens when there is none.

        Works from the fleet's name alone, so also after a crash. Raises LabFault for what resists.
        """
        with self._lock():
            self._down()

    def traces(self) -> list[str]:
        """Give what of the fleet is on this machine, as short phrases; empty after `down`."""
        return [
            *(f"folder {self.folder}" for _ in (1,) if self.folder.exists()),
            *(f"mount {point}" for point in mounts_under(self.folder)),
            *(f"namespace {name}" for name in self.network.namespaces()),
            *(f"device {name}" for name in self.network.devices()),
            *(f"table {name}" for name in self.network.tables()),
            *(f"folder {folder}" for folder in self.network.notes()),
            *(f"control group {group}" for group in cgroups.existing(self._group)),
            *(f"process {pid}" for pid in sorted(mentioning(self.folder))),
        ]

    def _down(self) -> None:
        deadline = time.monotonic() + 15
        while left := mentioning(self.folder) | self.network.processes():
            for pid in left:
                end(pid)
            if time.monotonic() > deadline:
                raise LabFault(f"Processes of the fleet {self.name!r} could not be ended: {sorted(left)}.")
            time.sleep(0.02)
        unmount_under(self.folder)
        self.network.down()
        cgroups.remove(self._group, within=10)
        self.network.forget_machine()
        if mounts_under(self.folder):
            raise LabFault("The fleet's disks could not be unmounted.", file=str(self.folder), hint="try again")
        if self.folder.exists():
            shutil.rmtree(self.folder)
        if not fleets():
            restore_settings()
        if left_over := self.traces():
            raise LabFault(f"The fleet {self.name!r} left something behind: {', '.join(left_over)}.")

    @property
    def _group(self) -> str:
        return f"opsdeck-{self.network.tag}-"

    def _remove(self, host: LabHost) -> None:
        host.remove()
        run(["ip", "netns", "delete", host.namespace], check=False)
        if not mounts_under(host.folder):
            shutil.rmtree(host.folder, ignore_errors=True)

    def _lock(self) -> AbstractContextManager[None]:
        return held(RUN_FOLDER / f"fleet-{self.name}.lock")

    def _plan(self, spec: HostSpec, index: int, password: str) -> LabHost:
        return LabHost(
            spec=spec,
            network=self.network,
            folder=self.folder / "hosts" / spec.name,
            index=index,
            address="",
            host_key="",
            private_key=self.private_key,
            password=password,
        )

    def _login_key(self) -> str:
        public = self.private_key.with_suffix(".pub")
        if not public.exists():
            private, line = new_ssh_key("opsdeck-lab")
            self.private_key.touch(mode=0o600)
            self.private_key.write_text(private)
            public.write_text(f"{line}\n")
        return public.read_text().strip()

    def _save(self, hosts: Sequence[LabHost]) -> None:
        rows = [
            {
                "name": host.name,
                "address": host.address,
                "port": PORT,
                "user": "root",
                "users": list(USERS),
                "private_key": str(host.private_key),
                "host_key": host.host_key,
                "password": host.password,
                "index": host.index,
                "spec": asdict(host.spec),
            }
            for host in hosts
        ]
        text = json.dumps({"fleet": self.name, "private_key": str(self.private_key), "hosts": rows}, indent=2)
        beside = self.inventory_file.with_suffix(".new")
        beside.touch(mode=0o600)
        beside.write_text(text + "\n")
        beside.rename(self.inventory_file)

    def _load(self) -> list[LabHost]:
        try:
            rows = json.loads(self.inventory_file.read_text())["hosts"]
        except FileNotFoundError:
            return []
        return [
            LabHost(
                spec=HostSpec(
                    row["spec"]["name"], tuple(row["spec"]["packages"]), row["spec"]["disk_mb"], row["spec"]["tun"]
                ),
                network=self.network,
                folder=self.folder / "hosts" / row["name"],
                index=row["index"],
                address=row["address"],
                host_key=row["host_key"],
                private_key=self.private_key,
                password=row["password"],
            )
            for row in rows
        ]
