"""Packages of Debian: what is installed, what would change with exact versions, and the change itself.

apt runs without questions: a changed configuration file is kept as the host has it (`confdef`, `confold`), nothing is
removed unless asked for, held packages stay, and the lock of another apt is waited for, within a bound.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from opsdeck.errors import Conflict, Invalid, NotFound, Refused
from opsdeck.plan import Change, Verb
from opsdeck.remote.errors import NotDone, Unreadable
from opsdeck.remote.sources import shell
from opsdeck.ssh.command import Command, Completed, Script, printable
from opsdeck.ssh.errors import DiskFull

if TYPE_CHECKING:
    from opsdeck.jobs.context import HostAccess, StepRun

# Debian Policy 5.6.1 (names), 5.6.12 (versions); apt-get(8) reads a trailing `-` or `+` and a `^…` its own way.
_NAME = re.compile(r"[a-z0-9][a-z0-9+.]*(-[a-z0-9+.]+)*(:[a-z0-9-]+)?(=[A-Za-z0-9.+~:-]+)?")
_QUIET = ("env", "DEBIAN_FRONTEND=noninteractive", "APT_LISTCHANGES_FRONTEND=none", "NEEDRESTART_MODE=l", "LC_ALL=C")
_INSTALL = re.compile(r"Inst (?P<name>\S+)(?: \[(?P<old>[^\]]*)\])? \((?P<new>\S+)(?P<rest>[^)]*)\)")
_REMOVE = re.compile(r"(?:Remv|Purg) (?P<name>\S+)(?: \[(?P<old>[^\]]*)\])?")


class Intent(StrEnum):
    """What apt is to do."""

    INSTALL = "install"
    UPGRADE = "upgrade"
    """The named packages, or all when none is named; only those that are installed."""
    REMOVE = "remove"
    PURGE = "purge"


@dataclass(frozen=True)
class Request:
    """What is wanted. `lock_wait` is how long another apt is waited for, s.

    `allow_removals` lets an installation remove other packages; without it such a plan is refused.
    """

    intent: Intent
    names: tuple[str, ...] = ()
    lock_wait: int = 120
    allow_removals: bool = False

    def __post_init__(self) -> None:
        for name in self.names:
            package_name(name)
        if not self.names and self.intent is not Intent.UPGRADE:
            raise Invalid(f"name the packages to {self.intent}.", field="names")


@dataclass(frozen=True)
class Package:
    """One package on a host: the installed version and the one apt would take, "" for none."""

    name: str
    installed: str = ""
    candidate: str = ""
    held: bool = False


@dataclass(frozen=True)
class Look:
    """What a host has. `lists_age` is how old its package lists are, s; None when it has none."""

    packages: dict[str, Package] = field(default_factory=dict)
    reboot_needed: bool = False
    lists_age: int | None = None


@dataclass(frozen=True)
class Move:
    """One package that apt would change, from a version to a version, "" for none."""

    name: str
    old: str
    new: str

    def as_change(self, host: str) -> Change:
        """Give it as a line of a plan."""
        if not self.new:
            return Change(host, Verb.REMOVE, self.name, self.old)
        return Change(
            host,
            Verb.UPGRADE if self.old else Verb.INSTALL,
            self.name,
            f"{self.old} → {self.new}" if self.old else self.new,
        )


def package_name(name: str) -> str:
    """Give the name when it is one: `nginx`, `libc6:arm64`, `nginx=1.22.1-9`. Raises `Invalid`."""
    if not _NAME.fullmatch(name):
        raise Invalid(f"{name!r} is no package name.", field="names", hint="write it as `apt list` does")
    return name


def look_script(names: Sequence[str]) -> Script:
    """Build the look at some packages."""
    return Script(shell("look_packages"), tuple(package_name(name).partition("=")[0] for name in names))


def parse_look(host: str, done: Completed) -> Look:
    """Read what the look printed. Raises `Unreadable`, `NotFound` when the host has no apt."""
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    if lines and lines[0] == "noapt":
        raise NotFound("the host has no apt.", host=host, hint="packages are for Debian and its kin")
    if not lines or lines[-1] != "end":
        raise Unreadable("the look at its packages broke off.", host=host)
    installed: dict[str, str] = {}
    candidates: dict[str, str] = {}
    held: set[str] = set()
    age: int | None = None
    for line in lines[:-1]:
        match line.split(" "):
            case ["have", name, _arch, "installed", version]:
                installed[name] = version
            case ["candidate", name, version]:
                candidates[name.partition(":")[0]] = "" if version == "(none)" else version
            case ["hold", name]:
                held.add(name.partition(":")[0])
            case ["lists", at, now] if at != "0":
                age = int(now) - int(at)
    names = dict.fromkeys((*candidates, *installed))
    return Look(
        {name: Package(name, installed.get(name, ""), candidates.get(name, ""), name in held) for name in names},
        "reboot" in lines,
        age,
    )


def _apt(request: Request, *options: str) -> tuple[str, ...]:
    return (
        *_QUIET,
        "apt-get",
        "-q",
        "-o",
        f"DPkg::Lock::Timeout={request.lock_wait}",
        "-o",
        "Dpkg::Options::=--force-confdef",
        "-o",
        "Dpkg::Options::=--force-confold",
        "-o",
        "APT::Color=0",
        "-o",
        "Dpkg::Use-Pty=0",
        *options,
    )


def _wish(request: Request) -> tuple[str, ...]:
    match request.intent:
        case Intent.INSTALL:
            return ("install", "--no-install-recommends", "--", *request.names)
        case Intent.UPGRADE if request.names:
            return ("install", "--only-upgrade", "--no-install-recommends", "--", *request.names)
        case Intent.UPGRADE:
            return ("upgrade", "--with-new-pkgs")
        case Intent.REMOVE:
            return ("remove", "--", *request.names)
        case Intent.PURGE:
            return ("purge", "--", *request.names)


def simulate_command(request: Request) -> Command:
    """Build the dry run; it needs no root and takes no lock."""
    return Command(_apt(request, "-s", *_wish(request)), timeout=120)


def apply_command(request: Request) -> Command:
    """Build the change itself."""
    keep = () if request.allow_removals or request.intent in (Intent.REMOVE, Intent.PURGE) else ("--no-remove",)
    return Command(_apt(request, "-y", *keep, *_wish(request)), sudo=True)


def update_command(request: Request) -> Command:
    """Build the refresh of the package lists; a list that cannot be had is an error, not a warning."""
    return Command(_apt(request, "-o", "APT::Update::Error-Mode=any", "update"), sudo=True, timeout=600)


def parse_simulation(output: bytes) -> tuple[Move, ...]:
    """Read the lines `Inst` and `Remv` of a dry run."""
    moves: list[Move] = []
    for line in output.decode("utf-8", "replace").splitlines():
        if found := _INSTALL.match(line):
            moves.append(Move(found["name"], found["old"] or "", found["new"]))
        elif found := _REMOVE.match(line):
            moves.append(Move(found["name"], found["old"] or "", ""))
    return tuple(moves)


def explain(host: str, done: Completed) -> Exception:
    """Turn apt's own words into an error with a next step."""
    text = (done.stderr[-20_000:] + b"\n" + done.stdout[-20_000:]).decode("utf-8", "replace")
    lines = [line for line in text.splitlines() if line.startswith(("E: ", "dpkg: error", "Err:"))]
    said = printable(" ".join(line.removeprefix("E: ") for line in lines[:4]).encode(), 500) or done.last_words()
    if "Could not get lock" in text or "is another process using it" in text:
        return Conflict(
            f"another apt holds the lock: {said}", host=host, hint="wait for it to end, or see what it does"
        )
    if "Unable to locate package" in text or "has no installation candidate" in text or "was not found" in text:
        return NotFound(
            f"apt does not know it: {said}", host=host, field="names", hint="check the name, or update the lists"
        )
    if "No space left on device" in text or "You don't have enough free space" in text:
        return DiskFull(f"no room: {said}", host=host, hint="make room, then `dpkg --configure -a` and run it again")
    if "Packages need to be removed" in text:
        return Refused(f"it would remove other packages: {said}", host=host, hint="look at the plan; allow removals")
    if "Held packages were changed" in text:
        return Refused(f"a held package is in the way: {said}", host=host, hint="`apt-mark unhold` it first")
    if "dpkg was interrupted" in text:
        return NotDone(f"an earlier change was cut off: {said}", host=host, hint="run `dpkg --configure -a` there")
    return NotDone(f"apt ended with {done.exit_status}: {said}", host=host)


async def look(host: HostAccess, names: Sequence[str]) -> Look:
    """Look at some packages, in one round trip."""
    done = await host.run(look_script(names), check=False, log=False)
    return parse_look(host.host.name, done)


async def moves(host: HostAccess, request: Request) -> tuple[Move, ...]:
    """Say which packages apt would change, with exact versions, from the lists it has. Raises what `explain` gives."""
    done = await host.run(simulate_command(request), check=False, log=False)
    if not done.ok:
        raise explain(host.host.name, done)
    found = parse_simulation(done.stdout)
    removed = [move.name for move in found if not move.new]
    if removed and not request.allow_removals and request.intent in (Intent.INSTALL, Intent.UPGRADE):
        raise Refused(
            f"it would remove {', '.join(removed)}.",
            host=host.host.name,
            field="names",
            hint="allow removals, or do not",
        )
    return found


async def plan(host: HostAccess, request: Request) -> tuple[Change, ...]:
    """Say what would change."""
    return tuple(move.as_change(host.host.name) for move in await moves(host, request))


async def apply(step: StepRun, request: Request, *, update: bool = False, label: str = "apt") -> tuple[Move, ...]:
    """Change the packages and look that they are as foretold; give what was changed.

    It runs detached: neither a dropped link nor a restarted console leaves dpkg half-way. Raises what `explain`
    gives, and `NotDone` when the versions afterwards are not those of the plan.
    """
    host = step.host.name
    if update:
        done = await step.detached(f"{label}-update", update_command(request), check=False)
        if not done.ok:
            raise explain(host, done)
    wanted = await moves(step, request)
    if not wanted and not step.resuming:
        return ()
    done = await step.detached(label, apply_command(request), check=False)
    if not done.ok:
        raise explain(host, done)
    changed = wanted or parse_simulation(done.stdout)
    now = await look(step, [move.name for move in changed]) if changed else Look()
    wrong = [move for move in changed if _version(now, move) != move.new]
    if wrong:
        texts = ", ".join(
            f"{move.name} is {_version(now, move) or 'not installed'}, not {move.new or 'gone'}" for move in wrong
        )
        raise NotDone(f"apt ended well, yet {texts}.", host=host, hint="see the log")
    return changed


def _version(seen: Look, move: Move) -> str:
    found = seen.packages.get(move.name.partition(":")[0])
    return found.installed if found else ""
