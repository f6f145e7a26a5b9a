"""Backups against the same tools in a hand-written pipe, restores against loading dumps, and what the database feels.

Needs root and the lab; sysbench and mydumper come from Debian. `--parts` measures some of it on what `--state` keeps
between calls, since all of it takes a quarter of an hour. Two ways of one thing are taken in turns in one run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import secrets
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import opsdeck_backup.plugin
from opsdeck_backup import keys, stores
from opsdeck_backup.engines import MariaDB, Order

from opsdeck.actor import Actor, Door, Role
from opsdeck.builtin import plugin as core_plugin
from opsdeck.db import Database
from opsdeck.db.migrate import upgrade
from opsdeck.deck import Deck
from opsdeck.inventory.models import Host, HostKey
from opsdeck.jobs.jobs import Submission
from opsdeck.lab.fleet import Fleet, HostSpec, LabHost
from opsdeck.plugins import Plugins
from opsdeck.secrets.keyring import Keyring
from opsdeck.secrets.sensitive import Sensitive
from opsdeck.settings import Settings

BOSS = Actor("bench@cli", Role.ADMIN, Door.CLI, stepped_up=True)
PACKAGES = ("mariadb-server", "mariadb-backup", "zstd", "age", "sysbench", "mydumper")
RCLONE = "/opt/opsdeck/artefacts/rclone/current/rclone"
TOOLS = ("mariadb-backup", "mbstream", "perl", "zstd", "age", "rclone", "sh")
DUMPS = "/var/tmp"
"""Where dumps lie on a host: its /tmp is in memory."""
TABLES, ROW = 4, 228
SERVER = (
    "[mariadbd]\ninnodb_buffer_pool_size = 1G\ninnodb_log_file_size = 512M\nlog_bin = bin\n"
    "binlog_expire_logs_seconds = 3600\n"
)
PIPE = """renice -n 5 $$ >/dev/null; ionice -c2 -n7 -p $$; echo 5 >/proc/self/autogroup
set -o pipefail; rm -rf /tmp/scratch; mkdir -p /tmp/scratch
{engine} 2>/tmp/engine.log | zstd -q -T2 -1 | age -r {key} |
{rclone} --config /root/hand.conf rcat --s3-chunk-size 16Mi --s3-upload-concurrency 2 store:backups/hand"""
SYSBENCH = ("sysbench", "oltp_read_write", "--mysql-socket=/run/mysqld/mysqld.sock", "--mysql-user=root",
            "--mysql-db=bench", f"--tables={TABLES}", "--threads=4")  # fmt: skip
DIGITS = "LPAD(FLOOR(RAND() * 1e11), 11, '0')"


def sql(host: LabHost, text: str) -> str:
    """Ask a host's database as root."""
    return host.execute(["mariadb", "-N", "-B"], stdin=text, timeout=1800).strip()


def shell(host: LabHost, text: str, *words: str) -> float:
    """Run lines of bash on a host, as a unit of its own; give the seconds they took."""
    began = time.monotonic()
    unit = ["systemd-run", "--quiet", "--wait", "--collect", "--pipe", "-p", "KillMode=mixed", "-E", "HOME=/root"]
    host.execute([*unit, "setsid", "-w", "bash", "-c", text, "bash", *words], timeout=3600)
    return time.monotonic() - began


def fill(db: LabHost, mib: int) -> None:
    """Make tables as sysbench does, `mib` MiB of them together."""
    rows = mib * (1 << 20) // ROW // TABLES
    words = f"CONCAT_WS('-', {', '.join([DIGITS] * 10)})"
    pad = f"CONCAT_WS('-', {', '.join([DIGITS] * 5)})"

    def one(number: int) -> None:
        table = f"bench.sbtest{number}"
        columns = "id INT PRIMARY KEY AUTO_INCREMENT, k INT NOT NULL, c CHAR(120) NOT NULL, pad CHAR(60) NOT NULL"
        sql(db, f"CREATE OR REPLACE TABLE {table} ({columns}, KEY k_{number} (k)) CHARSET latin1")
        made = f"SELECT RAND() * {rows}, {words}, {pad} FROM seq_1_to_50000"  # noqa: S608
        sql(db, f"SET sql_log_bin = 0; USE bench; INSERT INTO {table} (k, c, pad) {made}")
        # The same again, much farther apart than a compressor looks back.
        again = f"SELECT (k * 7 + {number}) % {rows}, c, pad FROM {table} LIMIT 50000"  # noqa: S608
        for _ in range(rows // 50_000):
            sql(db, f"SET sql_log_bin = 0; INSERT INTO {table} (k, c, pad) {again}")

    sql(db, "CREATE DATABASE IF NOT EXISTS bench")
    there = sql(db, f"SELECT table_name FROM information_schema.tables WHERE table_rows > {rows // 2}").split()  # noqa: S608
    with ThreadPoolExecutor() as pool:
        list(pool.map(one, (number for number in range(1, TABLES + 1) if f"sbtest{number}" not in there)))


@dataclass
class Load:
    """sysbench beside something else: transactions a second, and the 95th percentile of their times in ms."""

    tps: float
    late: float


def load(db: LabHost, seconds: int, rate: int) -> Load:
    """Read and write for some seconds, at most `rate` transactions a second (0: as many as it can)."""
    said = db.execute(
        [*SYSBENCH, f"--table-size={100_000}", f"--time={seconds}", f"--rate={rate}", "run"], timeout=seconds + 60
    )
    tps, late = re.search(r"transactions: .*\(([\d.]+) per sec", said), re.search(r"95th percentile: +([\d.]+)", said)
    assert tps is not None and late is not None, said
    return Load(float(tps[1]), float(late[1]))


@contextlib.contextmanager
def under_load(db: LabHost, rate: int) -> Iterator[None]:
    """Keep a load of `rate` transactions a second on the database meanwhile."""
    unit = ["systemd-run", "--quiet", "--unit=bench-load"]
    db.execute([*unit, *SYSBENCH, "--table-size=100000", "--time=3600", f"--rate={rate}", "run"])
    try:
        yield
    finally:
        db.execute(["systemctl", "stop", "bench-load"], check=False)


class Clock:
    """Seconds, and processor seconds that a host spent meanwhile: these hardly depend on what else the machine does."""

    def __init__(self, host: LabHost) -> None:
        self._group = Path("/sys/fs/cgroup/cpuacct") / f"opsdeck-{host.name}"
        self._group.mkdir(exist_ok=True)
        for pid in host.processes():  # what they start belongs to it too
            with contextlib.suppress(OSError):
                (self._group / "cgroup.procs").write_text(str(pid))
        self._began, self._used = time.monotonic(), self._read()

    def _read(self) -> int:
        return int((self._group / "cpuacct.usage").read_text())

    def lap(self) -> Lap:
        """Give what went by since the last lap."""
        now, used = time.monotonic(), self._read()
        lap = Lap(now - self._began, (used - self._used) / 1e9)
        self._began, self._used = now, used
        return lap


@dataclass(frozen=True, order=True)
class Lap:
    """Seconds, and processor seconds of the host."""

    wall: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.wall:.1f} s ({self.cpu:.1f} s of processor)"


@contextlib.contextmanager
def memory(host: LabHost) -> Iterator[list[int]]:
    """Look ten times a second how much memory the programs of a run take together; the list gets the most, MiB."""
    most = [0]
    over = threading.Event()

    def look() -> int:
        total = 0
        for pid in host.processes():
            with contextlib.suppress(OSError):
                text = Path(f"/proc/{pid}/status").read_text()
                name, size = re.search(r"Name:\s+(.*)", text), re.search(r"VmRSS:\s+(\d+)", text)
                if name is not None and size is not None and name[1] in TOOLS:
                    total += int(size[1]) // 1024
        return total

    def watch() -> None:
        while not over.wait(0.1):
            most[0] = max(most[0], look())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def served(folder: Path, address: str) -> Iterator[str]:
    """Run an S3 server, as another machine's: it gives way to everything else; give rclone's configuration for it."""
    kept = folder / "s3.conf"
    if not kept.exists():
        with socket.socket() as free:
            free.bind((address, 0))
            port = free.getsockname()[1]
        kept.write_text(
            "[store]\ntype = s3\nprovider = Rclone\naccess_key_id = bench\n"
            f"secret_access_key = {secrets.token_hex(12)}\n"
            f"endpoint = http://{address}:{port}\nforce_path_style = true\n"
        )
    text = kept.read_text()
    secret, place = (re.search(pattern, text) for pattern in (r"secret_access_key = (.*)", r"http://(.*)"))
    assert secret is not None and place is not None
    (folder / "s3" / "backups").mkdir(parents=True, exist_ok=True)
    words = [
        stores.program(),
        "serve",
        "s3",
        "--addr",
        place[1],
        "--auth-key",
        f"bench,{secret[1]}",
        str(folder / "s3"),
    ]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(2)
    try:
        yield text
    finally:
        process.kill()
        process.wait()


class Stage:
    """The console and the two hosts."""

    def __init__(self, deck: Deck, db: LabHost, spare: LabHost, given: argparse.Namespace) -> None:
        self.deck, self.db, self.spare, self.given = deck, db, spare, given

    async def run(self, action: str, **params: Any) -> dict[str, Any]:
        """Run an action that must succeed; give its receipt."""
        job = await self.deck.jobs.run(Submission("backup", action, params, confirm=action), BOSS)
        if job.state != "succeeded":
            steps = [step.error for step in await self.deck.jobs.steps(job.id or 0)]
            lines = [line.text for line in await self.deck.jobs.log(job.id or 0)][-20:]
            raise SystemExit(f"{action}: {job.error} {steps} {lines}")
        if self.given.lines:
            for line in await self.deck.jobs.log(job.id or 0):
                if line.stream != "cmd":
                    print(f"    {line.at:%H:%M:%S.%f} {line.text[:150]}")
        return dict(job.receipt or {})

    async def fill(self) -> None:
        """Make the database."""
        for host in (self.db, self.spare):
            host.execute(
                ["sh", "-c", "cat >/etc/mysql/mariadb.conf.d/99-bench.cnf; systemctl restart mariadb"], stdin=SERVER
            )
        await asyncio.to_thread(fill, self.db, self.given.mib)
        target = {"name": "bench", "host": "bench-db", "remote": "store:backups", "store_secret": "s3"}
        await self.run("target", **target, key_secret="key", read_back=False)
        full = await self.run("run", target="bench", full=True)
        print(f"{full['raw'] / 1e6:.0f} MB of data, {full['stored'] / 1e6:.0f} MB stored")

    async def backup(self) -> None:
        """Ours and the pipe in turns; memory; an increment in which nothing happened."""
        key = keys.public_of(await self.deck.secrets.reveal("key", actor=BOSS, purpose="bench"))[0]
        engine = (
            " ".join(MariaDB().backup(Order(False, 2))).replace("@run@/my.cnf", "/root/my.cnf").replace("@run@", "/tmp")
        )
        pipe = PIPE.format(engine=engine, key=key, rclone=RCLONE)
        ours, hand = [], []
        busy = under_load(self.db, self.given.rate) if self.given.rate else contextlib.nullcontext()
        with memory(self.db) as peak, busy:
            clock = Clock(self.db)
            for _ in range(self.given.rounds):
                await asyncio.to_thread(shell, self.db, pipe)
                hand.append(clock.lap())
                await self.run("run", target="bench", full=True)
                ours.append(clock.lap())
                print(f"    the pipe {hand[-1]}, ours {ours[-1]}")
        walls, cpus = min(ours).wall / min(hand).wall, min(lap.cpu for lap in ours) / min(lap.cpu for lap in hand)
        print(f"backup under {self.given.rate} transactions a second: {min(ours)}; the pipe {min(hand)}; ", end="")
        print(f"ratio {walls:.2f}, of processor {cpus:.2f}")
        print(f"memory at most {peak[0]} MiB")
        await self.run("run", target="bench")
        idle = await self.run("run", target="bench")
        print(f"idle increment: {idle['stored'] / 1e6:.3f} MB stored")

    async def tps(self) -> None:
        """Transactions a second without and with a backup, at a fixed rate and as many as there can be."""
        free = await asyncio.to_thread(load, self.db, 15, 0)
        for rate in (int(free.tps / 2), 0):
            without, beside = [], []
            for _ in range(self.given.rounds):
                without.append(await asyncio.to_thread(load, self.db, 15, rate))
                backup = asyncio.create_task(self.run("run", target="bench", full=True))
                await asyncio.sleep(3)
                beside.append(await asyncio.to_thread(load, self.db, 15, rate))
                still = not backup.done()
                await backup
                print(f"    {without[-1]} {beside[-1]} {'' if still else '(the backup ended before)'}")
            one, two = (statistics.median(each.tps for each in found) for found in (without, beside))
            late = [statistics.median(each.late for each in found) for found in (without, beside)]
            print(
                f"{rate or 'all'} transactions a second: {one:.0f} without, {two:.0f} beside a backup, {two / one:.2f}"
            )
            print(f"    95 % within {late[0]:.0f} and {late[1]:.0f} ms")

    async def restore(self) -> None:
        """Bring the newest full backup onto the other host."""
        await self.run("run", target="bench", full=True)
        with memory(self.spare) as peak:
            clock = Clock(self.spare)
            told = await self.run("restore", target="bench", onto="bench-spare")
            print(f"restore {clock.lap()}, {told}; memory at most {peak[0]} MiB")
        assert sql(self.spare, "SELECT COUNT(*) FROM bench.sbtest1") == sql(
            self.db, "SELECT COUNT(*) FROM bench.sbtest1"
        )

    async def dump(self) -> None:
        """Dump with mariadb-dump and mydumper; files lie on the host that loads them."""
        for words in (
            f"mariadb-dump --databases bench >{DUMPS}/dump.sql",
            f"rm -rf {DUMPS}/my; mydumper -B bench -t 2 -o {DUMPS}/my",
        ):
            print(f"{words}: {await asyncio.to_thread(shell, self.db, words):.1f} s")
        for name in ("dump.sql", "my"):
            there = [f"{host.root}{DUMPS}/" for host in (self.db, self.spare)]
            subprocess.run(["cp", "-a", there[0] + name, there[1]], check=True)

    async def load(self) -> None:
        """Load the dump of mariadb-dump."""
        await self._loaded(f"mariadb <{DUMPS}/dump.sql")

    async def myload(self) -> None:
        """Load what mydumper dumped."""
        await self._loaded(f"myloader -d {DUMPS}/my -t 2")

    async def _loaded(self, words: str) -> None:
        sql(self.spare, "DROP DATABASE IF EXISTS bench")
        clock = Clock(self.spare)
        await asyncio.to_thread(shell, self.spare, words)
        print(f"{words}: {clock.lap()}")


@contextlib.asynccontextmanager
async def console(folder: Path, fleet: Fleet, config: str) -> AsyncIterator[Deck]:
    """Open the console; the first time it is made."""
    plugins = Plugins()
    plugins.add("core", core_plugin)
    plugins.add("backup", opsdeck_backup.plugin)
    settings = Settings(home=folder / "deck")
    new = not settings.home.exists()
    if new:
        settings.home.mkdir(mode=0o700)
        Keyring.create(settings.key_file)
    database = Database(settings.url)
    await upgrade(database, plugins)
    await database.close()
    async with Deck.open(settings, plugins=plugins, kind="server") as deck:
        if new:
            for name, value, kind in (
                ("lab", Sensitive(fleet.private_key.read_text()), "ssh-key"),
                ("s3", Sensitive(config), "rclone-config"),
                ("key", keys.new_identity()[0], "age-identity"),
            ):
                await deck.secrets.set(name, value, kind=kind, actor=BOSS)
            async with deck.db.write() as session:
                for lab in fleet.hosts():
                    row = Host(name=lab.name, address=lab.address, user="root", credential="lab")
                    session.add(row)
                    await session.flush()
                    pinned = {"algorithm": lab.host_key.split()[0], "public": lab.host_key, "state": "pinned"}
                    session.add(HostKey(host_id=row.id or 0, fingerprint="x", **pinned))
        yield deck


async def main(given: argparse.Namespace) -> None:
    """Set the stage or find it again, measure, clear it unless it is to be kept."""
    fleet, folder = Fleet("bench-backup"), Path(given.state)
    if not folder.exists() or not fleet.hosts():
        fleet.down()
        subprocess.run(["rm", "-rf", str(folder)], check=True)
        folder.mkdir(parents=True)
        fleet.up([HostSpec("bench-db", PACKAGES), HostSpec("bench-spare", PACKAGES)])
    db, spare = fleet.host("bench-db"), fleet.host("bench-spare")
    subnet = fleet.network.subnet()
    try:
        with served(folder, str(subnet[1]) if subnet else "") as config:
            db.execute(["sh", "-c", "umask 077; cat >/root/hand.conf; echo '[client]' >/root/my.cnf"], stdin=config)
            async with console(folder, fleet, config) as deck:
                stage = Stage(deck, db, spare, given)
                for part in given.parts:
                    work: Callable[[], Any] = getattr(stage, part)
                    await work()
    finally:
        if not given.keep:
            fleet.down()
            subprocess.run(["rm", "-rf", str(folder)], check=True)


if __name__ == "__main__":
    parts = ["fill", "backup", "tps", "restore", "dump", "load", "myload"]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=2100, help="size of the database")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=int, default=50, help="transactions a second during backups; 0 for none")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--state", default="/var/tmp/opsdeck-bench-backup", help="where the console and the store lie")
    parser.add_argument("--keep", action="store_true", help="leave all standing for another call")
    parser.add_argument("--lines", action="store_true", help="print the jobs' logs")
    asyncio.run(main(parser.parse_args()))
