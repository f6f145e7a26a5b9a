"""A streamed backup against the same tools in a hand-written pipe, and a restore against loading a dump.

Needs root and the lab. Each ratio is taken in one run, the two ways in turn; the best of `--rounds` counts for both.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import opsdeck_backup.plugin
from opsdeck_backup import keys, stores

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
PACKAGES = ("mariadb-server", "mariadb-backup", "zstd", "age")
RCLONE = "/opt/opsdeck/artefacts/rclone/current/rclone"
PIPE = (
    "set -o pipefail; mariadb-backup --backup --stream=mbstream --parallel=2 --target-dir=/tmp/scratch "
    "--innodb-log-checkpoint-now 2>/tmp/log | zstd -q -T2 -1 | age -r {key} | "
    f"{RCLONE} --config /root/hand.conf rcat --s3-chunk-size 16Mi --s3-upload-concurrency 2 store:backups/hand"
)


def sql(host: LabHost, text: str) -> str:
    """Ask a host's database as root."""
    return host.execute(["mariadb", "-N", "-B"], stdin=text, timeout=1800).strip()


def serve(folder: Path, address: str) -> tuple[subprocess.Popen[bytes], str]:
    """Start an S3 server; give it and rclone's configuration for it."""
    access = secrets.token_hex(12)
    with socket.socket() as free:
        free.bind((address, 0))
        port = free.getsockname()[1]
    (folder / "backups").mkdir(parents=True)
    words = [
        stores.program(),
        "serve",
        "s3",
        "--addr",
        f"{address}:{port}",
        "--auth-key",
        f"bench,{access}",
        str(folder),
    ]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    text = f"[store]\ntype = s3\nprovider = Rclone\naccess_key_id = bench\nsecret_access_key = {access}\n"
    time.sleep(2)
    return process, f"{text}endpoint = http://{address}:{port}\nforce_path_style = true\n"


async def run(deck: Deck, action: str, **params: Any) -> dict[str, Any]:
    """Run an action that must succeed; give its receipt."""
    job = await deck.jobs.run(Submission("backup", action, params, confirm=action), BOSS)
    if job.state != "succeeded":
        raise SystemExit(f"{action}: {job.error} {[step.error for step in await deck.jobs.steps(job.id or 0)]}")
    return dict(job.receipt or {})


async def measure(deck: Deck, db: LabHost, spare: LabHost, config: str, given: argparse.Namespace) -> None:
    """Measure and print."""
    key = keys.public_of(await deck.secrets.reveal("key", actor=BOSS, purpose="bench"))[0]
    target = {"name": "bench", "host": "bench-db", "remote": "store:backups", "store_secret": "s3", "key_secret": "key"}
    await run(deck, "target", **target, read_back=False)
    fill = "INSERT INTO big (a, b) SELECT MD5(RAND()), HEX(RANDOM_BYTES(480)) FROM seq_1_to_10000;"
    sql(db, "CREATE DATABASE bench; CREATE TABLE bench.big (id INT PRIMARY KEY AUTO_INCREMENT, a CHAR(32), b TEXT)")
    for _ in range(given.mib // 11 + 1):
        sql(db, f"USE bench; {fill}")
    await run(deck, "run", target="bench", full=True)  # brings the tools
    db.execute(["sh", "-c", "umask 077; mkdir -p /tmp/scratch; cat >/root/hand.conf"], stdin=config)
    ours, hand = [], []
    for _ in range(given.rounds):
        began = time.monotonic()
        db.execute(["bash", "-c", PIPE.format(key=key)], timeout=3600)
        hand.append(time.monotonic() - began)
        began = time.monotonic()
        full = await run(deck, "run", target="bench", full=True)
        ours.append(time.monotonic() - began)
    idle = await run(deck, "run", target="bench")
    began = time.monotonic()
    await run(deck, "restore", target="bench", onto="bench-spare")
    restore = time.monotonic() - began
    db.execute(["sh", "-c", "mariadb-dump --databases bench >/tmp/dump.sql"], timeout=3600)
    began = time.monotonic()
    db.execute(["sh", "-c", "mariadb </tmp/dump.sql"], timeout=3600)
    load = time.monotonic() - began
    print(f"raw {full['raw'] / 1e6:.0f} MB, stored {full['stored'] / 1e6:.0f} MB, rounds {given.rounds}")
    print(f"backup {min(ours):.1f} s, hand-written pipe {min(hand):.1f} s, ratio {min(ours) / min(hand):.2f}")
    print(f"idle increment: {idle['stored'] / 1e6:.3f} MB stored")
    print(f"restore, checked: {restore:.1f} s; loading a mariadb-dump alone: {load:.1f} s, ratio {load / restore:.1f}")


async def main(given: argparse.Namespace) -> None:
    """Set the stage, measure, clear it."""
    fleet = Fleet("bench-backup")
    fleet.down()
    with tempfile.TemporaryDirectory() as folder:
        fleet.up([HostSpec("bench-db", PACKAGES), HostSpec("bench-spare", PACKAGES)])
        subnet = fleet.network.subnet()
        server, config = serve(Path(folder) / "s3", str(subnet[1]) if subnet else "")
        try:
            plugins = Plugins()
            plugins.add("core", core_plugin)
            plugins.add("backup", opsdeck_backup.plugin)
            settings = Settings(home=Path(folder) / "deck")
            settings.home.mkdir(mode=0o700)
            Keyring.create(settings.key_file)
            database = Database(settings.url)
            await upgrade(database, plugins)
            await database.close()
            async with Deck.open(settings, plugins=plugins, kind="server") as deck:
                login = fleet.private_key.read_text()
                for name, value, kind in (
                    ("lab", Sensitive(login), "ssh-key"),
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
                await measure(deck, fleet.host("bench-db"), fleet.host("bench-spare"), config, given)
        finally:
            server.kill()
            server.wait()
            fleet.down()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=2100, help="size of the database")
    parser.add_argument("--rounds", type=int, default=3)
    asyncio.run(main(parser.parse_args()))
