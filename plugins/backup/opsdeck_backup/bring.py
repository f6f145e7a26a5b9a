"""Bringing a backup back onto a host: room, fetch, decrypt, unpack, prepare. Restores and drills begin alike."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opsdeck.api import CommandFailed, OpsDeckError, Refused, Script, Sensitive
from opsdeck_backup import foreign, look
from opsdeck_backup.engines import Engine, Server
from opsdeck_backup.manifests import Manifest
from opsdeck_backup.stores import Changed, Store

if TYPE_CHECKING:
    from opsdeck.api import HostAccess, Receipt
    from opsdeck_backup.look import Place
    from opsdeck_backup.models import Proof

WORK = "/var/lib/opsdeck-backup"
_ROOM = """at=$1
until [ -d "$at/" ]; do at=${at%/*}; done
df -Pm "$at/" | tail -n 1
sed -n 's/^MemAvailable: *//p' /proc/meminfo
"""
_MAKE = """mkdir -p "$1" && chmod 711 "${1%/*}" "$1" || exit 1
find "${1%/*}" -mindepth 1 -maxdepth 1 -name '2*Z-*.*' -mmin +1500 -exec rm -rf -- {} +
"""
_REMOVE = """case $1 in
  /var/lib/opsdeck-backup/?*) rm -rf -- "$1" ;;
  */.opsdeck-restore/?*) rm -rf -- "$1" && rmdir -- "${1%/*}" ;;
  *) exit 1 ;;
esac
"""
CHANGED = 65
"""How the part that fetches ends when what it got is not what was sent."""
SPARE = 1.1
"""Room asked for beyond the size of what is unpacked: logs, and files that the preparation makes."""


@dataclass(frozen=True)
class Room:
    """What a host has left, MiB."""

    disk: int
    memory: int

    @property
    def prepare_memory(self) -> int:
        """Give what the preparation may use: a quarter of what is free, 96 MiB to 2 GiB."""
        return max(96, min(2048, self.memory // 4))


def parse_room(output: bytes) -> Room:
    """Read what `df` and the memory's line say; 0 for what cannot be read."""
    lines = output.decode("utf-8", "replace").splitlines()
    words = lines[0].split() if lines else []
    disk = int(words[3]) if len(words) > 3 and words[3].isdigit() else 0
    memory = lines[1].split()[0] if len(lines) > 1 else ""
    return Room(disk, int(memory) // 1024 if memory.isdigit() else 0)


def needed(links: Sequence[Manifest]) -> int:
    """Give the MiB that unpacking a chain takes."""
    return int(sum(link.result.raw for link in links) * SPARE) // (1 << 20) + 64


async def room(host: HostAccess | Place, work: str = WORK) -> Room:
    """Look at what a place has left for work."""
    return parse_room((await host.run(Script(_ROOM, (work,)), sudo=True, log=False, timeout=30)).stdout)


def check_room(host: str, links: Sequence[Manifest], has: Room, work: str = WORK) -> None:
    """Raise `Refused` when a chain would not fit into `work`."""
    if has.disk < needed(links):
        raise Refused(
            f"{work} has {has.disk} MiB left, and unpacking takes {needed(links)} MiB.",
            host=host,
            hint="make room there, or choose another host",
        )


def check_fits(host: str, engine: Engine, links: Sequence[Manifest], server: Server) -> None:
    """Raise `Refused` when the host's server or tool is of another series than the one that made the backup."""
    _check(host, engine, links, ("server", server.program or server.version), (engine.tool, server.tool))


def check_tool(host: str, engine: Engine, links: Sequence[Manifest], server: Server) -> None:
    """Raise `Refused` when the tool is of another series; for a place that has no server."""
    _check(host, engine, links, (engine.tool, server.tool))


def _check(host: str, engine: Engine, links: Sequence[Manifest], *there: tuple[str, str]) -> None:
    made = links[-1].planned.server
    for name, version in there:
        if not engine.fits(made, version):
            raise Refused(
                f"the backup was made on {made}, and the {name} here is {version.strip() or 'missing'}.",
                host=host,
                hint="install the same series there, or choose a host that has it",
            )


@dataclass(frozen=True)
class Brought:
    """A consistent copy on a host, and how long it took, s."""

    folder: str
    fetched: float
    prepared: float

    def figures(self, links: Sequence[Manifest]) -> dict[str, object]:
        """Give what a proof keeps of it: bytes unpacked, and seconds to fetch and to prepare."""
        return {"raw": sum(link.result.raw for link in links), "fetch": self.fetched, "prepare": self.prepared}


def told(links: Sequence[Manifest], proof: Proof, **more: object) -> Receipt:
    """Give the receipt of what brought a backup back: which, of how many parts, how long, and `more`."""
    whole = {"backup": links[-1].id, "links": len(links), "seconds": proof.seconds, "position": links[-1].position}
    return whole | proof.detail | more


@contextlib.asynccontextmanager
async def work_folder(step: Place, name: str, work: str = WORK) -> AsyncIterator[str]:
    """Make a folder for the work, and remove it however that ends.

    What a console that died left there goes as well once it is older than any job may be (a day).
    """
    folder = f"{work}/{name}"
    await step.run(Script(_MAKE, (folder,)), sudo=True, log=False, timeout=300)
    try:
        yield folder
    finally:
        try:
            await step.run(Script(_REMOVE, (folder,)), sudo=True, log=False, timeout=300)
        except OpsDeckError as fault:
            step.log(f"{folder} was left there: {fault.message}", "bad")


async def bring(
    step: Place,
    engine: Engine,
    store: Store,
    links: Sequence[Manifest],
    *,
    rclone: str,
    identity: Sensitive,
    folder: str,
    memory: int,
    tool: str = "",
    prepare: bool = True,
) -> Brought:
    """Fetch, verify, decrypt and unpack each link and, meanwhile, prepare them into one copy in `folder`/0.

    `tool` is what the engine's tool there says of itself.
    """
    folders = [f"{folder}/{number}" for number in range(len(links))]
    name = links[-1].id
    if links[0].planned.foreign:
        await foreign.fetch(step, store, links, folders, rclone)
        links = ()
    commands = engine.prepare(folders, memory, tool) if prepare else ()
    words = [folder, engine.extractor, str(len(links))]
    for link in links:
        words += [f"{store.root}/{link.planned.object}", link.result.sha256, str(link.result.stored)]
    words.append(str(len(commands)))
    for command in commands:
        words += [str(len(command)), *command]
    doing = f"bringing {len(links)} parts" if len(links) > 1 else "bringing it"
    step.note(doing)
    script = Script(look.shell("common", "pass", "bring"), (name, rclone, *words), f"{doing} to {folder}")
    secrets = look.sealed(store.config, None, identity)
    try:
        done = await step.detached("bring", script, sudo=True, stdin=secrets)
    except CommandFailed as fault:
        if fault.completed.exit_status != CHANGED:
            raise
        raise Changed(fault.completed.last_words(), host=step.host.name, hint="look at who can write there") from fault
    return Brought(folders[0], *_took(done.stdout))


def _took(output: bytes) -> tuple[float, float]:
    """Read the last line: seconds until all was fetched, and from then until it was prepared."""
    words = output.decode("utf-8", "replace").splitlines()[-1:]
    match words[0].split() if words else []:
        case ["took", fetched, prepared]:
            return float(fetched), float(prepared)
    return 0.0, 0.0
