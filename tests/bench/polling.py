"""What it costs to poll a fleet: the share of one core, with hosts in a process of their own.

    ./run bench polling --hosts 100 --rate 1000 --seconds 30

`--hosts` real SSH servers on loopback are polled so often that `--rate` polls a minute come together; the CPU time of
the polling process alone counts, database writes included. Prints Markdown.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sqlmodel import func, select

from opsdeck.actor import SYSTEM
from opsdeck.builtin.sampler import Sampler
from opsdeck.db import Database, migrate
from opsdeck.deck import Deck
from opsdeck.inventory.forms import HostIn
from opsdeck.inventory.models import Sample
from opsdeck.lab.inprocess import PlayHosts
from opsdeck.plugins import Plugins
from opsdeck.secrets.keyring import Keyring
from opsdeck.secrets.sensitive import Sensitive
from opsdeck.settings import Settings


async def serve(folder: Path, count: int) -> None:
    """Be the hosts until standard input ends."""
    async with PlayHosts(folder, [f"h{number}" for number in range(count)]) as hosts:
        places = [[host.name, host.address, host.port, host.user, host.host_key] for host in hosts]
        print(json.dumps([hosts.private_key, places]), flush=True)
        await asyncio.to_thread(sys.stdin.read)


async def poll(home: Path, fleet: list, interval: float, warm: float, seconds: float) -> tuple[int, float, float]:
    """Poll for a while; give (polls, CPU seconds, wall seconds)."""
    key, places = fleet
    settings, plugins = Settings(home=home), Plugins()
    Keyring.create(settings.key_file)
    database = Database(settings.url)
    await migrate.upgrade(database, plugins)
    await database.close()
    async with Deck.open(settings, plugins=plugins) as deck:
        await deck.secrets.set("bench", Sensitive(key), kind="ssh-key", actor=SYSTEM)
        forms = [HostIn(name=n, address=a, port=p, user=u, credential="bench") for n, a, p, u, _ in places]
        await deck.inventory.apply(forms, {}, SYSTEM)
        for name, *_, public in places:
            await deck.host_keys.pin(name, public, SYSTEM)
        running = asyncio.create_task(Sampler(deck, interval).run())
        await asyncio.sleep(warm)
        before, cpu, wall = await count(deck), time.process_time(), time.monotonic()
        await asyncio.sleep(seconds)
        cpu, wall = time.process_time() - cpu, time.monotonic() - wall
        polls = await count(deck) - before
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    return polls, cpu, wall


async def count(deck: Deck) -> int:
    """Count the samples that are kept."""
    async with deck.db.read() as session:
        return (await session.exec(select(func.count()).select_from(Sample))).one()


def main() -> int:
    """Measure, print, and fail when more than half a core is used."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", type=int, default=100)
    parser.add_argument("--rate", type=float, default=1000, help="polls a minute")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        asyncio.run(serve(given.serve, given.hosts))
        return 0
    interval = given.hosts * 60 / given.rate
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--serve", f"{folder}/hosts", "--hosts", str(given.hosts)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as hosts:
            assert hosts.stdout
            fleet = json.loads(hosts.stdout.readline())
            home = Path(folder) / "home"
            home.mkdir(mode=0o700)
            polls, cpu, wall = asyncio.run(poll(home, fleet, interval, 3 * interval + 5, given.seconds))
            hosts.communicate()
    share = cpu / wall
    print("| hosts | polls a minute | CPU each, ms | share of one core | of the half core allowed |")
    print("|---|---|---|---|---|")
    print(f"| {given.hosts} | {polls / wall * 60:.0f} | {cpu / polls * 1000:.2f} | {share:.1%} | {share / 0.5:.2f}× |")
    return 0 if share <= 0.5 else 1


if __name__ == "__main__":
    sys.exit(main())
