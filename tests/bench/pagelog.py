"""100,000 lines from 10 hosts through to a page's stream: how long the console's loop stalls, how its memory grows.

Hosts, console and reader are three processes, so that the numbers are the console's own.
`python tests/bench/pagelog.py [LINES_PER_HOST] [HOSTS]` prints them; nothing is asserted.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
import urllib.request
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from opsdeck.actor import SYSTEM, Role
from opsdeck.db import Database
from opsdeck.db.migrate import upgrade
from opsdeck.deck import Deck
from opsdeck.inventory.forms import HostIn
from opsdeck.jobs.jobs import Submission
from opsdeck.lab.inprocess import PlayHosts
from opsdeck.plugins import Plugins
from opsdeck.secrets.keyring import Keyring
from opsdeck.secrets.sensitive import Sensitive
from opsdeck.settings import Settings

TICK = 0.005


def resident() -> float:
    """Give this process' resident memory, MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def hosts(folder: str, count: int, pipe: Connection) -> None:
    """Serve play hosts until told to stop."""

    async def main() -> None:
        async with PlayHosts(Path(folder), names=[f"web{place}" for place in range(count)]) as served:
            pipe.send([(host.name, host.port, host.user, host.private_key) for host in served])
            await asyncio.to_thread(pipe.recv)

    asyncio.run(main())


def console(folder: str, known: list[tuple[str, int, str, str]], lines: int, pipe: Connection) -> None:
    """Serve the console, run the job three times, tell the stalls of the loop and the memory of each run."""
    from opsdeck_web import identity, serve

    async def main() -> None:
        Path(folder).mkdir(mode=0o700)
        settings = Settings(home=Path(folder), node="bench", sample_seconds=3600)
        plugins = Plugins()
        plugins.load()
        database = Database(settings.url)
        await upgrade(database, plugins)
        await database.close()
        Keyring.create(settings.key_file)
        stop = asyncio.Event()
        sock = serve.listen("127.0.0.1", 0)
        async with Deck.open(settings, plugins=plugins, kind="server") as deck:
            await deck.accounts.create("admin", Sensitive("correct horse battery"), Role.ADMIN, SYSTEM)
            for name, port, user, key in known:
                await deck.secrets.set(f"key-{name}", Sensitive(key), kind="ssh-key", actor=SYSTEM)
                form = HostIn(name=name, address="127.0.0.1", port=port, user=user, credential=f"key-{name}")
                await deck.inventory.add(form, SYSTEM)
                contact = await deck.host_keys.contact(name, SYSTEM)
                await deck.host_keys.approve(name, contact.fingerprints[0], SYSTEM)
            work = asyncio.create_task(deck.jobs.serve(stop))
            async with serve.console(deck, sock):
                user = await deck.accounts.get("admin")
                cookie = await identity.begin(deck, user, agent="", source="", secure=False)
                stalls: list[float] = []
                watcher = asyncio.create_task(watch(stalls))
                for _ in range(3):
                    stalls.clear()
                    before, began = resident(), time.perf_counter()
                    command = f"i=0; while [ $i -lt {lines} ]; do echo line $i of many from this host; i=$((i+1)); done"
                    job = await deck.jobs.submit(
                        Submission("core", "command", {"command": command}, "all", confirm=str(len(known))), SYSTEM
                    )
                    pipe.send((f"{serve.address(sock)}jobs/{job.id}/stream?after=0", f"{cookie.key}={cookie.value}"))
                    seen = await asyncio.to_thread(pipe.recv)
                    pipe.send((seen, sorted(stalls)[-5:], before, resident(), time.perf_counter() - began))
                watcher.cancel()
                stop.set()
            await work
        sock.close()

    asyncio.run(main())


async def watch(stalls: list[float]) -> None:
    """Note by how much the loop is late, milliseconds."""
    while True:
        began = time.perf_counter()
        await asyncio.sleep(TICK)
        stalls.append((time.perf_counter() - began - TICK) * 1000)


def read(url: str, cookie: str) -> int:
    """Read a job's stream to its end as a page does; give how many lines came."""
    request = urllib.request.Request(url, headers={"Cookie": cookie})  # noqa: S310 - our own server
    seen, event = 0, ""
    with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310
        for raw in answer:
            line = raw.decode().rstrip("\r\n")
            if line.startswith("event: "):
                event = line[7:]
            elif line.startswith("data: ") and event == "lines":
                seen += len(json.loads(line[6:]))
            elif line.startswith("data: ") and event == "done":
                return seen
    return seen


def main() -> None:
    """Run it and print."""
    lines = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 10
    context: Any = get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="opsdeck-pagelog-") as folder:
        host_pipe, host_end = context.Pipe()
        pipe, end = context.Pipe()
        served = context.Process(target=hosts, args=(f"{folder}/hosts", count, host_end), daemon=True)
        served.start()
        known = host_pipe.recv()
        running = context.Process(target=console, args=(f"{folder}/home", known, lines, end), daemon=True)
        running.start()
        for number in range(3):
            url, cookie = pipe.recv()
            pipe.send(read(url, cookie))
            seen, stalls, before, after, seconds = pipe.recv()
            worst = ", ".join(f"{late:.0f}" for late in reversed(stalls))
            print(f"run {number + 1}: {seen:,} lines in {seconds:.1f} s; worst stalls {worst} ms;", end=" ")
            print(f"{before:.0f} → {after:.0f} MB")
        running.join(30)
        host_pipe.send("stop")
        served.join(30)


if __name__ == "__main__":
    main()
