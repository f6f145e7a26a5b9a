"""A throw-away PostgreSQL for the tests that run on both databases."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


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
