"""A real OpenSSH server on loopback, accounts to log in to, and a pool."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from opsdeck.lab.inprocess import PlayHosts
from opsdeck.secrets.sensitive import Sensitive
from opsdeck.ssh.endpoint import Credential, Endpoint, Method, Sudo
from opsdeck.ssh.pool import Pool

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin")


@dataclass
class Sshd:
    """One sshd with its own config; `extra` lines hold for this server only."""

    folder: Path
    port: int
    host_key: str
    login_key: str
    log: Path
    process: subprocess.Popen[bytes] | None = None
    accounts: list[str] = field(default_factory=list)

    def endpoint(
        self,
        name: str = "real",
        user: str | None = None,
        *,
        sudo: Sudo = Sudo.NONE,
        sudo_password: str | None = None,
        via: Endpoint | None = None,
    ) -> Endpoint:
        return Endpoint(
            name=name,
            address="127.0.0.1",
            port=self.port,
            user=user or pwd.getpwuid(os.getuid()).pw_name,
            credential=Credential(method=Method.KEY, name="test-key", secret=Sensitive(self.login_key)),
            host_keys=(self.host_key,),
            via=via,
            sudo=sudo,
            sudo_password=Sensitive(sudo_password) if sudo_password is not None else None,
        )

    def start(self) -> None:
        self.process = subprocess.Popen([str(SSHD), "-D", "-f", str(self.folder / "config"), "-E", str(self.log)])
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.05)
        raise RuntimeError(f"sshd did not start: {self.log.read_text()}")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
            self.process = None


def make_sshd(folder: Path, extra: str = "") -> Sshd:
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    host, login = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    key_file = folder / "host_key"
    key_file.write_bytes(host.export_private_key("openssh"))
    key_file.chmod(0o600)
    (folder / "authorized").write_bytes(login.export_public_key("openssh"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "config").write_text(
        f"""Port {port}
ListenAddress 127.0.0.1
HostKey {key_file}
AuthorizedKeysFile {folder}/authorized
StrictModes no
PidFile none
PasswordAuthentication no
UsePAM {"yes" if os.getuid() == 0 else "no"}
PrintMotd no
PermitRootLogin yes
{extra}
"""
    )
    return Sshd(
        folder=folder,
        port=port,
        host_key=host.export_public_key("openssh").decode().strip(),
        login_key=login.export_private_key("openssh").decode(),
        log=folder / "log",
    )


@pytest.fixture(scope="session")
def sshd_at(absent: Any) -> Iterator[Callable[..., Sshd]]:
    """Start an sshd with extra config lines; all are stopped at the end."""
    if SSHD is None:
        absent("there is no sshd here (package openssh-server)")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    # Not below pytest's own folder: the accounts made here must be able to reach the keys.
    base = Path(tempfile.mkdtemp(prefix="opsdeck-sshd-"))
    base.chmod(0o755)
    running: list[Sshd] = []

    def start(extra: str = "") -> Sshd:
        server = make_sshd(base / str(len(running)), extra)
        server.start()
        running.append(server)
        return server

    yield start
    for server in running:
        server.stop()
    shutil.rmtree(base)


@pytest.fixture(scope="session")
def sshd(sshd_at: Callable[..., Sshd]) -> Sshd:
    """A plain sshd: MaxSessions 10, MaxStartups 10:30:100, as Debian ships it."""
    return sshd_at()


@dataclass(frozen=True)
class Account:
    name: str
    password: str
    home: Path


@pytest.fixture(scope="session")
def account(absent: Any) -> Iterator[Callable[..., Account]]:
    """Make a user with a login shell and, if wanted, a sudoers rule (`{user}` is filled in); removed at the end."""
    if os.getuid() != 0 or shutil.which("useradd") is None:
        absent("making accounts needs root and useradd", installable=os.getuid() == 0)
    made: list[str] = []

    def make(shell: str = "/bin/sh", sudoers: str | None = None) -> Account:
        if shutil.which(shell) is None:
            absent(f"{shell} is not installed")
        if sudoers is not None and shutil.which("sudo") is None:
            absent("sudo is not installed")
        name = f"od{secrets.token_hex(4)}"
        subprocess.run(["useradd", "-m", "-s", shell, name], check=True)
        made.append(name)
        word = secrets.token_urlsafe(12)
        subprocess.run(["chpasswd"], input=f"{name}:{word}".encode(), check=True)
        if sudoers is not None:
            rule = Path(f"/etc/sudoers.d/{name}")
            rule.write_text(sudoers.format(user=name) + "\n")
            rule.chmod(0o440)
        return Account(name, word, Path(pwd.getpwnam(name).pw_dir))

    yield make
    for name in made:
        Path(f"/etc/sudoers.d/{name}").unlink(missing_ok=True)
        subprocess.run(["pkill", "-KILL", "-u", name])
        subprocess.run(["userdel", "-r", name], capture_output=True)


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    """A pool with short bounds."""
    pool = Pool(connect_timeout=10, login_timeout=10, start_timeout=15, close_timeout=2)
    yield pool
    await pool.close()


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[PlayHosts]:
    """Three play hosts in this process: web1, web2, web3."""
    async with PlayHosts(tmp_path / "hosts") as hosts:
        yield hosts


@pytest.fixture
def until() -> Callable[[Callable[[], object]], Awaitable[None]]:
    """Wait until something holds; fail after ten seconds."""

    async def wait(holds: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not holds():  # noqa: ASYNC110 - what is waited for happens outside of this process
                await asyncio.sleep(0.02)

    return wait


@pytest.fixture
def members() -> Callable[[int], list[str]]:
    """Look which live processes of this machine are in a process group."""

    def look(pgid: int) -> list[str]:
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                rest = stat.read_text().rpartition(") ")[2].split()
            except OSError:
                continue
            if rest[2] == str(pgid) and rest[0] != "Z":
                found.append(stat.parent.name)
        return found

    return look
