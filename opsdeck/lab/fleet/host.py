"""One lab host: an overlay on an image, a network namespace, and systemd booted inside by systemd-nspawn."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from opsdeck.errors import Invalid, Unavailable
from opsdeck.lab.fleet import cgroups, images
from opsdeck.lab.fleet.machine import LabFault, environment, mounts_under, run, unmount_under
from opsdeck.lab.fleet.network import Network, wait_for_ssh
from opsdeck.secrets.sensitive import Sensitive
from opsdeck.ssh.endpoint import Credential, Endpoint, Method, Sudo

PORT = 22
USERS = {"root": Sudo.NONE, "ops": Sudo.NOPASSWD, "opspw": Sudo.PASSWORD}
"""The users of every lab host, each with its way to become root."""

_SUPERVISE = """
groups=$1
shift
while
    sh -c 'for group in $1; do echo $$ > "$group" || exit 1; done; shift; exec "$@"' sh "$groups" "$@"
    test $? -eq 133
do :; done
"""
# 133 is how systemd-nspawn says that its system wants to boot again: nspawn leaves that to its own caller when it may
# not make a unit of its own.

_TUN = (
    "--capability=CAP_NET_ADMIN,CAP_SYS_ADMIN,CAP_MKNOD",
    "--bind=/dev/net/tun",
    "--property=DeviceAllow=/dev/net/tun rwm",
)


@dataclass(frozen=True)
class HostSpec:
    """What a lab host should be: Debian packages beside the base, the size of its disk, whether it may make tunnels.

    `disk_mb` puts the host's writes on a small disk of its own, which can be filled without filling the machine's.
    """

    name: str
    packages: tuple[str, ...] = ()
    disk_mb: int | None = None
    tun: bool = False

    def __post_init__(self) -> None:
        plain = self.name.replace("-", "")
        if not (plain.isascii() and plain.isalnum() and plain.islower() and len(self.name) <= 30):
            raise Invalid(f"{self.name!r} cannot name a lab host.", field="name", hint="use a-z, 0-9 and '-'")
        if self.name[0] == "-" or self.name[-1] == "-":
            raise Invalid(f"{self.name!r} cannot name a lab host.", field="name", hint="begin and end with a letter")


@dataclass(frozen=True)
class LabHost:
    """A host of a fleet and what can be done to it from outside, as its provider, its cable and its disk would.

    `folder` keeps it; `index` is its number in the fleet; `host_key` its public key in OpenSSH form; `private_key`
    the file of the key that lets all its users in; `password` is that of the users for sudo.
    """

    spec: HostSpec
    network: Network
    folder: Path
    index: int
    address: str
    host_key: str
    private_key: Path
    password: str

    @property
    def name(self) -> str:
        """Give the host's name, which is its host name too."""
        return self.spec.name

    @property
    def root(self) -> Path:
        """Give the folder on this machine that is the host's root."""
        return self.folder / "root"

    @property
    def namespace(self) -> str:
        """Give the name of its network namespace."""
        return self.network.namespace(self.name)

    @property
    def group(self) -> str:
        """Give the name of its control group."""
        return f"opsdeck-{self.network.tag}-{self.name}"

    @property
    def device(self) -> str:
        """Give this machine's end of its link."""
        return self.network.device(self.index)

    def endpoint(self, user: str = "root", *, via: Endpoint | None = None) -> Endpoint:
        """Give the host as SSH sees it, its key pinned, for one of `USERS`."""
        way = USERS[user]
        return Endpoint(
            name=self.name,
            address=self.address,
            port=PORT,
            user=user,
            credential=Credential(method=Method.KEY, name="lab-key", secret=Sensitive(self.private_key.read_text())),
            host_keys=(self.host_key,),
            via=via,
            sudo=way,
            sudo_password=Sensitive(self.password) if way is Sudo.PASSWORD else None,
        )

    def start(self, timeout: float = 60) -> None:
        """Boot it and wait until systemd is up and SSH answers; nothing happens when it runs.

        Raises Unavailable when it does not boot, with the last lines of its console; LabFault when SSH stays silent.
        """
        if mentioning(self.root):
            return
        self._mount()
        self.mend()
        managed = Path("/run/systemd/system").is_dir()
        groups = [] if managed else cgroups.make(self.group)
        argv = [
            *("sh", "-c", _SUPERVISE, "sh", " ".join(f"{group}/cgroup.procs" for group in groups)),
            "systemd-nspawn",
            "--quiet",
            "--settings=no",
            "--register=no",
            *(() if managed else ("--keep-unit",)),
            f"--directory={self.root}",
            f"--machine={self.network.machine(self.name)}",
            f"--hostname={self.name}",
            f"--network-namespace-path=/run/netns/{self.namespace}",
            "--resolv-conf=copy-host",
            "--link-journal=no",
            *(_TUN if self.spec.tun else ()),
            "--boot",
        ]
        with (self.folder / "console.log").open("wb") as console:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
                env=environment() | {"SYSTEMD_NSPAWN_LOCK": "0"},  # one lock file for each image would stay behind
            )
        deadline = time.monotonic() + timeout
        while self.state() not in ("running", "degraded"):
            if process.poll() is not None or time.monotonic() > deadline:
                said = (self.folder / "console.log").read_text(errors="replace").strip()[-600:]
                self.kill()
                raise Unavailable(
                    f"The lab host did not boot: {said or 'its console stayed empty'}",
                    host=self.name,
                    hint="check that systemd-nspawn can start a system on this machine",
                )
            time.sleep(0.1)
        wait_for_ssh(self.address, PORT, max(5.0, deadline - time.monotonic()))

    def kill(self) -> None:
        """Cut the power: nobody is told, everything on it ends at once, its disk stays. `start` boots it again."""
        run(["ip", "link", "set", self.device, "down"], check=False)
        deadline = time.monotonic() + 10
        while left := self.processes() | mentioning(self.root):
            for pid in left:
                end(pid)
            if time.monotonic() > deadline:
                raise LabFault("Its processes could not be ended.", host=self.name)
            time.sleep(0.02)
        cgroups.remove(self.group)
        self.network.forget_machine(self.name)

    def supervisor(self) -> int | None:
        """Give the id of the systemd-nspawn process that carries it, or None when it is off."""
        return next((pid for pid in sorted(mentioning(self.root)) if _is_nspawn(pid) and _children(pid)), None)

    def processes(self) -> set[int]:
        """Give the processes of this machine that live in the host's network namespace."""
        said = run(["ip", "netns", "pids", self.namespace], check=False)
        return {int(pid) for pid in said.split() if pid.isdigit()}

    def state(self) -> str:
        """Give what its systemd says of the whole system (`running`, `degraded`, …), or `off`."""
        if not mentioning(self.root):
            return "off"
        try:
            return self.execute(["systemctl", "is-system-running"], check=False).strip() or "starting"
        except LabFault:
            return "starting"

    def execute(self, argv: Sequence[str], *, stdin: str = "", timeout: float = 60, check: bool = True) -> str:
        """Run a program inside as root, past its SSH server, and give its output.

        Raises LabFault when the host is off or the program fails (unless `check` is false).
        """
        supervisor = self.supervisor()
        leaders = _children(supervisor) if supervisor else []
        if not leaders:
            raise LabFault("The lab host is off.", host=self.name, hint="start it")
        entry = ["nsenter", f"--target={leaders[0]}", "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd"]
        return run([*entry, "--", *argv], stdin=stdin, timeout=timeout, check=check)

    def cut(self) -> None:
        """Pull its cable: nothing comes in or goes out, and no connection is told."""
        run(["ip", "link", "set", self.device, "down"])

    def mend(self) -> None:
        """Plug its cable in again."""
        run(["ip", "link", "set", self.device, "up"])

    def block(self, port: int) -> None:
        """Drop what comes in for a TCP port, silently, as a packet filter on the way would."""
        rules = f"""table inet {self.network.table} {{
            chain in {{ type filter hook input priority -150; tcp dport {int(port)} drop; }}
        }}"""
        self._inside(["nft", "-f", "-"], stdin=rules)

    def unblock(self, *, check: bool = True) -> None:
        """Let everything in again. Raises LabFault when nothing was blocked, unless `check` is false."""
        self._inside(["nft", "delete", "table", "inet", self.network.table], check=check)

    def slow(self, kbit: int) -> None:
        """Limit its link to `kbit` kbit/s in each direction."""
        shape = ["root", "tbf", "rate", f"{int(kbit)}kbit", "burst", "32kbit", "latency", "400ms"]
        run(["tc", "qdisc", "replace", "dev", self.device, *shape])
        self._inside(["tc", "qdisc", "replace", "dev", "host0", *shape])

    def unslow(self) -> None:
        """Lift the limit of `slow`."""
        run(["tc", "qdisc", "delete", "dev", self.device, "root"], check=False)
        self._inside(["tc", "qdisc", "delete", "dev", "host0", "root"], check=False)

    def fill(self, *, leave_kb: int = 0) -> None:
        """Fill its disk but for `leave_kb` KiB. Raises Invalid unless it has a disk of its own (`disk_mb`)."""
        if self.spec.disk_mb is None:
            raise Invalid("This lab host writes to the machine's disk.", host=self.name, hint="give it a `disk_mb`")
        disk = os.statvfs(self.folder / "disk")
        size = disk.f_bavail * disk.f_frsize - leave_kb * 1024
        if size > 0:
            run(["fallocate", "--length", str(size), self.folder / "disk" / "ballast"])

    def empty(self) -> None:
        """Take back what `fill` put on its disk."""
        (self.folder / "disk" / "ballast").unlink(missing_ok=True)

    def restore(self) -> None:
        """Take back whatever was done to its cable, its packet filter and its disk."""
        self.mend()
        self.unblock(check=False)
        self.unslow()
        self.empty()

    def prepare(self, image: images.Image, public_key: str, private_host_key: bytes, names: str) -> None:
        """Lay its disk: the image, its keys, its names. Before the first start."""
        self.folder.mkdir(mode=0o755, parents=True)
        (self.folder / "layers").write_text("\n".join(map(str, image.layers)) + "\n")
        self._mount()
        etc = self.root / "etc"
        (etc / "hostname").write_text(f"{self.name}\n")
        (etc / "hosts").write_text(names)
        (etc / "machine-id").write_text(f"{secrets.token_hex(16)}\n")
        key = etc / "ssh/ssh_host_ed25519_key"
        key.touch(mode=0o600)
        key.write_bytes(private_host_key)
        key.with_suffix(".pub").write_text(f"{self.host_key}\n")
        run(["chroot", self.root, "chpasswd"], stdin="".join(f"{user}:{self.password}\n" for user in ("ops", "opspw")))
        for user in USERS:
            folder = self.root / ("root" if user == "root" else f"home/{user}") / ".ssh"
            owner = folder.stat()
            keys = folder / "authorized_keys"
            keys.touch(mode=0o600)
            keys.write_text(f"{public_key}\n")
            os.chown(keys, owner.st_uid, owner.st_gid)

    def _mount(self) -> None:
        if self.root in mounts_under(self.root):
            return
        disk = self.folder / "disk"
        for each in (self.root, disk):
            each.mkdir(exist_ok=True)
        size = self.spec.disk_mb or (2048 if _on_overlay(self.folder) else None)
        if size and disk not in mounts_under(disk):
            run(["mount", "-t", "tmpfs", "-o", f"size={size}m,mode=0755", "opsdeck-lab", disk])
        for each in (disk / "upper", disk / "work"):
            each.mkdir(exist_ok=True)
        layers = [Path(line) for line in (self.folder / "layers").read_text().splitlines()]
        images.mount_overlay(layers, disk / "upper", disk / "work", self.root)

    def remove(self) -> None:
        """Cut the power and take the mounts down; the folder stays for its fleet to delete."""
        self.kill()
        unmount_under(self.folder)

    def _inside(self, argv: Sequence[str], *, stdin: str = "", check: bool = True) -> None:
        run(["ip", "netns", "exec", self.namespace, *argv], stdin=stdin, check=check)


def process_ids() -> list[int]:
    """Give the ids of all processes of this machine."""
    return [int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit()]


def mentioning(folder: Path) -> set[int]:
    """Give the processes that carry lab hosts whose root is `folder` or below it."""
    wanted = f"--directory={folder}"
    found = set()
    for pid in process_ids():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if "systemd-nspawn" in words and any(word == wanted or word.startswith(f"{wanted}/") for word in words):
            found.add(pid)
    return found


def _is_nspawn(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() == "systemd-nspawn"
    except OSError:
        return False


def _children(pid: int) -> list[int]:
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def end(pid: int) -> None:
    """Kill a process; one that has gone is fine."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _on_overlay(folder: Path) -> bool:
    """Say whether `folder` lies on an overlay, which cannot carry the upper layer of another."""
    kind = run(["stat", "--file-system", "--format=%T", folder]).strip()
    return kind in ("overlayfs", "overlay")
