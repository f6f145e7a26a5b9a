"""Search sync beside bare reader libraries, beside Meilisearch's stand-in alone, and beside meilisync 0.1.3.

`./run bench search_sync [--rows N] [--only reader,copy,lag,memory,peer]` prints Markdown. MariaDB and PostgreSQL are
real servers, started here; Meilisearch is the strict stand-in of the tests, whose own speed is measured too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import psycopg
from opsdeck_search_sync import ledger
from opsdeck_search_sync.changes import Reader
from opsdeck_search_sync.lane import Lane
from opsdeck_search_sync.meilisearch import Meilisearch, Task
from opsdeck_search_sync.models import Generation, Instance, Phase, Source, Sync
from opsdeck_search_sync.reaching import reader
from opsdeck_search_sync.sources.place import Place

from opsdeck.db import Database
from opsdeck.db.migrate import upgrade
from opsdeck.jobs.serving import NEWEST
from opsdeck.plugins import Plugins
from opsdeck.secrets.sensitive import Sensitive
from opsdeck.settings import Settings

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "standins"))
from databases import MariaShop, a_mariadb, a_postgres, a_postgres_shop, a_sql_shop
from searches import a_meilisearch

PEER = "meilisync[all]==0.1.3"
LIBRARY = ("pypgoutput==0.0.3", "psycopg2-binary==2.9.13", "pydantic<2")
"""Reads PostgreSQL's `pgoutput` into rows; the newest of it, which does not work with a newer pydantic."""
WORDS = "a few words of a title that people search for, and some more of a description with numbers"


class Absent(Exception):
    """Something that has to be installed first."""


def absent(reason: str) -> None:
    raise Absent(reason)


class Table:
    """A fresh database with the table `item`, and the ways in which its rows come."""

    def __init__(self, shop: Any) -> None:
        self.kind, self.port, self.sql = shop.kind, shop.server.port, shop.sql
        login: tuple[Any, ...] = ("postgres",) if self.kind == "postgres" else ("sync", Sensitive("s3cret"))
        self.place = Place("127.0.0.1", self.port, shop.name, *login)

    def bulk(self, first: int, count: int) -> None:
        """Insert rows, a thousand in one statement."""
        for start in range(first, first + count, 1000):
            rows = ", ".join(f"({g}, 'title {g}', {g % 1000}.25, '{WORDS}')" for g in range(start, start + 1000))
            self.sql(f"INSERT INTO item (id, title, price, note) VALUES {rows}")

    def single(self, first: int, count: int) -> None:
        """Change rows, each in a transaction of its own."""
        for g in range(first, first + count):
            self.sql(f"UPDATE item SET n = n + 1, title = 'changed {g}' WHERE id = {g}")

    def large(self, megabytes: int) -> None:
        """Insert rows of a kilobyte in one transaction."""
        self.sql("BEGIN")
        for start in range(10**6, 10**6 + megabytes * 1000, 1000):
            rows = ", ".join(f"({g}, 't', 1, '{'x' * 1000}')" for g in range(start, start + 1000))
            self.sql(f"INSERT INTO item (id, title, price, note) VALUES {rows}")
        self.sql("COMMIT")


@contextlib.contextmanager
def started(kind: str) -> Iterator[Table]:
    """A fresh server with an empty table."""
    if kind == "postgres":
        with a_postgres(absent) as server, a_postgres_shop(server) as shop:
            yield Table(shop)
    else:
        with a_mariadb(absent) as maria, a_sql_shop(MariaShop(maria, "shop")) as shop:
            yield Table(shop)


@contextlib.contextmanager
def standin() -> Iterator[str]:
    """The Meilisearch; its address."""
    with tempfile.TemporaryDirectory(prefix="opsdeck-bench-") as folder, a_meilisearch(Path(folder)) as server:
        yield server.url


def environment(name: str, *packages: str) -> Path:
    """Give the folder of programs of an environment that has some packages; it is made once."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "opsdeck" / name
    if not (made := folder / "made").exists():
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--clear", folder], check=True)
        pip = ["python3", "-m", "pip", "-q", "--python", str(folder / "bin" / "python"), "install", *packages]
        subprocess.run(pip, check=True)
        made.touch()
    return folder / "bin"


# --- a sync without a console ----------------------------------------------------------------------------------------


class Null(Meilisearch):
    """Takes everything at once and keeps nothing."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1")
        self.taken = 0

    async def documents(self, index: str, lines: Sequence[bytes], *, merge: bool, mark: str) -> int:
        self.taken += len(lines)
        return 1

    async def delete(self, index: str, ids: Sequence[int | str], *, mark: str) -> int:
        self.taken += len(ids)
        return 1

    async def marks(self, index: str, after: int) -> list[tuple[int, str]]:
        return []

    async def newest_task(self) -> int:
        return 0

    async def tasks(self, uids: Sequence[int]) -> dict[int, Task]:
        return {uid: Task(uid, "succeeded") for uid in uids}


class Watched(Meilisearch):
    """Notes for each document when Meilisearch had taken its request, against the moment in its title."""

    lags: list[float]

    async def documents(self, index: str, lines: Sequence[bytes], *, merge: bool, mark: str) -> int:
        task = await super().documents(index, lines, merge=merge, mark=mark)
        now = time.time()
        for line in lines:
            title = json.loads(line).get("title", "")
            if title.startswith("at "):
                self.lags.append(now - float(title[3:]))
        return task


@contextlib.asynccontextmanager
async def tables(shop: Table) -> AsyncIterator[Database]:
    """A database of the console with one sync in it."""
    folder = Path(tempfile.mkdtemp(prefix="opsdeck-bench-"))
    settings = Settings(home=folder, disabled_plugins=())
    plugins = Plugins()
    plugins.load()
    database = Database(settings.url)
    await upgrade(database, plugins)
    async with database.write() as session:
        session.add(Source(name="shop", kind=shop.kind, port=shop.port, database="shop", user="sync"))
        session.add(Instance(name="search", url="http://127.0.0.1:1"))
        await session.flush()
        session.add(Sync(name="items", source="shop", instance="search", table="item", index="items"))
        await session.flush()
        session.add(Generation(sync="items", number=1, shadow="items__b1", mapping={}))
    yield database
    await database.close()
    shutil.rmtree(folder, ignore_errors=True)


def read_from(shop: Table, name: str = "items_1") -> Reader:
    needed = frozenset({"id", "title", "price", "note", "n"})
    return reader(shop.kind, shop.place, "item", name, needed)


async def lane_of(shop: Table, database: Database, client: Meilisearch, index: str, **values: Any) -> Lane:
    generation = (await ledger.whole(database, "items")).generations[0]
    if values:
        await ledger.move(database, generation, 1, **values)
    return Lane(database, read_from(shop), client, generation, index, 1)


# --- 1. the reader ---------------------------------------------------------------------------------------------------


def bare_maria(shop: Table, position: str, rows: int) -> float:
    """Read rows by mysql-replication and nothing else; give the seconds."""
    from pymysqlreplication import BinLogStreamReader
    from pymysqlreplication.row_event import DeleteRowsEvent, UpdateRowsEvent, WriteRowsEvent

    begun, seen = time.perf_counter(), 0
    password = shop.place.password.reveal() if shop.place.password else ""
    login = {"host": "127.0.0.1", "port": shop.port, "user": "sync", "password": password, "charset": "utf8mb4"}
    stream = BinLogStreamReader(
        connection_settings=login, server_id=99, blocking=True, auto_position=position, is_mariadb=True,
        only_events=[WriteRowsEvent, UpdateRowsEvent, DeleteRowsEvent],
    )  # fmt: skip
    for event in stream:
        seen += len(event.rows)
        if seen >= rows:
            break
    took = time.perf_counter() - begun
    stream.close()
    return took


def texts(message: bytes) -> list[str | None]:
    """Decode a new row into texts, as plainly as it is done by hand; nothing for other messages."""
    if message[:1] not in (b"I", b"U"):
        return []
    if message[5:6] != b"N":
        raise ValueError("the benchmark changes no key")
    count, at = int.from_bytes(message[6:8], "big"), 8
    row: list[str | None] = []
    for _ in range(count):
        kind, at = message[at : at + 1], at + 1
        if kind == b"t":
            size = int.from_bytes(message[at : at + 4], "big")
            row.append(message[at + 4 : at + 4 + size].decode())
            at += 4 + size
        else:
            row.append(None)
    return row


async def bare_postgres(shop: Table, slot: str, rows: int) -> float:
    """Read rows by psycopg and the plainest decoder of rows into texts, and nothing else; give the seconds."""
    connection = await psycopg.AsyncConnection.connect(
        host="127.0.0.1",
        port=shop.port,
        user="postgres",
        dbname=shop.place.database,
        autocommit=True,
        replication="database",
    )
    begun, seen = time.perf_counter(), 0
    await connection.execute(
        f"START_REPLICATION SLOT {slot} LOGICAL 0/0 (proto_version '1', publication_names 'opsdeck_items_1')"
    )
    pg, readable = connection.pgconn, asyncio.Event()
    asyncio.get_running_loop().add_reader(pg.socket, readable.set)
    while seen < rows:
        count, data = pg.get_copy_data(1)
        if count > 0:
            whole = bytes(data)
            if whole[:1] == b"w":
                row = texts(whole[25:])
                seen += len(row) > 0
        else:
            readable.clear()
            await readable.wait()
            pg.consume_input()
    took = time.perf_counter() - begun
    asyncio.get_running_loop().remove_reader(pg.socket)
    await connection.close()
    return took


LIBRARY_READS = """
import sys, time, pypgoutput
port, database, rows = sys.argv[1:]
begun = time.perf_counter()
reader = pypgoutput.LogicalReplicationReader(
    publication_name="opsdeck_items_1", slot_name="library", host="127.0.0.1", port=port, dbname=database,
    user="postgres",
)
for _ in range(int(rows)):
    next(reader)
print(time.perf_counter() - begun)
reader.stop()
"""


def library_postgres(shop: Table, rows: int) -> float:
    """Read rows by pypgoutput and nothing else; give the seconds."""
    python = environment("bench-pypgoutput", *LIBRARY) / "python"
    words = [python, "-c", LIBRARY_READS, str(shop.port), shop.place.database, str(rows)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def without_slot(shop: Table, name: str) -> None:
    """Remove a slot once its reader is gone."""
    gone = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
    while not shop.sql(f"{gone} WHERE slot_name = '{name}' AND NOT active"):
        time.sleep(0.05)


async def bare(shop: Table, position: str, rows: int) -> dict[str, float]:
    """Read the same by what reads and does nothing else; give the seconds of each."""
    if shop.kind != "postgres":
        return {"mysql-replication": await asyncio.to_thread(bare_maria, shop, position, rows)}
    took = {"a decoder into texts": await bare_postgres(shop, "bare", rows)}
    await asyncio.to_thread(without_slot, shop, "bare")
    took["pypgoutput"] = await asyncio.to_thread(library_postgres, shop, rows)
    await asyncio.to_thread(without_slot, shop, "library")
    return took


async def ours(shop: Table, database: Database, position: str, rows: int) -> float:
    """Read the same by reader and pipeline into nothing; give the seconds."""
    client = Null()
    lane = await lane_of(shop, database, client, "items", phase=Phase.LIVE, position=position)
    begun = time.perf_counter()
    task = asyncio.create_task(lane.run())
    goal = (await lane.reader.head(position)).position
    while not (lane.position and lane.reader.reached(lane.position, goal)):
        assert not task.done(), task
        await asyncio.sleep(0.01)
    took = time.perf_counter() - begun
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await lane.reader.close()
    assert client.taken, rows
    return took


async def readers(kind: str, rows: int, repeat: int) -> None:
    with started(kind) as shop:
        async with tables(shop) as database:
            for what, count in (("rows in statements of 1000", rows), ("rows in transactions of one", rows // 5)):
                runs = []
                for number in range(repeat):
                    first = read_from(shop)
                    position = await first.begin()
                    for slot in ("bare", "library") if shop.kind == "postgres" else ():
                        shop.sql(f"SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")
                    await asyncio.to_thread(shop.bulk if "statements" in what else shop.single, 1, count)
                    took = await bare(shop, position, count)
                    runs.append(took | {"": await ours(shop, database, position, count)})
                    await first.end()
                    await first.close()
                    if "statements" in what and number < repeat - 1:
                        shop.sql("TRUNCATE item")
                best = {name: min(one[name] for one in runs) for name in runs[0]}
                mine = best.pop("")
                for name, took in best.items():
                    ratio = f"{took / mine:.2f}"
                    print(f"| {shop.kind} | {what} | {name} | {count / took:,.0f} | {count / mine:,.0f} | {ratio} |",
                          flush=True)  # fmt: skip


# --- 2. the first copy -----------------------------------------------------------------------------------------------


async def copies(kind: str, rows: int, paced: float) -> None:
    """Copy a table, and send the same documents from memory. `paced` documents a second are what the sink may do."""
    with started(kind) as shop, standin() as url:
        if paced:
            slow = {"per_document": 1 / paced}
            await asyncio.to_thread(httpx.post, f"{url}/_test", json=slow, timeout=5)
        shop.bulk(1, rows)
        async with tables(shop) as database, Meilisearch(url) as client:
            lines = [
                json.dumps({"id": g, "title": f"title {g}", "price": g % 1000 + 0.25, "note": WORDS, "n": 0}).encode()
                for g in range(1, rows + 1)
            ]
            begun = time.perf_counter()
            await client.done(await client.create("alone", "id"))
            flying: list[int] = []
            for start in range(0, rows, 2000):
                sent = await client.documents("alone", lines[start : start + 2000], merge=False, mark="bench")
                flying.append(sent)
                if len(flying) >= 12:
                    await client.done(flying.pop(0))
            for task in flying:
                await client.done(task)
            alone = time.perf_counter() - begun
            lane = await lane_of(shop, database, client, "items__b1")
            begun = time.perf_counter()
            work = asyncio.create_task(lane.run())
            while lane.generation.phase in {Phase.NEW, Phase.COPYING}:
                assert not work.done(), work.exception()
                await asyncio.sleep(0.01)
            took = time.perf_counter() - begun
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            assert await client.count("items__b1") == rows
            await lane.reader.end()
            await lane.reader.close()
            sink = f"at most {paced:,.0f} documents/s" if paced else "as fast as it is"
            print(
                f"| {shop.kind} | {sink} | {rows / alone:,.0f} | {rows / took:,.0f} | {alone / took:.2f} |", flush=True
            )


# --- 3. the lag ------------------------------------------------------------------------------------------------------


async def lags(kind: str, rate: int, seconds: int) -> None:
    with started(kind) as shop, standin() as url:
        shop.bulk(1, 5000)
        async with tables(shop) as database, Watched(url) as client:
            client.lags = []
            await client.done(await client.create("items", "id"))
            first = read_from(shop)
            lane = await lane_of(shop, database, client, "items", phase=Phase.LIVE, position=await first.begin())
            task = asyncio.create_task(lane.run())
            await lane.caught_up.wait()
            stop = threading.Event()

            def write() -> None:
                begun, number = time.time(), 0
                while not stop.is_set() and number < rate * seconds:
                    due = begun + number / rate
                    if (wait := due - time.time()) > 0:
                        time.sleep(wait)
                    shop.sql(f"UPDATE item SET title = 'at {time.time()}' WHERE id = {number % 5000 + 1}")
                    number += 1

            cpu = time.process_time()
            await asyncio.to_thread(write)
            cpu = time.process_time() - cpu
            await asyncio.sleep(2)
            stop.set()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            found = sorted(client.lags)
            p50, p95, most = found[len(found) // 2], found[int(len(found) * 0.95)], found[-1]
            print(f"| {shop.kind} | {len(found)} | {p50 * 1000:.0f} | {p95 * 1000:.0f} | {most * 1000:.0f} |"
                  f" {cpu / seconds:.0%} |", flush=True)  # fmt: skip
            await first.end()
            await lane.reader.close()
            await first.close()


# --- 4. memory -------------------------------------------------------------------------------------------------------


async def memory(kind: str, megabytes: int) -> None:
    """In a process of its own: read one large transaction into nothing; print what the process took at most."""
    with started(kind) as shop:
        async with tables(shop) as database:
            lane = await lane_of(shop, database, Null(), "items")
            position = await lane.reader.begin()
            lane.generation.phase, lane.generation.position = Phase.LIVE, position
            await asyncio.to_thread(shop.large, megabytes)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            task = asyncio.create_task(lane.run())
            goal = (await lane.reader.head(position)).position
            begun = time.perf_counter()
            while not (lane.position and lane.reader.reached(lane.position, goal)):
                assert not task.done(), task
                await asyncio.sleep(0.05)
            took = time.perf_counter() - begun
            after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await lane.reader.end()
            await lane.reader.close()
            print(f"| {kind} | {megabytes} | {before / 1024:.0f} | {after / 1024:.0f} |"
                  f" {(after - before) / 1024:.0f} | {took:.0f} |", flush=True)  # fmt: skip


# --- 5. meilisync ----------------------------------------------------------------------------------------------------


def peer(rows: int) -> None:
    """Copy and follow with meilisync, then with us, from one MariaDB into one stand-in each.

    The column `price` is left out for meilisync: a DECIMAL ends it, since it cannot be written as JSON there.
    """
    program = environment("bench-meilisync", PEER) / "meilisync"
    with started("mariadb") as shop, standin() as url:
        shop.bulk(1, rows)
        folder = Path(tempfile.mkdtemp(prefix="opsdeck-bench-"))
        config = folder / "config.yml"
        config.write_text(json.dumps({
            "progress": {"type": "file", "path": str(folder / "progress.json")},
            "source": {"type": "mysql", "host": "127.0.0.1", "port": shop.port, "user": "sync", "password": "s3cret",
                       "database": shop.place.database, "server_id": 4242},
            "meilisearch": {"api_url": url, "api_key": "", "insert_size": 2000, "insert_interval": 1},
            "sync": [{"table": "item", "full": True, "fields": {"id": None, "title": None, "note": None, "n": None}}],
        }))  # fmt: skip
        with (folder / "log").open("ab") as log:
            begun = time.perf_counter()
            process = subprocess.Popen([program, "-c", config, "start"], stdout=log, stderr=log, cwd=folder)
            copied = until_count(url, "item", rows, 20)
            took = time.perf_counter() - begun
            time.sleep(2)
            begun = time.perf_counter()
            shop.bulk(rows + 1, rows)
            followed = until_count(url, "item", 2 * rows, 10) - copied
            follow_took = time.perf_counter() - begun
            process.terminate()
            process.wait(10)
        tail = (folder / "log").read_text().strip().splitlines()[-1:]
        shutil.rmtree(folder, ignore_errors=True)
    print(
        f"| meilisync 0.1.3 | {copied} of {rows} | {took:.1f} | {followed} of {rows} | {follow_took:.1f} |", flush=True
    )
    if copied < rows:
        print(f"\nmeilisync's log ends: {tail}\n")
    with started("mariadb") as shop, standin() as url:
        shop.bulk(1, rows)
        asyncio.run(ours_beside(shop, url, rows))


def until_count(url: str, index: str, wanted: int, seconds: float) -> int:
    """Wait until an index holds as many documents, or no more come; give how many there are."""
    seen, since = 0, time.monotonic()
    while time.monotonic() - since < seconds:
        answer = httpx.get(f"{url}/indexes/{index}/stats", timeout=30)
        now = answer.json()["numberOfDocuments"] if answer.is_success else 0
        if now >= wanted:
            return int(now)
        if now != seen:
            seen, since = now, time.monotonic()
        time.sleep(0.05)
    return seen


async def ours_beside(shop: Table, url: str, rows: int) -> None:
    async with tables(shop) as database, Meilisearch(url) as client:
        lane = await lane_of(shop, database, client, "items__b1")
        begun = time.perf_counter()
        task = asyncio.create_task(lane.run())
        copied = await asyncio.to_thread(until_count, url, "items__b1", rows, 120)
        took = time.perf_counter() - begun
        await lane.caught_up.wait()
        begun = time.perf_counter()
        await asyncio.to_thread(shop.bulk, rows + 1, rows)
        followed = await asyncio.to_thread(until_count, url, "items__b1", 2 * rows, 30) - rows
        follow_took = time.perf_counter() - begun
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await lane.reader.close()
    print(f"| OpsDeck | {copied} of {rows} | {took:.1f} | {followed} of {rows} | {follow_took:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--seconds", type=int, default=15)
    parser.add_argument("--kinds", default="mariadb,postgres")
    parser.add_argument("--only", default="reader,copy,lag,memory,peer")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    given = parser.parse_args()
    gc.set_threshold(NEWEST)  # as a server has it
    if given.memory:
        return asyncio.run(memory(given.memory, given.megabytes))
    only = set(given.only.split(","))
    kinds = given.kinds.split(",")
    if "reader" in only:
        print("| source | | bare reader | rows/s | reader and pipeline, rows/s | ratio |\n|---|---|---|--:|--:|--:|")
        for kind in kinds:
            asyncio.run(readers(kind, given.rows, given.repeat))
    if "copy" in only:
        print(
            "\n| source | stand-in | it alone, documents/s | first copy, documents/s | ratio |\n|---|---|--:|--:|--:|"
        )
        for kind in kinds:
            for paced in (5000, 0):
                asyncio.run(copies(kind, given.rows, paced))
    if "lag" in only:
        print(
            "\n| source | changes at 500 a second | median, ms | p95, ms | most, ms | of a core |\n|---|" + "--:|" * 5
        )
        for kind in kinds:
            asyncio.run(lags(kind, 500, given.seconds))
    if "memory" in only:
        print(
            "\n| source | transaction, MB | process before, MB | at most, MB | more, MB | seconds |\n|---|" + "--:|" * 5
        )
        for kind in kinds:
            words = [sys.executable, __file__, "--memory", kind, "--megabytes", str(given.megabytes)]
            subprocess.run(words, check=True)
    if "peer" in only:
        print("\n| MariaDB | copied | seconds | followed | seconds |\n|---|--:|--:|--:|--:|")
        peer(given.rows)


if __name__ == "__main__":
    main()
