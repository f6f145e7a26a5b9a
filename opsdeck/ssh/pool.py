"""The room's door: run, detach, attach, kill, copy, forward; each over the host's one warm connection."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import asyncssh

from opsdeck.errors import OpsDeckError
from opsdeck.ssh import detached, forward, transfer
from opsdeck.ssh.command import Completed, Feed, Output, ProcessGroup, Script, Started, Task
from opsdeck.ssh.detached import Detached, DetachedState
from opsdeck.ssh.dial import Patience, offered
from opsdeck.ssh.endpoint import Endpoint
from opsdeck.ssh.errors import CommandTimeout, LinkLost, SudoRefused, Unreachable
from opsdeck.ssh.execution import Execution
from opsdeck.ssh.hostkeys import OfferedKey
from opsdeck.ssh.link import ConnectionState, Link, NotOpened, Slot
from opsdeck.ssh.program import END_GROUP, compose
from opsdeck.ssh.switchboard import Switchboard

__all__ = ["Pool"]

_log = logging.getLogger("opsdeck.ssh")
_T = TypeVar("_T")
# How long ending a command may take from here: a dial, TERM, KILL, and the proof.
_CLEAN_UP = 20.0
_TERM_WAIT, _KILL_WAIT = 2.0, 3.0


class Pool:
    """All that is done over SSH. One per process and event loop; `close` it at the end.

    `starts_per_bastion` and `starts_total` limit logins under way; `channels` the sessions in use on one connection.
    `keepalive` is (seconds between, unanswered ones until the peer counts as gone). `connect_timeout` bounds a whole
    dial, `login_timeout` its part after the TCP connection, `start_timeout` the login shell and sudo before a command
    starts, `close_timeout` what `close` waits for commands to end (all in s). `trace` prints every remote command
    (argv, never stdin) to stderr, or gives it to a callable.
    """

    def __init__(
        self,
        *,
        starts_per_bastion: int = 8,
        starts_total: int = 32,
        channels: int = 8,
        keepalive: tuple[float, int] = (15.0, 3),
        connect_timeout: float = 20.0,
        login_timeout: float = 15.0,
        start_timeout: float = 60.0,
        close_timeout: float = 30.0,
        trace: bool | Callable[[str], None] | None = None,
    ) -> None:
        self._patience = Patience(connect_timeout, login_timeout, keepalive)
        self._start_timeout = start_timeout
        self._board = Switchboard(
            starts_per_bastion=starts_per_bastion,
            starts_total=starts_total,
            channels=channels,
            patience=self._patience,
            close_bound=close_timeout,
        )
        self._trace: Callable[[str], None] | None = _to_stderr if trace is True else (trace or None)

    async def run(
        self,
        endpoint: Endpoint,
        command: Task,
        *,
        on_output: Output | None = None,
        on_started: Started | None = None,
        capture_limit: int = 1 << 20,
    ) -> Completed:
        """Run a command to its end, over one channel and without a round trip more than that needs.

        `on_output` gets bytes as they come; while it works (it may be async), the host is held back. `on_started`
        gets the process group, which the host tells before the command begins. At most `capture_limit` bytes of each
        stream are kept in the result. Cancelled, it ends the processes on the host before it lets `CancelledError` go
        on; the same when a callback raises. Raises `Unreachable`, `HostKeyUnknown`, `HostKeyChanged`, `LoginRefused`,
        `SudoRefused`, `ShellRefused`, `LinkLost`, `CommandTimeout`, `Invalid`. Only what was certainly not started is
        tried again.
        """
        return await self._run(
            endpoint, command, on_output=on_output, on_started=on_started, capture_limit=capture_limit
        )

    async def kill(self, endpoint: Endpoint, group: ProcessGroup, *, term_wait: float = _TERM_WAIT) -> bool:
        """End a process group on a channel of its own: TERM, after `term_wait` s KILL; True if it is seen to be empty.

        A group whose host was restarted, or whose number belongs to somebody else by now, is gone.
        """
        script = Script(
            text=END_GROUP,
            args=(
                str(group.pgid),
                str(group.started),
                group.boot,
                str(round(term_wait * 10)),
                str(round(_KILL_WAIT * 10)),
            ),
            sudo=group.sudo,
            run_as=group.run_as,
        )
        try:
            async with asyncio.timeout(term_wait + _KILL_WAIT + _CLEAN_UP):
                done = await self._run(endpoint, script, reserved=True)
        except TimeoutError:
            return False
        return done.ok and done.stdout.strip() == b"gone"

    async def put(
        self,
        endpoint: Endpoint,
        source: bytes | Path,
        remote: str,
        *,
        mode: int = 0o644,
        owner: str | None = None,
        sudo: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> str:
        """Write a file: beside its place, checked by its SHA-256, then renamed into it. Gives that digest in hex.

        The folder must exist. `owner` is `user` or `user:group`; `progress` gets bytes sent and total. Raises
        `DiskFull` or `TransferFailed`, and leaves the old file untouched then.
        """
        return await transfer.put(
            self._fed, endpoint, source, remote, mode=mode, owner=owner, sudo=sudo, progress=progress
        )

    async def get(self, endpoint: Endpoint, remote: str, *, sudo: bool = False, limit: int = 1 << 20) -> bytes:
        """Read a file of at most `limit` bytes. Raises `NotFound`, `TransferFailed`."""
        return await transfer.get(self.run, endpoint, remote, sudo=sudo, limit=limit)

    async def fetch(
        self,
        endpoint: Endpoint,
        remote: str,
        local: Path,
        *,
        sudo: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> int:
        """Copy a file of any size here, beside `local` and then renamed; give its size. Raises like `get`."""
        return await transfer.fetch(self.run, endpoint, remote, local, sudo=sudo, progress=progress)

    async def detach(
        self, endpoint: Endpoint, unit: str, command: Task, *, on_started: Started | None = None
    ) -> Detached:
        """Start a command that outlives the link and the console, under the name `unit`; give where it lives.

        Once only: if `unit` is there already, it is left as it is and told (`existed`).
        """
        return await detached.start(self.run, endpoint, unit, command, on_started)

    async def attach(
        self,
        endpoint: Endpoint,
        unit: str,
        *,
        offset: int = 0,
        on_output: Output | None = None,
        capture_limit: int = 1 << 20,
        sudo: bool = False,
        patience: float = 600.0,
    ) -> Completed:
        """Follow a detached command's log from byte `offset` (stdout and stderr in one) until it ends.

        After a lost link it comes back with growing pauses, for up to `patience` s without contact. `NotFound` if
        there is no such unit, `LinkLost` if the host was restarted under it or nobody was left to tell its end.
        """
        return await detached.follow(
            self.run,
            endpoint,
            unit,
            offset=offset,
            on_output=on_output,
            capture_limit=capture_limit,
            sudo=sudo,
            patience=patience,
        )

    async def detached_state(self, endpoint: Endpoint, unit: str, *, sudo: bool = False) -> DetachedState:
        """Tell how a detached command stands."""
        return await detached.state(self.run, endpoint, unit, sudo)

    async def stop_detached(self, endpoint: Endpoint, unit: str, *, sudo: bool = False) -> bool:
        """End a detached command; True if its processes are seen to be gone. Its log and status stay."""
        return await detached.stop(self, endpoint, unit, sudo)

    async def forget(self, endpoint: Endpoint, unit: str, *, sudo: bool = False) -> None:
        """Remove the log and status of a detached command that has ended. `Conflict` while it runs."""
        await detached.forget(self.run, endpoint, unit, sudo)

    @contextlib.asynccontextmanager
    async def forward(self, endpoint: Endpoint, host: str, port: int = 0) -> AsyncIterator[int]:
        """Give a port on 127.0.0.1 that leads to `host:port` (or to the Unix socket `host`) as the endpoint sees it.

        It survives a lost link: the next connection dials again. Any user of this machine can use it meanwhile.
        """
        async with forward.opened(self._link, endpoint, host, port) as local:
            yield local

    async def offered_keys(
        self, endpoint_or_address: Endpoint | str, port: int = 22, via: Endpoint | None = None
    ) -> tuple[OfferedKey, ...]:
        """Ask a server for its host keys without logging in, through `via` if given. Raises `Unreachable`."""
        if isinstance(endpoint_or_address, Endpoint):
            name, address = endpoint_or_address.name, endpoint_or_address.address
            port, via = endpoint_or_address.port, endpoint_or_address.via
        else:
            name = address = endpoint_or_address
        through = await self._board.tunnel(via, name)
        try:
            if through is None:
                keys = await offered(address, port, None, self._patience.connect)
            else:
                async with through.held():
                    keys = await offered(address, port, through.connection, self._patience.connect)
        except (OSError, asyncssh.Error) as error:
            why = str(error) or type(error).__name__
            raise Unreachable(f"{address}:{port} showed no host key: {why}.", host=name, hop=name) from None
        if not keys:
            raise Unreachable(f"{address}:{port} has no host key of a known kind.", host=name, hop=name)
        return keys

    def connections(self) -> tuple[ConnectionState, ...]:
        """Describe the open connections, by host."""
        return self._board.states()

    def drop(self, name: str) -> None:
        """Let the connections of a host go: drained, then closed. For a host that was edited or removed."""
        self._board.drop(name)

    def forgive(self, endpoint: Endpoint) -> None:
        """Let a refused login be tried again at once, since somebody changed something on the host."""
        self._board.forgive(endpoint.identity)

    async def close(self) -> None:
        """Take no more work, wait for what runs (at most `close_timeout` s), and close every connection."""
        await self._board.close()

    # Inside.

    async def _link(self, endpoint: Endpoint) -> Link:
        return await self._board.link(endpoint)

    async def _fed(
        self, endpoint: Endpoint, command: Task, feed: Feed, progress: Callable[[int], None] | None
    ) -> Completed:
        return await self._run(endpoint, command, feed=feed, progress=progress)

    async def _run(
        self,
        endpoint: Endpoint,
        command: Task,
        *,
        feed: Feed | None = None,
        progress: Callable[[int], None] | None = None,
        on_output: Output | None = None,
        on_started: Started | None = None,
        capture_limit: int = 1 << 20,
        reserved: bool = False,
    ) -> Completed:
        program = compose(endpoint, command, has_stdin=True if feed is not None else None)
        if self._trace is not None:
            self._trace(f"{endpoint.name}: {' '.join(repr(word[:200]) for word in command.words())}")
        for attempt in range(3):
            link = await self._board.link(endpoint)
            async with link.slot(reserved=reserved) as slot:
                if not link.usable and link.gone:
                    continue
                execution = Execution(
                    endpoint,
                    program,
                    stdin=feed if feed is not None else command.stdin,
                    on_output=on_output,
                    on_started=on_started,
                    capture_limit=capture_limit,
                    start_timeout=self._start_timeout,
                    run_timeout=command.timeout,
                    time_limit=command.timeout + command.kill_after + 5.0 if command.timeout is not None else None,
                )
                execution.progress = progress
                try:
                    return await self._see_through(link, execution, endpoint, slot, reserved)
                except NotOpened as error:
                    link.fail(str(error))
                    if attempt == 2:
                        break
        raise LinkLost(endpoint.name, link.last_error or "closed by the host", may_have_run=False)

    async def _see_through(
        self, link: Link, execution: Execution, endpoint: Endpoint, slot: Slot, reserved: bool
    ) -> Completed:
        try:
            await link.open(execution, slot)
            return await execution.see_through(lambda: link.gone)
        except CommandTimeout as error:
            execution.close()
            dead = await _bounded(self._end(endpoint, execution.group), _CLEAN_UP)
            raise CommandTimeout(
                endpoint.name, error.timeout, proved_dead=bool(dead), completed=error.completed
            ) from None
        except NotOpened:
            raise
        except SudoRefused:
            # Its password question gets the end of stdin, and nothing was started.
            execution.close()
            raise
        except LinkLost as error:
            link.last_error = error.message
            raise
        except BaseException:
            # Cancelled, a callback raised, sudo hangs: what was begun on the host must not go on there.
            if execution.sent and not execution.ended and not reserved:
                await _bounded(self._clean_up(endpoint, execution), _CLEAN_UP)
            execution.close()
            raise

    async def _clean_up(self, endpoint: Endpoint, execution: Execution) -> None:
        group = await execution.started(5.0)
        execution.close()
        if group is not None and not await self._end(endpoint, group):
            _log.warning("%s: it is not proved that process group %d is gone", endpoint.name, group.pgid)

    async def _end(self, endpoint: Endpoint, group: ProcessGroup | None) -> bool:
        if group is None:
            return False
        try:
            return await self.kill(endpoint, group)
        except OpsDeckError as error:
            _log.warning("%s: process group %d could not be ended: %s", endpoint.name, group.pgid, error)
            return False


async def _bounded(work: Coroutine[Any, Any, _T], bound: float) -> _T | None:
    """Do something to its end although we are being cancelled, but for no longer than `bound` s.

    Who cancels us meanwhile is heard after it: `CancelledError` then.
    """
    task = asyncio.ensure_future(work)
    end = asyncio.get_running_loop().time() + bound
    cancelled = False
    while not task.done() and (left := end - asyncio.get_running_loop().time()) > 0:
        try:
            await asyncio.wait({task}, timeout=left)
        except asyncio.CancelledError:
            cancelled = True
    if not task.done():
        task.cancel()
    if cancelled:
        raise asyncio.CancelledError
    return task.result() if task.done() else None


def _to_stderr(line: str) -> None:
    print(f"ssh {line}", file=sys.stderr)
