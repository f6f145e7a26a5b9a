"""What this machine must be able to do for a fleet, and the one place from which its programs are run."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from opsdeck.errors import OpsDeckError, Unavailable

PROGRAMS = {
    "debootstrap": "debootstrap",
    "systemd-nspawn": "systemd-container",
    "ip": "iproute2",
    "nft": "nftables",
    "nsenter": "util-linux",
}
"""The programs that a fleet leans on, each with the Debian package that has it."""

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_TRIAL = """
set -e
echo 'mount a file system'
mount -t tmpfs none "$1"
mkdir "$1/lower" "$1/upper" "$1/work" "$1/root"
echo 'mount an overlay'
mount -t overlay -o "lowerdir=$1/lower,upperdir=$1/upper,workdir=$1/work" none "$1/root"
echo 'make a bridge'
ip link add odtrial0 type bridge
echo 'make a pair of network devices'
ip link add odtrial1 type veth peer name odtrial2
echo 'set up address translation'
nft 'table ip opsdeck_trial { chain out { type nat hook postrouting priority 100; masquerade; }; }'
echo 'write kernel settings'
test -w /proc/sys/net/ipv4/ip_forward
"""


class LabFault(OpsDeckError):
    """A step of the lab failed although the machine can do it: the message has the program's own words."""


def environment() -> dict[str, str]:
    """Give the environment of the programs: this process's own, with the folders of the administrator's programs."""
    return {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:{_PATH}", "LC_ALL": "C.UTF-8"}


def run(
    argv: Sequence[str | Path],
    *,
    stdin: str = "",
    timeout: float = 60,
    check: bool = True,
    env: dict[str, str] | None = None,
) -> str:
    """Run a program of this machine and give its output (stdout, then stderr).

    Raises LabFault when it fails (unless `check` is false), cannot be started, or takes longer than `timeout` seconds.
    """
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(
            words,
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
            env=environment() | (env or {}),
        )
    except subprocess.TimeoutExpired as error:
        raise LabFault(
            f"{words[0]} was still not done after {timeout:g} s.", hint=f"try it by hand: {words}"
        ) from error
    except OSError as error:
        raise LabFault(f"{words[0]} cannot be started: {error.strerror}.") from error
    said = done.stdout + done.stderr
    if check and done.returncode:
        raise LabFault(f"{' '.join(words[:4])} failed with status {done.returncode}: {said.strip()[-600:]}")
    return said


@cache
def missing() -> tuple[str, ...]:
    """Give what keeps this machine from carrying a fleet, each as a phrase; empty when it can. Leaves no trace."""
    if sys.platform != "linux":
        return ("this is not Linux",)
    if os.geteuid() != 0:
        return ("not root",)
    path = environment()["PATH"]
    lacking = tuple(f"no {name} (package {pkg})" for name, pkg in PROGRAMS.items() if not shutil.which(name, path=path))
    if lacking:
        return lacking
    with tempfile.TemporaryDirectory(prefix="opsdeck-trial-") as folder:
        try:
            said = run(["unshare", "--mount", "--net", "sh", "-c", _TRIAL, "sh", folder], timeout=20, check=False)
        except LabFault as error:
            return (error.message,)
    steps = said.strip().splitlines()
    if steps and steps[-1] == "write kernel settings":
        return ()
    done = [line for line in steps if f"echo '{line}'" in _TRIAL]
    words = " ".join(line for line in steps if line not in done).strip()
    return (f"no right to {done[-1] if done else 'make namespaces (CAP_SYS_ADMIN)'}: {words or 'refused'}",)


def require() -> None:
    """Raise Unavailable, naming exactly what is missing, unless this machine can carry a fleet."""
    if not (reasons := missing()):
        return
    hint: str | None
    if reasons[0] == "not root":
        hint = "run it as root, or use the play hosts, which need no root"
    elif reasons[0].startswith("no right"):
        hint = "use a machine or a container with the rights of root over namespaces (privileged), or the play hosts"
    else:
        packages = [pkg for name, pkg in PROGRAMS.items() if any(f"no {name} " in reason for reason in reasons)]
        hint = f"apt-get install {' '.join(dict.fromkeys(packages))}" if packages else None
    raise Unavailable(f"Real lab hosts cannot run here: {'; '.join(reasons)}.", hint=hint)


@contextlib.contextmanager
def held(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock file `path` while the block runs, so that two at once never build the same thing.

    Raises LabFault when `wait` is false and another process holds it. The lock ends with its process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise LabFault("Another process works on this part of the lab.", file=str(path), hint="wait") from error
        yield
    finally:
        os.close(descriptor)


def mounts_under(folder: Path) -> list[Path]:
    """Give the mount points at or below `folder`, the deepest first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        point = Path(line.split()[4].encode().decode("unicode_escape"))
        if point == folder or folder in point.parents:
            found.append(point)
    return sorted(found, key=lambda point: len(point.parts), reverse=True)


def unmount_under(folder: Path) -> None:
    """Unmount everything at or below `folder`; a busy mount goes as soon as its last user has gone."""
    for point in mounts_under(folder):
        run(["umount", "--lazy", point], check=False)
