"""MySQL 8.0 and later, MariaDB 10.6 and later: the binary log by GTID, read in a thread.

Facts behind this: a row can be in the log before any query sees it, so the position is taken where it cannot be beyond
what is visible: `gtid_executed` on MySQL, the position of a consistent snapshot on MariaDB. A position moves only at
the end of a transaction; the log's tables are described once per statement. Source: the servers' manuals.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from typing import Any

import pymysql
from pymysql.cursors import Cursor

from opsdeck.api import NotFound, OpsDeckError, Unavailable
from opsdeck_search_sync.changes import Chunk, Column, Finding, Head, LogLost, Part, Row
from opsdeck_search_sync.sources import gtids, mysqlvalues
from opsdeck_search_sync.sources.binlog import Tail
from opsdeck_search_sync.sources.mysqllink import connect, settings, translated
from opsdeck_search_sync.sources.place import Place

QUICK, LONG = 30.0, 600.0
"""Seconds that a question may take, and one that reads a table; then the link is taken for dead."""
LEAST_WINDOW = 24 * 3600
CHUNK_FIRST, CHUNK_MOST, CHUNK_GOAL = 500, 20_000, 0.25

CLOSED = (2006, 2013, 4031)
"""Codes of a connection that is no longer there."""


class MysqlReader:
    """One generation's way to one table. `name` tells generations apart: it makes the replica's number."""

    def __init__(self, place: Place, table: str, name: str, needed: frozenset[str] | None, *, maria: bool) -> None:
        self._place = place
        schema, _, self._table = table.rpartition(".")
        self._schema = schema or place.database
        self._needed = needed
        self._maria = maria
        self._server_id = 2**31 + int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % (2**31 - 1)
        self._plain: pymysql.Connection[Cursor] | None = None
        self._lock = asyncio.Lock()
        self._tail: Tail | None = None
        self._columns: tuple[Column, ...] = ()
        self._decoders: dict[str, mysqlvalues.Decoder] = {}

    @property
    def _name(self) -> str:
        return f"{_quoted(self._schema)}.{_quoted(self._table)}"

    def _open(self) -> pymysql.Connection[Cursor]:
        if self._plain is None or not self._plain.open:
            self._plain = connect(
                self._place, **settings(self._place), database=self._place.database, autocommit=True,
                read_timeout=LONG, write_timeout=60,
            )  # fmt: skip
            with self._plain.cursor() as cursor:
                cursor.execute("SET time_zone = '+00:00'")
                cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        return self._plain

    async def _ask(self, query: str, *given: Any, bound: float | None = None) -> list[tuple[Any, ...]]:
        """Ask within a bound. A connection that the server closed while nothing was asked is opened anew, once."""

        def once() -> list[tuple[Any, ...]]:
            connection: Any = self._open()
            connection._read_timeout = bound or QUICK  # the driver has one bound for all that a connection does
            with connection.cursor() as cursor:
                cursor.execute(query, given or None)
                return list(cursor.fetchall())

        def work() -> list[tuple[Any, ...]]:
            kept = self._plain is not None and self._plain.open
            began = time.monotonic()
            try:
                return once()
            except pymysql.OperationalError as fault:
                if not kept or fault.args[0] not in CLOSED or time.monotonic() - began > 1:
                    raise
            return once()

        found: list[tuple[Any, ...]] = await self._in_thread(work)
        return found

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        async with self._lock:
            try:
                return await asyncio.to_thread(work)
            except pymysql.Error as fault:
                with suppress(pymysql.Error):
                    if self._plain is not None:
                        self._plain.close()
                raise translated(fault, self._place) from fault

    async def _variable(self, name: str) -> str | None:
        found = await self._ask("SHOW GLOBAL VARIABLES LIKE %s", name)
        return str(found[0][1]) if found else None

    async def identity(self) -> str:
        """Give the server's own number: MySQL's is unique, MariaDB's is the one of its replication domain."""
        if self._maria:
            return f"mariadb {await self._variable('server_id')} {self._place.database}"
        return f"mysql {await self._variable('server_uuid')} {self._place.database}"

    async def columns(self) -> tuple[Column, ...]:
        """Give the columns with the parts of the primary key first, in the key's order. Raises `NotFound`."""
        found = await self._ask(
            "SELECT c.column_name, c.data_type, c.column_type,"
            " COALESCE(c.numeric_precision, c.character_maximum_length),"
            " k.ordinal_position, c.generation_expression FROM information_schema.columns c"
            " LEFT JOIN information_schema.key_column_usage k ON k.table_schema = c.table_schema"
            " AND k.table_name = c.table_name AND k.column_name = c.column_name AND k.constraint_name = 'PRIMARY'"
            " WHERE c.table_schema = %s AND c.table_name = %s ORDER BY c.ordinal_position",
            self._schema,
            self._table,
        )
        if not found:
            raise NotFound(
                f"there is no table {self._schema}.{self._table}.",
                field="table",
                hint="write it as table or database.table, and see that the user may look at it",
            )
        if self._maria:  # its JSON is a long text with a check
            valid = await self._ask(
                "SELECT constraint_name FROM information_schema.check_constraints WHERE constraint_schema = %s"
                " AND table_name = %s AND check_clause = concat('json_valid(`', constraint_name, '`)')",
                self._schema,
                self._table,
            )
            texts = {str(name) for (name,) in valid}
            found = [(*row[:1], "json", *row[2:]) if row[0] in texts else row for row in found]
        described = {str(row[0]): (str(row[1]).lower(), str(row[2]), int(row[3]) if row[3] else None) for row in found}
        self._decoders.update({name: mysqlvalues.decoder(*told) for name, told in described.items()})
        key = sorted((row for row in found if row[4] is not None), key=lambda row: int(row[4]))
        rest = [row for row in found if row[4] is None]
        self._columns = tuple(
            Column(str(row[0]), str(row[1]).lower(), row[4] is not None, mysqlvalues.shape(*described[str(row[0])]))
            for row in [*key, *rest]
        )
        return self._columns

    async def preflight(self) -> tuple[Finding, ...]:
        """Look at what would lose rows in silence, or stop us."""
        found = []
        wanted = {"log_bin": "ON", "binlog_format": "ROW", "binlog_row_image": "FULL", "binlog_row_metadata": "FULL"}
        if not self._maria:
            wanted |= {"gtid_mode": "ON", "binlog_transaction_compression": "OFF", "binlog_row_value_options": ""}
        else:
            wanted |= {"log_bin_compress": "OFF"}
        for name, value in wanted.items():
            there = await self._variable(name)
            if there is not None and there.upper() != value:
                how = "GLOBAL" if self._maria else "PERSIST"
                sql = f"SET {how} {name} = '{value}'; FLUSH BINARY LOGS;"
                if name in {"log_bin", "gtid_mode"}:
                    sql = f"-- in my.cnf, then restart: {name} = {value}"
                found.append(Finding(f"{name} is {there or 'empty'}; it must be {value or 'empty'}.", True, sql))
        expires = int(await self._variable("binlog_expire_logs_seconds") or 0)
        if 0 < expires < LEAST_WINDOW:
            kept = f"the log is kept for {expires / 3600:.1f} h; a sync that stands still for longer needs a rebuild."
            found.append(Finding(kept, False, f"SET GLOBAL binlog_expire_logs_seconds = {7 * LEAST_WINDOW};"))
        if not self._maria and gtids.tagged(await self.begin()):
            found.append(Finding("the server has transactions with tagged GTIDs, which are not read here.", True))
        columns = await self.columns()
        for column in columns:
            used = self._needed is None or column.name in self._needed
            if used and self._needed is not None and column.type in mysqlvalues.REFUSED:
                found.append(Finding(f"{column.name} is of the type {column.type}; leave it out of the mapping.", True))
        if not any(column.key for column in columns):
            found.append(
                Finding(f"{self._name} has no primary key.", True, f"ALTER TABLE {self._name} ADD PRIMARY KEY (…);")
            )
        cascades = await self._ask(
            "SELECT constraint_name, delete_rule, update_rule FROM information_schema.referential_constraints"
            " WHERE constraint_schema = %s AND table_name = %s"
            " AND (delete_rule IN ('CASCADE', 'SET NULL') OR update_rule IN ('CASCADE', 'SET NULL'))",
            self._schema,
            self._table,
        )
        for name, _delete, _update in cascades:
            found.append(
                Finding(f"the foreign key {name} changes rows of this table by itself, which MariaDB does not log."
                        " Check the sync now and then, or have the application remove the rows.", False)
            )  # fmt: skip
        return tuple(found)

    async def estimate(self) -> int:
        """Give the server's own number of rows."""
        found = await self._ask(
            "SELECT table_rows FROM information_schema.tables WHERE table_schema = %s AND table_name = %s",
            self._schema,
            self._table,
        )
        return int(found[0][0] or 0) if found else 0

    async def count(self) -> int:
        """Count the rows."""
        return int((await self._ask(f"SELECT count(*) FROM {self._name}", bound=LONG))[0][0])  # noqa: S608 - quoted

    async def begin(self) -> str:
        """Give a position that no visible row lies beyond."""
        if not self._maria:
            return str((await self._ask("SELECT @@GLOBAL.gtid_executed"))[0][0]).replace("\n", "")

        def work() -> str:
            with self._open().cursor() as cursor:
                cursor.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT")
                try:
                    cursor.execute("SHOW STATUS LIKE 'binlog_snapshot_%'")
                    place = {str(name).lower(): value for name, value in cursor.fetchall()}
                    cursor.execute(
                        "SELECT BINLOG_GTID_POS(%s, %s)",
                        (place["binlog_snapshot_file"], int(place["binlog_snapshot_position"])),
                    )
                    (found,) = cursor.fetchone() or (None,)
                finally:
                    cursor.execute("COMMIT")
            if found is None:
                raise Unavailable("MariaDB could not tell its position.", hint="it is asked again by itself")
            return str(found)

        position: str = await self._in_thread(work)
        return position

    async def copy(self, after: Sequence[str] | None) -> AsyncGenerator[Chunk, None]:
        """Read all rows in the order of the primary key, in chunks of about a quarter of a second."""
        columns = await self.columns()
        names = [column.name for column in columns if self._needed is None or column.name in self._needed]
        key = [column.name for column in columns if column.key]
        ways = [_written(column) for column in columns if column.key]
        order = ", ".join(_quoted(name) for name in key)
        base = f"SELECT {', '.join(_quoted(name) for name in names)} FROM {self._name}"  # noqa: S608 - quoted
        # The key again as text, to go on after.
        base = base.replace(" FROM ", ", " + ", ".join(given for given, _bound in ways) + " FROM ", 1)
        size, last = CHUNK_FIRST, tuple(after) if after is not None else None
        while True:
            began = time.monotonic()
            where, given = _beyond(key, [bound for _given, bound in ways], last) if last is not None else ("", ())
            got = await self._ask(f"{base}{where} ORDER BY {order} LIMIT {int(size)}", *given, bound=LONG)
            if not got:
                return
            rows = tuple(self._decoded(dict(zip(names, row[: len(names)], strict=True))) for row in got)
            last = tuple(str(part) for part in got[-1][len(names) :])
            total = sum(len(value) if isinstance(value, str | bytes) else 8 for row in got for value in row)
            yield Chunk(rows, last, total)
            if len(got) < size:
                return
            took = max(0.001, time.monotonic() - began)
            size = int(min(CHUNK_MOST, max(100, size * min(2.0, CHUNK_GOAL / took))))
            if total > 4 << 20:
                size = max(100, min(size, int(len(got) * (4 << 20) / total)))

    def _decoded(self, raw: dict[str, Any]) -> Row:
        return {name: None if value is None else self._decoders[name](value) for name, value in raw.items()}

    async def sample(self, rows: int) -> list[Row]:
        """Read about `rows` rows from all over the table."""
        columns = await self.columns()
        names = [column.name for column in columns if self._needed is None or column.name in self._needed]
        share = min(1.0, rows * 3 / max(1, await self.estimate()))
        got = await self._ask(
            f"SELECT {', '.join(_quoted(name) for name in names)} FROM {self._name} WHERE rand() <= %s LIMIT %s",  # noqa: S608
            share,
            rows,
            bound=LONG,
        )
        return [self._decoded(dict(zip(names, row, strict=True))) for row in got]

    async def read(self, position: str) -> AsyncGenerator[Part, None]:
        """Read changes from `position` on, for ever."""
        await self.head(position)
        await self.columns()
        self._tail = Tail(
            self._place, self._server_id, position, (self._schema, self._table), self._needed,
            frozenset(column.name for column in self._columns if column.key), self._decoders, maria=self._maria,
        )  # fmt: skip
        tail = self._tail
        tail.start()
        try:
            while True:
                for found in await asyncio.to_thread(tail.next):
                    if isinstance(found, OpsDeckError):
                        raise found
                    yield found
        finally:
            tail.stop()

    async def confirm(self, position: str) -> None:
        """Nothing to say: the server keeps its log by its own rules."""

    async def head(self, position: str) -> Head:
        """Give where the log ends now. Raises `LogLost` when it no longer reaches back to `position`."""
        where = "gtid_binlog_pos" if self._maria else "gtid_executed"
        ((now, expires),) = await self._ask(f"SELECT @@GLOBAL.{where}, @@GLOBAL.binlog_expire_logs_seconds")
        now = str(now).replace("\n", "")
        if self._maria:
            kept, known = True, gtids.maria_covers(now, position)
        else:
            ((kept, known),) = await self._ask(
                "SELECT GTID_SUBSET(@@GLOBAL.gtid_purged, %s), GTID_SUBSET(%s, @@GLOBAL.gtid_executed)",
                position,
                position,
            )
        if not kept:
            raise LogLost("the server purged binary logs that were not read yet.", hint="rebuild the sync")
        if not known:
            raise LogLost(
                f"the server is behind us ({now} against {position}): it was restored or failed over.",
                hint="rebuild the sync",
            )
        return Head(now, window_seconds=int(expires) or None)

    def reached(self, position: str, goal: str) -> bool:
        """Compare two positions."""
        return gtids.maria_covers(position, goal) if self._maria else gtids.mysql_covers(position, goal)

    async def end(self) -> None:
        """Nothing of ours lies at the source."""

    async def close(self) -> None:
        """Let go of every connection."""
        if self._tail is not None:
            await asyncio.to_thread(self._tail.stop)
        if self._plain is not None:
            with suppress(pymysql.Error):
                self._plain.close()


async def flavour(place: Place) -> str:
    """Tell whether the server is a MariaDB or a MySQL."""
    probe = MysqlReader(place, "x", "x_0", None, maria=True)
    try:
        ((version,),) = await probe._ask("SELECT VERSION()")
        return "mariadb" if "mariadb" in str(version).lower() else "mysql"
    finally:
        await probe.close()


def _written(column: Column) -> tuple[str, str]:
    """Give how a part of the key is asked for as text, and how that text compares as the column is ordered."""
    name = _quoted(column.name)
    if column.type in {"binary", "varbinary"} or column.type.endswith("blob"):
        return f"HEX({name})", "UNHEX(%s)"
    if column.type in {"enum", "set", "bit"}:  # ordered by their numbers, but compared to a text by their words
        return f"({name} + 0)", "CAST(%s AS UNSIGNED)"
    return f"CAST({name} AS CHAR)", "%s"


def _beyond(key: Sequence[str], bounds: Sequence[str], last: Sequence[str]) -> tuple[str, tuple[Any, ...]]:
    """Write `(a, b) > (x, y)` so that the servers use the index for it: `a >= x AND (a > x OR (a = x AND b > y))`."""
    text = ""
    given: tuple[Any, ...] = ()
    for name, bound, value in reversed(list(zip(key, bounds, last, strict=True))):
        column = _quoted(name)
        if text:
            text, given = f"({column} > {bound} OR ({column} = {bound} AND {text}))", (value, value, *given)
        else:
            text, given = f"{column} > {bound}", (value,)
    return f" WHERE {_quoted(key[0])} >= {bounds[0]} AND {text}", (last[0], *given)


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
