"""One host, reachable: what actions, plans and services hold in their hands.

Everything that is run, put or got here is logged (masked), bounded by the clock of whoever works, and noted for the
audit trail with the exact words, the host key in use and how it ended.
"""

from __future__ import annotations

import contextlib
import hashlib
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from opsdeck.errors import OpsDeckError
from opsdeck.jobs.lines import Splitter, cut, plain
from opsdeck.secrets.sensitive import Sensitive
from opsdeck.ssh.command import Command, Completed, ProcessGroup, Script, Stream
from opsdeck.ssh.endpoint import Method
from opsdeck.ssh.hostkeys import OfferedKey

if TYPE_CHECKING:
    from opsdeck.inventory.models import Host
    from opsdeck.secrets.redact import Redactor
    from opsdeck.ssh.endpoint import Endpoint
    from opsdeck.ssh.pool import Pool

SHOWN = 4096
"""Characters of a command line that are logged and audited; of more, the digest is kept too."""


class Book(Protocol):
    """Where the lines of a host and the notes for the audit trail go."""

    @property
    def full(self) -> bool:
        """Tell whether more lines wait than should."""
        ...

    async def room(self) -> None:
        """Wait until there is room for more lines."""
        ...

    def lines(self, host: str, stream: str, texts: Sequence[str]) -> None:
        """Add masked lines."""
        ...

    def heard(self) -> None:
        """Know that a host said something that is not logged."""
        ...

    def note(self, verb: str, target: str, detail: Mapping[str, Any]) -> None:
        """Add an audit entry."""
        ...


class Access:
    """Implements `HostAccess`. `left` gives the seconds that the work still has; None without a bound."""

    def __init__(
        self,
        host: Host,
        endpoint: Callable[[], Awaitable[Endpoint]],
        pool: Pool,
        book: Book,
        redactor: Redactor,
        *,
        origin: str,
        left: Callable[[], float | None] = lambda: None,
    ) -> None:
        self.host = host
        self._endpoint, self._pool, self._book, self._redactor = endpoint, pool, book, redactor
        self._origin, self._left = origin, left

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
        """Run a program and wait for its end; see `HostAccess.run`."""
        task = self._task(command, sudo, timeout, stdin)
        endpoint = await self._endpoint()
        if log:
            self._show(task)
        async with self._noted("command.ran", endpoint, self._words(task)) as detail, self._running(task) as began:
            with self._lanes(log) as output:
                done = await self._pool.run(endpoint, task, on_output=output, on_started=began)
            detail |= {"exit_status": done.exit_status, "seconds": round(done.duration, 3)}
            if done.signal:
                detail["signal"] = done.signal
        self._ended(done, log)
        return done.check(self.host.name) if check else done

    async def put(
        self, source: bytes | Path, remote: str, *, mode: int = 0o644, owner: str | None = None, sudo: bool = False
    ) -> None:
        """Write a file on the host: beside its place, then renamed into it."""
        endpoint = await self._endpoint()
        size = len(source) if isinstance(source, bytes) else _size(source)
        what = {"path": remote, "mode": f"{mode:04o}", "owner": owner or "", "bytes": size, "sudo": sudo}
        async with self._noted("file.written", endpoint, what) as detail:
            detail["sha256"] = await self._pool.put(
                endpoint, source, remote, mode=mode, owner=owner, sudo=sudo, progress=self._progress
            )
        self._say("info", f"wrote {remote} ({size} bytes)")

    async def get(self, remote: str, *, sudo: bool = False, limit: int = 1 << 20) -> bytes:
        """Read a small file, at most `limit` bytes. Raises `NotFound` when there is none."""
        endpoint = await self._endpoint()
        async with self._noted("file.read", endpoint, {"path": remote, "sudo": sudo}) as detail:
            content = await self._pool.get(endpoint, remote, sudo=sudo, limit=limit)
            detail |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        self._book.heard()
        return content

    async def fetch(self, remote: str, local: Path) -> int:
        """Copy a file of any size from the host; give its size in bytes."""
        endpoint = await self._endpoint()
        async with self._noted("file.read", endpoint, {"path": remote}) as detail:
            size = await self._pool.fetch(endpoint, remote, local, progress=self._progress)
            detail["bytes"] = size
        self._say("info", f"fetched {remote} ({size} bytes)")
        return size

    @contextlib.asynccontextmanager
    async def forward(self, port: int, address: str = "127.0.0.1") -> AsyncIterator[int]:
        """Reach `address:port` as the host sees it through a local port on 127.0.0.1, for a while."""
        endpoint = await self._endpoint()
        noted = self._noted("port.forwarded", endpoint, {"to": f"{address}:{port}"})
        async with noted, self._pool.forward(endpoint, address, port) as local:
            yield local

    def _task(
        self,
        command: Sequence[str] | Command | Script,
        sudo: bool,
        timeout: float | None,
        stdin: bytes | Sensitive | None,
    ) -> Command | Script:
        """Make the task: what is given here wins over what the task says, and nothing outlives the job's clock."""
        task = command if isinstance(command, Command | Script) else Command(tuple(command))
        if isinstance(stdin, Sensitive):
            self._redactor.add(stdin)
            stdin = stdin.reveal().encode()
        bounds = [bound for bound in (timeout or task.timeout, self._left()) if bound is not None]
        return replace(
            task,
            sudo=sudo or task.sudo,
            stdin=stdin if stdin is not None else task.stdin,
            timeout=max(0.1, min(bounds)) if bounds else None,
        )

    def _words(self, task: Command | Script) -> dict[str, Any]:
        line = self._redactor.text(shlex.join(task.words()))
        found: dict[str, Any] = {"command": line[:SHOWN]}
        if len(line) > SHOWN:
            found |= {"length": len(line), "sha256": hashlib.sha256(line.encode()).hexdigest()}
        if task.sudo or task.run_as:
            found["as"] = task.run_as or "root"
        if task.cwd:
            found["folder"] = task.cwd
        return found

    @contextlib.asynccontextmanager
    async def _noted(self, verb: str, endpoint: Endpoint, what: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Note for the audit trail what is done in the block, however it ends."""
        detail = {"by": self._origin, "user": endpoint.user, "host_key": fingerprints(endpoint)} | dict(what)
        try:
            yield detail
        except OpsDeckError as fault:
            detail["error"] = self._redactor.text(fault.message)
            raise
        except BaseException as fault:
            detail["error"] = type(fault).__name__
            raise
        finally:
            self._book.note(verb, f"host:{self.host.name}", detail)

    @contextlib.asynccontextmanager
    async def _running(self, task: Command | Script) -> AsyncIterator[Callable[[ProcessGroup], Awaitable[None]] | None]:
        """Know what runs on the host while the block runs; a step puts it on record."""
        yield None

    @contextlib.contextmanager
    def _lanes(self, log: bool) -> Any:
        """Give what takes the output of a command; what is left of a line at the end is logged too."""
        if not log:
            yield self._hear
            return
        lanes = {Stream.STDOUT: Lane(self, "out"), Stream.STDERR: Lane(self, "err")}

        def take(stream: Stream, data: bytes) -> Awaitable[None] | None:
            lanes[stream].feed(data)
            return self._book.room() if self._book.full else None

        try:
            yield take
        finally:
            for lane in lanes.values():
                lane.end()

    def _hear(self, _stream: Stream, _data: bytes) -> None:
        self._book.heard()

    def _progress(self, _done: int, _total: int) -> None:
        self._book.heard()

    def _ended(self, done: Completed, log: bool) -> None:
        """Hear how a command ended."""

    def say_all(self, stream: str, texts: Sequence[str]) -> None:
        """Log lines on this host's lane: masked first, then cut."""
        masked = self._redactor.text("\n".join(texts)).split("\n")
        self._book.lines(self.host.name, stream, [cut(self._unseen(text)) for text in masked])

    def _unseen(self, text: str) -> str:
        """Mask what only shows once escape sequences are taken out, as pages and terminals do (`grep --color`)."""
        if not self._redactor or text.isprintable() or (shown := plain(text)) == text:
            return text
        hidden = self._redactor.text(shown)
        return text if hidden == shown else hidden

    def _show(self, task: Command | Script) -> None:
        """Log what is about to run."""
        if isinstance(task, Script) and task.title:
            self._say("info", task.title)
        else:
            self._say("cmd", _typed(task))

    def _say(self, stream: str, text: str) -> None:
        self.say_all(stream, text.split("\n"))


class Lane:
    """One stream of one command on its way into the log."""

    def __init__(self, access: Access, stream: str, position: int = 0) -> None:
        self._access, self._stream = access, stream
        self._splitter = Splitter(position)

    @property
    def position(self) -> int:
        """Give the bytes of all lines that were logged."""
        return self._splitter.position

    def feed(self, data: bytes) -> None:
        """Take bytes; whole lines are logged."""
        if lines := self._splitter.feed(data):
            self._access.say_all(self._stream, lines)
        else:
            self._access._book.heard()

    def end(self) -> None:
        """Log what is left."""
        if lines := self._splitter.end():
            self._access.say_all(self._stream, lines)


def _size(file: Path) -> int:
    return file.stat().st_size


def _typed(task: Command | Script) -> str:
    """Give a task as a person would type it, shortened."""
    text = shlex.join(task.argv) if isinstance(task, Command) else task.text.strip("\n")
    if isinstance(task, Script) and task.args:
        text += f"\n# with {shlex.join(task.args)}"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} … ({len(text)} characters)"


def hide_logins(redactor: Redactor, endpoint: Endpoint) -> None:
    """Hide what opens the way to a host, hop by hop: it must not come back in what the host prints."""
    hop: Endpoint | None = endpoint
    while hop is not None:
        login = hop.credential
        redactor.add(*(value for value in (hop.sudo_password, login.passphrase) if value))
        if login.secret and login.method is Method.PASSWORD:
            redactor.add(login.secret)
        elif login.secret:
            redactor.add_key(login.secret)
        hop = hop.via


def fingerprints(endpoint: Endpoint) -> str:
    """Give the pinned host keys, one of which the host proved to have."""
    return " ".join(OfferedKey.of(key).fingerprint for key in endpoint.host_keys)
