"""A real OpenSSH server on loopback, with a configuration of its own; as root or as any user.

    with RealSshd(folder, addresses=50, max_sessions=10) as sshd:
        sshd.endpoint(0)

Only the user who runs it can log in (root, when root runs it), by the key made for it. `HOME` is a folder of its own,
so that no rc file of that user has a say; a command still begins in the user's real home. Several addresses of 127/8
lead to the same machine, so that a hundred hosts can be dialled at the price of a few servers.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

import asyncssh

from opsdeck.errors import Invalid, Unavailable
from opsdeck.lab import children
from opsdeck.secrets.sensitive import Sensitive
from opsdeck.ssh.endpoint import Credential, Endpoint, Method

_LISTENERS = 16  # OpenSSH: MAX_LISTEN_SOCKS in sshd.c

_CONFIG = """\
Port {port}
{listen}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
PubkeyAuthentication yes
MaxSessions {max_sessions}
MaxStartups {max_startups}
MaxAuthTries 6
AllowTcpForwarding yes
AllowStreamLocalForwarding yes
AllowAgentForwarding no
X11Forwarding no
PrintMotd no
LoginGraceTime 30
AcceptEnv LANG LC_*
SetEnv {mark_name}={mark} HOME={folder}/home
Subsystem sftp internal-sftp
{extra}
"""


def program() -> str | None:
    """Give the path of sshd, or None when this machine has none."""
    return shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


class RealSshd:
    """One real sshd (or one for each 16 addresses), its keys in `folder`, running inside the `with` block.

    `max_sessions` and `max_startups` are sshd's own settings (each server counts for itself); `extra` is text for the
    end of its configuration. Raises Unavailable when sshd is missing or does not start, Invalid for too many addresses.
    """

    def __init__(
        self,
        folder: Path,
        *,
        addresses: int = 1,
        max_sessions: int = 10,
        max_startups: str = "10:30:100",
        extra: str = "",
    ) -> None:
        if not 1 <= addresses <= 250:
            raise Invalid(f"{addresses} addresses cannot be served.", field="addresses", hint="ask for 1 to 250")
        self.folder = folder.absolute()
        self.user = pwd.getpwuid(os.geteuid()).pw_name
        self.addresses = ["127.0.0.1"] if addresses == 1 else [f"127.0.83.{number + 1}" for number in range(addresses)]
        self.port = 0
        self.mark = secrets.token_hex(12)
        self.host_key = ""
        self.private_key = ""
        self._settings = {"max_sessions": max_sessions, "max_startups": max_startups, "extra": extra}
        self._servers: list[subprocess.Popen[bytes]] = []

    def endpoint(self, number: int = 0, *, via: Endpoint | None = None) -> Endpoint:
        """Give one of the addresses as SSH sees it, its host key pinned."""
        return Endpoint(
            name=f"sshd{number + 1}",
            address=self.addresses[number],
            port=self.port,
            user=self.user,
            credential=Credential(method=Method.KEY, name="sshd-key", secret=Sensitive(self.private_key)),
            host_keys=(self.host_key,),
            via=via,
        )

    def start(self) -> None:
        """Start it and wait until every address answers; a port that was taken meanwhile is given up for another."""
        path = program()
        if not path:
            raise Unavailable("There is no sshd on this machine.", hint="apt-get install openssh-server")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd as root refuses to start without it
        self._lay_keys()
        for attempt in range(5):
            self.port = _free_port(self.addresses)
            self._launch(path)
            if self._answers():
                return
            said = self.log().strip()[-400:]
            self.stop()
            if "in use" not in said or attempt == 4:
                raise Unavailable(f"sshd did not start: {said or 'it said nothing'}", file=str(self.folder))

    def stop(self) -> None:
        """End the servers and every process that ran under them."""
        for server in self._servers:
            sessions = children.below(server.pid)
            server.kill()
            server.wait()
            for pid in sessions:
                children.kill(pid)
        self._servers.clear()
        children.end_marked(self.mark)

    def log(self) -> str:
        """Give what the servers have said so far."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("sshd-*.log")))

    def __enter__(self) -> RealSshd:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _lay_keys(self) -> None:
        (self.folder / "home").mkdir(mode=0o700, parents=True, exist_ok=True)
        host, login = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
        key_file = self.folder / "host_key"
        key_file.unlink(missing_ok=True)
        key_file.touch(mode=0o600)
        key_file.write_bytes(host.export_private_key())
        self.host_key = host.export_public_key().decode().strip()
        self.private_key = login.export_private_key().decode()
        (self.folder / "authorized_keys").write_bytes(login.export_public_key())

    def _launch(self, path: str) -> None:
        for number in range(0, len(self.addresses), _LISTENERS):
            listen = "\n".join(f"ListenAddress {one}" for one in self.addresses[number : number + _LISTENERS])
            config = self.folder / f"sshd-{number:03d}.conf"
            config.write_text(
                _CONFIG.format(
                    port=self.port,
                    listen=listen,
                    folder=self.folder,
                    mark_name=children.MARK,
                    mark=self.mark,
                    **self._settings,
                )
            )
            with config.with_suffix(".log").open("wb") as log:
                self._servers.append(
                    subprocess.Popen(
                        [path, "-D", "-e", "-f", str(config)],
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
                )

    def _answers(self) -> bool:
        deadline = time.monotonic() + 10
        waiting = self.addresses[::_LISTENERS]  # a server listens on all of its addresses before it answers on one
        while waiting and time.monotonic() < deadline:
            if any(server.poll() is not None for server in self._servers):
                return False
            try:
                with socket.create_connection((waiting[0], self.port), timeout=2) as connection:
                    if connection.recv(4) == b"SSH-":
                        waiting = waiting[1:]
                        continue
            except OSError:
                pass
            time.sleep(0.02)
        return not waiting


def _free_port(addresses: list[str]) -> int:
    """Give a port that is free on the first of `addresses` (and so, most likely, on all)."""
    with socket.socket() as trial:
        trial.bind((addresses[0], 0))
        return int(trial.getsockname()[1])
