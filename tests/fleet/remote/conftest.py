"""Lab hosts as operations see them: over the pool, without the rows of a job."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from opsdeck.inventory.models import Host
from opsdeck.secrets.sensitive import Sensitive
from opsdeck.ssh.command import Command, Completed, Script
from opsdeck.ssh.endpoint import Endpoint
from opsdeck.ssh.pool import Pool


@dataclass
class Reached:
    """A `StepRun` over a real connection."""

    pool: Pool
    endpoint: Endpoint
    host: Host
    resuming: bool = False
    said: list[str] = field(default_factory=list)
    run_id: str = field(default_factory=lambda: secrets.token_hex(4))

    def _task(self, command: Any, sudo: bool, timeout: float | None, stdin: bytes | Sensitive | None) -> Any:
        task = command if isinstance(command, Command | Script) else Command(tuple(command))
        body = stdin.reveal().encode() if isinstance(stdin, Sensitive) else stdin
        return replace(
            task, sudo=sudo or task.sudo, timeout=timeout or task.timeout, stdin=task.stdin if body is None else body
        )

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
        done = await self.pool.run(self.endpoint, self._task(command, sudo, timeout, stdin))
        return done.check(self.host.name) if check else done

    async def put(
        self, source: bytes | Path, remote: str, *, mode: int = 0o644, owner: str | None = None, sudo: bool = False
    ) -> None:
        await self.pool.put(self.endpoint, source, remote, mode=mode, owner=owner, sudo=sudo)

    async def detached(
        self,
        label: str,
        command: Sequence[str] | Command | Script,
        *,
        sudo: bool = False,
        check: bool = True,
        stdin: bytes | Sensitive | None = None,
    ) -> Completed:
        task = self._task(command, sudo, None, stdin)
        unit = f"opsdeck-test-{self.run_id}-{label}"
        await self.pool.detach(self.endpoint, unit, task)
        done = await self.pool.attach(self.endpoint, unit, sudo=task.sudo)
        return done.check(self.host.name) if check else done

    def log(self, text: str, stream: str = "info") -> None:
        self.said.append(text)

    def note(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
async def reach(fleet: Any) -> AsyncIterator[Callable[..., Reached]]:
    """Give a lab host by its name, as root or another user of the lab."""
    pool = Pool()

    def to(name: str, user: str = "root", **change: Any) -> Reached:
        endpoint = replace(fleet.host(name).endpoint(user), **change)
        return Reached(pool, endpoint, Host(name=name, address=endpoint.address))

    yield to
    await pool.close()
