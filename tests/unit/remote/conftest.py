"""This machine as a host: real sh, real files, no network."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from opsdeck.inventory.models import Host
from opsdeck.secrets.sensitive import Sensitive
from opsdeck.ssh.command import Command, Completed, Script


class Here:
    """A `HostAccess` that runs on this machine as the user of the tests; sudo is left out."""

    def __init__(self) -> None:
        self.host = Host(name="here", address="127.0.0.1")
        self.ran: list[Command | Script] = []

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
        task = command if isinstance(command, Command | Script) else Command(tuple(command))
        self.ran.append(replace(task, stdin=None))
        body = stdin.reveal().encode() if isinstance(stdin, Sensitive) else stdin
        began = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *task.words(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate(body or b"")
        done = Completed(process.returncode, None, out, err, time.monotonic() - began)
        return done.check("here") if check else done

    async def put(
        self, source: bytes | Path, remote: str, *, mode: int = 0o644, owner: str | None = None, sudo: bool = False
    ) -> None:
        data = source if isinstance(source, bytes) else source.read_bytes()
        Path(remote).write_bytes(data)
        Path(remote).chmod(mode)


@pytest.fixture
def here() -> Here:
    return Here()
