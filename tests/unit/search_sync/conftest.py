"""A PostgreSQL with logical replication, a Meilisearch (the stand-in, or a real one), and a console between them.

`OPSDECK_TEST_MEILISEARCH_URL` (and `OPSDECK_TEST_MEILISEARCH_KEY`) name a real server for the same tests; those that
set faults in the stand-in are skipped then.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from databases import (
    BINLOG,
    Maria,
    MariaShop,
    Mongo,
    MongoShop,
    Mysql,
    MysqlShop,
    Postgres,
    PostgresShop,
    a_mariadb,
    a_postgres,
    a_postgres_shop,
    a_sql_shop,
)
from opsdeck_search_sync.meilisearch import Meilisearch
from searches import Meili, a_meilisearch

from opsdeck.actor import Actor, Door, Role
from opsdeck.db import Database
from opsdeck.db.migrate import upgrade
from opsdeck.deck import Deck
from opsdeck.jobs.jobs import Submission
from opsdeck.jobs.services import Pace, Services
from opsdeck.lab.fleet.images import cache_folder
from opsdeck.plugins import Plugins
from opsdeck.secrets.keyring import Keyring
from opsdeck.secrets.sensitive import Sensitive
from opsdeck.settings import Settings

ADMIN = Actor("ada", Role.ADMIN, Door.CLI, stepped_up=True)


@pytest.fixture(scope="session")
def logical(absent: Any) -> Iterator[Postgres]:
    """A PostgreSQL with wal_level=logical."""
    with a_postgres(absent) as server:
        yield server


@pytest.fixture
def postgres_shop(logical: Postgres) -> Iterator[PostgresShop]:
    """A fresh database with the table `item`; its slots are dropped after the test."""
    with a_postgres_shop(logical) as made:
        yield made


@pytest.fixture(scope="session")
def meili_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Meili]:
    """The Meilisearch of this session."""
    with a_meilisearch(tmp_path_factory.mktemp("meili")) as server:
        yield server


@pytest.fixture
def meili(meili_server: Meili) -> Meili:
    """An empty Meilisearch without faults."""
    meili_server.empty()
    return meili_server


@pytest.fixture
async def client(meili: Meili) -> AsyncIterator[Meilisearch]:
    """The plugin's own client of it."""
    async with Meilisearch(meili.url, timeout=5) as opened:
        yield opened


class Bench:
    """A console's rooms with its services running, as a server has them."""

    def __init__(self, deck: Deck, shop: Any, meili: Meili) -> None:
        self.deck, self.shop, self.meili = deck, shop, meili
        self.stop = asyncio.Event()
        self.difference: list[Any] = []
        self.task: asyncio.Task[None] | None = None

    async def act(self, action: str, confirm: str | None = None, **params: Any) -> dict[str, Any]:
        """Run an action as a job; give its receipt."""
        job = await self.deck.jobs.run(Submission("search_sync", action, params, "", confirm), ADMIN)
        assert job.state == "succeeded", (job.state, job.error)
        return dict(job.receipt or {})

    async def refused(self, action: str, **params: Any) -> str:
        """Run an action that must fail; give what it said."""
        job = await self.deck.jobs.run(Submission("search_sync", action, params, ""), ADMIN)
        assert job.state == "failed", job.receipt
        return str(job.error)

    async def keep(self, name: str, password: str) -> None:
        """Keep a password as a secret."""
        await self.deck.secrets.set(name, Sensitive(password), kind="password", actor=ADMIN)

    async def define(self, name: str = "items", table: str = "item", mapping: Any = "", **more: Any) -> dict[str, Any]:
        """Save the source, the Meilisearch and a sync."""
        login = {"user": "postgres"} if self.shop.kind == "postgres" else {}
        if self.shop.kind in {"mariadb", "mysql"}:
            await self.keep("db", "s3cret")
            login = {"user": "sync", "secret": "db"}
        server = self.shop.server
        if self.shop.kind == "mongodb" and server.user:
            await self.keep("db", server.password)
            login = {"user": server.user, "secret": "db"}
        await self.act(
            "save_source", name="shop", kind=self.shop.kind, address=getattr(server, "address", "127.0.0.1"),
            port=server.port, database=self.shop.name, **login,
        )  # fmt: skip
        await self.act("save_instance", name="search", url=self.meili.url)
        text = mapping if isinstance(mapping, str) else json.dumps(mapping)
        return await self.act(
            "save_sync", name=name, source="shop", instance="search", table=table, index=more.pop("index", name),
            mapping=text, **more,
        )  # fmt: skip

    def run(self) -> None:
        """Start the services, as a node does."""
        pace = Pace(ask=0.2, first=0.1, longest=1.0, elsewhere=0.3)
        self.deck.__dict__["services"] = Services(self.deck, pace=pace)
        self.task = asyncio.create_task(self.deck.services.serve(self.stop))

    def services(self) -> list[Any]:
        """Give what this node runs of the plugin."""
        return [one for one in self.deck.services.status() if one.plugin == "search_sync"]

    async def halt(self) -> None:
        self.stop.set()
        if self.task is not None:
            await self.task
        self.task, self.stop = None, asyncio.Event()

    async def until(self, what: Any, seconds: float = 30) -> None:
        """Wait until something holds: a function that asks in a thread, or one that is awaited."""
        deadline = time.monotonic() + seconds
        while not (await what() if inspect.iscoroutinefunction(what) else await asyncio.to_thread(what)):
            if time.monotonic() > deadline:
                said = [line.text for one in self.services() for line in one.log]
                pytest.fail(
                    f"did not come to hold within {seconds} s; the services said: {said[-15:]}; {self.difference}"
                )
            await asyncio.sleep(0.05)

    def rows(self, table: str = "item") -> dict[str, Any]:
        """Give the source's rows as documents, by an independent way."""
        found: dict[str, Any] = self.shop.rows(table)
        return found

    def equal(self, index: str = "items", table: str = "item") -> bool:
        """Tell whether index and table hold the same, row by row."""
        rows, documents = self.rows(table), self.meili.documents(index)
        wrong = [id_ for id_ in rows.keys() | documents.keys() if rows.get(id_) != documents.get(id_)]
        self.difference = [(id_, rows.get(id_), documents.get(id_)) for id_ in wrong[:3]]
        return not wrong


@pytest.fixture(scope="session")
def fresh_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a key and all tables, to copy."""
    settings = Settings(home=tmp_path_factory.mktemp("fresh"), disabled_plugins=())

    async def make() -> None:
        plugins = Plugins()
        plugins.load()
        database = Database(settings.url)
        await upgrade(database, plugins)
        await database.close()

    asyncio.run(make())
    Keyring.create(settings.key_file)
    return settings.home


@pytest.fixture
async def deck(tmp_path: Path, fresh_home: Path) -> AsyncIterator[Deck]:
    """A console's rooms, with the plugin's tables."""
    settings = Settings(home=Path(shutil.copytree(fresh_home, tmp_path / "home")), node="node1", disabled_plugins=())
    plugins = Plugins()
    plugins.load()
    async with Deck.open(settings, plugins=plugins, kind="server") as opened:
        yield opened


MYSQL = pytest.param("mysql", marks=pytest.mark.campaign)


@pytest.fixture(params=["postgres", "mariadb", MYSQL])
def shop(request: pytest.FixtureRequest) -> Any:
    """A fresh database with the table `item`, of each kind that speaks SQL."""
    return request.getfixturevalue(f"{request.param}_shop")


@pytest.fixture(params=["postgres", pytest.param("mariadb", marks=pytest.mark.campaign), MYSQL])
def one_shop(request: pytest.FixtureRequest) -> Any:
    """A fresh database with the table `item`: of one kind in each run, of the others in a campaign."""
    return request.getfixturevalue(f"{request.param}_shop")


@pytest.fixture(params=["postgres", "mariadb", "mongodb", MYSQL])
def any_shop(request: pytest.FixtureRequest) -> Any:
    """A fresh database with `item`, of each kind."""
    return request.getfixturevalue(f"{request.param}_shop")


@pytest.fixture
async def bench(deck: Deck, shop: Any, meili: Meili) -> AsyncIterator[Bench]:
    """All of it together."""
    made = Bench(deck, shop, meili)
    yield made
    await made.halt()


@pytest.fixture(scope="session")
def maria(absent: Any) -> Iterator[Maria]:
    """A MariaDB with its binary log on."""
    with a_mariadb(absent) as server:
        yield server


@pytest.fixture
def mariadb_shop(maria: Maria) -> Iterator[MariaShop]:
    """A fresh database with the table `item`."""
    with a_sql_shop(MariaShop(maria, f"shop_{uuid.uuid4().hex[:12]}")) as made:
        yield made


@pytest.fixture(scope="session")
def mysql(absent: Any) -> Iterator[Mysql]:
    """A MySQL of Debian's next release; its system is made once, which takes two minutes."""
    if os.geteuid() != 0 or not shutil.which("debootstrap"):
        absent("MySQL needs root and debootstrap to make its system", installable=False)
    root = cache_folder() / "mysql-sid"
    if not root.is_dir():
        building = root.with_suffix(".building")
        shutil.rmtree(building, ignore_errors=True)
        words = ["--variant=minbase", "--include=mysql-server-core,openssl", "sid", building]
        done = subprocess.run(["debootstrap", *words], capture_output=True, text=True)
        if done.returncode != 0:
            absent(f"MySQL could not be had: {done.stdout[-300:]}", installable=False)
        building.rename(root)
    folder = Path(tempfile.mkdtemp(prefix="opsdeck-", dir=root / "tmp"))
    options = BINLOG | {"gtid-mode": "ON", "enforce-gtid-consistency": "ON"}
    del options["binlog-format"]
    server = Mysql(root, folder, options)
    server.initialise()
    (folder / "init.sql").write_text(
        "CREATE USER IF NOT EXISTS sync@'%' IDENTIFIED BY 's3cret';\nGRANT ALL ON *.* TO sync@'%';\n"
    )
    server.options["init-file"] = f"/tmp/{folder.name}/init.sql"
    server.start()
    yield server
    server.kill(signal.SIGTERM)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def mysql_shop(mysql: Mysql) -> Iterator[MysqlShop]:
    """A fresh database with the table `item`."""
    with a_sql_shop(MysqlShop(mysql, f"shop_{uuid.uuid4().hex[:12]}")) as made:
        yield made


@pytest.fixture(scope="session")
def mongo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mongo]:
    """The stand-in of MongoDB, or the server that `OPSDECK_TEST_MONGO_URL` names."""
    if url := os.environ.get("OPSDECK_TEST_MONGO_URL"):
        yield Mongo(None, url)
        return
    server = Mongo(tmp_path_factory.mktemp("mongo"), noop="0.2")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def mongodb_shop(mongo: Mongo) -> Iterator[MongoShop]:
    """A fresh database with the collection `item`."""
    made = MongoShop(mongo, f"shop_{uuid.uuid4().hex[:12]}")
    made.client[made.name].create_collection("item")
    yield made
    made.client.drop_database(made.name)
    made.client.close()
