"""PostgreSQL 12 and later: a slot and a publication per generation, read by `pgoutput`.

Facts behind this: a new slot waits for every transaction that writes, so that whatever commits before its position is
visible to the copy that follows; the position of a transaction is the end of its commit record; a keepalive says how
far the log was searched for us, also while others fill it.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql

from opsdeck.api import Invalid, NotFound, OpsDeckError, Refused, Unavailable, utcnow
from opsdeck_search_sync.changes import (
    Change,
    Chunk,
    Column,
    Finding,
    Head,
    LogLost,
    Part,
    Row,
)
from opsdeck_search_sync.sources import pgoutput, pgvalues
from opsdeck_search_sync.sources.pgoutput import lsn, lsn_text
from opsdeck_search_sync.sources.pgrows import Tables
from opsdeck_search_sync.sources.place import Place

PART_CHANGES, PART_BYTES = 1000, 1 << 20
GROUP, GROUP_BYTES = 256, 1 << 16
"""Messages that are taken from the link at once; a large one ends its group."""
FEEDBACK, SILENCE = 1.0, 60.0
"""Seconds between two feedbacks, and of silence after which the link is dead: each feedback asks for an answer."""
SLOT_PATIENCE = 60.0
QUICK, LONG = 30.0, 600.0
"""Seconds that a question may take, and one that reads a table; then the link is taken for dead."""
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
        self._plain: psycopg.AsyncConnection[Any] | None = None
        self._stream: psycopg.AsyncConnection[Any] | None = None
        self._confirmed = 0
        self._feeder: asyncio.Task[None] | None = None

    @property
    def _name(self) -> sql.Composed:
        return sql.SQL("{}.{}").format(sql.Identifier(self._schema), sql.Identifier(self._table))

    async def _connect(self, *, replication: bool = False) -> psycopg.AsyncConnection[Any]:
        place = self._place
        more: dict[str, Any] = {"replication": "database"} if replication else {}
        try:
            return await psycopg.AsyncConnection.connect(
                host=place.address,
                port=place.port,
                dbname=place.database,
                user=place.user,
                password=place.password.reveal() if place.password else None,
                autocommit=True,
                connect_timeout=15,
                application_name=f"opsdeck {self.slot}",
                options=pgvalues.SESSION,
                client_encoding="UTF8",
                keepalives_idle=20,
                keepalives_interval=10,
                keepalives_count=3,
                **more,
            )
        except psycopg.OperationalError as fault:
            raise Unavailable(
                f"the database {place.database} at {place.address}:{place.port} cannot be reached: {_first(fault)}",
                hint="check address, user and password, and pg_hba.conf" + (" (replication)" if replication else ""),
            ) from fault

    async def _db(self) -> psycopg.AsyncConnection[Any]:
        if self._plain is None or self._plain.closed:
            self._plain = await self._connect()
            await self._plain.execute(sql.SQL("SET statement_timeout = {}").format(sql.Literal(f"{LONG:.0f}s")))
        return self._plain

    async def _run(self, query: str | sql.Composed, *given: Any, bound: float = QUICK) -> psycopg.AsyncCursor[Any]:
        """Run a statement within a bound: a link that is half open never says so by itself.

        A connection that the server closed while nothing was asked is opened anew, once.
        """
        kept = self._plain is not None and not self._plain.closed
        connection = await self._db()
        asked = asyncio.ensure_future(connection.execute(query, given or None))
        try:
            await asyncio.wait({asked}, timeout=bound)
            if not asked.done():
                raise Unavailable(f"PostgreSQL did not answer within {bound:g} s.", hint="the link is broken")
            return asked.result()
        except psycopg.Error as fault:
            if kept and connection.closed:
                return await self._run(query, *given, bound=bound)
            raise _translated(fault) from fault
        finally:
            if not asked.done():
                connection.pgconn.finish()
                asked.cancel()
                await asyncio.gather(asked, return_exceptions=True)

    async def _ask(self, query: str | sql.Composed, *given: Any) -> list[tuple[Any, ...]]:
        return await (await self._run(query, *given)).fetchall()

    async def _do(self, query: str | sql.Composed, *given: Any) -> None:
        await self._run(query, *given)

    async def identity(self) -> str:
        """Give the cluster's number and the database."""
        connection = await self._connect(replication=True)
        try:
            (row,) = await (await connection.execute("IDENTIFY_SYSTEM")).fetchall()
            return f"postgres {row[0]} {self._place.database}"
        finally:
            await connection.close()

    async def columns(self) -> tuple[Column, ...]:
        """Give the columns with the parts of the primary key in the key's order. Raises `NotFound`."""
        found = await self._ask(
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
        found: list[Finding] = []
        ((level, slots, senders, keep),) = await self._ask(
            "SELECT current_setting('wal_level'), current_setting('max_replication_slots')::int"
            " - (SELECT count(*) FROM pg_replication_slots), current_setting('max_wal_senders')::int"
            " - (SELECT count(*) FROM pg_stat_replication), current_setting('max_slot_wal_keep_size', true)"
        )
        if level != "logical":
            found.append(
                Finding(f"wal_level is {level}; it must be logical (needs a restart).", True,
                        "ALTER SYSTEM SET wal_level = 'logical';")
            )  # fmt: skip
        if slots < 2 or senders < 2:
            found.append(
                Finding("fewer than two replication slots or senders are free; a rebuild needs a second of each.",
                        slots < 1 or senders < 1,
                        "ALTER SYSTEM SET max_replication_slots = 20; ALTER SYSTEM SET max_wal_senders = 20;")
            )  # fmt: skip
        if keep == "-1":
            found.append(
                Finding("max_slot_wal_keep_size is unlimited; a sync that stands still could fill the disk (the"
                        " sync's own limit guards it while OpsDeck runs).", False,
                        "ALTER SYSTEM SET max_slot_wal_keep_size = '10GB'; SELECT pg_reload_conf();")
            )  # fmt: skip
        ((may,),) = await self._ask("SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user")
        if not may:
            found.append(
                Finding("the user may not replicate.", True,
                        sql.SQL("ALTER ROLE {} REPLICATION;").format(sql.Identifier(self._place.user)).as_string())
            )  # fmt: skip
        found += await self._look_at_table(await self.columns())
        return tuple(found)

    async def _look_at_table(self, columns: Sequence[Column]) -> list[Finding]:
        rows = await self._ask(
            """SELECT c.relkind, c.relpersistence, c.relreplident, c.relrowsecurity,
            has_table_privilege(c.oid, 'SELECT'), pg_has_role(c.relowner, 'USAGE'),
            has_database_privilege(current_database(), 'CREATE')
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s""",
            self._schema,
            self._table,
        )
        kind, persistence, replica, guarded, readable, owned, may_publish = rows[0]
        table = self._name.as_string()
        user = sql.Identifier(self._place.user).as_string()
        found = []
        if kind not in ("r", "p"):
            found.append(Finding(f"{table} is no plain table: its changes are not in the log.", True))
        if persistence != "p":
            found.append(Finding(f"{table} is unlogged or temporary.", True, f"ALTER TABLE {table} SET LOGGED;"))
        if not any(column.key for column in columns):
            found.append(Finding(f"{table} has no primary key.", True, f"ALTER TABLE {table} ADD PRIMARY KEY (…);"))
        if replica in ("n", "i"):
            found.append(
                Finding("the replica identity is not the primary key; removed rows could not be told.", True,
                        f"ALTER TABLE {table} REPLICA IDENTITY DEFAULT;")
            )  # fmt: skip
        if guarded:
            found.append(Finding("row security is on; the copy sees only what the user may see.", False,
                                 f"ALTER ROLE {user} BYPASSRLS;"))  # fmt: skip
        if not readable:
            found.append(Finding("the user may not read the table.", True, f"GRANT SELECT ON {table} TO {user};"))
        if not (owned and may_publish):
            found.append(
                Finding("the user may not publish the table: it must own it and may create in the database.", True,
                        f"GRANT CREATE ON DATABASE {sql.Identifier(self._place.database).as_string()} TO {user};"
                        f" ALTER TABLE {table} OWNER TO {user};")
            )  # fmt: skip
        if kind == "p":
            found.append(
                Finding(f"{table} is partitioned: rows that go with a partition which is dropped or detached are not in"
                        " the log; rebuild after that.", False)
            )  # fmt: skip
        generated = await self._ask(
            "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attgenerated <> ''", table
        )
        for (name,) in generated:
            if self._needed is not None and name in self._needed:
                found.append(Finding(f"{name} is generated and not in the log; leave it out of the mapping.", True))
        return found

    async def estimate(self) -> int:
        """Give the planner's number of rows."""
        ((about,),) = await self._ask(
            "SELECT reltuples::bigint FROM pg_class WHERE oid = %s::regclass", self._name.as_string()
        )
        return int(about) if about > 0 else await self.count()

    async def count(self) -> int:
        """Count the rows."""
        cursor = await self._run(sql.SQL("SELECT count(*) FROM {}").format(self._name), bound=LONG)
        ((number,),) = await cursor.fetchall()
        return int(number)

    async def begin(self) -> str:
        """Make the publication, then the slot; give the slot's position."""
        await self.end()
        ((version,),) = await self._ask("SELECT current_setting('server_version_num')::int")
        root = sql.SQL(" WITH (publish_via_partition_root = true)") if version >= 130000 else sql.SQL("")
        await self._do(
            sql.SQL("CREATE PUBLICATION {} FOR TABLE {}").format(sql.Identifier(self.publication), self._name) + root
        )
        connection = await self._connect(replication=True)
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
            blockers = await self._ask(
                "SELECT pid, usename, state, now() - xact_start FROM pg_stat_activity"
                " WHERE backend_xid IS NOT NULL ORDER BY xact_start LIMIT 3"
            )
            who = "; ".join(f"pid {pid} of {user}, {state} for {age}" for pid, user, state, age in blockers)
            raise Unavailable(
                f"a new slot waits for every open transaction that writes ({who or 'none is shown to this user'}).",
                hint="end those transactions, then it goes on by itself",
            ) from fault
        except psycopg.Error as fault:
            raise _translated(fault) from fault
        finally:
            await connection.close()

    async def copy(self, after: Sequence[str] | None) -> AsyncGenerator[Chunk, None]:
        """Read all rows in the order of the primary key, in chunks of about a quarter of a second."""
        columns = await self.columns()
        wanted = [column for column in columns if self._needed is None or column.name in self._needed]
        decoders = [(column.name, pgvalues.decoder(column.type)) for column in wanted]
        keys = [[column.name for column in wanted].index(name) for name, _type in self._key]
        names = sql.SQL(", ").join(sql.Identifier(column.name) for column in wanted)
        order = sql.SQL(", ").join(sql.Identifier(name) for name, _type in self._key)
        bounds = sql.SQL(", ").join(sql.SQL("CAST(%s AS {})").format(sql.SQL(type_)) for _name, type_ in self._key)
        base = sql.SQL("SELECT {} FROM {}").format(names, self._name)
        end = sql.SQL(" ORDER BY {} LIMIT %s").format(order)
        size, last = CHUNK_FIRST, tuple(after) if after is not None else None
        while True:
            began = time.monotonic()
            if last is None:
                query, given = base + end, (size,)
            else:
                query = base + sql.SQL(" WHERE ({}) > ({})").format(order, bounds) + end
                given = (*last, size)  # type: ignore[assignment]
            result = (await self._run(query, *given, bound=LONG)).pgresult
            assert result is not None  # noqa: S101 - a SELECT that did not raise has a result
            rows, total = [], 0
            for number in range(result.ntuples):
                row: dict[str, Any] = {}
                for place, (name, decode) in enumerate(decoders):
                    raw = result.get_value(number, place)
                    row[name] = None if raw is None else decode(raw.decode())
                    total += len(raw) if raw else 0
                rows.append(row)
            if not rows:
                return
            last = tuple(_text(result.get_value(result.ntuples - 1, place)) for place in keys)
            yield Chunk(tuple(rows), last, total)
            if len(rows) < size:
                return
            took = max(0.001, time.monotonic() - began)
            size = int(min(CHUNK_MOST, max(100, size * min(2.0, CHUNK_GOAL / took))))
            if total > 4 << 20:
                size = max(100, min(size, int(len(rows) * (4 << 20) / total)))

    async def sample(self, rows: int) -> list[Row]:
        """Read about `rows` rows from all over the table."""
        columns = await self.columns()
        wanted = [column for column in columns if self._needed is None or column.name in self._needed]
        decoders = [(column.name, pgvalues.decoder(column.type)) for column in wanted]
        about = max(1, await self.estimate())
        share = min(100.0, 100.0 * rows * 3 / about)
        query = sql.SQL("SELECT {} FROM {} TABLESAMPLE BERNOULLI (%s) LIMIT %s").format(
            sql.SQL(", ").join(sql.Identifier(column.name) for column in wanted), self._name
        )
        result = (await self._run(query, share, rows, bound=LONG)).pgresult
        assert result is not None  # noqa: S101 - as above
        found: list[Row] = []
        for number in range(result.ntuples):
            raws = [result.get_value(number, place) for place in range(len(decoders))]
            found.append(
                {
                    name: None if raw is None else decode(raw.decode())
                    for (name, decode), raw in zip(decoders, raws, strict=True)
                }
            )
        return found

    async def read(self, position: str) -> AsyncGenerator[Part, None]:
        """Read changes from `position` on, for ever."""
        await self.head(position)  # a slot that is gone or lost is told by its right name
        with suppress(OpsDeckError):  # a whole record behind where the log ended: else that may not be told for 15 s
            await self._ask("SELECT txid_current()")
        types = dict(await self._ask("SELECT oid::int8, typname FROM pg_type"))
        self._confirmed = lsn(position)
        await self._free_slot()
        self._stream = await self._connect(replication=True)
        try:
            await self._stream.execute(
                sql.SQL("START_REPLICATION SLOT {} LOGICAL {} (proto_version '1', publication_names {})").format(
                    sql.Identifier(self.slot),
                    sql.SQL(lsn_text(lsn(position))),
                    sql.Literal(self.publication),
                )
            )
        except psycopg.Error as fault:
            raise _translated(fault) from fault
        self._feeder = asyncio.create_task(self._feed(self._stream), name=f"feedback of {self.slot}")
        tables = Tables(types, (self._schema, self._table), self._needed)
        changes: list[Change] = []
        size, inside, said = 0, False, position
        committed: datetime | None = None
        async with aclosing(self._messages(self._stream)) as groups:
            async for group in groups:
                for data in group:
                    if data[0] == 0x6B:  # k
                        end, _clock, _reply = struct.unpack_from("!QqB", data, 1)
                        if not inside and end > lsn(said):
                            said = lsn_text(end)
                            yield Part(position=said)
                        continue
                    message = pgoutput.parse(data[25:])
                    size += len(data)
                    if isinstance(message, pgoutput.Begin):
                        inside, committed, size = True, message.committed, 0
                    elif isinstance(message, pgoutput.Commit):
                        inside, said = False, lsn_text(message.end)
                        yield Part(changes, said, size, committed)
                        changes, size = [], 0
                    elif message is not None:
                        changes.extend(tables.changes(message))
                        if tables.altered:
                            yield Part(changes, None, size, committed, altered=True)
                            changes, size, tables.altered = [], 0, False
                        if len(changes) >= PART_CHANGES or size >= PART_BYTES:
                            yield Part(changes, None, size, committed)
                            changes, size = [], 0

    async def _messages(self, connection: psycopg.AsyncConnection[Any]) -> AsyncGenerator[list[bytes], None]:
        """Give what the server sends, a few messages at once."""
        pg, loop = connection.pgconn, asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(pg.socket, readable.set)
        heard = time.monotonic()
        group: list[bytes] = []
        try:
            while True:
                try:
                    count, data = pg.get_copy_data(1)
                except psycopg.OperationalError as fault:
                    raise _translated(fault) from fault
                if count > 0:
                    group.append(bytes(data))
                if group and (count <= 0 or count > GROUP_BYTES or len(group) >= GROUP):
                    heard = time.monotonic()
                    yield group
                    group = []
                    await asyncio.sleep(0)
                if count == 0:
                    readable.clear()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(FEEDBACK):
                            await readable.wait()
                    if time.monotonic() - heard > SILENCE:
                        raise Unavailable(f"PostgreSQL said nothing for {SILENCE:g} s.", hint="the link is broken")
                    try:
                        pg.consume_input()
                    except psycopg.OperationalError as fault:
                        raise _translated(fault) from fault
                elif count < 0:
                    result = pg.get_result()
                    text = result.error_message.decode(errors="replace") if result else ""
                    if result and result.error_message and b"requested WAL" in result.error_message:
                        raise LogLost(f"PostgreSQL removed the log: {text.strip()}", hint="rebuild the sync")
                    raise Unavailable(f"PostgreSQL ended the stream: {text.strip() or 'it was shut down'}")
        finally:
            loop.remove_reader(pg.socket)

    async def _feed(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Say every few seconds how far we are, and ask for an answer."""
        while not connection.closed:
            self._feedback(connection)
            await asyncio.sleep(FEEDBACK)

    def _feedback(self, connection: psycopg.AsyncConnection[Any]) -> None:
        now = int((utcnow() - pgoutput.EPOCH).total_seconds() * 1_000_000)
        at = self._confirmed
        with suppress(psycopg.OperationalError):  # the reading side meets the same fault and tells it
            connection.pgconn.put_copy_data(struct.pack("!cQQQqB", b"r", at, at, at, now, 1))
            connection.pgconn.flush()

    async def confirm(self, position: str) -> None:
        """Let the server forget what lies before `position`; it is told with the next feedback."""
        self._confirmed = max(self._confirmed, lsn(position))

    async def head(self, position: str) -> Head:
        """Give where the log ends now. Raises `LogLost` when the slot is gone or lost."""
        rows = await self._ask(
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
        published = await self._ask(
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
            active = await self._ask(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s AND active",
                self.slot,
            )
            if not active:
                return
            await asyncio.sleep(0.1)

    async def end(self) -> None:
        """Remove the slot and the publication, ending whoever still reads the slot."""
        await self._free_slot()
        await self._do(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", self.slot
        )
        await self._do(sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(self.publication)))

    async def close(self) -> None:
        """Let go of both connections."""
        if self._feeder is not None:
            self._feeder.cancel()
            await asyncio.gather(self._feeder, return_exceptions=True)
        if self._stream is not None and not self._stream.closed:
            self._feedback(self._stream)
        for connection in (self._stream, self._plain):
            if connection is not None:
                await connection.close()
        self._stream = self._plain = None


def _text(raw: bytes | None) -> str:
    return (raw or b"").decode()


def _first(fault: Exception) -> str:
    return (str(fault).strip().splitlines() or [type(fault).__name__])[0]


def _translated(fault: psycopg.Error) -> OpsDeckError:
    """Say a fault of the server in our words."""
    state = fault.sqlstate or ""
    if state == "55000" and "replication slot" in str(fault):
        return LogLost(f"PostgreSQL lost the log: {_first(fault)}", hint="rebuild the sync")
    if state == "55006":
        return Unavailable(f"another reader holds the slot: {_first(fault)}", hint="it is let go within a minute")
    if state.startswith("42501"):
        return Refused(f"PostgreSQL refuses: {_first(fault)}", hint="look at the sync's preflight, which has the SQL")
    if state in {"42P01", "3F000"}:
        return NotFound(f"PostgreSQL: {_first(fault)}", field="table")
    if state in {"22023", "42601", "0A000", "42703", "42710"}:
        return Invalid(f"PostgreSQL: {_first(fault)}")
    return Unavailable(f"PostgreSQL: {_first(fault)}", hint="see that it runs and can be reached")
