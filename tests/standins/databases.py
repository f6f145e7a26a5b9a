"""The databases that tests start, write to and kill: real servers, and the stand-in of MongoDB.

A *shop* is a fresh database with the table `item`. Besides its own words (`sql`) each has the same few verbs, so that
one test speaks to all kinds.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pymongo
import pymongo.errors
import pymysql
import pytest
from opsdeck_search_sync.sources.place import Place
from pymongo.uri_parser import parse_uri

from opsdeck.secrets.sensitive import Sensitive


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


ROW = "(id, title, price, note)"


class SqlShop:
    """What the shops of SQL servers have in common."""

    kind = ""
    ignore, nothing = "IGNORE", ""
    series = ""
    """A table `s` with one column `g` of the numbers 1 to {0}."""

    def __init__(self, server: Any, name: str) -> None:
        self.server, self.name = server, name
        self.connection: Any = None

    def sql(self, text: str, *given: Any) -> list[Any]:
        raise NotImplementedError

    def fill(self, count: int) -> None:
        """Put in rows 1 to `count`."""
        columns = "g, concat('title ', g), g / 4.0, 'n'"
        self.sql(f"INSERT INTO item {ROW} SELECT {columns} FROM {self.series.format(count)}")

    def put(self, *ids: int) -> None:
        """Put in rows in one statement."""
        self.sql(f"INSERT INTO item {ROW} VALUES " + ", ".join(f"({id_}, 'put', 1.5, '')" for id_ in ids))

    def write(self, dice: random.Random) -> None:
        """Do one random transaction; where the server was just killed nobody knows whether it happened."""
        a, b = dice.randrange(3000), dice.randrange(100_000)
        rows = ", ".join(f"({number}, 'new', 1.5, 'x')" for number in range(b, b + 40))
        text = dice.choice(
            [
                f"INSERT {self.ignore} INTO item {ROW} VALUES {rows} {self.nothing}",
                f"UPDATE item SET n = n + 1, title = concat('r', {b}) WHERE id BETWEEN {a} AND {a} + 60",
                f"DELETE FROM item WHERE id BETWEEN {a} AND {a} + 5",
                f"UPDATE item SET id = 1000000 + {b} WHERE id = {a}",
            ]
        )
        try:
            self.sql(text)
        except (psycopg.Error, pymysql.Error):
            self.connection = None

    def rows(self, table: str = "item") -> dict[str, Any]:
        """Give the rows as documents, by a way of their own."""
        names = ("id", "title", "price", "note", "n")
        made = [dict(zip(names, row, strict=True)) for row in self.sql(f"SELECT {', '.join(names)} FROM {table}")]
        return {str(row["id"]): row | {"price": float(row["price"])} for row in made}


class Postgres:
    """A server on a port of its own, which a test may kill and start again."""

    def __init__(self, folder: Path, programs: Path, who: dict[str, Any]) -> None:
        self.folder, self.programs, self.who = folder, programs, who
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = {
            "fsync": "off", "listen_addresses": "127.0.0.1", "port": self.port, "wal_level": "logical",
            "unix_socket_directories": self.folder, "max_replication_slots": 20, "max_wal_senders": 20,
            "max_slot_wal_keep_size": "2GB",
        }  # fmt: skip
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.programs / "postgres", "-D", self.folder / "data", *words], stdout=log, stderr=log, **self.who
            )
        deadline = time.monotonic() + 60
        while True:
            try:
                self.connect().close()
                return
            except psycopg.OperationalError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"PostgreSQL did not start: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.05)

    def connect(self, database: str = "postgres") -> Any:
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="postgres", dbname=database, autocommit=True, connect_timeout=5
        )

    def kill(self, how: int = signal.SIGKILL) -> None:
        assert self.process is not None
        self.process.send_signal(how)
        self.process.wait(30)
        if how == signal.SIGKILL:
            time.sleep(0.3)  # its children notice
        (self.folder / "data" / "postmaster.pid").unlink(missing_ok=True)


class PostgresShop(SqlShop):
    """A database of a PostgreSQL."""

    kind = "postgres"
    ignore, nothing = "", "ON CONFLICT DO NOTHING"
    series = "generate_series(1, {0}) AS s(g)"

    def sql(self, text: str, *given: Any) -> list[Any]:
        """Run statements; connect anew where the server was killed meanwhile."""
        for attempt in (1, 2):
            try:
                if self.connection is None or self.connection.closed:
                    self.connection = self.server.connect(self.name)
                cursor = self.connection.execute(text, given or None)
                return list(cursor.fetchall()) if cursor.description else []
            except psycopg.OperationalError:
                if self.connection is not None:
                    self.connection.close()
                if attempt == 2:
                    raise
        raise AssertionError

    def rows(self, table: str = "item") -> dict[str, Any]:
        """Give the rows as documents: PostgreSQL's own JSON."""
        return {str(row[0]["id"]): row[0] for row in self.sql(f"SELECT to_jsonb(t) FROM {table} t")}


class Maria:
    """A MariaDB on a port of its own, which a test may kill and start again."""

    name = "MariaDB"

    def __init__(self, folder: Path, program: str, options: dict[str, str]) -> None:
        self.folder, self.program, self.options = folder, program, options
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def command(self) -> list[str]:
        words = [f"--{name}={value}" for name, value in self.options.items()]
        return [
            self.program, "--no-defaults", f"--datadir={self.folder / 'data'}", f"--port={self.port}",
            "--bind-address=127.0.0.1", f"--socket={self.folder / 'sock'}", f"--user={getpass.getuser()}",
            f"--pid-file={self.folder / 'pid'}", f"--tmpdir={self.folder}",
            "--innodb-flush-log-at-trx-commit=2", *words,
        ]  # fmt: skip

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(pymysql.Error):
                self.connect().close()
                return
            if self.process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{self.name} did not start: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.05)

    def connect(self, database: str | None = None) -> Any:
        return pymysql.connect(
            host="127.0.0.1", port=self.port, user="sync", password="s3cret", database=database, autocommit=True,
            connect_timeout=5, init_command="SET time_zone = '+00:00'",
        )  # fmt: skip

    def kill(self, how: int = signal.SIGKILL) -> None:
        assert self.process is not None
        self.process.send_signal(how)
        self.process.wait(60)


BINLOG = {
    "log-bin": "bin", "server-id": "7", "binlog-format": "ROW", "binlog-row-metadata": "FULL",
    "character-set-server": "utf8mb4",
}  # fmt: skip


class MariaShop(SqlShop):
    """A database of a MariaDB."""

    kind = "mariadb"
    series = "(SELECT seq AS g FROM seq_1_to_{0}) AS s"

    def sql(self, text: str, *given: Any) -> list[Any]:
        """Run a statement; connect anew where the server was killed meanwhile."""
        for attempt in (1, 2):
            try:
                if self.connection is None or not self.connection.open:
                    self.connection = self.server.connect(self.name)
                with self.connection.cursor() as cursor:
                    cursor.execute(text, given or None)
                    return list(cursor.fetchall())
            except pymysql.OperationalError:
                if self.connection is not None and self.connection.open:
                    self.connection.close()
                if attempt == 2:
                    raise
        raise AssertionError


class Mysql(Maria):
    """A MySQL out of Debian's next release, in a system of its own."""

    name = "MySQL"

    def __init__(self, root: Path, folder: Path, options: dict[str, str]) -> None:
        super().__init__(folder, "mysqld", options)
        self.root = root

    @property
    def command(self) -> list[str]:
        inside = "/" / self.folder.relative_to(self.root)
        words = [f"--{name}={value}" for name, value in self.options.items()]
        return [
            "chroot", str(self.root), "/usr/sbin/mysqld", "--no-defaults", f"--datadir={inside}/data", "--user=root",
            f"--socket={inside}/sock", f"--pid-file={inside}/pid", f"--tmpdir={inside}",
            "--lc-messages-dir=/usr/share/mysql", f"--port={self.port}", "--bind-address=127.0.0.1", "--mysqlx=OFF",
            "--performance-schema=OFF", "--secure-file-priv=NULL", "--innodb-flush-log-at-trx-commit=2", *words,
        ]  # fmt: skip

    def initialise(self) -> None:
        """Make an empty data folder."""
        done = subprocess.run([*self.command, "--initialize-insecure"], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


class MysqlShop(MariaShop):
    """A database of a MySQL."""

    kind = "mysql"

    def fill(self, count: int) -> None:
        """Put in rows 1 to `count`."""
        rows = (f"({g}, 'title {g}', {g / 4.0}, 'n')" for g in range(1, count + 1))
        self.sql(f"INSERT INTO item {ROW} VALUES {', '.join(rows)}")


STANDIN = Path(__file__).parent / "mongodb.py"


class Mongo:
    """The stand-in of a replica set's member, which a test may kill and start again; or a real one, by its address."""

    def __init__(self, folder: Path | None, url: str = "", **options: str) -> None:
        self.folder, self.url, self.options = folder, url, options
        self.process: subprocess.Popen[bytes] | None = None
        told = parse_uri(url) if url else {"nodelist": [("127.0.0.1", free_port())]} | options
        self.address, self.port = told["nodelist"][0]
        self.user = told.get("username") or options.get("user", "")
        self.password = told.get("password") or options.get("password", "")

    def place(self, database: str, password: str | None = None) -> Place:
        """Give where a reader finds a database, and as whom."""
        return Place(self.address, self.port, database, self.user, Sensitive(password or self.password))

    @property
    def stand_in(self) -> bool:
        return self.folder is not None

    def start(self) -> None:
        assert self.folder is not None
        words = [word for name, value in self.options.items() for word in (f"--{name}", value) if word]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, STANDIN, "--port", str(self.port), "--db", self.folder / "mongo.db", *words],
                stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 2).close()
                return
            if self.process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the stand-in did not start: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.02)

    def connect(self) -> pymongo.MongoClient[Any]:
        if self.url:
            return pymongo.MongoClient(self.url, directConnection=True)
        login: dict[str, Any] = {"username": self.user, "password": self.password} if self.user else {}
        return pymongo.MongoClient(
            self.address, self.port, directConnection=True, serverSelectionTimeoutMS=5000, **login
        )

    def kill(self, how: int = signal.SIGKILL) -> None:
        assert self.process is not None
        self.process.send_signal(how)
        self.process.wait(30)


class MongoShop:
    """A database of a MongoDB with the collection `item`."""

    kind = "mongodb"

    def __init__(self, server: Mongo, name: str) -> None:
        self.server, self.name = server, name
        self.client = server.connect()
        self.connection: Any = None

    @property
    def item(self) -> Any:
        return self.client[self.name]["item"]

    def fill(self, count: int) -> None:
        """Put in documents 1 to `count`."""
        self.item.insert_many(
            [{"_id": g, "title": f"title {g}", "price": g / 4, "note": "n", "n": 0} for g in range(1, count + 1)]
        )

    def put(self, *ids: int) -> None:
        """Put in documents."""
        self.item.insert_many([{"_id": id_, "title": "put", "price": 1.5, "note": "", "n": 0} for id_ in ids])

    def write(self, dice: random.Random) -> None:
        """Do one random thing; where the server was just killed nobody knows whether it happened."""
        a, b, which = dice.randrange(3000), dice.randrange(100_000), dice.randrange(5)
        some = {"_id": {"$gte": a, "$lte": a + 60}}
        try:
            if which == 0:
                rows = [{"_id": one, "title": "new", "price": 1.5, "note": "x", "n": 0} for one in range(b, b + 40)]
                self.item.insert_many(rows, ordered=False)
            elif which == 1:
                self.item.update_many(some, {"$inc": {"n": 1}, "$set": {"title": f"r{b}"}})
            elif which == 2:
                self.item.delete_many({"_id": {"$gte": a, "$lte": a + 5}})
            elif which == 3:
                self.item.replace_one({"_id": a}, {"title": f"p{b}", "price": 2.5, "note": "", "n": b})
            else:
                self.item.update_many(some, {"$unset": {"note": ""}})
        except pymongo.errors.PyMongoError:
            pass

    def rows(self, table: str = "item") -> dict[str, Any]:
        """Give the documents with the id that they have in an index."""
        return {str(one["_id"]): {"id": one["_id"]} | one for one in self.client[self.name][table].find()}


@contextlib.contextmanager
def a_postgres(absent: Any) -> Iterator[Postgres]:
    """A PostgreSQL with wal_level=logical; `absent` skips the test where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    if not found:
        absent("there is no PostgreSQL server here (package postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="opsdeck-logical-"))
    who: dict[str, Any] = {"cwd": folder, "stdin": subprocess.DEVNULL}
    if os.geteuid() == 0:
        account = next(entry for entry in pwd.getpwall() if entry.pw_name in ("postgres", "nobody"))
        os.chown(folder, account.pw_uid, account.pw_gid)
        who |= {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    initdb = [
        found[0],
        "-D",
        folder / "data",
        "-U",
        "postgres",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--locale=C.UTF-8",
        "--no-sync",
    ]
    subprocess.run(initdb, check=True, capture_output=True, **who)
    server = Postgres(folder, found[0].parent, who)
    server.start()
    yield server
    server.kill(signal.SIGINT)
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def a_postgres_shop(logical: Postgres) -> Iterator[PostgresShop]:
    """A fresh database with the table `item`; its slots are dropped at the end."""
    made = PostgresShop(logical, f"shop_{uuid.uuid4().hex[:12]}")
    with logical.connect() as connection:
        connection.execute(f"CREATE DATABASE {made.name}")
    made.sql("CREATE TABLE item (id bigint PRIMARY KEY, title text, price numeric(10,2), note text, n int DEFAULT 0)")
    yield made
    if made.connection is not None:
        made.connection.close()
    with logical.connect() as connection:
        for (pid,) in connection.execute(
            "SELECT active_pid FROM pg_replication_slots WHERE database = %s AND active", (made.name,)
        ).fetchall():
            connection.execute("SELECT pg_terminate_backend(%s)", (pid,))
        time.sleep(0.1)
        connection.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = %s", (made.name,)
        )
        connection.execute(f"DROP DATABASE {made.name} WITH (FORCE)")


@contextlib.contextmanager
def a_mariadb(absent: Any) -> Iterator[Maria]:
    """A MariaDB with its binary log on; `absent` skips the test where there is none."""
    program = shutil.which("mariadbd", path=os.environ.get("PATH", "") + ":/usr/sbin")
    install = shutil.which("mariadb-install-db")
    if not program or not install:
        absent("there is no MariaDB here (package mariadb-server-core)")
    folder = Path(tempfile.mkdtemp(prefix="opsdeck-maria-"))
    done = subprocess.run(
        [install, "--no-defaults", f"--datadir={folder / 'data'}", "--auth-root-authentication-method=normal",
         f"--user={getpass.getuser()}", "--skip-test-db", f"--tmpdir={folder}"], capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    server = Maria(folder, str(program), BINLOG | {"init-file": str(folder / "init.sql")})
    (folder / "init.sql").write_text(
        "CREATE USER IF NOT EXISTS sync@'%' IDENTIFIED BY 's3cret';\nGRANT ALL ON *.* TO sync@'%';\n"
    )
    server.start()
    yield server
    server.kill(signal.SIGTERM)
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def a_sql_shop(made: Any) -> Iterator[Any]:
    """Make the database of a MariaDB or MySQL, with the table `item`; drop it at the end."""
    with made.server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {made.name}")
    made.sql(
        "CREATE TABLE item (id bigint PRIMARY KEY, title varchar(200), price decimal(10,2), note text, n int DEFAULT 0)"
    )
    yield made
    with contextlib.suppress(pymysql.Error):
        made.sql(f"DROP DATABASE {made.name}")
        made.connection.close()
