"""The database locked, full, read-only, gone, broken or without tables: one clear error with the next step."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlmodel import select

from opsdeck.accounts.models import User
from opsdeck.db import Database, engine
from opsdeck.errors import Unavailable


@pytest.fixture
def file(tmp_path: Path, sqlite_template: Path) -> Path:
    import shutil

    return Path(shutil.copy(sqlite_template, tmp_path / "deck.db"))


async def test_locked(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "BUSY_MS", 50)
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    db = Database(f"sqlite+aiosqlite:///{file}")
    with pytest.raises(Unavailable, match=r"deck\.db cannot be used: database is locked") as caught:
        async with db.write() as session:
            session.add(User(name="ada"))
    assert caught.value.file == str(file)
    assert "another process" in str(caught.value.hint)
    async with db.read() as session:
        assert (await session.exec(select(User))).all() == [], "readers are not stopped by a writer"
    other.execute("ROLLBACK")
    async with db.write() as session:
        session.add(User(name="ada"))
    await db.close()
    other.close()


async def test_cancelled_work_keeps_no_lock(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "BUSY_MS", 500)
    db = Database(f"sqlite+aiosqlite:///{file}")

    async def work() -> None:
        async with db.write() as session:
            await session.exec(text("CREATE TABLE IF NOT EXISTS t (a INT)"))
            await session.exec(text("INSERT INTO t VALUES (1), (2), (3)"))
            (await session.exec(text("SELECT a FROM t LIMIT 50"))).all()

    await work()
    gc.disable()  # what holds the connection's cursors is not collected
    try:
        for number in range(300):
            task = asyncio.create_task(work())
            await asyncio.sleep(number % 60 / 10_000)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await work()
    finally:
        gc.enable()
    await db.close()


def test_a_closed_connection_keeps_no_lock_though_a_cursor_is_left(file: Path) -> None:
    closed = sqlite3.connect(file, isolation_level=None, factory=engine.Connection)
    closed.execute("BEGIN IMMEDIATE")
    left = closed.execute("SELECT name FROM sqlite_master")
    left.fetchone()
    closed.close()
    other = sqlite3.connect(file, isolation_level=None, timeout=0.1)
    other.execute("BEGIN IMMEDIATE")
    other.close()


async def test_full(file: Path) -> None:
    db = Database(f"sqlite+aiosqlite:///{file}")
    with pytest.raises(Unavailable, match="full") as caught:
        async with db.write() as session:
            await (await session.connection()).execute(text("PRAGMA max_page_count = 1"))
            session.add(User(name="first"))
            await session.flush()
            session.add(User(name="ada", password_hash="x" * 2_000_000))
    assert "free space" in str(caught.value.hint)
    async with db.read() as session:
        assert (await session.exec(select(User))).all() == [], "nothing of it is kept"
    await db.close()


async def test_readonly(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    db = Database(f"sqlite+aiosqlite:///{file}")
    with pytest.raises(Unavailable, match="readonly") as caught:
        async with db.write() as session:
            await (await session.connection()).execute(text("PRAGMA query_only = 1"))
            session.add(User(name="ada"))
    assert "right to write" in str(caught.value.hint)
    await db.close()


async def test_gone(tmp_path: Path) -> None:
    db = Database(f"sqlite+aiosqlite:///{tmp_path}/no/folder/deck.db")
    with pytest.raises(Unavailable, match="is not there") as caught:
        async with db.read() as session:
            await session.exec(select(User))
    assert "opsdeck init" in str(caught.value.hint)
    await db.close()


async def test_removed_while_it_is_open(file: Path) -> None:
    db = Database(f"sqlite+aiosqlite:///{file}")
    async with db.write() as session:
        session.add(User(name="ada"))
    file.unlink()
    for way in (db.read, db.write):
        with pytest.raises(Unavailable, match="is not there"):
            async with way() as session:
                await session.exec(select(User))
    assert not file.exists(), "no empty one is made in its place"
    await db.close()


async def test_not_a_database(tmp_path: Path) -> None:
    (tmp_path / "deck.db").write_text("this is no database at all, only words " * 100)
    db = Database(f"sqlite+aiosqlite:///{tmp_path / 'deck.db'}")
    with pytest.raises(Unavailable, match="not a database") as caught:
        async with db.read() as session:
            await session.exec(select(User))
    assert "backup" in str(caught.value.hint)
    await db.close()


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def test_without_tables(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    (tmp_path / "e.db").touch()
    url = f"sqlite+aiosqlite:///{tmp_path / 'e.db'}" if kind == "sqlite" else request.getfixturevalue("postgres_url")
    db = Database(url)
    with pytest.raises(Unavailable) as caught:
        async with db.read() as session:
            await session.exec(select(User))
    assert "opsdeck init" in str(caught.value.hint)
    await db.close()


async def test_postgres_gone_names_no_password(tmp_path: Path) -> None:
    db = Database(f"postgresql+psycopg://deck:hunter22@/deck?host={tmp_path}&password=hunter33")
    with pytest.raises(Unavailable) as caught:
        async with db.read() as session:
            await session.exec(select(User))
    assert "hunter" not in str(caught.value) + str(caught.value.as_dict())
    await db.close()


@pytest.mark.postgres
async def test_postgres_ended_mid_work(postgres_server: object, postgres_url: str) -> None:
    db = Database(postgres_url)
    with pytest.raises(Unavailable):
        async with db.write() as session:
            await (await session.connection()).execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    async with db.read() as session:
        assert (await (await session.connection()).execute(text("SELECT 1"))).scalar() == 1, (
            "the next session connects anew"
        )
    await db.close()


async def test_a_broken_rule_is_not_called_unavailable(db: Database) -> None:
    with pytest.raises(IntegrityError):
        async with db.write() as session:
            session.add(User(name="ada"))
            await session.flush()
            session.add(User(name="ada"))


async def test_writers_of_one_process_wait_in_line(tmp_path: Path) -> None:
    database = Database(f"sqlite+aiosqlite:///{tmp_path / 'line.db'}")
    (tmp_path / "line.db").touch()
    order: list[int] = []

    async def write(number: int) -> None:
        async with database.write() as session:
            order.append(number)
            await (await session.connection()).exec_driver_sql("SELECT 1")
            await asyncio.sleep(0.01)

    await asyncio.gather(*(write(number) for number in range(20)))
    assert order == list(range(20))
    await database.close()


async def test_a_writer_within_a_writer_is_told_and_does_not_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opsdeck.db.engine.BUSY_MS", 50)
    database = Database(f"sqlite+aiosqlite:///{tmp_path / 'line.db'}")
    (tmp_path / "line.db").touch()
    async with database.write():
        with pytest.raises(Unavailable, match="locked by another writer of this process"):
            async with database.write():
                raise AssertionError("not reached")
    async with database.write() as session:
        await (await session.connection()).exec_driver_sql("SELECT 1")
    await database.close()
