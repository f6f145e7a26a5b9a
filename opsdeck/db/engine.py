"""One engine per process and the two kinds of short session: read and write.

SQLite facts behind this (measured with 2 processes × 4 tasks): with the driver's own transactions 81 % of
read-then-update transactions were lost in silence; with a plain BEGIN most failed with "database is locked";
with BEGIN IMMEDIATE none did. So writers take the write lock at once, and readers say that they only read.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlmodel.ext.asyncio.session import AsyncSession

from opsdeck.errors import Unavailable

BUSY_MS = 10_000

UNUSABLE_STATES = ("08", "25", "28", "3D", "40", "42501", "42P01", "53", "55", "57", "58", "XX")
"""Beginnings of PostgreSQL's SQLSTATE that mean: no connection, read-only, no login, no such database, ended to break
a deadlock, no right, no such table, no resources, not ready, shut down, system fault (its manual, appendix A)."""


class Connection(sqlite3.Connection):
    """Ends its transaction when it is closed.

    A connection whose work was cancelled is closed while its cursors are still known to somebody; SQLite then keeps it,
    its write lock too, until they are collected (https://www.sqlite.org/c3ref/close.html).
    """

    def close(self) -> None:
        with contextlib.suppress(sqlite3.Error):  # it is closed all the same
            self.rollback()
        super().close()


def make_engine(url: str, *, foreign_keys: bool = True) -> AsyncEngine:
    """Make an engine for `url` (async driver). `foreign_keys=False` is for migrations on SQLite only."""
    if not url.startswith("sqlite"):
        return create_async_engine(url, pool_pre_ping=True)
    engine = create_async_engine(url, connect_args={"factory": Connection})
    pragmas = ["journal_mode=WAL", "synchronous=NORMAL", f"busy_timeout={BUSY_MS}"]
    if foreign_keys:
        pragmas.append("foreign_keys=ON")

    @event.listens_for(engine.sync_engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine.sync_engine, "begin")
    def _begin(connection: Any) -> None:
        readonly = connection.get_execution_options().get("readonly")
        connection.exec_driver_sql("BEGIN" if readonly else "BEGIN IMMEDIATE")

    return engine


class Database:
    """The way to the rows. Sessions are short: none is held while something waits on SSH."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = make_engine(url)
        self._sessions = async_sessionmaker(self.engine, class_=AsyncSession, expire_on_commit=False)
        self._turn = asyncio.Lock()

    @property
    def sqlite(self) -> bool:
        """Tell whether this is SQLite (one node) rather than PostgreSQL."""
        return self.url.startswith("sqlite")

    @property
    def name(self) -> str:
        """Give the place to show to a person: the file, or host and database without the password."""
        return place(self.url)

    @property
    def absent(self) -> bool:
        """Tell whether this is an SQLite file that is not there yet (opening it would make an empty one)."""
        return self.sqlite and self.name not in ("", ":memory:") and not Path(self.name).exists()

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """Open a session that only reads. Raises `Unavailable` when the database is gone or cannot answer."""
        self._refuse_absent()
        async with guard(self.url), self._sessions() as session:
            await session.connection(execution_options={"readonly": True})
            yield session

    @contextlib.asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        """Open a session that commits at the end, or rolls back on any error.

        Raises `Unavailable` when the database is locked beyond the busy timeout, full, read-only or gone.
        """
        self._refuse_absent()
        async with self._alone(), guard(self.url), self._sessions() as session, session.begin():
            yield session

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Have the writers of this process wait in line for SQLite's one write lock.

        SQLite itself would have them look again and again, with growing pauses and in no order.
        """
        if not self.sqlite:
            yield
            return
        try:
            async with asyncio.timeout(BUSY_MS / 1000):
                await self._turn.acquire()
        except TimeoutError:
            raise Unavailable(
                f"the database {self.name} cannot be used: it is locked by another writer of this process.",
                file=self.name,
                hint="try again; `opsdeck doctor` shows how it stands",
            ) from None
        try:
            yield
        finally:
            self._turn.release()

    def _refuse_absent(self) -> None:
        """An open connection would go on writing to a file that was removed, and lose it all in silence."""
        if self.absent:
            raise Unavailable(
                f"the database {self.name} is not there.",
                file=self.name,
                hint="run `opsdeck init`, check OPSDECK_HOME, or put back the newest backup of the database",
            )

    async def close(self) -> None:
        """Let go of every connection."""
        await self.engine.dispose()


def place(url: str) -> str:
    """Give the part of a database's URL that may be shown."""
    return url.rsplit("@", 1)[-1].partition("?")[0].removeprefix("sqlite+aiosqlite:///")


@contextlib.asynccontextmanager
async def guard(url: str) -> AsyncIterator[None]:
    """Turn the driver's ways of saying that the database cannot be used into `Unavailable`; others pass."""
    try:
        yield
    except DBAPIError as fault:
        if fault.connection_invalidated or _unusable(fault.orig):
            raise _unavailable(url, fault) from fault
        raise
    except OSError as fault:
        raise _unavailable(url, fault) from fault


def _unusable(cause: BaseException | None) -> bool:
    if isinstance(cause, sqlite3.DatabaseError):
        return not isinstance(cause, sqlite3.IntegrityError | sqlite3.ProgrammingError)
    state = getattr(cause, "sqlstate", None)
    return (type(cause).__name__ == "OperationalError" and state is None) or str(state).startswith(UNUSABLE_STATES)


def _unavailable(url: str, fault: Exception) -> Unavailable:
    where = place(url)
    text = str(getattr(fault, "orig", None) or fault).splitlines()[0]
    hints = {
        "locked": "another process holds it; see `opsdeck doctor`, then try again",
        "full": "free space on its disk; nothing of this change was kept",
        "readonly": "give the user that runs OpsDeck the right to write there",
        "unable to open": "run `opsdeck init`, or check OPSDECK_HOME",
        "no such table": "run `opsdeck init`, which brings the tables up to date",
        "does not exist": "run `opsdeck init`, which brings the tables up to date; or check the database's name",
        "malformed": "put back the newest backup of the database",
        "not a database": "put back the newest backup of the database",
    }
    hint = next((hint for word, hint in hints.items() if word in text.lower()), "check that the database is up")
    return Unavailable(f"the database {where} cannot be used: {text}.", file=where, hint=hint)
