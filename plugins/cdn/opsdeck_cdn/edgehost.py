"""What is done on the host of an edge: made ready, given a generation, checked, switched to it, switched back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files as resources

from opsdeck.api import (
    CheckRefused,
    Command,
    Completed,
    Directory,
    DiskFull,
    File,
    HostAccess,
    NotDone,
    OpsDeckError,
    Program,
    Refused,
    Script,
    StepRun,
    User,
    artefacts,
    directories,
    files,
    packages,
    stamp,
    units,
    users,
    utcnow,
)
from opsdeck_cdn.engines import Engine
from opsdeck_cdn.render import layout
from opsdeck_cdn.render.generation import Generation
from opsdeck_cdn.sites import Edge

KEPT = 5
"""Generations that stay on an edge."""
LEAST_FREE_KB = 100_000
"""Room below which nothing is put on an edge: a cache that cannot be written serves badly."""
ANYWHERE = ("*", "0.0.0.0", "::")  # noqa: S104 - how ss writes it
SKEW = 30.0
"""Seconds by which an edge's clock may differ; more breaks certificates and ages."""


@cache
def shell(name: str) -> str:
    """Give the text of a file in `sh/`; `.sh` may be left off."""
    file = name if "." in name else f"{name}.sh"
    return resources("opsdeck_cdn").joinpath("sh", file).read_text()


@dataclass(frozen=True)
class Listener:
    """A program that listens on a port that an edge needs; `kind` is tcp or udp."""

    port: int
    kind: str
    address: str
    program: str

    def meets(self, edge: Edge) -> bool:
        """Tell whether it is in the way of the edge's front."""
        if self.program == "caddy":
            return False
        own = self.address.partition("%")[0].strip("[]")
        return not edge.bind or own in ANYWHERE or own in edge.addresses


@dataclass(frozen=True)
class EdgeState:
    """What an edge is now.

    `accounts` maps ACME files to their sha256; `caddy` is the version of what lies there, "" for none or unasked;
    `names` gives the addresses to which it finds the names it was asked for.
    """

    current: str = ""
    ports: tuple[Listener, ...] = ()
    skew: float = 0.0
    free_kb: int | None = None
    accounts: Mapping[str, str] = field(default_factory=dict)
    caddy: str = ""
    names: Mapping[str, frozenset[str]] = field(default_factory=dict)


def parse_look(host: str, done: Completed, *, sent: float, received: float) -> EdgeState:
    """Read what the look printed. Raises `NotDone` when it broke off."""
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    if not lines or lines[-1] != "end":
        raise NotDone("the look at the edge broke off.", host=host, hint="run it again")
    current, skew, free, caddy = "", 0.0, None, ""
    ports: list[Listener] = []
    accounts: dict[str, str] = {}
    names: dict[str, frozenset[str]] = {}
    for line in lines:
        match line.split(" ", 4):
            case ["current", name]:
                current = name
            case ["port", port, kind, own, program] if port.isdigit():
                ports.append(Listener(int(port), kind, own, program or "a program"))
            case ["caddy", version]:
                caddy = version
            case ["name", name, own]:
                names[name] = names.get(name, frozenset()) | {own}
            case ["clock", at] if at.isdigit():
                # The clock is read to the second, somewhere between sending and receiving.
                skew = max(0.0, int(at) - received) or min(0.0, int(at) + 1 - sent)
            case ["free", size] if size.isdigit():
                free = int(size)
            case ["account", digest, path]:
                accounts[path] = digest
    return EdgeState(current, tuple(ports), skew, free, accounts, caddy, names)


async def look(host: HostAccess, names: Sequence[str] = (), *, caddy: bool = False) -> EdgeState:
    """Look at an edge, in one round trip; `names` are looked up there, and with `caddy` its version is asked for."""
    sent = time.time()
    words = (layout.ROOT, layout.STORE, layout.CADDY if caddy else "", *names)
    done = await host.run(Script(shell("look_edge"), words, sudo=True), check=False, log=False, timeout=60)
    return parse_look(host.host.name, done, sent=sent, received=time.time())


def wrong(edge: Edge, state: EdgeState) -> list[OpsDeckError]:
    """Give all that keeps a host from being an edge as it is, the worst first, each as a deploy would raise it."""
    found: list[OpsDeckError] = []
    for one in state.ports:
        if one.meets(edge):
            port = f"port {one.port}{' (UDP)' if one.kind == 'udp' else ''}"
            found.append(Refused(
                f"{port} is taken by {one.program}.", host=edge.host, field="edge",
                hint=f"stop {one.program} there, or give it another port; an edge needs 80 and 443",
            ))  # fmt: skip
    if abs(state.skew) > SKEW:
        found.append(Refused(
            f"its clock is {abs(state.skew):.0f} s {'ahead' if state.skew > 0 else 'behind'}.", host=edge.host,
            hint="set up time synchronisation there: certificates and caches depend on it",
        ))  # fmt: skip
    if state.free_kb is not None and state.free_kb < LEAST_FREE_KB:
        found.append(DiskFull(
            f"no room: {state.free_kb // 1000} MB are free where caches lie.", host=edge.host, file=layout.CACHE,
            hint="free space there, or give the edge a smaller share of the caches (`edge --quota-percent`)",
        ))  # fmt: skip
    return found


async def prepare(step: StepRun, program: Program, generation: Generation) -> bool:
    """Make a host ready to be an edge; tell whether Caddy or a unit is another, so that a reload is not enough.

    Caddy comes beside the one that runs, which the switch replaces. On a host that is ready it only looks, at all at
    once, since what is far away costs by the round trip.
    """
    user, folders, wanted = User(layout.USER, system=True, home=layout.STATE), _folders(), _files(generation)
    lacks_nginx, no_user, no_folders, other_caddy, other_files = await asyncio.gather(
        _lacks_nginx(step), users.plan(step, user), directories.plan(step, folders),
        artefacts.plan(step, program.artefact, program), files.plan(step, wanted),
    )  # fmt: skip
    if lacks_nginx:
        step.note("installing nginx")
        await packages.apply(step, packages.Request(packages.Intent.INSTALL, ("nginx",)), update=True)
        # Its own service would take port 80; the cache is a unit of ours that listens on a socket.
        await units.act(step, units.Act.DISABLE, "nginx")
        await units.act(step, units.Act.STOP, "nginx")
    if no_user:
        await users.apply(step, user)
    if no_user or no_folders:
        await directories.apply(step, folders)
    if other_caddy:
        await artefacts.push(step, program)
    put = await files.apply(step, wanted, keep_previous=False) if other_files else ()
    units_changed = any(path.startswith("/etc/systemd/") for path in put)
    if units_changed:
        await step.run(Command(("systemctl", "daemon-reload"), sudo=True), log=False)
    return bool(other_caddy) or units_changed


async def _lacks_nginx(host: HostAccess) -> bool:
    found = (await packages.look(host, ["nginx"])).packages.get("nginx")
    return found is None or not found.installed


def _folders() -> list[Directory]:
    own = f"{layout.USER}:{layout.USER}"
    shared = ("/etc/opsdeck", layout.ROOT, layout.GENERATIONS, layout.EPOCHS)
    return [
        *(Directory(path, 0o755, "root:root") for path in shared),
        *(Directory(path, 0o750, own) for path in (layout.CACHE, layout.STATE, layout.STORE, layout.LOGS)),
        *(Directory(path, 0o755, None) for path in (layout.RUN_FRONT, layout.RUN_CACHE)),
    ]


def _files(generation: Generation) -> list[File]:
    made = [File(f"/etc/systemd/system/{name}", data, owner="root:root") for name, data in generation.units.items()]
    if generation.roots:
        made.append(File(layout.ROOTS, generation.roots, owner="root:root"))
    return made


async def in_force(step: StepRun, current: str, generation: Generation) -> bool:
    """Tell whether the folder in force is just this generation, and all engines run."""
    if not current:
        return False
    seen, states = await asyncio.gather(
        files.look(step, [f"{layout.CURRENT}/{name}" for name in generation.files]),
        units.look(step, [engine.unit for engine in generation.engines]),
    )
    same = [state.digest for state in seen] == list(generation.digests.values())
    return same and all(state.active == "active" and state.enabled for state in states)


async def stage(step: StepRun, generation: Generation, proven: str) -> str:
    """Put a generation beside the one in force and let both engines check it; give its folder's name.

    Of older ones the newest few stay, and `proven`, the one to go back to. Raises `CheckRefused` with the engine's own
    words; what serves is untouched either way.
    """
    name = f"{stamp(utcnow())}-{generation.id}"
    folder = f"{layout.GENERATIONS}/{name}"
    await step.run(Script(shell("make_room"), (layout.ROOT, name, str(KEPT), proven), sudo=True), log=False)
    await files.apply(
        step,
        [
            *(File(f"{folder}/{file}", data, owner="root:root") for file, data in generation.files.items()),
            *(File(layout.epoch_file(site), data, owner="root:root") for site, data in generation.epochs.items()),
            *(File(layout.purge_word(site), name.encode(), owner="root:root") for site in generation.epochs),
        ],
        keep_previous=False,
    )
    try:
        await checked(step, folder, generation.engines)
    except CheckRefused:
        await step.run(Command(("rm", "-rf", "--", folder), sudo=True), check=False, log=False)
        raise
    return name


async def checked(host: HostAccess, folder: str, engines: Sequence[Engine]) -> None:
    """Let each engine check a generation's folder. Raises `CheckRefused` with the words of the first that refuses."""
    runs = (host.run(engine.check(folder), check=False, log=False, timeout=60) for engine in engines)
    for engine, done in zip(engines, await asyncio.gather(*runs), strict=True):
        if said := engine.refusal(done):
            raise CheckRefused(
                f"{engine.name} refuses the configuration: {said}", host=host.host.name, file=folder,
                hint="nothing was changed; mend the rule or origin it names",
            )  # fmt: skip


async def switch(step: StepRun, folder: str, generation: Generation, *, restart: bool) -> None:
    """Make a generation the one in force and have the engines take it.

    Raises `ProbeFailed` with the journal when a unit does not come up.
    """
    await step.run(Script(shell("flip"), (layout.ROOT, folder), sudo=True), log=False)
    await take(step, generation.engines, restart=restart)


async def take(step: StepRun, engines: Sequence[Engine], *, restart: bool = False) -> None:
    """Have the engines take the generation in force; the last one is what visitors meet, and may need a restart."""
    for state in await units.look(step, [engine.unit for engine in engines]):
        if not state.enabled:
            await units.act(step, units.Act.ENABLE, state.name)
    for engine in engines:
        act = units.Act.RESTART if restart and engine is engines[-1] else units.Act.RELOAD
        await units.act(step, act, engine.unit, settle=0.3)


async def take_epochs(step: StepRun, epochs: Mapping[str, bytes]) -> None:
    """Bring epochs by site and have the cache go by them: no request is answered by an older one afterwards.

    It is told to read them also when they lie there already, since the link may have ended between the two. Raises
    `NotDone`.
    """
    wanted = [File(layout.epoch_file(site), data, owner="root:root") for site, data in epochs.items()]
    await files.apply(step, wanted, keep_previous=False)
    command = Command(("perl", "-e", shell("reload.pl"), layout.CACHE_PID), sudo=True)
    done = await step.run(command, check=False, log=False, timeout=60)
    if not done.ok:
        raise NotDone(
            f"its cache goes by an old epoch still: {done.last_words()}", host=step.host.name,
            hint=f"journalctl -u {layout.CACHE_UNIT}",
        )  # fmt: skip


async def back(step: StepRun, folder: str, generation: Generation) -> None:
    """Go back to the generation that was in force; to none when there was none, with the units stopped."""
    await step.run(Script(shell("flip"), (layout.ROOT, folder), sudo=True), log=False)
    if folder:
        await take(step, generation.engines, restart=True)
        return
    for engine in reversed(generation.engines):
        await units.act(step, units.Act.DISABLE, engine.unit)
        await units.act(step, units.Act.STOP, engine.unit)
