"""One program on one channel: sent without waiting, fenced, drained, and seen to its end."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

import asyncssh

from opsdeck.ssh.command import Completed, Feed, Output, ProcessGroup, Started, Stream, printable
from opsdeck.ssh.endpoint import Endpoint
from opsdeck.ssh.errors import CommandTimeout, LinkLost, ShellRefused, SudoRefused
from opsdeck.ssh.program import NO_SETSID, Fence, Program

_QUEUE_LIMIT = 512 * 1024
_CHUNK = 64 * 1024
# A daemon that kept stdout must not keep the caller: s of silence after the exit status was told.
_LINGER = 3.0


class Execution(asyncssh.SSHClientSession[bytes]):
    """The client side of one channel. `see_through` gives the outcome; the owner ends what is left if it raises."""

    def __init__(
        self,
        endpoint: Endpoint,
        program: Program,
        *,
        stdin: bytes | Feed | None,
        on_output: Output | None,
        on_started: Started | None,
        capture_limit: int,
        start_timeout: float,
        run_timeout: float | None,
        time_limit: float | None,
    ) -> None:
        self._endpoint = endpoint
        self._program = program
        self._stdin = stdin
        self._on_output = on_output
        self._on_started = on_started
        self._limit = capture_limit
        self._start_timeout = start_timeout
        self._run_timeout = run_timeout
        self._time_limit = time_limit
        self._fence = Fence(program)
        self._queue: deque[tuple[Stream, bytes]] = deque()
        self._queued = 0
        self._paused = False
        self._flooding = False
        self._abandoned = False
        self._kept = {Stream.STDOUT: bytearray(), Stream.STDERR: bytearray()}
        self._truncated = False
        self._wake = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._closed = False
        self._lost: Exception | None = None
        self._status: int | None = None
        self._signal: str | None = None
        self._last_data = 0.0
        self._ended_at = 0.0
        self._sent_at: float | None = None
        self._chan: asyncssh.SSHClientChannel[bytes] | None = None
        self._feeder: asyncio.Task[None] | None = None
        self.progress: Callable[[int], None] | None = None

    # What asyncssh calls.

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        """Be asked whether to go on: the request to run comes next. What stdin gets follows right behind it."""
        self._chan = chan
        if self._abandoned:
            chan.close()
            return
        self._sent_at = time.monotonic()
        asyncio.get_running_loop().call_soon(self._send)

    def data_received(self, data: bytes, datatype: int | None) -> None:
        """Take output, without its fence."""
        stream = Stream.STDERR if datatype == asyncssh.EXTENDED_DATA_STDERR else Stream.STDOUT
        fenced = self._fence.group is None
        own = self._fence.stderr(data) if stream is Stream.STDERR else self._fence.stdout(data)
        if fenced and (self._fence.group is not None or self._fence.prompts > 1):
            self._wake.set()
        if own:
            self._take(stream, own)

    def eof_received(self) -> bool:
        """Stay half open: the exit status comes behind."""
        return True

    def exit_status_received(self, status: int) -> None:
        """Note the exit status."""
        self._status = status
        self._ended_at = asyncio.get_running_loop().time()
        self._wake.set()

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        """Note the signal that ended it."""
        self._signal = signal
        self._ended_at = asyncio.get_running_loop().time()
        self._wake.set()

    def pause_writing(self) -> None:
        """Hold back stdin."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Go on with stdin."""
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the channel is gone, or the whole connection."""
        self._closed = True
        self._lost = exc
        self._writable.set()
        self._wake.set()

    # What the owner asks.

    @property
    def line(self) -> str:
        """Give the line for the login shell."""
        return self._program.line

    @property
    def group(self) -> ProcessGroup | None:
        """Give the process group, as soon as the host told it."""
        return self._fence.group

    @property
    def ended(self) -> bool:
        """Tell whether the host has told how the command ended."""
        return self._status is not None or self._signal is not None

    @property
    def sent(self) -> bool:
        """Tell whether the program was sent."""
        return self._sent_at is not None

    async def see_through(self, lost: Callable[[], bool]) -> Completed:
        """Wait for the end, serving the callbacks; `lost` tells whether the connection is gone.

        Raises `LinkLost`, `SudoRefused`, `ShellRefused`, `CommandTimeout` (not yet proved dead), and whatever a
        callback or the source of stdin raises.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        timer: asyncio.TimerHandle | None = None
        announced = False
        try:
            while True:
                self._wake.clear()
                if self.group is not None and not announced:
                    announced = True
                    await self._announce(self.group)
                await self._deliver()
                self._reap_feeder()
                if self._closed and not self._queue:
                    break
                now = loop.time()
                if self.group is None and self._fence.prompts > 1:
                    raise self._sudo_refused()
                due = self._due(began, announced)
                if due is not None and now >= due:
                    if self.ended:
                        break
                    raise self._too_long(announced)
                if timer is not None:
                    timer.cancel()
                timer = loop.call_at(due, self._wake.set) if due is not None else None
                await self._wake.wait()
        finally:
            if timer is not None:
                timer.cancel()
            if self._feeder is not None:
                self._feeder.cancel()
        return self._outcome(lost())

    async def started(self, bound: float) -> ProcessGroup | None:
        """Wait at most `bound` s for the group to be told; None if it never is."""
        end = time.monotonic() + bound
        while self.group is None and not self._closed and (left := end - time.monotonic()) > 0:
            self._wake.clear()
            try:
                async with asyncio.timeout(left):
                    await self._wake.wait()
            except TimeoutError:
                break
        return self.group

    def close(self) -> None:
        """Let go of the channel; what still comes is dropped, and what was not sent yet never is."""
        self._abandoned = True
        self._queue.clear()
        self._on_output = None
        if self._chan is not None:
            self._chan.close()

    # Inside.

    def _send(self) -> None:
        if self._chan is None or self._closed:
            return
        try:
            self._chan.write(self._program.opening)
            if not self._program.gated:
                self._begin_stdin()
        except OSError:
            self._wake.set()

    def _begin_stdin(self) -> None:
        if self._chan is None:
            return
        if self._stdin is None:
            self._chan.write_eof()
        elif isinstance(self._stdin, bytes) and len(self._stdin) <= _CHUNK:
            self._chan.write(self._program.go + self._stdin)
            self._chan.write_eof()
        else:
            self._feeder = asyncio.ensure_future(self._feed(self._chan, self._stdin))
            self._feeder.add_done_callback(lambda _: self._wake.set())

    async def _feed(self, chan: asyncssh.SSHClientChannel[bytes], source: bytes | Feed) -> None:
        try:
            chan.write(self._program.go)
            fed = 0
            async for chunk in _chunks(source):
                await self._writable.wait()
                chan.write(chunk)
                fed += len(chunk)
                if self.progress is not None:
                    self.progress(fed)
            chan.write_eof()
        except BrokenPipeError:
            return  # The command ended without reading all; its exit status tells the rest.

    def _reap_feeder(self) -> None:
        if self._feeder is not None and self._feeder.done() and not self._feeder.cancelled():
            error = self._feeder.exception()
            if error is not None:
                raise error

    async def _announce(self, group: ProcessGroup) -> None:
        if self._on_started is not None:
            await self._on_started(group)
        if self._program.gated and not self._closed:
            try:
                self._begin_stdin()
            except OSError:
                self._wake.set()

    def _take(self, stream: Stream, data: bytes) -> None:
        self._last_data = asyncio.get_running_loop().time()
        kept = self._kept[stream]
        if stream is Stream.STDERR:
            kept += data
            if len(kept) > self._limit:
                del kept[: len(kept) - self._limit]
                self._truncated = True
        else:
            room = self._limit - len(kept)
            kept += data[:room] if room > 0 else b""
            self._truncated = self._truncated or len(data) > room
        if self._on_output is None:
            return
        self._queue.append((stream, data))
        self._queued += len(data)
        if not self._flooding:
            self._hold_back()
        self._wake.set()

    def _hold_back(self) -> None:
        if self._queued > _QUEUE_LIMIT and not self._paused and self._chan is not None:
            self._paused = True
            self._chan.pause_reading()

    def _let_come(self) -> None:
        """Take all that lies in the channel's own buffer, and only then decide whether to hold back again.

        asyncssh opens the whole window anew with the first piece it hands over: pausing again while it still has
        others would let its buffer grow without end.
        """
        if self._chan is not None:
            self._paused, self._flooding = False, True
            self._chan.resume_reading()
            self._flooding = False
            self._hold_back()

    async def _deliver(self) -> None:
        while self._queue:
            stream, data = self._queue.popleft()
            self._queued -= len(data)
            if self._on_output is not None:
                waiting = self._on_output(stream, data)
                if waiting is not None:
                    await waiting
            if self._paused and self._queued < _QUEUE_LIMIT // 2:
                self._let_come()

    def _due(self, began: float, announced: bool) -> float | None:
        """Give the loop time at which to stop waiting, if any."""
        if self.ended:
            return max(self._last_data, self._ended_at) + _LINGER
        if not announced:
            return began + self._start_timeout
        return began + self._start_timeout + self._time_limit if self._time_limit is not None else None

    def _too_long(self, announced: bool) -> Exception:
        if announced and self._run_timeout is not None:
            return CommandTimeout(self._endpoint.name, self._run_timeout, proved_dead=False, completed=self._done())
        said = printable(self._fence.said().strip().rpartition(b"\n")[2])
        if self._fence.becoming:
            return SudoRefused(
                f"becoming the other user took more than {self._start_timeout:g} s{': ' + said if said else '.'}",
                host=self._endpoint.name,
                hint="try sudo by hand on the host.",
            )
        return ShellRefused(
            f"the login shell did not start within {self._start_timeout:g} s{': ' + said if said else '.'}",
            host=self._endpoint.name,
            hint="look at the account's start-up files and login shell.",
        )

    def _sudo_refused(self) -> SudoRefused:
        lines = [printable(line) for line in self._fence.said().split(b"\n")]
        said = next((line for line in reversed(lines) if line), "")
        if self._fence.prompts > 0:
            return SudoRefused(
                f"the sudo password was not accepted{': ' + said if said else '.'}",
                host=self._endpoint.name,
                hint="set the host's sudo password again.",
            )
        return SudoRefused(
            f"the command could not become the other user: {said or 'no reason was given'}",
            host=self._endpoint.name,
            hint="see the host's sudoers rules for the login user.",
        )

    def _outcome(self, lost: bool) -> Completed:
        host = self._endpoint.name
        if self.group is None:
            if not self.ended and (lost or self._lost is not None):
                raise LinkLost(host, str(self._lost or "closed by the host"), may_have_run=self.sent)
            if self._fence.becoming:
                raise self._sudo_refused()
            said = self._fence.said().strip()
            if NO_SETSID in said:
                raise ShellRefused("setsid is missing.", host=host, hint="install the package util-linux on the host.")
            words = printable(said.rpartition(b"\n")[2])
            raise ShellRefused(
                f"the login shell did not run sh{': ' + words if words else '.'}",
                host=host,
                hint="give the account a login shell that takes commands, such as /bin/sh, with head and setsid.",
            )
        if not self.ended and (lost or self._lost is not None):
            raise LinkLost(host, str(self._lost or "closed by the host"), may_have_run=True)
        done = self._done()
        if self._run_timeout is not None and done.duration >= self._run_timeout and self._ended_by_timeout():
            raise CommandTimeout(host, self._run_timeout, proved_dead=False, completed=done)
        return done

    def _ended_by_timeout(self) -> bool:
        # timeout(1): 124 when the command ended on TERM, KILL (128+9) when it took that.
        return self._status in (124, 137) or self._signal == "KILL"

    def _done(self) -> Completed:
        return Completed(
            exit_status=self._status,
            signal=self._signal,
            stdout=bytes(self._kept[Stream.STDOUT]),
            stderr=bytes(self._kept[Stream.STDERR]),
            duration=time.monotonic() - (self._sent_at or time.monotonic()),
            truncated=self._truncated,
        )


async def _chunks(source: bytes | Feed) -> Feed:
    if isinstance(source, bytes):
        view = memoryview(source)
        for start in range(0, len(view), _CHUNK):
            yield bytes(view[start : start + _CHUNK])
    else:
        async for chunk in source:
            yield chunk
