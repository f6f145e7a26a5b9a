"""Looking at a database server, and bringing the tools that a backup needs."""

from __future__ import annotations

import asyncio
import base64
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Protocol

from opsdeck.api import Artefact, Depot, Refused, Script, Sensitive, Unavailable, artefacts, packages
from opsdeck_backup import stores
from opsdeck_backup.engines import Engine, Server, Tool

if TYPE_CHECKING:
    from opsdeck.api import Completed, Host, HostAccess, StepRun

SYSTEM_RCLONE = "rclone"


class Place(Protocol):
    """Where parts run: a host, or a container of a pod reached through one. The methods are those of `StepRun`."""

    @property
    def host(self) -> Host:
        """Give the host."""
        ...

    async def run(
        self,
        command: Script,
        *,
        sudo: bool = False,
        check: bool = True,
        log: bool = True,
        timeout: float | None = None,
        stdin: Sensitive | None = None,
    ) -> Completed:
        """Run a part and wait for its end."""
        ...

    async def detached(
        self, label: str, command: Script, *, sudo: bool = False, check: bool = True, stdin: Sensitive | None = None
    ) -> Completed:
        """Run a part that outlives link and console."""
        ...

    def log(self, text: str, stream: str = "info") -> None:
        """Add a line."""
        ...

    def note(self, text: str) -> None:
        """Set the short phrase."""
        ...


@cache
def shell(*names: str) -> str:
    """Give the text of `shell/<name>.sh`, several in order."""
    folder = files("opsdeck_backup") / "shell"
    return "\n".join((folder / f"{name}.sh").read_text() for name in names)


def sealed(*values: Sensitive | None) -> Sensitive:
    """Pack secrets for a script's standard input: one line of base64 each."""
    lines = [base64.b64encode(value.reveal().encode()).decode() if value else "" for value in values]
    return Sensitive("\n".join(lines) + "\n")


def parse(host: str, output: bytes) -> Server:
    """Read what the look printed. Raises `Unavailable` when it broke off."""
    lines = output.decode("utf-8", "replace").splitlines()
    if not lines or lines[-1] != "end":
        raise Unavailable("the look at its database broke off.", host=host, hint="try again")
    found = dict(line.partition(" ")[::2] for line in lines)

    def number(name: str) -> int:
        text = found.get(name, "").strip()
        return int(text) if text.isdigit() else 0

    return Server(
        machine=found.get("machine", ""),
        cores=number("cores") or 1,
        tool=found.get("tool", ""),
        lacks=tuple(line.removeprefix("lacks ") for line in lines if line.startswith("lacks ")),
        rclone=found.get("rclone", "").removeprefix("rclone ").strip(),
        version=found.get("version", ""),
        program=found.get("server_program", ""),
        data=found.get("data", "").rstrip("/"),
        id=found.get("id", ""),
        lsn=number("lsn"),
        birth=found.get("birth", ""),
        used=number("used"),
        grants=tuple(line.removeprefix("grant ") for line in lines if line.startswith("grant ")),
        fault=found.get("fault", ""),
    )


async def at(
    host: HostAccess | Place, engine: Engine, login: Sensitive | None = None, rclone: str = SYSTEM_RCLONE
) -> Server:
    """Look at a host's database server and tools, in one round trip; a server that is not there is no fault here."""
    script = Script(shell("probe"), (engine.tool, engine.client, rclone, engine.server, engine.facts))
    done = await host.run(script, sudo=True, log=False, timeout=60, stdin=login or Sensitive("[client]\n"))
    return parse(host.host.name, done.stdout)


async def tools(step: StepRun, engine: Engine | None = None, version: str = "", *, server: bool = False) -> str:
    """Bring what a host lacks of the tools (with `server`, of the database itself); give rclone's path.

    `version` is that of the server that is or was backed up: the engine's tool has to fit it. Raises `Refused`.
    """
    tool = engine.tool_for(version) if engine else Tool(())
    wanted = ["zstd", "age", *tool.packages, *(engine.server_packages if engine and server else ())]
    there = await packages.look(step, wanted)
    missing = [name for name in wanted if not (seen := there.packages.get(name)) or not seen.installed]
    if missing:
        if tool.repository and set(tool.packages) & set(missing):
            await _repository(step, tool)
        step.log(f"installing {', '.join(missing)}")
        await packages.apply(step, packages.Request(packages.Intent.INSTALL, tuple(missing)), update=True)
    state = await artefacts.look(step, "rclone")
    if state.current:
        return f"{artefacts.ROOT}/rclone/current/rclone"
    return await _rclone(step, state.arch)


async def _repository(step: StepRun, tool: Tool) -> None:
    """See that apt knows a vendor's packages, where the vendor's own program can say so. Raises `Refused`."""
    script = Script(shell("repository"), (tool.repository, *tool.packages), f"seeing that apt knows {tool.packages[0]}")
    done = await step.run(script, sudo=True, check=False)
    if not done.ok:
        raise Refused(
            f"apt there does not know {' '.join(tool.packages)}.",
            host=step.host.name,
            hint=f"install percona-release, or make the vendor's repository {tool.repository} known to apt",
        )


async def _rclone(step: StepRun, arch: str) -> str:
    import hashlib
    import platform
    from pathlib import Path

    mine = artefacts.MACHINES.get(platform.machine(), platform.machine())
    if arch != mine:
        there = await packages.look(step, ["rclone"])
        seen = there.packages.get("rclone")
        if seen is None or not seen.installed:
            await packages.apply(
                step, packages.Request(packages.Intent.INSTALL, ("rclone",)), update=True, label="apt-rclone"
            )
        return SYSTEM_RCLONE
    source = Path(stores.program())

    def digested() -> str:
        with source.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    digest = await asyncio.to_thread(digested)
    program = await Depot(step.job.home).obtain(Artefact("rclone", digest[:12], digest, str(source), arch))
    step.log("bringing rclone")
    await artefacts.install(step, program)
    return program.artefact.path


def need_server(server: Server, host: str) -> None:
    """Raise `Refused` unless the database answered."""
    if server.fault or not server.version:
        raise Refused(
            f"the database does not answer: {server.fault or 'no word'}.",
            host=host,
            hint="see that it runs, and that root (or the login given) may enter through its socket",
        )


def need_tools(server: Server, pod: str) -> None:
    """Raise `Refused` unless the image of a pod's sidecar has what a backup needs."""
    lacks = (*server.lacks, *(() if server.rclone else ("rclone",)))
    if lacks:
        raise Refused(
            f"the sidecar of {pod} lacks {', '.join(lacks)}.",
            hint="build its image from the Containerfile given for it",
        )
