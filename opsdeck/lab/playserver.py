"""The SSH side of one play host: who may log in, and what a session, a file transfer and a forward do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import asyncssh

from opsdeck.lab import children

if TYPE_CHECKING:
    from opsdeck.lab.inprocess import PlayHost

_CHUNK = 65536


class PlayServer(asyncssh.SSHServer):
    """One connection to a play host."""

    def __init__(self, host: PlayHost, started: Callable[[], None]) -> None:
        self._host = host
        self._started = started
        self._sessions = 0
        self.connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self.connection = conn
        self._host.connected(self)
        if text := self._host.behaviour.greeting:
            conn.send_auth_banner(text)

    def connection_lost(self, exc: Exception | None) -> None:
        self._started()
        self._host.disconnected(self)

    async def begin_auth(self, username: str) -> bool:
        self._host.logins.append(username)
        await asyncio.sleep(self._host.behaviour.login_delay)
        return True

    def auth_completed(self) -> None:
        self._started()

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        host = self._host
        known = {asyncssh.import_public_key(line).public_data for line in host.authorized_keys}
        return username == host.user and not host.behaviour.refuse_keys and key.public_data in known

    def validate_ca_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        known = {asyncssh.import_public_key(line).public_data for line in self._host.authorized_authorities}
        return username == self._host.user and not self._host.behaviour.refuse_keys and key.public_data in known

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        host = self._host
        return username == host.user and not host.behaviour.refuse_passwords and password == host.password

    def session_requested(self) -> asyncssh.SSHServerSession[bytes]:
        limit = self._host.behaviour.max_sessions
        if limit is not None and self._sessions >= limit:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "open failed")
        self._sessions += 1
        return _Session(self._host, self._session_closed)

    def _session_closed(self) -> None:
        self._sessions -= 1

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        if not self._host.behaviour.forwarding:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "open failed")
        return True

    def unix_connection_requested(self, dest_path: str) -> bool:
        return self._host.behaviour.forwarding


class _Session(asyncssh.SSHServerProcess[bytes]):
    """A session that tells when its channel is closed, so that open ones can be counted as sshd counts them."""

    def __init__(self, host: PlayHost, closed: Callable[[], None]) -> None:
        async def handle(process: asyncssh.SSHServerProcess[bytes]) -> None:
            await _serve(host, process)

        super().__init__(
            handle, lambda channel: _Files(cast("asyncssh.SSHServerChannel[bytes]", channel), host.home), 3, False
        )
        self._closed: Callable[[], None] | None = closed

    def connection_lost(self, exc: Exception | None) -> None:
        if self._closed:
            self._closed()
            self._closed = None
        super().connection_lost(exc)


class _Files(asyncssh.SFTPServer):
    """SFTP that shows the same paths as the shell does, and refuses those outside the host's folder.

    The folders above it can be looked at, since clients walk a path from its root.
    """

    def __init__(self, channel: asyncssh.SSHServerChannel[bytes], home: Path) -> None:
        super().__init__(channel)
        self._home = os.fsencode(home.resolve())

    def map_path(self, path: bytes) -> bytes:
        full = os.path.normpath(os.path.join(self._home, path))  # noqa: PTH118 - bytes
        if not (self._inside(os.path.realpath(full)) or self._above(full)):
            raise asyncssh.SFTPPermissionDenied("outside the folder of this play host")
        return full

    def reverse_map_path(self, path: bytes) -> bytes:
        return path

    def _inside(self, path: bytes) -> bool:
        return path == self._home or path.startswith(self._home + b"/")

    def _above(self, path: bytes) -> bool:
        return self._home.startswith(path if path.endswith(b"/") else path + b"/")


async def _serve(host: PlayHost, process: asyncssh.SSHServerProcess[bytes]) -> None:
    """Run what the client asked for in the host's login shell, as sshd would, until it and its output have ended."""
    shell = host.behaviour.shell
    argv = (*shell, "-c", process.command) if process.command is not None else (*shell, "-l")
    await host.thawed.wait()
    if said := host.behaviour.login_output:
        process.stdout.write(said)
    term, main, inner = process.term_type, None, None
    env = environment(host, process)
    if term:
        main, inner = os.openpty()
        columns, rows = process.term_size[:2]
        _resize(main, columns, rows)
        env["TERM"] = term
    try:
        child = children.start(argv, cwd=host.home, env=env, terminal=inner)
    except OSError as error:
        process.stderr.write(f"{shell[0]}: {error.strerror}\n".encode())
        process.exit(126)
        if main is not None:
            os.close(main)
        return
    finally:
        if inner is not None:
            os.close(inner)
    host.track(asyncio.create_task(_finish(host, process, child, main)))


async def _finish(
    host: PlayHost, process: asyncssh.SSHServerProcess[bytes], child: subprocess.Popen[bytes], main: int | None
) -> None:
    """Carry the streams of `child` until its output has ended, then tell how it ended. It outlives its channel."""
    if main is not None:
        read, write = main, os.dup(main)
        pumps = [_pump(host, read, process.stdout)]
    else:
        assert child.stdin and child.stdout and child.stderr  # noqa: S101 - made as pipes
        write = _own(child.stdin)
        pumps = [_pump(host, _own(child.stdout), process.stdout), _pump(host, _own(child.stderr), process.stderr)]
    feeding = asyncio.create_task(_feed(host, process, child, write, main))
    waiting = asyncio.create_task(children.wait(child))
    try:
        await asyncio.gather(*pumps)
        code = await waiting
        await host.thawed.wait()
        with contextlib.suppress(OSError, asyncssh.Error):  # the client has gone
            if code < 0:
                process.exit_with_signal(signal.Signals(-code).name.removeprefix("SIG"))
            else:
                process.exit(code)
    finally:
        feeding.cancel()
        waiting.cancel()
        await asyncio.gather(feeding, waiting, return_exceptions=True)


def _own(stream: Any) -> int:
    """Take over the descriptor of a pipe of `Popen`, so that its object no longer closes it."""
    descriptor = os.dup(stream.fileno())
    stream.close()
    return descriptor


async def _pump(host: PlayHost, source: int, target: asyncssh.SSHWriter[bytes]) -> None:
    """Carry output from `source` until it ends or nobody listens; then close it, so that the writer gets a SIGPIPE."""
    os.set_blocking(source, False)
    try:
        while data := await _read(source):
            await host.thawed.wait()
            target.write(data)
            await target.drain()
    except (OSError, asyncssh.Error):
        return
    finally:
        os.close(source)


async def _read(source: int) -> bytes:
    loop = asyncio.get_running_loop()
    while True:
        try:
            return os.read(source, _CHUNK)
        except BlockingIOError:
            await _ready(loop.add_reader, loop.remove_reader, source)
        except OSError:  # a terminal whose last user has gone
            return b""


async def _write(target: int, data: bytes) -> None:
    loop = asyncio.get_running_loop()
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(target, rest) :]
        except BlockingIOError:
            await _ready(loop.add_writer, loop.remove_writer, target)


async def _ready(add: Callable[..., Any], remove: Callable[[int], Any], descriptor: int) -> None:
    ready = asyncio.Event()
    add(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        remove(descriptor)


async def _feed(
    host: PlayHost,
    process: asyncssh.SSHServerProcess[bytes],
    child: subprocess.Popen[bytes],
    target: int,
    main: int | None,
) -> None:
    """Carry input and signals to `child` until the client sends no more."""
    os.set_blocking(target, False)
    try:
        while True:
            try:
                data = await process.stdin.read(_CHUNK)
            except asyncssh.SignalReceived as asked:
                _deliver(child, asked.signal)
                continue
            except asyncssh.TerminalSizeChanged as size:
                if main is not None:
                    _resize(main, size.width, size.height)
                continue
            except asyncssh.BreakReceived:
                continue
            if not data:
                break
            await host.thawed.wait()
            await _write(target, data)
    except (OSError, asyncssh.Error):
        pass  # the program reads no more, or the client has gone
    finally:
        os.close(target)
        if main is not None and process.channel.is_closing():
            _deliver(child, "HUP")


def _deliver(child: subprocess.Popen[bytes], name: str) -> None:
    number = getattr(signal, f"SIG{name}", None)
    if isinstance(number, signal.Signals) and child.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, number)


def _resize(descriptor: int, columns: int, rows: int) -> None:
    import termios

    termios.tcsetwinsize(descriptor, (rows or 24, columns or 80))


def environment(host: PlayHost, process: asyncssh.SSHServerProcess[bytes]) -> dict[str, str]:
    """Give the environment of a fresh login: nothing of this process's own leaks into it."""
    path = "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games"
    if os.geteuid() == 0:
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    user = pwd.getpwuid(os.geteuid()).pw_name
    peer = process.get_extra_info("peername") or ("127.0.0.1", 0)
    asked = {name: text for name, text in process.env.items() if name == "LANG" or name.startswith("LC_")}
    return {
        "LANG": "C.UTF-8",
        **{str(name): str(text) for name, text in asked.items()},
        "HOME": str(host.home),
        "LOGNAME": user,
        "USER": user,
        "SHELL": host.behaviour.shell[0],
        "PATH": path,
        "TMPDIR": str(host.home / "tmp"),
        "SSH_CLIENT": f"{peer[0]} {peer[1]} {host.port}",
        "SSH_CONNECTION": f"{peer[0]} {peer[1]} {host.address} {host.port}",
        children.MARK: host.mark,
    }
