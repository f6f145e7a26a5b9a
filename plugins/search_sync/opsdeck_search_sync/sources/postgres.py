"""PostgreSQL 12 and later: a slot and a publication per generation, read by `pgoutput`.

Facts behind this: a new slot waits for every transaction that writes, so that whatever commits before its position is
visible to the copy that follows; the position of a transaction is the end of its commit record; a keepalive says how
far the log was searched for us, also while others fill it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from typing import Any

import psycopg
from psycopg import sql
from psycopg.pq.abc import PGresult

from opsdeck.api import NotFound, OpsDeckError, Refused, Unavailable
from opsdeck_search_sync.changes import Chunk, Column, Finding, Head, LogLost, Part, Row
from opsdeck_search_sync.sources import pgpreflight, pgvalues
from opsdeck_search_sync.sources.pglink import LONG, Link, translated
from opsdeck_search_sync.sources.pgoutput import lsn, lsn_text
from opsdeck_search_sync.sources.pgrows import Tables
from opsdeck_search_sync.sources.pgstream import Stream
from opsdeck_search_sync.sources.place import Place

SLOT_PATIENCE = 60.0
CHUNK_FIRST, CHUNK_MOST, CHUNK_GOAL = 500, 20_000, 0.25


class PostgresReader:
    """One generation's way to one table. `name` is the base of the names of its slot and publication."""

    def __init__(self, place: Place, table: str, name: str, needed: frozenset[str] | None = None) -> None:
        self._place = place
        self._schema, _, self._table = table.rpartition(".")
        self._schema = self._schema or "public"
        self.slot = f"opsdeck_{name}"
        self.publication = f"opsdeck_{name}"
        self._needed = needed
        self._name = pgpreflight.quoted(self._schema, self._table)
        self._link = Link(place, self.slot)
        self._stream: Stream | None = None

    async def identity(self) -> str:
        """Give the cluster's number and the database."""
        connection = await self._link.open(replication=True)
        try:
            (row,) = await (await connection.execute("IDENTIFY_SYSTEM")).fetchall()
            return f"postgres {row[0]} {self._place.database}"
        finally:
            await connection.close()

    async def columns(self) -> tuple[Column, ...]:
        """Give the columns with the parts of the primary key in the key's order. Raises `NotFound`."""
        found = await self._link.ask(
            """SELECT a.attname, t.typname, array_position(i.indkey::int2[], a.attnum),
            format_type(a.atttypid, a.atttypmod)
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
            JOIN pg_type t ON t.oid = a.atttypid
            LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
            WHERE n.nspname = %s AND c.relname = %s ORDER BY a.attnum""",
            self._schema,
            self._table,
        )
        if not found:
            raise NotFound(
                f"there is no table {self._schema}.{self._table} in {self._place.database}.",
                field="table",
                hint="write it as schema.table, and see that the user may look at it",
            )
        key = sorted((row for row in found if row[2] is not None), key=lambda row: row[2])
        self._key = tuple((str(row[0]), str(row[3])) for row in key)
        rest = [row for row in found if row[2] is None]
        return tuple(Column(str(row[0]), str(row[1]), row[2] is not None) for row in [*key, *rest])

    async def preflight(self) -> tuple[Finding, ...]:
        """Look at what would lose rows in silence, or stop us."""
        columns = await self.columns()
        user = self._place.user
        return tuple(await pgpreflight.findings(self._link, user, self._schema, self._table, columns, self._needed))

    async def estimate(self) -> int:
        """Give the planner's number of rows."""
        ((about,),) = await self._link.ask(
            "SELECT reltuples::bigint FROM pg_class WHERE oid = %s::regclass", self._name.as_string()
        )
        return int(about) if about > 0 else await self.count()

    async def count(self) -> int:
        """Count the rows."""
        cursor = await self._link.run(sql.SQL("SELECT count(*) FROM {}").format(self._name), bound=LONG)
        ((number,),) = await cursor.fetchall()
        return int(number)

    async def begin(self) -> str:
        """Make the publication, then the slot; give the slot's position."""
        await self.end()
        ((version,),) = await self._link.ask("SELECT current_setting('server_version_num')::int")
        root = sql.SQL(" WITH (publish_via_partition_root = true)") if version >= 130000 else sql.SQL("")
        await self._link.run(
            sql.SQL("CREATE PUBLICATION {} FOR TABLE {}").format(sql.Identifier(self.publication), self._name) + root
        )
        connection = await self._link.open(replication=True)
        try:
            async with asyncio.timeout(SLOT_PATIENCE):
                made = await connection.execute(
                    sql.SQL("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput NOEXPORT_SNAPSHOT").format(
                        sql.Identifier(self.slot)
                    )
                )
                (row,) = await made.fetchall()
                return str(row[1])
        except TimeoutError as fault:
            blockers = await self._link.ask(
                "SELECT pid, usename, state, now() - xact_start FROM pg_stat_activity"
                " WHERE backend_xid IS NOT NULL ORDER BY xact_start LIMIT 3"
            )
            who = "; ".join(f"pid {pid} of {user}, {state} for {age}" for pid, user, state, age in blockers)
            raise Unavailable(
                f"a new slot waits for every open transaction that writes ({who or 'none is shown to this user'}).",
                hint="end those transactions, then it goes on by itself",
            ) from fault
        except psycopg.Error as fault:
            raise translated(fault) from fault
        finally:
            await connection.close()

    async def copy(self, after: Sequence[str] | None) -> AsyncGenerator[Chunk, None]:
        """Read all rows in the order of the primary key, in chunks of about a quarter of a second."""
        wanted = self._wanted(await self.columns())
        keys = [[column.name for column in wanted].index(name) for name, _type in self._key]
        order = sql.SQL(", ").join(sql.Identifier(name) for name, _type in self._key)
        bounds = sql.SQL(", ").join(sql.SQL("CAST(%s AS {})").format(sql.SQL(type_)) for _name, type_ in self._key)
        base = sql.SQL("SELECT {} FROM {}").format(_names(wanted), self._name)
        beyond = sql.SQL(" WHERE ({}) > ({})").format(order, bounds)
        end = sql.SQL(" ORDER BY {} LIMIT %s").format(order)
        size, last = CHUNK_FIRST, tuple(after) if after is not None else None
        while True:
            began = time.monotonic()
            query, given = (base + end, ()) if last is None else (base + beyond + end, last)
            result = (await self._link.run(query, *given, size, bound=LONG)).pgresult
            assert result is not None  # noqa: S101 - a SELECT that did not raise has a result
            rows, total = _rows(result, wanted)
            if not rows:
                return
            last = tuple((result.get_value(len(rows) - 1, place) or b"").decode() for place in keys)
            yield Chunk(rows, last, total)
            if len(rows) < size:
                return
            took = max(0.001, time.monotonic() - began)
            size = int(min(CHUNK_MOST, max(100, size * min(2.0, CHUNK_GOAL / took))))
            if total > 4 << 20:
                size = max(100, min(size, int(len(rows) * (4 << 20) / total)))

    def _wanted(self, columns: Sequence[Column]) -> list[Column]:
        return [column for column in columns if self._needed is None or column.name in self._needed]

    async def sample(self, rows: int) -> list[Row]:
        """Read about `rows` rows from all over the table."""
        wanted = self._wanted(await self.columns())
        share = min(100.0, 100.0 * rows * 3 / max(1, await self.estimate()))
        query = sql.SQL("SELECT {} FROM {} TABLESAMPLE BERNOULLI (%s) LIMIT %s").format(_names(wanted), self._name)
        result = (await self._link.run(query, share, rows, bound=LONG)).pgresult
        assert result is not None  # noqa: S101 - as above
        return list(_rows(result, wanted)[0])

    async def read(self, position: str) -> AsyncGenerator[Part, None]:
        """Read changes from `position` on, for ever."""
        await self.head(position)  # a slot that is gone or lost is told by its right name
        with suppress(OpsDeckError):  # a whole record behind where the log ended: else that may not be told for 15 s
            await self._link.ask("SELECT txid_current()")
        types = dict(await self._link.ask("SELECT oid::int8, typname FROM pg_type"))
        await self._free_slot()
        connection = await self._link.open(replication=True)
        self._stream = Stream(connection, position)
        try:
            await connection.execute(
                sql.SQL("START_REPLICATION SLOT {} LOGICAL {} (proto_version '1', publication_names {})").format(
                    sql.Identifier(self.slot),
                    sql.SQL(lsn_text(lsn(position))),
                    sql.Literal(self.publication),
                )
            )
        except psycopg.Error as fault:
            raise translated(fault) from fault
        self._stream.begin()
        tables = Tables(types, (self._schema, self._table), self._needed)
        async with aclosing(self._stream.parts(tables)) as parts:
            async for part in parts:
                yield part

    async def confirm(self, position: str) -> None:
        """Let the server forget what lies before `position`; it is told with the next feedback."""
        if self._stream is not None:
            self._stream.confirmed = max(self._stream.confirmed, lsn(position))

    async def head(self, position: str) -> Head:
        """Give where the log ends now. Raises `LogLost` when the slot is gone or lost."""
        rows = await self._link.ask(
            "SELECT pg_current_wal_flush_lsn()::text, s.slot_name, s.restart_lsn::text, s.wal_status"
            " FROM (SELECT 1) AS one LEFT JOIN pg_replication_slots s ON s.slot_name = %s",
            self.slot,
        )
        now, slot, restart, status = rows[0]
        if slot is None or status == "lost":
            raise LogLost(
                f"the replication slot {self.slot} is {'gone' if slot is None else 'lost'}; changes since {position}"
                " cannot be read any more.",
                hint="rebuild the sync; the index stays as it is until then",
            )
        published = await self._link.ask(
            "SELECT 1 FROM pg_publication_tables WHERE pubname = %s AND schemaname = %s AND tablename = %s",
            self.publication,
            self._schema,
            self._table,
        )
        if not published:
            raise Refused(
                f"{self._schema}.{self._table} is no longer published: it was dropped, renamed, or taken out.",
                hint="bring the table back and rebuild, or drop the sync",
            )
        end = lsn(now)
        return Head(now, max(0, end - lsn(restart)) if restart else None, max(0, end - lsn(position)))

    def reached(self, position: str, goal: str) -> bool:
        """Compare two positions."""
        return lsn(position) >= lsn(goal)

    async def _free_slot(self) -> None:
        """End whoever still reads our slot: a link of ours that broke without the server's noticing, or a node whose
        lease is over."""
        for _ in range(50):
            active = await self._link.ask(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s AND active",
                self.slot,
            )
            if not active:
                return
            await asyncio.sleep(0.1)

    async def end(self) -> None:
        """Remove the slot and the publication, ending whoever still reads the slot."""
        await self._free_slot()
        await self._link.run(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", self.slot
        )
        await self._link.run(sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(self.publication)))

    async def close(self) -> None:
        """Let go of both connections."""
        if self._stream is not None:
            await self._stream.close()
        self._stream = None
        await self._link.close()


def _names(columns: Sequence[Column]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(column.name) for column in columns)


def _rows(result: PGresult, columns: Sequence[Column]) -> tuple[tuple[Row, ...], int]:
    """Decode a result; give about how many bytes it has, too."""
    rows: list[dict[str, Any]] = [{} for _ in range(result.ntuples)]
    total, value = 0, result.get_value
    for place, column in enumerate(columns):
        decode, name = pgvalues.raw_decoder(column.type), column.name
        for number, row in enumerate(rows):
            raw = value(number, place)
            if raw is None:
                row[name] = None
            else:
                row[name] = decode(raw)
                total += len(raw)
    return tuple(rows), total
