"""The facts: where each is read, how it is parsed, how it is shown. A new fact is a line here and a data file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from opsdeck.inventory.facts import parsers as p
from opsdeck.inventory.facts.parsers import Value
from opsdeck.inventory.facts.sections import split

CLOCK_SKEW = "clock_skew"


@dataclass(frozen=True)
class Fact:
    """One thing to know. `moving` facts differ at each look: they are kept, and are no change worth telling."""

    name: str
    title: str
    section: str
    parse: Callable[[str], Value]
    unit: str = ""
    moving: bool = False


CATALOGUE: tuple[Fact, ...] = (
    Fact("os", "System", "os", partial(p.os_release, key="PRETTY_NAME")),
    Fact("os_id", "Distribution", "os", partial(p.os_release, key="ID")),
    Fact("os_version", "Release", "os", partial(p.os_release, key="VERSION_ID")),
    Fact("os_codename", "Code name", "os", partial(p.os_release, key="VERSION_CODENAME")),
    Fact("debian_version", "Point release", "debian", p.line),
    Fact("hostname", "Host name", "uname", p.line),
    Fact("kernel", "Kernel", "uname", partial(p.line, number=1)),
    Fact("machine", "Machine type", "uname", partial(p.line, number=2)),
    Fact("architecture", "Architecture", "architecture", p.line),
    Fact("virtualisation", "Virtualisation", "virtualisation", p.line),
    Fact("product", "Hardware", "product", lambda text: p.line(" ".join(text.split()))),
    Fact("cpus", "CPUs", "cpu", lambda text: int(p.line(text))),
    Fact("cpu_model", "CPU model", "cpu", p.colon),
    Fact("memory", "Memory", "memory", partial(p.kilobytes, key="MemTotal"), "B"),
    Fact("swap", "Swap", "memory", partial(p.kilobytes, key="SwapTotal"), "B"),
    Fact("filesystems", "File systems", "filesystems", p.filesystems),
    Fact("disk_use", "Disk use", "filesystems", p.disk_use, moving=True),
    Fact("root_free", "Free on /", "filesystems", p.root_free, "B", moving=True),
    Fact("disks", "Disks", "disks", p.disks),
    Fact("addresses", "Addresses", "addresses", p.addresses),
    Fact("default_route", "Default route", "route", p.default_route),
    Fact("uptime", "Up since", "uptime", p.seconds, "s", moving=True),
    Fact("boot_id", "Boot", "boot", p.line),
    Fact("booted", "Booted at", "boot", lambda text: int(text.split("btime ")[1].split()[0]), "epoch", moving=True),
    Fact("machine_id", "Machine id", "machine", p.line),
    Fact("time_zone", "Time zone", "zone", p.zone),
    Fact("clock_synchronised", "Clock kept by NTP", "synchronised", p.yes),
    Fact("sshd", "SSH server", "sshd", p.line),
    Fact("systemd", "systemd", "systemd", lambda text: p.line(text.split()[1])),
    Fact("system_state", "System state", "systemd", partial(p.line, number=1)),
    Fact("failed_units", "Failed units", "failed", p.failed_units),
    Fact("packages", "Packages", "packages", lambda text: int(p.line(text))),
    Fact("upgrades", "Upgrades waiting", "upgrades", p.upgrades),
    Fact("security_upgrades", "Security upgrades waiting", "upgrades", p.security_upgrades),
    Fact("package_lists", "Package lists read at", "lists", p.seconds, "epoch", moving=True),
    Fact("reboot_required", "Reboot required", "reboot", p.yes),
    Fact("listening", "Listening", "listening", p.listening),
    Fact("login_user", "Logged in as", "login", partial(p.line, number=1)),
    Fact("login_shell", "Login shell", "login", partial(p.line, number=2)),
    Fact("sudo", "sudo", "sudo", p.line),
    Fact("shell_start", "Login shell start-up", "shell", p.shell_milliseconds, "ms", moving=True),
    Fact("containers", "Container tools", "containers", p.words),
    Fact("tun", "TUN device", "tun", p.yes),
)

BY_NAME: Mapping[str, Fact] = {fact.name: fact for fact in CATALOGUE} | {
    CLOCK_SKEW: Fact(CLOCK_SKEW, "Clock ahead of ours", "clock", p.line, "s", moving=True)
}


@dataclass(frozen=True)
class Reading:
    """What one look at a host gave. `faults` says by fact what could not be understood; `whole` that no end was cut."""

    facts: Mapping[str, Value]
    faults: Mapping[str, str] = field(default_factory=dict)
    whole: bool = True

    @property
    def digest(self) -> str:
        """Give the digest of all that does not move by itself."""
        return digest(self.facts)


def digest(facts: Mapping[str, Value]) -> str:
    """Give the SHA-256 of the facts that do not move by themselves."""
    still = {name: value for name, value in facts.items() if not (name in BY_NAME and BY_NAME[name].moving)}
    return hashlib.sha256(json.dumps(still, sort_keys=True).encode()).hexdigest()


def read(output: bytes, mark: str, *, sent: float | None = None, received: float | None = None) -> Reading:
    """Make facts of the script's output. `sent` and `received` are our clock before and after, seconds since epoch.

    A section that is missing or not understood makes its facts absent and no other.
    """
    sections = split(output, mark)
    facts: dict[str, Value] = {}
    faults: dict[str, str] = {}
    for fact in CATALOGUE:
        text = sections.get(fact.section)
        if text is None:
            continue
        try:
            facts[fact.name] = fact.parse(text)
        except (ValueError, IndexError, KeyError, StopIteration) as fault:
            faults[fact.name] = f"{type(fault).__name__}: {fault}"[:200]
    if sent is not None and received is not None and "clock" in sections:
        try:
            first = float(sections["clock"])
            facts[CLOCK_SKEW] = skew(first, float(sections.get("end", first)), sent, received)
        except ValueError as fault:
            faults[CLOCK_SKEW] = str(fault)[:200]
    return Reading(facts, faults, "done" in sections)


def skew(first: float, last: float, sent: float, received: float) -> float:
    """Give by how many seconds the host's clock is ahead (negative: behind), as near as the journey lets us know.

    The host read `first` after we sent and `last` before we received, so the truth lies between `last - received`
    and `first - sent`. When 0 lies there too, the clocks may well agree, and 0 is given.
    """
    low, high = sorted((last - received, first - sent))
    if low <= 0 <= high:
        return 0.0
    return round((low + high) / 2, 3)
