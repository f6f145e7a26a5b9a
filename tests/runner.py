"""What `./run test`, `check`, `bench` and `campaign` do, once .venv is there. Standard library only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
LIMIT = 38 * 60
"""Seconds after which a run that hangs is ended; on two cores all tests take under 30 minutes."""

PACKAGES = {
    "debootstrap": "debootstrap",
    "systemd-nspawn": "systemd-container",
    "nft": "nftables",
    "ip": "iproute2",
    "ssh": "openssh-client",
    "sshd": "openssh-server",
    "initdb": "postgresql",
    "mariadbd": "mariadb-server-core",
    "my_print_defaults": "mariadb-client-core",
    "chromium": "chromium",
    "libatomic.so.1": "libatomic1",
    "sudo": "sudo",
    "fish": "fish",
    "tcsh": "tcsh",
}
"""Each program that the tests use (and the library that Playwright's does), with the Debian package that has it."""

SERVICES = {"openssh-server": "ssh.service", "postgresql": "postgresql.service"}

_POLICY = Path("/usr/sbin/policy-rc.d")


def main(verb: str, arguments: list[str]) -> int:
    """Run one verb; give the exit status."""
    os.chdir(ROOT)
    if verb == "check":
        return check()
    install_packages()
    if verb == "bench":
        return bench(arguments)
    # Options alone, as in `./run test -q`, are about all tests.
    every = [] if any(names_tests(word) for word in arguments) else existing("unit", "fleet", "browser")
    if verb == "campaign":
        pytest([*(["-m", "campaign"] if every else []), *arguments, *every])
    # `--session-timeout` ends a run that would take too long after the test it is at.
    workers = min((os.cpu_count() or 1) + 1, 4)  # one more than cores, since most of them wait for hosts
    beside = ["-m", "not campaign", "-n", str(workers), "--dist", "loadgroup", "--no-loadscope-reorder"]
    pytest([f"--session-timeout={LIMIT}", *(beside if every else []), *arguments, *every])


def names_tests(word: str) -> bool:
    """Say whether a word among pytest's arguments is a place of tests."""
    return not word.startswith("-") and (ROOT / word.partition("::")[0]).exists()


def check() -> int:
    """Format, lint, types and unit tests; stops at the first that fails."""
    tool = Path(sys.executable).parent
    steps = (
        [tool / "ruff", "format", "--check", "."],
        [tool / "ruff", "check", "."],
        [tool / "mypy"],
    )
    for step in steps:
        if status := subprocess.call(step):
            return status
    pytest(["-q", *existing("unit")])


def bench(arguments: list[str]) -> int:
    """Run one benchmark, named by the first argument (`fanout` when there is none)."""
    name, rest = (arguments[0], arguments[1:]) if arguments and arguments[0][0] != "-" else ("fanout", arguments)
    script = HERE / "bench" / f"{name}.py"
    if not script.is_file():
        print(f"There is no benchmark {name!r} in tests/bench. Next: ./run bench fanout --help", file=sys.stderr)
        return 2
    # Peers come with their bytecode; ours is kept as well, as in any installation.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.call([sys.executable, script, *rest], env=env)


def existing(*folders: str) -> list[str]:
    """Give those folders of tests that are there."""
    return [f"tests/{folder}" for folder in folders if (HERE / folder).is_dir()]


def pytest(arguments: list[str]) -> NoReturn:
    """Become pytest: its closing line is the last thing said, and Ctrl-C reaches its tear-down undisturbed."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *arguments])  # noqa: S606


def lacking() -> list[str]:
    """Give the Debian packages whose programs are not here."""
    return [package for name, package in PACKAGES.items() if not found(name)]


def found(program: str) -> bool:
    """Say whether a program is here, also where Debian puts those of administrators and of PostgreSQL."""
    path = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    elsewhere = [
        *Path("/usr/lib").glob(f"postgresql/*/bin/{program}"),
        *Path("/usr/lib").glob(f"*-linux-gnu/{program}"),
    ]
    return bool(shutil.which(program, path=path) or elsewhere)


def install_packages() -> None:
    """As root on Debian, install what the tests lack, without starting or enabling its services; say what was done.

    What stays missing is no fault here: the tests that need it say so.
    """
    packages = lacking()
    if not packages:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        why = "only root may install them" if os.geteuid() else "there is no apt-get"
        print(f"Not here: {', '.join(packages)} ({why}); the tests that need them are skipped.", flush=True)
        return
    print(f"Installing Debian packages for the tests: {', '.join(packages)} …", flush=True)
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    quiet_start = not _POLICY.exists()
    if quiet_start:
        _POLICY.write_text("#!/bin/sh\nexit 101\n")
        _POLICY.chmod(0o755)
    try:
        for step in (["update"], ["-y", "--no-install-recommends", "install", *packages]):
            done = subprocess.run(
                ["apt-get", "-qq", *step], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
            )
            if done.returncode:
                said = done.stdout.decode(errors="replace").strip()[-800:]
                print(f"apt-get {step[-1]} failed; the tests that need the packages are skipped:\n{said}", flush=True)
                return
    finally:
        if quiet_start:
            _POLICY.unlink(missing_ok=True)
    if Path("/run/systemd/system").is_dir():
        for service in [SERVICES[package] for package in packages if package in SERVICES]:
            subprocess.call(["systemctl", "--quiet", "disable", "--now", service])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
