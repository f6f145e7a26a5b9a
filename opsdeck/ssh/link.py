"""One warm connection and its channels."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import asyncssh

from opsdeck.ssh.endpoint import Endpoint
from opsdeck.ssh.errors import Unreachable
from opsdeck.ssh.execution import Execution

PATIENCE = 5.0
"""Seconds for which a server that allowed more sessions before may still be ending one."""


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


class Turns:
    """The right to a session, for at most `limit` at once; the others wait in line."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self._line: deque[asyncio.Future[None]] = deque()

    async def take(self, *, first: bool = False) -> None:
        """Wait for a turn; `first` stands before all who wait."""
        if self.taken < self.limit and (first or not self._line):
            self.taken += 1
            return
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.insert(0 if first else len(self._line), mine)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.cancelled():
                self._line.remove(mine)
                self._call()
            else:
                self.give()
            raise

    def give(self) -> None:
        """Give a turn back."""
        self.taken -= 1
        self._call()

    def _call(self) -> None:
        while self.taken < self.limit and (mine := next((one for one in self._line if not one.done()), None)):
            self._line.remove(mine)
            self.taken += 1
            mine.set_result(None)


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
        self._turns, self._spare = Turns(channels), Turns(1)
        self._open_timeout = open_timeout
        self._in_use = 0
        self._open = 0
        self._allowed = 0
        """The most sessions that the server has had open for us at once."""
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
            channels=self._turns.taken + self._spare.taken,
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
    async def slot(self, *, reserved: bool = False) -> AsyncIterator[Slot]:
        """Wait for the right to open one session. `reserved` uses the spare one kept for ending commands."""
        slot = Slot(self._spare if reserved else self._turns)
        await self._wait(slot)
        try:
            async with self.held():
                yield slot
        finally:
            self._open -= slot.open
            if slot.held:
                slot.turns.give()

    async def _wait(self, slot: Slot, *, first: bool = False) -> None:
        self._waiting += 1
        self._idle.clear()
        try:
            await slot.turns.take(first=first)
            slot.held = True
        finally:
            self._waiting -= 1
            if not self.busy:
                self._idle.set()

    async def open(self, execution: Execution, slot: Slot) -> None:
        """Open the channel of an execution in the slot that it has.

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
                slot.open = True
                self._open += 1
                self._allowed = max(self._allowed, self._open)
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
                if not await self._give_way(slot):
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

    async def _give_way(self, slot: Slot) -> bool:
        """Wait until the server may have a session for us; False when it has none though nobody else has one.

        Nobody waits for those who wait: while others have sessions, one of them ends; else the server is asked again,
        which may still be ending what has ended here.
        """
        others = self._turns.taken + self._spare.taken - 1
        now = time.monotonic()
        slot.refused = slot.refused or now
        if now - slot.refused < PATIENCE and (others < self._allowed or slot.turns is self._spare):
            await asyncio.sleep(min(0.5, 0.02 + (now - slot.refused) / 2))
            return True
        if slot.turns is self._spare or self._turns.taken <= 1:
            return False
        self._turns.limit = self._turns.taken - 1
        slot.turns.give()
        slot.held = False
        await self._wait(slot, first=True)
        slot.refused = 0.0
        return True

    def _no_commands(self, reason: str) -> Unreachable:
        return Unreachable(
            f"the server opens no session for a command: {reason.rstrip('.')}.",
            host=self.endpoint.name,
            hop=self.endpoint.name,
            hint="see MaxSessions and ForceCommand in its sshd_config.",
        )


@dataclass(eq=False)
class Slot:
    """A right to one session: whose turn it is, whether it is held and the session open, and since when refused."""

    turns: Turns
    held: bool = False
    open: bool = False
    refused: float = 0.0


def _note_end(opening: asyncio.Future[Any]) -> None:
    if not opening.cancelled():
        opening.exception()
