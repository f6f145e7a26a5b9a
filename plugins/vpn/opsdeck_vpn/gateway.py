"""Bringing a tunnel's files and units to its gateway, and taking them away."""

from __future__ import annotations

from collections.abc import Sequence

from opsdeck.api import (
    Change,
    Command,
    Directory,
    File,
    HostAccess,
    StepRun,
    Unit,
    Verb,
    directories,
    files,
    packages,
    units,
)
from opsdeck_vpn.render.gateway import FOLDER, PACKAGES, Gateway, rendered, unit_names

_PARENTS = ("/etc/opsdeck", FOLDER)


def folders(gateway: Gateway) -> tuple[Directory, ...]:
    """Give the folders that must be there."""
    return tuple(Directory(path, 0o755, "root:root") for path in (*_PARENTS, gateway.folder))


async def plan(host: HostAccess, gateway: Gateway) -> tuple[Change, ...]:
    """Say what bringing it up would change on the gateway."""
    wish = packages.Request(packages.Intent.INSTALL, PACKAGES[gateway.kind])
    seen = await packages.look(host, wish.names)
    where = host.host.name
    changes = [
        Change(where, Verb.INSTALL, name)
        for name in wish.names
        if name not in seen.packages or not seen.packages[name].installed
    ]
    changes += await directories.plan(host, folders(gateway))
    changes += await files.plan(host, rendered(gateway))
    _net, dial, _door, socket = unit_names(gateway.name)
    for state in await units.look(host, [dial, socket]):
        if state.active != "active":
            changes.append(Change(where, Verb.RUN, state.name, "started, and at every boot"))
    return tuple(changes)


async def lay(step: StepRun, gateway: Gateway) -> tuple[str, ...]:
    """Install what it needs and put its files in place; give the paths that changed."""
    wish = packages.Request(packages.Intent.INSTALL, PACKAGES[gateway.kind])
    seen = await packages.look(step, wish.names)
    if any(name not in seen.packages or not seen.packages[name].installed for name in wish.names):
        old = seen.lists_age is None or seen.lists_age > 86400
        for move in await packages.apply(step, wish, update=old):
            step.log(f"{move.name} {move.new} is installed", "good")
    await directories.apply(step, folders(gateway))
    changed = await files.apply(step, rendered(gateway), keep_previous=False)
    for path in changed:
        step.log(f"{path} is in place")
    if any(path.startswith(units.FOLDER) for path in changed):
        await step.run(Command(("systemctl", "daemon-reload"), sudo=True), log=False)
    return changed


async def start(step: StepRun, gateway: Gateway, changed: Sequence[str], *, afresh: bool) -> None:
    """Start the units in order, now and at every boot; what its files changed is restarted. Proven by systemd."""
    net, dial, door, socket = unit_names(gateway.name)
    own = {f"{gateway.folder}/{name}" for name in ("door.py", "socks.user", "socks.pw")}
    port, server = {f"{units.FOLDER}/{socket}"}, own | {f"{units.FOLDER}/{door}"}
    await units.ensure(step, Unit(net), settle=0)
    if (port | server) & set(changed):
        await step.run(Command(("systemctl", "stop", door, socket), sudo=True), check=False, log=False)
    await units.ensure(step, Unit(socket), settle=0)
    await units.ensure(step, Unit(door), settle=0.3)
    verb = units.Act.RESTART if afresh or set(changed) - port - server else units.Act.START
    await units.act(step, units.Act.ENABLE, dial, settle=0)
    await units.act(step, verb, dial, settle=0)


async def stop(step: StepRun, name: str) -> None:
    """Stop a tunnel's units and keep them from starting at boot; the namespace goes last."""
    net, dial, door, socket = unit_names(name)
    order = (dial, socket, door, net)
    there = {state.name for state in await units.look(step, order) if state.known}
    for unit in order:
        if unit in there:
            await units.act(step, units.Act.STOP, unit)
            await units.act(step, units.Act.DISABLE, unit)


async def dialling(step: StepRun, name: str, wanted: bool) -> None:
    """Stop what dials for a while, or let it dial again."""
    dial = unit_names(name)[1]
    await units.act(step, units.Act.START if wanted else units.Act.STOP, dial, settle=0)


async def redial(host: HostAccess, name: str) -> None:
    """Start anew what dials, so that it asks for its server's name again."""
    await host.run(Command(("systemctl", "restart", unit_names(name)[1]), sudo=True), check=False, log=False)


def inside(name: str, *argv: str) -> Command:
    """Build a command that runs in the tunnel's network."""
    return Command(("ip", "netns", "exec", f"ov-{name}", *argv), sudo=True)


async def resolver(step: HostAccess, name: str) -> bytes | None:
    """Give the list of name servers that the SOCKS server sees; None when it does not run."""
    (state,) = await units.look(step, [unit_names(name)[2]])
    return await step.get(f"/proc/{state.pid}/root/etc/resolv.conf", sudo=True) if state.pid else None


async def remove(step: StepRun, gateway: Gateway) -> None:
    """Stop it and take its files away."""
    await stop(step, gateway.name)
    gone = [File(file.path, None, mode=None) for file in rendered(gateway)]
    await files.apply(step, gone, keep_previous=False)
    await step.run(Command(("systemctl", "daemon-reload"), sudo=True), log=False)
    await directories.apply(step, [Directory(gateway.folder, there=False)])
