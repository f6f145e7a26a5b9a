"""Hosts to play with, served in this process: real SSH on loopback, a real shell, a folder each; no root needed.

    async with PlayHosts(folder, names=["web1", "web2"]) as hosts:
        hosts["web1"].endpoint()

A play host has what this machine has, and runs what it is told as the user who started it: it is a host to try things
on, not a jail. It listens on 127.0.0.1 only, and lets in a key and a password made for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import shutil
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import asyncssh

from opsdeck.errors import Invalid, Unavailable
from opsdeck.lab import children
from opsdeck.lab.playserver import PlayServer
from opsdeck.secrets.sensitive import Sensitive
from opsdeck.ssh.endpoint import Credential, Endpoint, Method, Sudo

ADDRESS = "127.0.0.1"


@dataclass
class Behaviour:
    """How a play host behaves; may be changed while it runs, and holds for what comes next.

    `greeting` is shown before the login, `login_output` is what a talkative rc file prints before each command.
    `shell` is the login shell with its leading arguments; it gets `-c COMMAND`. `max_sessions` and `max_startups`
    are sshd's: the sessions of one connection, and (start, rate in percent, full) of connections not yet logged in.
    `login_delay` is in seconds.
    """

    greeting: str = ""
    login_output: bytes = b""
    login_delay: float = 0.0
    shell: tuple[str, ...] = ("/bin/sh",)
    refuse_keys: bool = False
    refuse_passwords: bool = False
    forwarding: bool = True
    max_sessions: int | None = 10
    max_startups: tuple[int, int, int] | None = None


@dataclass(eq=False)
class PlayHost:
    """One host: where it is, who may log in, and the knobs that make it fail.

    `host_key` and `authorized_keys` are public keys in OpenSSH form, `private_key` is the one made for logging in;
    `authorized_authorities` may sign user certificates. `logins` keeps the user names of all login attempts, and
    `dials` counts all connections made to it.
    """

    name: str
    folder: Path
    user: str
    private_key: str
    password: str
    mark: str
    behaviour: Behaviour = field(default_factory=Behaviour)
    address: str = ADDRESS
    port: int = 0
    host_key: str = ""
    authorized_keys: list[str] = field(default_factory=list)
    authorized_authorities: list[str] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)
    dials: int = 0
    thawed: asyncio.Event = field(default_factory=asyncio.Event)
    _key: asyncssh.SSHKey | None = None
    _options: asyncssh.SSHServerConnectionOptions | None = None
    _listener: socket.socket | None = None
    _accepting: asyncio.Task[None] | None = None
    _servers: set[PlayServer] = field(default_factory=set)
    _starting: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def home(self) -> Path:
        """Give the folder in which its logins begin."""
        return self.folder / "home"

    @property
    def connections(self) -> int:
        """Give the number of connections that are open now, logged in or not."""
        return len(self._servers)

    def endpoint(
        self,
        *,
        method: Method = Method.KEY,
        via: Endpoint | None = None,
        pinned: bool = True,
        secret: str | None = None,
    ) -> Endpoint:
        """Give the host as SSH sees it, with its key pinned unless told otherwise; `secret` overrides the right one."""
        right = self.password if method is Method.PASSWORD else self.private_key
        credential = Credential(method=method, name=f"play-{method}", secret=Sensitive(secret or right))
        return Endpoint(
            name=self.name,
            address=self.address,
            port=self.port,
            user=self.user,
            credential=credential,
            host_keys=(self.host_key,) if pinned else (),
            via=via,
            sudo=Sudo.NONE,
        )

    async def start(self) -> None:
        """Listen on the port of last time if it is free, else on any. Raises Unavailable when there is none."""
        if self._listener:
            return
        (self.home / "tmp").mkdir(parents=True, exist_ok=True)
        if self._key is None:
            self._key = _kept_key(self.folder / "host_key")
        await self._use(self._key)
        noted = self.folder / "port"
        with contextlib.suppress(OSError, ValueError):
            self.port = self.port or int(noted.read_text())
        self._listener = _listen(self.port)
        self.port = self._listener.getsockname()[1]
        noted.write_text(f"{self.port}\n")
        self.thawed.set()
        self._accepting = asyncio.create_task(self._accept(self._listener))

    async def stop(self) -> None:
        """Be switched off: refuse connections, drop those that are open, and kill every process that ran here."""
        await self.leave()
        await asyncio.to_thread(children.end_marked, self.mark)
        await self.settle()

    async def leave(self) -> None:
        """Refuse connections and drop those that are open: the first half of `stop`; the processes live on."""
        if self._accepting:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
        if self._listener:
            self._listener.close()
        self._listener = self._accepting = None
        self.thawed.set()
        await self.drop()

    async def settle(self) -> None:
        """End what this process still does for the host: the last part of `stop`, after its processes are gone."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def drop(self) -> int:
        """Abort all connections, as a reset link would; the processes live on. Gives how many there were."""
        servers = list(self._servers)
        for server in servers:
            if server.connection:
                server.connection.abort()
        for server in servers:
            if server.connection:
                await server.connection.wait_closed()
        return len(servers)

    def freeze(self) -> None:
        """Go silent: connections stay open, and nothing is read or sent on them; new ones get no answer."""
        self.thawed.clear()
        for server in self._servers:
            _read_on(server, False)

    def thaw(self) -> None:
        """Go on after `freeze`."""
        self.thawed.set()
        for server in self._servers:
            _read_on(server, True)

    async def change_host_key(self, algorithm: str = "ssh-ed25519") -> str:
        """Present another host key from now on (as a rebuilt host does) and give its public half."""
        await self._use(asyncssh.generate_private_key(algorithm))
        return self.host_key

    def connected(self, server: PlayServer) -> None:
        """Count a connection in; called by its server."""
        self._servers.add(server)

    def disconnected(self, server: PlayServer) -> None:
        """Count a connection out; called by its server."""
        self._servers.discard(server)

    def track(self, task: asyncio.Task[None]) -> None:
        """Keep a task until it ends or the host is stopped."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _use(self, key: asyncssh.SSHKey) -> None:
        self._key = key
        self.host_key = key.export_public_key().decode().strip()
        self._options = asyncssh.SSHServerConnectionOptions(
            server_host_keys=[key],
            encoding=None,
            line_editor=False,
            gss_host=None,
            agent_forwarding=False,
            x11_forwarding=False,
            allow_scp=False,
            login_timeout=120,
            server_version="OpsDeckPlayHost",
        )

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self.thawed.wait()
            connection, _ = await loop.sock_accept(listener)
            await self.thawed.wait()
            self.dials += 1
            if self._full():
                connection.close()
                continue
            self._starting += 1
            self.track(asyncio.create_task(self._login(connection)))

    def _full(self) -> bool:
        """Decide as sshd does: below `start` never, from `full` always, between them with a chance that grows."""
        if self.behaviour.max_startups is None:
            return False
        start, rate, full = self.behaviour.max_startups
        if self._starting < start:
            return False
        if self._starting >= full or rate == 100:
            return True
        chance = rate + (100 - rate) * (self._starting - start) / (full - start)
        return random.random() * 100 < chance  # noqa: S311 - a die, not a secret

    async def _login(self, connection: socket.socket) -> None:
        waiting = True

        def started() -> None:
            nonlocal waiting
            if waiting:
                waiting = False
                self._starting -= 1

        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await asyncssh.run_server(
                connection, options=self._options, server_factory=lambda: PlayServer(self, started)
            )
        except (asyncssh.Error, OSError):
            pass  # a login that failed is the client's to tell
        finally:
            started()


class PlayHosts:
    """Several play hosts under one folder; a context manager that starts and stops them together.

    `folder` keeps their keys, ports and homes, so hosts made there again are the same hosts.
    Raises Invalid for a name that is no plain file name, Unavailable when the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str] = ("web1", "web2", "web3"),
        *,
        user: str = "ops",
        behaviour: Behaviour | None = None,
    ) -> None:
        for name in names:
            if not name or name in (".", "..") or "/" in name or "\0" in name:
                raise Invalid(f"{name!r} cannot name a play host.", field="names", hint="use letters, digits and '-'")
        if len(set(names)) != len(names):
            raise Invalid("Two play hosts would have the same name.", field="names", hint="name each host once")
        self.folder = folder.absolute()
        self.mark = secrets.token_hex(12)
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            key = _kept_key(self.folder / "login_key")
        except OSError as error:
            raise Unavailable(
                f"The play hosts' folder cannot be used: {error.strerror}.",
                file=str(folder),
                hint="name a folder that you may write to",
            ) from error
        self.private_key = key.export_private_key().decode()
        self.public_key = key.export_public_key().decode().strip()
        self.password = secrets.token_urlsafe(12)
        self._hosts = {
            name: PlayHost(
                name=name,
                folder=self.folder / name,
                user=user,
                private_key=self.private_key,
                password=self.password,
                mark=f"{self.mark}/{name}",
                behaviour=Behaviour(**vars(behaviour)) if behaviour else Behaviour(),
                authorized_keys=[self.public_key],
            )
            for name in names
        }

    def __getitem__(self, key: str | int) -> PlayHost:
        return self._hosts[key] if isinstance(key, str) else list(self._hosts.values())[key]

    def __iter__(self) -> Iterator[PlayHost]:
        return iter(self._hosts.values())

    def __len__(self) -> int:
        return len(self._hosts)

    async def start(self) -> None:
        """Start them all; when one cannot start, none is left running."""
        try:
            for host in self:
                await host.start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop them all, with every process that ran on them."""
        await asyncio.gather(*(host.leave() for host in self))
        await asyncio.to_thread(children.end_marked, self.mark)
        await asyncio.gather(*(host.settle() for host in self))

    async def __aenter__(self) -> PlayHosts:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def remove(self) -> None:
        """Delete the folder with all homes and keys. Only when stopped."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _read_on(server: PlayServer, on: bool) -> None:
    # asyncssh has no public way to stop reading from the network; a frozen peer cannot be had without it.
    transport = getattr(server.connection, "_transport", None)
    if transport and not transport.is_closing():
        if on:
            transport.resume_reading()
        else:
            transport.pause_reading()


def _kept_key(path: Path) -> asyncssh.SSHKey:
    """Read the key at `path`, or make one there that only its owner may read."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists():
        return asyncssh.read_private_key(path)
    key = asyncssh.generate_private_key("ssh-ed25519")
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(key.export_private_key())
    return key


def _listen(port: int) -> socket.socket:
    """Listen on `port`, or on any free one when it is taken."""
    for wanted in dict.fromkeys((port, 0)):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((ADDRESS, wanted))
            listener.listen(128)
        except OSError:
            listener.close()
            continue
        return listener
    raise Unavailable("No port is free on 127.0.0.1 for a play host.", hint="stop some of the programs that listen")
