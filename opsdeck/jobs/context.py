"""What an action is given to work with: the contract between the runner and actions.

Actions see these protocols and nothing of what is behind them. Everything that is run, put or got through them is
logged (redacted), bounded by the job's clocks, ended on the host when the job is cancelled, and audited.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from opsdeck.actor import Actor
from opsdeck.secrets.sensitive import Sensitive

if TYPE_CHECKING:
    from opsdeck.db import Database
    from opsdeck.events import Event
    from opsdeck.inventory.models import Host
    from opsdeck.manifest import Receipt
    from opsdeck.ssh.command import Command, Completed, Script


class HostAccess(Protocol):
    """One host, reachable. What commands print goes to the log unless `log=False`."""

    host: Host

    async def run(
        self,
        command: Sequence[str] | Command | Script,
        *,
        sudo: bool = False,
        check: bool = True,
        log: bool = True,
        timeout: float | None = None,
        stdin: bytes | Sensitive | None = None,
    ) -> Completed:
        """Run a program on the host and wait for its end.

        A sequence is an argv: each word arrives as it is. `stdin` given as `Sensitive` never shows anywhere.
        With `check` a non-zero end raises `CommandFailed`. Raises the errors of `opsdeck.ssh`.
        """
        ...

    async def put(
        self, source: bytes | Path, remote: str, *, mode: int = 0o644, owner: str | None = None, sudo: bool = False
    ) -> None:
        """Write a file on the host: beside its place, then renamed into it."""
        ...

    async def get(self, remote: str, *, sudo: bool = False, limit: int = 1 << 20) -> bytes:
        """Read a small file, at most `limit` bytes. Raises `NotFound` when there is none."""
        ...

    async def fetch(self, remote: str, local: Path) -> int:
        """Copy a file of any size from the host; give its size in bytes."""
        ...

    def forward(self, port: int, address: str = "127.0.0.1") -> AbstractAsyncContextManager[int]:
        """Reach `address:port` as the host sees it through a local port on 127.0.0.1, for a while."""
        ...


class StepRun(HostAccess, Protocol):
    """A job's work on one host."""

    job: JobRun
    resuming: bool
    """Whether this step ran before on a node that died."""

    async def detached(
        self,
        label: str,
        command: Sequence[str] | Command | Script,
        *,
        sudo: bool = False,
        check: bool = True,
        stdin: bytes | Sensitive | None = None,
    ) -> Completed:
        """Run a program that outlives link and console, and follow it to its end.

        It runs under a name made of the job, the host and `label`; when it is there already (the job was resumed),
        it is followed from where the log ended, never started twice.
        """
        ...

    def log(self, text: str, stream: str = "info") -> None:
        """Add a line to this host's lane. Streams: `info`, `good`, `bad`, `out`, `err`, `cmd`."""
        ...

    def note(self, text: str) -> None:
        """Set the short phrase beside the host in the lane list."""
        ...


class JobRun(Protocol):
    """A whole job."""

    id: int
    plugin: str
    action: str
    actor: Actor
    hosts: tuple[Host, ...]
    db: Database
    home: Path
    """The data folder of the console, where files that jobs fetch and artefacts lie."""
    resuming: bool

    def step(self, host: str) -> AbstractAsyncContextManager[StepRun]:
        """Open the work on one of the job's hosts. An error inside fails the step and goes on outward."""
        ...

    def skip(self, host: str, note: str) -> None:
        """Record that nothing is done on this host, and why."""
        ...

    async def each(
        self,
        work: Callable[[StepRun], Awaitable[Receipt | None]],
        hosts: Sequence[str] | None = None,
        *,
        parallel: int = 32,
        stop_after: int | None = None,
    ) -> int:
        """Do `work` on many hosts, a step each; errors fail their own step. Give how many failed."""
        ...

    def log(self, text: str, stream: str = "info") -> None:
        """Add a line to the job's own lane."""
        ...

    async def secret(self, name: str, *, fresh: bool = False) -> Sensitive:
        """Open a secret: audited, and redacted in this job's log from now on; `fresh` opens it anew.

        Raises `NotFound`.
        """
        ...

    async def remove_secret(self, name: str) -> None:
        """Remove a secret that the plugin made, once no row refers to it.

        Raises `NotFound`, `Conflict` while something refers to it, `Refused` below operator.
        """
        ...

    def hide(self, value: Sensitive) -> None:
        """Redact a value in this job's log from now on (a password that was just made)."""
        ...

    def lease(self, name: str, purpose: str, *, wait: float = 0) -> AbstractAsyncContextManager[int]:
        """Hold a resource for a while; give the fencing number. Raises `Conflict`, saying who holds it since when."""
        ...

    def hold_schedules(
        self, purpose: str, chosen: Callable[[str, Mapping[str, Any]], bool]
    ) -> AbstractAsyncContextManager[tuple[str, ...]]:
        """Hold back schedules of this plugin for a while: those whose action and parameters `chosen` picks.

        Gives their names. Their due times are recorded as skipped, saying which job holds them and its `purpose`. They
        go on after the block, and at the latest when the job ends, whatever ends it. Raises `Conflict` when another
        job holds one of them.
        """
        ...

    def publish(self, event: Event) -> None:
        """Tell that something happened."""
        ...

    async def open_incident(
        self, key: str, title: str, *, detail: str = "", host: str = "", severity: str = "broken"
    ) -> None:
        """Say that something is wrong; the same `key` is one incident until it is closed."""
        ...

    async def close_incident(self, key: str) -> None:
        """Say that it is over."""
        ...


class PlanRun(Protocol):
    """Looking at what lies there now, to say what would change."""

    actor: Actor
    hosts: tuple[Host, ...]
    db: Database
    home: Path
    """The data folder of the console."""

    def on(self, host: str) -> HostAccess:
        """Reach one of the hosts (any of the inventory, for an action that works on the console); only read there."""
        ...

    async def gather(
        self,
        look: Callable[[HostAccess], Awaitable[Any]],
        hosts: Sequence[str] | None = None,
        *,
        parallel: int = 32,
    ) -> dict[str, Any]:
        """Look at all hosts (or those named) side by side; give results by host name. The first error ends it."""
        ...

    async def secret(self, name: str) -> Sensitive:
        """Open a secret, audited."""
        ...


class ServiceRun(Protocol):
    """A service instance under its lease. Its task is cancelled when the lease is lost."""

    key: str
    """The instance's key; "" while instances are asked for."""
    fence: int
    db: Database
    home: Path
    """The data folder of the console."""

    def on(self, host: str) -> AbstractAsyncContextManager[HostAccess]:
        """Reach a host by its name."""
        ...

    async def submit(self, action: str, params: dict[str, Any], selector: str = "") -> int:
        """Submit a job of the same plugin; give its number."""
        ...

    async def secret(self, name: str, *, fresh: bool = False) -> Sensitive:
        """Open a secret, audited once per hour and instance; `fresh` opens it anew, for one that changes."""
        ...

    def log(self, text: str, stream: str = "info") -> None:
        """Say something in the service's own bounded log."""
        ...

    def publish(self, event: Event) -> None:
        """Tell that something happened."""
        ...

    async def open_incident(
        self, key: str, title: str, *, detail: str = "", host: str = "", severity: str = "broken"
    ) -> None:
        """Say that something is wrong."""
        ...

    async def close_incident(self, key: str) -> None:
        """Say that it is over."""
        ...
