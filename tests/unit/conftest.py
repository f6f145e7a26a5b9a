"""Databases for the tests: a throw-away PostgreSQL, and both kinds with the core's tables and an audit chain."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from opsdeck.audit.log import AuditLog
from opsdeck.db import Database
from opsdeck.db.migrate import upgrade
from opsdeck.secrets.keyring import Keyring


@dataclass(frozen=True)
class PostgresServer:
    """A running server that only its socket folder leads to."""

    sockets: Path

    def connect(self, database: str = "postgres") -> Any:
        """Open a psycopg connection in autocommit mode."""
        import psycopg

        return psycopg.connect(host=str(self.sockets), user="postgres", dbname=database, autocommit=True)

    def url(self, database: str) -> str:
        """Give SQLAlchemy's URL of a database."""
        return f"postgresql+psycopg://postgres@/{database}?host={self.sockets}"


@pytest.fixture(scope="session")
def postgres_server(absent: Any) -> Iterator[PostgresServer]:
    """A server in a temporary folder, run by an unprivileged user, without fsync."""
    initdb = _program("initdb")
    if not initdb:
        absent("there is no PostgreSQL server here (package postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="opsdeck-postgres-"))
    who: dict[str, Any] = {"cwd": folder, "stdin": subprocess.DEVNULL}
    if os.geteuid() == 0:
        user = next(one for one in ("postgres", "nobody") if _known(one))
        account = pwd.getpwnam(user)
        os.chown(folder, account.pw_uid, account.pw_gid)
        who |= {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    data = folder / "data"
    made = subprocess.run(
        [initdb, "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"],
        capture_output=True,
        text=True,
        **who,
    )
    if made.returncode:
        shutil.rmtree(folder)
        pytest.fail(f"initdb failed: {made.stdout}{made.stderr}")
    options = {"fsync": "off", "listen_addresses": "", "unix_socket_directories": folder, "max_connections": 200}
    words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [Path(initdb).resolve().parent / "postgres", "-D", data, *words], stdout=log, stderr=log, **who
        )
    found = PostgresServer(folder)
    try:
        _wait(found, server)
        yield found
    finally:
        server.send_signal(signal.SIGINT)  # "fast": does not wait for clients
        server.wait(30)
        shutil.rmtree(folder)


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a fresh, empty database; dropped after the test."""
    name = f"test_{uuid.uuid4().hex}"
    with postgres_server.connect() as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield postgres_server.url(name)
    with postgres_server.connect() as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _program(name: str) -> str | None:
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    return shutil.which(name) or next((str(place) for place in places), None)


def _known(user: str) -> bool:
    return any(one.pw_name == user for one in pwd.getpwall())


def _wait(server: PostgresServer, process: subprocess.Popen[bytes]) -> None:
    import psycopg

    deadline = time.monotonic() + 30
    while True:
        try:
            server.connect().close()
            return
        except psycopg.OperationalError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"PostgreSQL did not start: {error}\n{(server.sockets / 'log').read_text()}")
        time.sleep(0.05)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with every table of the core, to be copied."""
    file = tmp_path_factory.mktemp("template") / "opsdeck.db"
    asyncio.run(_upgrade(f"sqlite+aiosqlite:///{file}"))
    return file


@pytest.fixture(scope="session")
def postgres_template(postgres_server: PostgresServer) -> str:
    """The name of a PostgreSQL database with every table of the core, to be copied."""
    with postgres_server.connect() as connection:
        connection.execute("CREATE DATABASE template_core")
    asyncio.run(_upgrade(postgres_server.url("template_core")))
    return "template_core"


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def migrated_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a fresh database with the core's tables: each test runs on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "opsdeck.db")
        yield f"sqlite+aiosqlite:///{tmp_path / 'opsdeck.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    template = request.getfixturevalue("postgres_template")
    name = f"test_{uuid.uuid4().hex}"
    with server.connect() as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield server.url(name)
    with server.connect() as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def db(migrated_url: str) -> AsyncIterator[Database]:
    """A fresh database with the core's tables, on SQLite and on PostgreSQL."""
    opened = Database(migrated_url)
    yield opened
    await opened.close()


@pytest.fixture
async def keyring(db: Database, tmp_path: Path) -> Keyring:
    """An opened keyring with a master key of its own."""
    Keyring.create(tmp_path / "master.key")
    opened = Keyring(db, tmp_path / "master.key")
    await opened.open()
    return opened


@pytest.fixture
def audit(db: Database, keyring: Keyring) -> AuditLog:
    """An empty audit chain."""
    return AuditLog(db, keyring)


async def _upgrade(url: str) -> None:
    opened = Database(url)
    await upgrade(opened, None)
    await opened.close()
