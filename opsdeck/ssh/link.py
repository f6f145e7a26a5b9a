"""One warm connection and its channels."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import asyncssh

from opsdeck.ssh.endpoint import Endpoint
from opsdeck.ssh.errors import Unreachable
from opsdeck.ssh.execution import Execution


class NotOpened(Exception):
    """The channel was certainly not opened."""


@dataclass(frozen=True)
class ConnectionState:
    """A connection as pages show it. `hops` are the jump hosts on the way, nearest first."""

    host: str
    address: str
    since: datetime
    channels: int
    waiting: int
    last_error: str
    hops: tuple[str, ...]
    draining: bool


class Link:
    """A connection in use by several tasks: at most `channels` at once, the others wait in line.

    If the server allows fewer sessions than that, the limit sinks to what it allows.
    """

    def __init__(
        self, endpoint: Endpoint, connection: asyncssh.SSHClientConnection, channels: int, open_timeout: float
    ) -> None:
        self.endpoint = endpoint
        self.connection = connection
        self.since = datetime.now(UTC)
        self.last_error = ""
        self.draining = False
        self._slots = asyncio.Semaphore(channels)
        self._spare = asyncio.Lock()
        self._open_timeout = open_timeout
        self._in_use = 0
        self._sessions = 0
        self._waiting = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def usable(self) -> bool:
        """Tell whether new channels may be opened on it."""
        return not self.draining and not self.gone

    @property
    def gone(self) -> bool:
        """Tell whether the connection is closed."""
        return self.connection.is_closed()

    @property
    def busy(self) -> bool:
        """Tell whether somebody holds it."""
        return self._in_use > 0 or self._waiting > 0

    def state(self) -> ConnectionState:
        """Describe it."""
        hops: list[str] = []
        hop = self.endpoint.via
        while hop is not None:
            hops.insert(0, hop.name)
            hop = hop.via
        return ConnectionState(
            host=self.endpoint.name,
            address=f"{self.endpoint.address}:{self.endpoint.port}",
            since=self.since,
            channels=self._sessions,
            waiting=self._waiting,
            last_error=self.last_error,
            hops=tuple(hops),
            draining=self.draining,
        )

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Keep it from being closed meanwhile, without taking one of its sessions."""
        self._in_use += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._in_use -= 1
            if not self.busy:
                self._idle.set()

    @contextlib.asynccontextmanager
    async def slot(self, *, reserved: bool = False) -> AsyncIterator[None]:
        """Wait for the right to open one session. `reserved` uses the spare one kept for ending commands."""
        gate: asyncio.Semaphore | asyncio.Lock = self._spare if reserved else self._slots
        self._waiting += 1
        self._idle.clear()
        try:
            await gate.acquire()
        finally:
            self._waiting -= 1
            if not self.busy:
                self._idle.set()
        self._sessions += 1
        try:
            async with self.held():
                yield
        finally:
            self._sessions -= 1
            gate.release()

    async def open(self, execution: Execution, *, reserved: bool = False) -> None:
        """Open the channel of an execution; call it within `slot`.

        Raises `NotOpened` if nothing was sent, and `Unreachable` if the server allows no commands at all.
        """
        while True:
            opening = asyncio.ensure_future(
                self.connection.create_session(
                    lambda: execution, execution.line, encoding=None, errors="strict", request_pty=False
                )
            )
            try:
                async with asyncio.timeout(self._open_timeout):
                    await asyncio.shield(opening)
                return
            except asyncio.CancelledError:
                # The opening goes on: a channel that is half open cannot be closed. Its owner closes it.
                opening.add_done_callback(_note_end)
                raise
            except TimeoutError:
                opening.add_done_callback(_note_end)
                self.fail("it no longer answers")
                if execution.sent:
                    return  # see_through tells that the link was lost
                raise NotOpened(self.last_error) from None
            except asyncssh.ChannelOpenError as error:
                self.last_error = error.reason
                if self.gone:
                    if execution.sent:
                        return
                    raise NotOpened(error.reason) from None
                if execution.sent:
                    raise self._no_commands(error.reason) from None
                if reserved or not await self._shrink():
                    raise self._no_commands(error.reason) from None
            except (asyncssh.Error, OSError) as error:
                self.last_error = str(error)
                if execution.sent:
                    return
                raise NotOpened(str(error)) from None

    def fail(self, why: str) -> None:
        """Drop the connection at once."""
        self.last_error = why
        self.connection.abort()

    async def drain(self, bound: float | None = None) -> None:
        """Take no more work, wait until what runs has ended (at most `bound` s), and close."""
        self.draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(bound):
                await self._idle.wait()
        self.connection.close()
        try:
            async with asyncio.timeout(5.0):
                await self.connection.wait_closed()
        except TimeoutError:
            self.connection.abort()

    async def _shrink(self) -> bool:
        """Give up a slot, since the server has none for us, and wait for another; False if it was the last."""
        if self._sessions <= 1:
            return False
        await self._slots.acquire()
        return True

    def _no_commands(self, reason: str) -> Unreachable:
        return Unreachable(
            f"the server opens no session for a command: {reason.rstrip('.')}.",
            host=self.endpoint.name,
            hop=self.endpoint.name,
            hint="see MaxSessions and ForceCommand in its sshd_config.",
        )


def _note_end(opening: asyncio.Future[Any]) -> None:
    if not opening.cancelled():
        opening.exception()
