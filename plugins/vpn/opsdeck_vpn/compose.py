"""The second driver: a tunnel in containers of Docker Compose, on a host that has it. Nothing here installs Docker."""

from __future__ import annotations

from collections.abc import Sequence

from opsdeck.api import (
    Change,
    Command,
    Directory,
    File,
    HostAccess,
    ProbeFailed,
    Refused,
    StepRun,
    Verb,
    directories,
    files,
)
from opsdeck_vpn.render.compose import folders, path, project, rendered
from opsdeck_vpn.render.gateway import FOLDER, Gateway

BUILD_SECONDS = 900
_PROGRAMS = (("docker", "compose"), ("docker-compose",))


async def program(host: HostAccess) -> tuple[str, ...]:
    """Give how Compose is called on this host. Raises `Refused` when it has none, or its Docker does not answer."""
    for words in _PROGRAMS:
        if (await host.run(Command((*words, "version"), sudo=True), check=False, log=False)).ok:
            break
    else:
        raise Refused(
            "there is no Docker Compose on the host.",
            host=host.host.name,
            hint="install Docker with its Compose plugin, or take the tunnel in without the driver `compose`",
        )
    done = await host.run(Command(("docker", "version"), sudo=True), check=False, log=False, timeout=20)
    if not done.ok:
        raise Refused(
            f"Docker does not answer: {done.last_words()}", host=host.host.name, hint="systemctl start docker"
        )
    return words


def command(words: tuple[str, ...], name: str, *rest: str) -> Command:
    """Build a call of Compose for one tunnel."""
    return Command((*words, "-p", project(name), "-f", path(name), *rest), sudo=True)


async def plan(host: HostAccess, gateway: Gateway) -> tuple[Change, ...]:
    """Say what bringing it up would change on the gateway."""
    words = await program(host)
    changes = [*await directories.plan(host, folders(gateway)), *await files.plan(host, rendered(gateway, words))]
    if changes or not await _running(host, gateway.name):
        changes.append(Change(host.host.name, Verb.RUN, project(gateway.name), "its containers started, also at boot"))
    return tuple(changes)


async def _running(host: HostAccess, name: str) -> bool:
    label = f"label=com.docker.compose.project={project(name)}"
    done = await host.run(Command(("docker", "ps", "-q", "--filter", label), sudo=True), check=False, log=False)
    return len(done.stdout.split()) == 2


async def lay(step: StepRun, gateway: Gateway) -> tuple[str, ...]:
    """Put its files in place, the Compose file once Compose itself accepted it; give the paths that changed."""
    words = await program(step)
    await directories.apply(step, folders(gateway))
    changed = await files.apply(step, rendered(gateway, words), keep_previous=False)
    for each in changed:
        step.log(f"{each} is in place")
    await step.run(Command(("systemd-tmpfiles", "--create", _tmpfiles(gateway.name)), sudo=True), log=False)
    return changed


def _tmpfiles(name: str) -> str:
    return f"/etc/tmpfiles.d/opsdeck-vpn-{name}.conf"


async def start(step: StepRun, gateway: Gateway, changed: Sequence[str], *, afresh: bool) -> None:
    """Build the image where it lacks, and start the containers; what changed begins anew. Proven by Docker."""
    words = await program(step)
    again = ("--force-recreate",) if changed or afresh else ()
    await step.run(command(words, gateway.name, "up", "-d", "--build", *again), timeout=BUILD_SECONDS)
    if not await _running(step, gateway.name):
        raise ProbeFailed(
            "its containers do not stay up.", host=step.host.name, hint=f"docker logs {project(gateway.name)}-dial"
        )


async def stop(step: StepRun, name: str) -> None:
    """Take the containers and their network away, so that they do not start at boot."""
    words = await program(step)
    await step.run(command(words, name, "down", "--timeout", "5"), timeout=120)


async def remove(step: StepRun, gateway: Gateway) -> None:
    """Stop it and take its files away."""
    words = await program(step)
    await stop(step, gateway.name)
    gone = [File(file.path, None, mode=None) for file in rendered(gateway, words)]
    await files.apply(step, gone, keep_previous=False)
    room = f"/run/opsdeck-vpn/{gateway.name}"
    await step.run(Command(("rm", "-rf", "--", room), sudo=True), log=False)
    for each in (f"{gateway.folder}/login", f"{gateway.folder}/image", gateway.folder):
        await directories.apply(step, [Directory(each, there=False)])


async def dialling(step: StepRun, name: str, wanted: bool) -> None:
    """Stop what dials for a while, or let it dial again."""
    await step.run(inside(name, f"{FOLDER}/{name}/tunnel.sh", "resume" if wanted else "pause", name), log=False)


def inside(name: str, *argv: str) -> Command:
    """Build a command that runs in the tunnel's network."""
    return Command(("docker", "exec", f"{project(name)}-dial", *argv), sudo=True)


async def resolver(step: HostAccess, name: str) -> bytes | None:
    """Give the list of name servers that the SOCKS server sees; None when it does not run."""
    argv = ("docker", "exec", f"{project(name)}-door", "cat", "/etc/resolv.conf")
    done = await step.run(Command(argv, sudo=True), check=False, log=False)
    return done.stdout if done.ok else None
