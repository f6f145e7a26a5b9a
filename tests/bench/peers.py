"""The same work done by others: how each peer is called, with the settings that make it fastest.

Ansible runs with forks = N, pipelining and ControlPersist, without facts; pyinfra with as many workers as hosts;
OpenSSH through `xargs -P N`; bare asyncssh in a script of its own. All check host keys, as OpsDeck does.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

REMOTE = "echo ok"

BARE = """\
import asyncio, sys, asyncssh
user, key, known, dials, *targets = sys.argv[1:]
async def main():
    gate = asyncio.Semaphore(int(dials))
    login = asyncssh.read_private_key(key)
    async def one(target):
        address, port = target.rsplit(":", 1)
        async with gate:
            link = await asyncssh.connect(address, int(port), username=user, client_keys=[login], known_hosts=known,
                                          config=None, agent_path=None)
        done = await link.run("echo ok", check=True)
        link.close()
        return done.stdout
    print(len(await asyncio.gather(*map(one, targets))))
asyncio.run(main())
"""


@dataclass(frozen=True)
class Target:
    """One address of the benchmark's sshd."""

    name: str
    address: str
    port: int


@dataclass(frozen=True)
class Login:
    """How everyone logs in: user, private key file, known_hosts file."""

    user: str
    key: Path
    known_hosts: Path


@dataclass(frozen=True)
class Peer:
    """A peer's command line: `warm_up` runs before the warm measurement and leaves its connections open."""

    name: str
    argv: tuple[str, ...]
    env: dict[str, str]
    warm: bool


def find(program: str) -> str | None:
    """Find a peer's program: beside this Python, else on PATH."""
    beside = Path(sys.executable).parent / program
    return str(beside) if beside.exists() else shutil.which(program)


def all_peers(folder: Path, targets: list[Target], login: Login) -> list[Peer]:
    """Write each peer's inventory into `folder` and give the peers whose programs are here."""
    count = str(len(targets))
    peers = [_asyncssh(targets, login), _openssh(folder, targets, login, count)]
    if ansible := find("ansible"):
        peers += _ansible(ansible, folder, targets, login, count)
    if pyinfra := find("pyinfra"):
        peers.append(_pyinfra(pyinfra, folder, targets, login, count))
    return peers


def _asyncssh(targets: list[Target], login: Login) -> Peer:
    where = [f"{target.address}:{target.port}" for target in targets]
    argv = (sys.executable, "-c", BARE, login.user, str(login.key), str(login.known_hosts), "32", *where)
    return Peer("bare asyncssh", argv, {}, warm=False)


def _openssh(folder: Path, targets: list[Target], login: Login, count: str) -> Peer:
    listing = folder / "openssh.txt"
    listing.write_text("".join(f"-p {target.port} {login.user}@{target.address}\n" for target in targets))
    options = f"-o BatchMode=yes -o UserKnownHostsFile={login.known_hosts} -o StrictHostKeyChecking=yes -F none"
    options += f" -o ControlMaster=auto -o ControlPersist=60 -o ControlPath={folder}/cm-%C -i {login.key}"
    line = f"sed 's/$/ {REMOTE}/' {listing} | xargs -P {count} -L 1 ssh {options} > {folder}/openssh.out"
    return Peer("OpenSSH, xargs -P N", ("sh", "-c", line), {}, warm=True)


def _ansible(program: str, folder: Path, targets: list[Target], login: Login, count: str) -> list[Peer]:
    inventory = folder / "ansible.ini"
    rows = [
        f"{target.name} ansible_host={target.address} ansible_port={target.port} ansible_user={login.user} "
        f"ansible_ssh_private_key_file={login.key} ansible_python_interpreter=/usr/bin/python3"
        for target in targets
    ]
    inventory.write_text("\n".join(rows) + "\n")
    env = {
        "ANSIBLE_PIPELINING": "True",
        "ANSIBLE_HOST_KEY_CHECKING": "True",
        "ANSIBLE_SSH_ARGS": f"-o ControlMaster=auto -o ControlPersist=60 -o UserKnownHostsFile={login.known_hosts}",
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(folder / "ansible-cp"),
        "ANSIBLE_LOCAL_TEMP": str(folder / "ansible-tmp"),
        "ANSIBLE_HOME": str(folder / "ansible-home"),
        "LC_ALL": "C.UTF-8",
    }
    base = (program, "all", "-i", str(inventory), "-f", count)
    return [
        Peer("Ansible, raw", (*base, "-m", "raw", "-a", REMOTE), env, warm=True),
        Peer("Ansible, command", (*base, "-m", "command", "-a", REMOTE), env, warm=True),
    ]


def _pyinfra(program: str, folder: Path, targets: list[Target], login: Login, count: str) -> Peer:
    inventory = folder / "pyinfra_inventory.py"
    rows = [
        (
            target.name,
            {
                "ssh_hostname": target.address,
                "ssh_port": target.port,
                "ssh_user": login.user,
                "ssh_key": str(login.key),
                "ssh_known_hosts_file": str(login.known_hosts),
            },
        )
        for target in targets
    ]
    inventory.write_text(f"hosts = {rows!r}\n")
    argv = (program, "-y", "--parallel", count, str(inventory), "exec", "--", *REMOTE.split())
    return Peer("pyinfra exec", argv, {"HOME": os.environ.get("HOME", "/")}, warm=False)
