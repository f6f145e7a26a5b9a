"""What is done on the host of an edge: made ready, given a generation, checked, switched to it, switched back."""

from __future__ import annotations

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
    ProbeFailed,
    Program,
    Refused,
    Script,
    Sensitive,
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
from opsdeck_cdn.render import layout
from opsdeck_cdn.render.generation import Generation

KEPT = 5
"""Generations that stay on an edge."""
LEAST_FREE_KB = 100_000
"""Room below which nothing is put on an edge: a cache that cannot be written serves badly."""
SKEW = 30.0
"""Seconds by which an edge's clock may differ; more breaks certificates and ages."""


@cache
def shell(name: str) -> str:
    """Give the text of a file in `sh/`; `.sh` may be left off."""
    file = name if "." in name else f"{name}.sh"
    return resources("opsdeck_cdn").joinpath("sh", file).read_text()


@dataclass(frozen=True)
class EdgeState:
    """What an edge is now. `ports` maps 80 and 443 to the program that listens there; `accounts` are ACME files."""

    current: str = ""
    ports: Mapping[int, str] = field(default_factory=dict)
    skew: float = 0.0
    free_kb: int | None = None
    accounts: tuple[str, ...] = ()


def parse_look(host: str, done: Completed, *, sent: float, received: float) -> EdgeState:
    """Read what the look printed. Raises `NotDone` when it broke off."""
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    if not lines or lines[-1] != "end":
        raise NotDone("the look at the edge broke off.", host=host, hint="run it again")
    current, skew, free = "", 0.0, None
    ports: dict[int, str] = {}
    accounts: list[str] = []
    for line in lines:
        match line.split(" ", 2):
            case ["current", name]:
                current = name
            case ["port", port, program] if port.isdigit():
                ports[int(port)] = program or "a program"
            case ["port", port] if port.isdigit():
                ports[int(port)] = "a program"
            case ["clock", at] if at.isdigit():
                # The clock is read to the second, somewhere between sending and receiving.
                skew = max(0.0, int(at) - received) or min(0.0, int(at) + 1 - sent)
            case ["free", size] if size.isdigit():
                free = int(size)
            case ["account", name]:
                accounts.append(name)
    return EdgeState(current, ports, skew, free, tuple(accounts))


async def look(host: HostAccess) -> EdgeState:
    """Look at an edge, in one round trip."""
    sent = time.time()
    done = await host.run(Script(shell("look_edge"), (layout.ROOT, layout.STORE), sudo=True), check=False, log=False)
    return parse_look(host.host.name, done, sent=sent, received=time.time())


def fit(host: str, state: EdgeState) -> None:
    """Raise `Refused` when the host cannot be an edge as it is."""
    for port, program in sorted(state.ports.items()):
        if program != "caddy":
            raise Refused(
                f"port {port} is taken by {program}.", host=host, field="edge",
                hint=f"stop {program} there, or give it another port; an edge needs 80 and 443",
            )  # fmt: skip
    if abs(state.skew) > SKEW:
        raise Refused(
            f"its clock is {abs(state.skew):.0f} s {'ahead' if state.skew > 0 else 'behind'}.", host=host,
            hint="set up time synchronisation there: certificates and caches depend on it",
        )  # fmt: skip


def room(host: str, state: EdgeState) -> None:
    """Raise `DiskFull` when there is too little room for caches."""
    if state.free_kb is not None and state.free_kb < LEAST_FREE_KB:
        raise DiskFull(
            f"no room: {state.free_kb // 1000} MB are free where caches lie.", host=host, file=layout.CACHE,
            hint="free space there, or give the edge a smaller share of the caches (`edge --quota-percent`)",
        )  # fmt: skip


async def prepare(step: StepRun, program: Program, generation: Generation) -> bool:
    """Make a host ready to be an edge; tell whether Caddy or a unit changed, so that a reload is not enough."""
    before = await look(step)
    room(step.host.name, before)
    seen = await packages.look(step, ["nginx"])
    found = seen.packages.get("nginx")
    if found is None or not found.installed:
        fit(step.host.name, before)
        step.note("installing nginx")
        await packages.apply(step, packages.Request(packages.Intent.INSTALL, ("nginx",)), update=True)
        # Its own service would take port 80; the cache is a unit of ours that listens on a socket.
        await units.act(step, units.Act.DISABLE, "nginx")
        await units.act(step, units.Act.STOP, "nginx")
    else:
        fit(step.host.name, before)
    await users.apply(step, User(layout.USER, system=True, home=layout.STATE))
    own = f"{layout.USER}:{layout.USER}"
    await directories.apply(
        step,
        [
            *(Directory(path, 0o755, "root:root") for path in ("/etc/opsdeck", layout.ROOT, layout.GENERATIONS)),
            Directory(layout.EPOCHS, 0o755, "root:root"),
            Directory(layout.CACHE, 0o750, own),
            *(Directory(path, 0o750, own) for path in (layout.STATE, layout.STORE, layout.LOGS)),
            *(Directory(path, 0o755, None) for path in (layout.RUN_FRONT, layout.RUN_CACHE)),
        ],
    )
    changed = await artefacts.install(step, program)
    wanted = [File(f"/etc/systemd/system/{name}", data, owner="root:root") for name, data in generation.units.items()]
    if generation.roots:
        wanted.append(File(layout.ROOTS, generation.roots, owner="root:root"))
    put = await files.apply(step, wanted, keep_previous=False)
    if any(path.startswith("/etc/systemd/") for path in put):
        await step.run(Command(("systemctl", "daemon-reload"), sudo=True), log=False)
        changed = True
    return changed


async def in_force(step: StepRun, generation: Generation) -> str:
    """Give the folder in force when it is just this generation and both engines run; else ""."""
    current = (await look(step)).current
    if not current:
        return ""
    seen = await files.look(step, [f"{layout.CURRENT}/{name}" for name in generation.files])
    if [state.digest for state in seen] != list(generation.digests.values()):
        return ""
    states = await units.look(step, [layout.CACHE_UNIT, layout.FRONT_UNIT])
    return current if all(state.active == "active" and state.enabled for state in states) else ""


async def stage(step: StepRun, generation: Generation) -> str:
    """Put a generation beside the one in force and let both engines check it; give its folder's name.

    Raises `CheckRefused` with the engine's own words; what serves is untouched either way.
    """
    host = step.host.name
    name = f"{stamp(utcnow())}-{generation.id}"
    folder = f"{layout.GENERATIONS}/{name}"
    await directories.apply(step, [Directory(folder, 0o755, "root:root")])
    await files.apply(
        step,
        [
            *(File(f"{folder}/{file}", data, owner="root:root") for file, data in generation.files.items()),
            *(File(layout.epoch_file(site), data, owner="root:root") for site, data in generation.epochs.items()),
        ],
        keep_previous=False,
    )
    checks = (
        ("nginx", Command((layout.NGINX, "-t", "-q", "-c", f"{folder}/nginx.conf"), sudo=True)),
        ("Caddy", Command((layout.CADDY, "validate", "--config", f"{folder}/caddy.json"), run_as=layout.USER,
                          env={"HOME": layout.STATE}, cwd="/")),
    )  # fmt: skip
    for engine, command in checks:
        done = await step.run(command, check=False, log=False, timeout=60)
        if not done.ok:
            await step.run(Command(("rm", "-rf", "--", folder), sudo=True), check=False, log=False)
            raise CheckRefused(
                f"{engine} refuses the configuration: {_words(done)}", host=host, file=folder,
                hint="nothing was changed; mend the rule or origin it names",
            )  # fmt: skip
    return name


def _words(done: Completed) -> str:
    lines = [line for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    told = [line for line in lines if "emerg" in line or line.startswith("Error")] or lines[-1:]
    return " ".join(" ".join(told).split())[:600] or f"it ended with {done.exit_status}"


async def switch(step: StepRun, folder: str, *, restart: bool) -> str:
    """Make a generation the one in force and have both engines take it; give the one before ("" for none).

    Raises `ProbeFailed` with the journal when a unit does not come up.
    """
    done = await step.run(Script(shell("flip"), (layout.ROOT, folder), sudo=True), log=False)
    before = done.stdout.decode().strip().removeprefix("old").strip()
    await take(step, restart=restart)
    return before


async def take(step: StepRun, *, restart: bool = False) -> None:
    """Have both engines take the generation in force."""
    for unit in (layout.CACHE_UNIT, layout.FRONT_UNIT):
        await units.act(step, units.Act.ENABLE, unit)
    await units.act(step, units.Act.RELOAD, layout.CACHE_UNIT, settle=0.3)
    front = units.Act.RESTART if restart else units.Act.RELOAD
    await units.act(step, front, layout.FRONT_UNIT, settle=0.3)


async def back(step: StepRun, folder: str) -> None:
    """Go back to the generation that was in force; to none when there was none, with both units stopped."""
    await step.run(Script(shell("flip"), (layout.ROOT, folder), sudo=True), log=False)
    if folder:
        await take(step, restart=True)
        return
    for unit in (layout.FRONT_UNIT, layout.CACHE_UNIT):
        await units.act(step, units.Act.DISABLE, unit)
        await units.act(step, units.Act.STOP, unit)


async def prune(step: StepRun) -> None:
    """Remove old generations."""
    await step.run(Script(shell("prune"), (layout.ROOT, str(KEPT)), sudo=True), check=False, log=False)


async def read_account(host: HostAccess, names: Sequence[str]) -> dict[str, Sensitive]:
    """Read the ACME account that an edge has, by path."""
    return {name: Sensitive((await host.get(name, sudo=True, limit=64 * 1024)).decode()) for name in names}


async def give_account(step: StepRun, account: Mapping[str, Sensitive]) -> bool:
    """Put the account there, so that this edge can answer for the others; tell whether it was another."""
    if not account:
        return False
    own = f"{layout.USER}:{layout.USER}"
    folders: list[str] = []
    for path in account:
        parts = path.removeprefix(layout.STORE + "/").split("/")[:-1]
        folders += [f"{layout.STORE}/{'/'.join(parts[: count + 1])}" for count in range(len(parts))]
    await directories.apply(step, [Directory(path, 0o700, own) for path in dict.fromkeys(folders)])
    wanted = [File(path, content, 0o600, own) for path, content in account.items()]
    return bool(await files.apply(step, wanted, keep_previous=False))


__all__ = [
    "EdgeState", "ProbeFailed", "back", "fit", "give_account", "look", "parse_look", "prepare", "prune",
    "read_account", "shell", "stage", "switch", "take",
]  # fmt: skip
