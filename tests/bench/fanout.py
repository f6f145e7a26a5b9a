"""One command on N hosts: OpsDeck beside Ansible, pyinfra, OpenSSH and bare asyncssh, same hosts, same run.

    ./run bench fanout --hosts 1,10,50,100 --rtt 0,50 --repeat 3

Every figure is of a whole process, start to last result, unless its row says otherwise; peers take turns, so that a
drift of the machine meets all of them. The hosts are addresses of real OpenSSH servers on loopback, on the same cores.
Prints Markdown: medians, and the ratio to OpsDeck.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from peers import Login, Peer, Target, all_peers

from opsdeck.lab.sshd import RealSshd


@dataclass(frozen=True)
class Figure:
    """One measured process: seconds of wall clock and of CPU, its children included."""

    wall: float
    cpu: float


def measure(argv: tuple[str, ...], env: dict[str, str], *, timeout: float = 300) -> Figure:
    """Run a command; give its time. Raises RuntimeError with what it printed when it fails."""
    before = os.times()
    began = time.perf_counter()
    done = subprocess.run(argv, env=os.environ | env, capture_output=True, timeout=timeout, check=False)
    wall = time.perf_counter() - began
    after = os.times()
    if done.returncode != 0:
        said = (done.stdout + done.stderr)[-600:].decode(errors="replace")
        raise RuntimeError(f"{argv[0]} ended with {done.returncode}: {said}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Figure(wall, cpu)


@contextlib.contextmanager
def far_away(sshd: RealSshd, addresses: list[str], rtt: float) -> Iterator[list[Target]]:
    """Give the addresses as targets, `rtt` seconds away: through delay proxies in a process of their own."""
    if rtt == 0:
        yield [Target(f"h{i}", address, sshd.port) for i, address in enumerate(addresses)]
        return
    argv = [sys.executable, str(Path(__file__).parent / "distance.py"), str(rtt), str(sshd.port), *addresses]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.PIPE) as proxies:
        assert proxies.stdout is not None
        ports = json.loads(proxies.stdout.readline())
        try:
            yield [Target(f"h{i}", "127.0.0.1", port) for i, port in enumerate(ports)]
        finally:
            proxies.terminate()


def opsdeck_peers(folder: Path, targets: list[Target], sshd: RealSshd) -> list[Peer]:
    """Make a data folder that knows the targets, and give OpsDeck's own two rows."""
    env = {"OPSDECK_HOME": str(folder / "home"), "OPSDECK_NODE": "bench"}
    shutil.rmtree(folder / "home", ignore_errors=True)
    deck = str(Path(sys.executable).parent / "opsdeck")
    subprocess.run([deck, "init", "--yes"], env=os.environ | env, check=True, capture_output=True)
    hosts = [
        {"name": target.name, "address": target.address, "port": target.port, "user": sshd.user} for target in targets
    ]
    listing = json.dumps({"hosts": hosts, "host_key": sshd.host_key, "private_key": sshd.private_key})
    seed = [sys.executable, str(Path(__file__).parent / "seed.py")]
    subprocess.run(seed, env=os.environ | env, input=listing.encode(), check=True)
    run = (deck, "plugin", "run", "core", "command", "--on", "all", "--command", "echo ok", "--json")
    count = ("--confirm", str(len(targets)))
    return [Peer("**OpsDeck**", (*run, *count), env, warm=False)]


def warm_opsdeck(folder: Path, action: str, repeat: int) -> tuple[Figure, ...]:
    """Run `command` or `facts` `repeat` times in one process whose connections are open."""
    env = os.environ | {"OPSDECK_HOME": str(folder / "home"), "OPSDECK_NODE": "bench"}
    argv = [sys.executable, str(Path(__file__).parent / "warm.py"), action, str(repeat)]
    done = subprocess.run(argv, env=env, capture_output=True, check=True)
    return tuple(Figure(**figure) for figure in json.loads(done.stdout))


def drop_masters(folder: Path) -> None:
    """End the shared connections that OpenSSH and Ansible left, so that the next run is cold."""
    for socket in [*folder.glob("cm-*"), *(folder / "ansible-cp").glob("*")]:
        subprocess.run(["ssh", "-o", f"ControlPath={socket}", "-O", "exit", "x"], capture_output=True, check=False)
        socket.unlink(missing_ok=True)


def compare(
    folder: Path, sshd: RealSshd, targets: list[Target], repeat: int
) -> Iterator[tuple[str, str, list[Figure]]]:
    """Measure every peer, in turns; give (name, cold or warm, figures)."""
    key = folder / "key"
    key.write_text(sshd.private_key)
    key.chmod(0o600)
    known = folder / "known_hosts"
    known.write_text("".join(f"[{target.address}]:{target.port} {sshd.host_key}\n" for target in targets))
    peers = opsdeck_peers(folder, targets, sshd) + all_peers(folder, targets, Login(sshd.user, key, known))
    cold: dict[str, list[Figure]] = {peer.name: [] for peer in peers}
    warm: dict[str, list[Figure]] = {peer.name: [] for peer in peers if peer.warm}
    for _ in range(repeat):
        for peer in peers:
            drop_masters(folder)
            cold[peer.name].append(measure(peer.argv, peer.env))
            if peer.warm:
                warm[peer.name].append(measure(peer.argv, peer.env))
    drop_masters(folder)
    for name, figures in cold.items():
        yield name, "cold", figures
    yield "**OpsDeck**, in a running console", "warm", list(warm_opsdeck(folder, "command", max(repeat, 5)))
    if len(targets) == 1:  # behind many addresses is one machine, whose package manager would answer for all at once
        yield "OpsDeck, all facts", "warm", list(warm_opsdeck(folder, "facts", max(repeat, 5)))
    for name, figures in warm.items():
        yield name, "warm", figures


def report(rows: list[tuple[str, str, list[Figure]]], count: int) -> None:
    """Print one table: medians, CPU per host, and how many times OpsDeck's wall clock each takes."""
    base = {kind: statistics.median(f.wall for f in figures) for name, kind, figures in rows if "**" in name}
    print("| what | | wall, s | CPU per host, ms | times OpsDeck |")
    print("|---|---|--:|--:|--:|")
    for name, kind, figures in rows:
        wall = statistics.median(figure.wall for figure in figures)
        cpu = statistics.median(figure.cpu for figure in figures) / count * 1000
        print(f"| {name} | {kind} | {wall:.2f} | {cpu:.1f} | {wall / base[kind]:.1f} |")
    print(flush=True)


def main() -> None:
    """Measure all that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", default="1,10,50,100")
    parser.add_argument("--rtt", default="0,50", help="milliseconds")
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args()
    counts = [int(part) for part in given.hosts.split(",")]
    machine = f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}"
    print(f"{machine}; the hosts' sshd runs on the same cores.\n")
    with (
        tempfile.TemporaryDirectory() as place,
        RealSshd(Path(place) / "sshd", addresses=max(counts), max_startups="300:30:400") as sshd,
    ):
        for rtt in (float(part) for part in given.rtt.split(",")):
            for count in counts:
                folder = Path(place) / f"{count}-{rtt:g}"
                folder.mkdir()
                with far_away(sshd, sshd.addresses[:count], rtt / 1000) as targets:
                    print(f"### {count} hosts, {rtt:g} ms away\n", flush=True)
                    report(list(compare(folder, sshd, targets, given.repeat)), count)


if __name__ == "__main__":
    main()
