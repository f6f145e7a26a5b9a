"""Programs that a host's distribution lacks: fetched once, verified, pushed over SSH, switched by a link.

On a host a program lies in `/opt/opsdeck/artefacts/<name>/<version>/`, and units use `/opt/opsdeck/artefacts/<name>/
current/<file>`. The link `previous` is what a roll back goes to; the file `hold` keeps a version until it is let go.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from opsdeck.errors import Conflict, Invalid, NotFound, Refused
from opsdeck.plan import Change, Verb
from opsdeck.remote.directories import Directory
from opsdeck.remote.errors import NotDone, Unreadable
from opsdeck.remote.sources import shell
from opsdeck.ssh.command import Completed, Script, printable

if TYPE_CHECKING:
    from opsdeck.jobs.context import HostAccess

ROOT = "/opt/opsdeck/artefacts"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
# `uname -m` in the words of Debian.
MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "armhf", "i686": "i386", "riscv64": "riscv64"}


@dataclass(frozen=True)
class Artefact:
    """A program by name, version, architecture and sha256.

    `source` is where the console fetches it: an http(s) address or a path on the console; `sha256` is that of the
    source as it is fetched. `member` is the file inside it when it is a wheel, zip, tar or Debian package; "" takes
    the source itself (unpacked when it is a plain gzip or xz). `file` is the program's name on hosts.
    """

    name: str
    version: str
    sha256: str
    source: str
    arch: str = "amd64"
    """In Debian's words; `all` fits every machine."""
    member: str = ""
    file: str = ""
    mode: int = 0o755

    def __post_init__(self) -> None:
        artefact_name(self.name)
        artefact_version(self.version)
        if not _DIGEST.fullmatch(self.sha256):
            raise Invalid("a sha256 is 64 hexadecimal digits.", field="sha256")
        if self.arch not in (*MACHINES.values(), "all"):
            raise Invalid(
                f"{self.arch!r} is no architecture.", field="arch", hint=f"one of {', '.join(MACHINES.values())}"
            )
        if not _NAME.fullmatch(self.program.lower()):
            raise Invalid(f"{self.program!r} cannot name a program.", field="file")
        if not self.source or "\0" in self.source:
            raise Invalid("say where it comes from.", field="source")

    @property
    def program(self) -> str:
        """Give the program's file name."""
        return self.file or self.name

    @property
    def path(self) -> str:
        """Give the path on a host that units use; it stays the same through upgrades."""
        return f"{ROOT}/{self.name}/current/{self.program}"


def artefact_name(name: str) -> str:
    """Give the name when it is one. Raises `Invalid`."""
    if not _NAME.fullmatch(name):
        raise Invalid(f"{name!r} cannot name an artefact.", field="name", hint="small letters, digits, . _ and -")
    return name


def artefact_version(version: str) -> str:
    """Give the version when it is one, and none of the names that the room on a host uses. Raises `Invalid`."""
    if not _VERSION.fullmatch(version) or version in ("current", "previous", "hold"):
        raise Invalid(f"{version!r} is no version.", field="version")
    return version


@dataclass(frozen=True)
class Program:
    """An artefact that lies on the console, verified: the file and the sha256 of the program itself."""

    artefact: Artefact
    path: Path
    digest: str


@dataclass(frozen=True)
class ArtefactState:
    """What a host has of an artefact. `versions` gives the sha256 of each file by version and name."""

    arch: str
    current: str = ""
    previous: str = ""
    hold: str | None = None
    versions: dict[str, dict[str, str]] = field(default_factory=dict)


def look_script(name: str) -> Script:
    """Build the look at one artefact."""
    return Script(shell("look_artefact"), (artefact_name(name),), sudo=True)


def parse_look(host: str, done: Completed) -> ArtefactState:
    """Read what the look printed. Raises `Unreadable`."""
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    if not lines or lines[-1] != "end":
        raise Unreadable("the look at its artefacts broke off.", host=host)
    found = dict(line.partition(" ")[::2] for line in lines if not line.startswith("have "))
    versions: dict[str, dict[str, str]] = {}
    for line in lines:
        match line.split(" ", 3):
            case ["have", version, digest, file]:
                versions.setdefault(version, {})[file] = digest
    machine = found.get("machine", "")
    return ArtefactState(
        MACHINES.get(machine, machine),
        found.get("current", ""),
        found.get("previous", ""),
        found["hold"].strip() if "hold" in found else None,
        versions,
    )


def switch_script(name: str, version: str, *, keep: int = 3, forced: bool = False) -> Script:
    """Build the switch of the link `current`; of the other versions the newest `keep` stay."""
    words = (artefact_name(name), artefact_version(version), str(max(2, keep)), "forced" if forced else "no")
    return Script(shell("switch_artefact"), words, sudo=True)


def parse_switch(host: str, name: str, version: str, done: Completed) -> bool:
    """Tell whether the link was moved. Raises `NotFound`, `Conflict` when it is held, `NotDone`."""
    line = done.stdout.decode("utf-8", "replace").strip()
    word = line.split(" ")[0]
    if word == "held":
        why = printable(line[5:].encode(), 200)
        raise Conflict(f"{name} is held at its version: {why}", host=host, hint="let it go first")
    if word == "missing":
        raise NotFound(f"it has no version {version} of {name}.", host=host, hint="push it first")
    if not done.ok or word not in ("same", "switched"):
        raise NotDone(f"{name} was not switched: {done.last_words()}", host=host)
    return word == "switched"


def plan_artefact(host: str, artefact: Artefact, digest: str | None, state: ArtefactState) -> tuple[Change, ...]:
    """Say what would change. `digest` is that of the program, None while it is not fetched yet."""
    _fits(host, artefact, state)
    there = state.versions.get(artefact.version, {}).get(artefact.program)
    same = there is not None and digest in (None, there)
    if state.current == artefact.version and same:
        return ()
    if state.hold is not None and state.current != artefact.version:
        raise Conflict(f"{artefact.name} is held at {state.current}: {state.hold}", host=host, hint="let it go first")
    if not state.current:
        return (Change(host, Verb.INSTALL, artefact.name, artefact.version),)
    return (Change(host, Verb.UPGRADE, artefact.name, f"{state.current} → {artefact.version}"),)


def _fits(host: str, artefact: Artefact, state: ArtefactState) -> None:
    if artefact.arch not in ("all", state.arch):
        raise Refused(f"it is {state.arch}, the artefact is for {artefact.arch}.", host=host, field="arch")


async def look(host: HostAccess, name: str) -> ArtefactState:
    """Look at what a host has of an artefact, in one round trip."""
    return parse_look(host.host.name, await host.run(look_script(name), log=False))


async def plan(host: HostAccess, artefact: Artefact, program: Program | None = None) -> tuple[Change, ...]:
    """Say what installing it would change."""
    state = await look(host, artefact.name)
    return plan_artefact(host.host.name, artefact, program.digest if program else None, state)


async def push(host: HostAccess, program: Program) -> bool:
    """Bring a program to a host, beside the versions that are there; nothing uses it yet. Tell whether it was sent.

    Raises `Refused` for another architecture, `NotDone` when it does not arrive whole.
    """
    from opsdeck.remote import directories

    artefact, name = program.artefact, host.host.name
    state = await look(host, artefact.name)
    _fits(name, artefact, state)
    if state.versions.get(artefact.version, {}).get(artefact.program) == program.digest:
        return False
    folders = [Directory(path, 0o755, "root:root") for path in _folders(artefact)]
    await directories.apply(host, folders)
    target = f"{ROOT}/{artefact.name}/{artefact.version}/{artefact.program}"
    await host.put(program.path, target, mode=artefact.mode, owner="root:root", sudo=True)
    state = await look(host, artefact.name)
    if state.versions.get(artefact.version, {}).get(artefact.program) != program.digest:
        raise NotDone(f"{target} did not arrive whole.", host=name, hint="run it again")
    return True


def _folders(artefact: Artefact) -> Sequence[str]:
    return ("/opt/opsdeck", ROOT, f"{ROOT}/{artefact.name}", f"{ROOT}/{artefact.name}/{artefact.version}")


async def switch(host: HostAccess, name: str, version: str, *, forced: bool = False) -> bool:
    """Make a version that is there the current one; tell whether it was another. Raises `Conflict` when held."""
    done = await host.run(switch_script(name, version, forced=forced), check=False, log=False)
    return parse_switch(host.host.name, name, version, done)


async def install(host: HostAccess, program: Program) -> bool:
    """Push a program and make it the current one; tell whether anything changed. Raises what both raise."""
    plan_artefact(host.host.name, program.artefact, program.digest, await look(host, program.artefact.name))
    sent = await push(host, program)
    return await switch(host, program.artefact.name, program.artefact.version) or sent


async def roll_back(host: HostAccess, name: str) -> str:
    """Make the version before the current one again; give it. Raises `NotFound` when there was none."""
    state = await look(host, name)
    if not state.previous:
        raise NotFound(f"{name} has no version before.", host=host.host.name, hint="install the one you want")
    await switch(host, name, state.previous, forced=True)
    return state.previous


async def hold(host: HostAccess, name: str, why: str) -> None:
    """Keep the version that is there: installs are refused until it is let go. `why` is shown to whoever tries."""
    from opsdeck.remote import files

    text = f"{printable(why.encode(), 180)}\n".encode()
    await files.apply(host, [files.File(_hold(name), text, owner="root:root")], keep_previous=False)


async def let_go(host: HostAccess, name: str) -> None:
    """Let installs change the version again."""
    from opsdeck.remote import files

    await files.apply(host, [files.File(_hold(name), None)], keep_previous=False)


def _hold(name: str) -> str:
    return f"{ROOT}/{artefact_name(name)}/hold"
