"""A console, database hosts with MariaDB, and a real S3 server (rclone's) that the hosts reach."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import opsdeck_backup.plugin
import pytest
from opsdeck_backup import keys, stores

from opsdeck.actor import Actor, Door, Role
from opsdeck.builtin import plugin as core_plugin
from opsdeck.db import Database, migrate
from opsdeck.deck import Deck
from opsdeck.inventory.models import Host, HostKey
from opsdeck.jobs.jobs import Submission
from opsdeck.lab.fleet import Fleet, HostSpec, LabHost
from opsdeck.plugins import Plugins
from opsdeck.secrets.keyring import Keyring
from opsdeck.secrets.sensitive import Sensitive
from opsdeck.settings import Settings

BOSS = Actor("boss@cli", Role.ADMIN, Door.CLI, stepped_up=True)
MARIADB = ("mariadb-server", "mariadb-backup", "zstd", "age", "python3")
"""And what the stand-in of a cluster is written in."""
SHOP = {"name": "shop", "host": "bk-db", "remote": "store:backups", "store_secret": "s3", "key_secret": "key"}
PARTS = {
    "engine": ("mariadb-backup", "--backup"),
    "scan": ("perl", "/raw"),
    "zstd": ("zstd", "-T"),
    "age": ("age", "recipients"),
    "hash": ("perl", "/stored"),
    "digest": ("rclone", "hashsum"),
    "store": ("rclone", "rcat"),
}
"""The parts of the pipe: the program's name, and a word that its command line has."""


class S3:
    """rclone's own S3 server over a folder of this machine; what lies in the folder can be damaged by a test."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder, self.address = folder, address
        self.access, self.secret = "opsdeck", secrets.token_hex(12)
        with socket.socket() as free:
            free.bind((address, 0))
            self.port = free.getsockname()[1]
        (folder / "backups").mkdir(parents=True)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def config(self) -> str:
        """Give the store's configuration for rclone."""
        return (
            "[store]\ntype = s3\nprovider = Rclone\n"
            f"access_key_id = {self.access}\nsecret_access_key = {self.secret}\n"
            f"endpoint = http://{self.address}:{self.port}\nforce_path_style = true\n"
        )

    def start(self) -> None:
        """Serve."""
        words = [stores.program(), "serve", "s3", "--addr", f"{self.address}:{self.port}"]
        words += [
            "--auth-key",
            f"{self.access},{self.secret}",
            "--vfs-cache-mode",
            "off",
            str(self.folder),
        ]
        self._process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while True:
            with socket.socket() as probe:
                if probe.connect_ex((self.address, self.port)) == 0:
                    return
            assert time.monotonic() < deadline, "the S3 server did not start"
            time.sleep(0.05)

    def stop(self) -> None:
        """Refuse everybody."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self, on: bool) -> None:
        """Answer nobody, without refusing."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP if on else signal.SIGCONT)

    def files(self, pattern: str) -> list[Path]:
        """Give what lies in the store."""
        return sorted((self.folder / "backups").glob(pattern))


@pytest.fixture
def s3(lab: Fleet, tmp_path: Path) -> Iterator[S3]:
    """An S3 server on the fleet's bridge."""
    subnet = lab.network.subnet()
    assert subnet is not None
    server = S3(tmp_path / "s3", str(subnet[1]))
    server.start()
    yield server
    server.stop()


@dataclass
class World:
    """Everything a test of backups holds in its hands."""

    deck: Deck
    s3: S3
    db: LabHost
    spare: LabHost

    async def enrol(self, host: LabHost) -> None:
        """Put a host into the inventory, its key pinned."""
        async with self.deck.db.write() as session:
            row = Host(name=host.name, address=host.address, user="ops", credential="lab", sudo="nopasswd")
            session.add(row)
            await session.flush()
            pinned = {"algorithm": host.host_key.split()[0], "public": host.host_key, "state": "pinned"}
            session.add(HostKey(host_id=row.id, fingerprint="x", **pinned))

    async def run(self, action: str, **params: Any) -> Any:
        """Run an action; give its job."""
        return await self.deck.jobs.run(Submission("backup", action, params, confirm=action), BOSS)

    async def good(self, action: str, **params: Any) -> dict[str, Any]:
        """Run an action that must succeed; give its receipt."""
        job = await self.run(action, **params)
        if job.state != "succeeded":
            lines = [line.text for line in await self.deck.jobs.log(job.id)]
            steps = [step.error for step in await self.deck.jobs.steps(job.id)]
            pytest.fail(f"{action}: {job.state}: {job.error} {steps}\n" + "\n".join(lines[-30:]))
        return dict(job.receipt)

    async def plan(self, action: str, **params: Any) -> Any:
        """Ask an action for its plan."""
        return await self.deck.jobs.plan(Submission("backup", action, params, confirm=action), BOSS)

    async def bad(self, action: str, **params: Any) -> str:
        """Run an action that must fail; give what was said."""
        job = await self.run(action, **params)
        assert job.state == "failed", job.state
        steps = [step.error for step in await self.deck.jobs.steps(job.id) if step.error]
        return " ".join([job.error, *steps])

    async def set(self, **more: Any) -> None:
        """Set the target `shop` anew."""
        await self.good("target", **SHOP | more)

    def sql(self, text: str, *, host: LabHost | None = None, timeout: float = 120) -> str:
        """Ask a host's database as root."""
        return (host or self.db).execute(["mariadb", "-N", "-B"], stdin=text, timeout=timeout).strip()

    async def slow(self, mib: int = 20, limit: str = "3M") -> None:
        """Make a full backup take some seconds: data that does not shrink, and a narrow way."""
        columns = "id INT PRIMARY KEY AUTO_INCREMENT, noise VARBINARY(1000)"
        self.sql(f"CREATE OR REPLACE TABLE shop.bulk ({columns})")
        for _ in range(mib):
            self.sql("USE shop; INSERT INTO bulk (noise) SELECT RANDOM_BYTES(1000) FROM seq_1_to_1000")
        await self.set(limit=limit, full_hours=1000)

    def part(self, name: str) -> int | None:
        """Give the process of a part of the backup that runs, as this machine numbers it."""
        program, word = PARTS[name]
        for pid in self.db.processes():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().strip() == program:
                    line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    if word in line:
                        return pid
        return None

    async def streaming(self, name: str = "engine", amount: int = 1, *, end: bool = False) -> int:
        """Wait until a part of the backup has taken in (the engine: given out) that many bytes; give its process.

        With `end` it is killed at once there, by a thread of its own: little time is left at 99 %.
        """

        def wait() -> int | None:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                pid = self.part(name)
                while pid is not None:
                    try:
                        told = Path(f"/proc/{pid}/io").read_text()
                    except OSError:
                        break
                    if int(told.split("wchar: " if name == "engine" else "rchar: ")[1].split()[0]) >= amount:
                        if end:
                            os.kill(pid, signal.SIGKILL)
                        return pid
                    time.sleep(0.001)
                time.sleep(0.05)
            return None

        pid = await asyncio.to_thread(wait)
        assert pid is not None, f"no {name} came so far"
        return pid


@pytest.fixture(scope="session")
def databases(lab: Fleet) -> tuple[LabHost, LabHost]:
    """Two hosts with MariaDB."""
    lab.up([HostSpec("bk-db", MARIADB), HostSpec("bk-spare", MARIADB)])
    return lab.host("bk-db"), lab.host("bk-spare")


@pytest.fixture
async def world(fleet: Fleet, databases: tuple[LabHost, LabHost], s3: S3, tmp_path: Path) -> AsyncIterator[World]:
    """A console that knows both database hosts, with a target `shop` on an empty store."""
    plugins = Plugins()
    plugins.add("core", core_plugin)
    plugins.add("backup", opsdeck_backup.plugin)
    settings = Settings(home=tmp_path / "deck")
    settings.home.mkdir(mode=0o700)
    Keyring.create(settings.key_file)
    database = Database(settings.url)
    await migrate.upgrade(database, plugins)
    await database.close()
    db, spare = databases
    async with Deck.open(settings, plugins=plugins, kind="server") as deck:
        await deck.secrets.set("lab", Sensitive(db.private_key.read_text()), kind="ssh-key", actor=BOSS)
        await deck.secrets.set("s3", Sensitive(s3.config), kind="rclone-config", actor=BOSS)
        identity, _ = keys.new_identity()
        await deck.secrets.set("key", identity, kind="age-identity", actor=BOSS)
        made = World(deck, s3, db, spare)
        for host in databases:
            await made.enrol(host)
        made.sql("DROP DATABASE IF EXISTS shop; CREATE DATABASE shop; USE shop; CREATE TABLE shop.orders "
                "(id INT PRIMARY KEY AUTO_INCREMENT, note VARCHAR(200)) ENGINE=InnoDB; "
                "INSERT INTO shop.orders (note) SELECT CONCAT('order ', seq) FROM seq_1_to_1000")  # fmt: skip
        await made.set()
        yield made
