"""The thread that reads the binary log of MySQL and MariaDB, and what it knows of the log.

What it does not know is fatal and named: skipping an event would lose rows in silence. Source: the servers' manuals and
code, and the library that decodes the log.
"""

from __future__ import annotations

import re
import socket
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pymysql
from pymysqlreplication import BinLogStreamReader
from pymysqlreplication import event as binlog
from pymysqlreplication import row_event as rows_of

from opsdeck.api import OpsDeckError, Refused, Unavailable
from opsdeck_search_sync.changes import Change, Emptied, Part, Put, Removed, Row
from opsdeck_search_sync.sources import gtids, mysqlvalues
from opsdeck_search_sync.sources.mysqllink import connect, settings, translated
from opsdeck_search_sync.sources.place import Place

PART_CHANGES, PART_BYTES = 500, 1 << 20
"""Changes in one part of a large transaction, and about what they take."""
WAITING_CHANGES, WAITING_BYTES = 4000, 8 << 20
"""What may wait between the thread and the loop."""
HEARTBEAT, SILENCE = 5.0, 30.0

KNOWN = (
    binlog.QueryEvent, binlog.RotateEvent, binlog.FormatDescriptionEvent, binlog.XidEvent, binlog.IntvarEvent,
    binlog.GtidEvent, binlog.PreviousGtidsEvent, binlog.StopEvent, binlog.HeartbeatLogEvent, binlog.RowsQueryLogEvent,
    binlog.RandEvent, binlog.UserVarEvent, binlog.MariadbAnnotateRowsEvent, binlog.MariadbBinLogCheckPointEvent,
    binlog.MariadbGtidEvent, binlog.MariadbGtidListEvent, rows_of.TableMapEvent,
)  # fmt: skip
ROWS = (rows_of.WriteRowsEvent, rows_of.UpdateRowsEvent, rows_of.DeleteRowsEvent)
XA_FLAGS = 64 | 128
"""Of a GTID event of MariaDB: a prepared transaction, and the end of one."""
UNREAD = {
    38: ("an XA transaction", "take the table out of XA transactions"),
    39: ("a part of a JSON value", "SET PERSIST binlog_row_value_options = ''; in every session too"),
    40: ("a compressed transaction", "SET PERSIST binlog_transaction_compression = OFF; in every session too"),
    42: ("a transaction with a tagged GTID", "write with GTID_NEXT = 'AUTOMATIC', without a tag"),
    **dict.fromkeys(range(165, 172), ("a compressed event", "SET GLOBAL log_bin_compress = OFF; in every session too")),
}
"""Kinds of events that are not read: what they hold, and how to do without. Source: both servers' code."""


class Belt:
    """What waits between the thread and the loop: bounded by changes and bytes, taken all at once."""

    def __init__(self) -> None:
        self._items: deque[Part | OpsDeckError] = deque()
        self._changes = self._bytes = 0
        self._moved = threading.Condition()
        self._stopped = False

    def put(self, item: Part | OpsDeckError) -> bool:
        """Lay an item on, when there is room; tell whether somebody still takes."""
        with self._moved:
            while not self._stopped and (self._changes >= WAITING_CHANGES or self._bytes >= WAITING_BYTES):
                self._moved.wait()
            self._items.append(item)
            if isinstance(item, Part):
                self._changes += len(item.changes)
                self._bytes += item.bytes
            self._moved.notify_all()
            return not self._stopped

    def take(self, seconds: float) -> list[Part | OpsDeckError]:
        """Take all there is; wait for the first as long as said."""
        with self._moved:
            if not self._items:
                self._moved.wait(seconds)
            taken = list(self._items)
            self._items.clear()
            self._changes = self._bytes = 0
            self._moved.notify_all()
            return taken

    def stop(self) -> None:
        """Nothing is taken any more."""
        with self._moved:
            self._stopped = True
            self._moved.notify_all()


class Tail:
    """The thread that reads the log."""

    def __init__(
        self, place: Place, server_id: int, position: str, table: tuple[str, str],
        needed: frozenset[str] | None, key: frozenset[str], decoders: dict[str, mysqlvalues.Decoder], *, maria: bool,
    ) -> None:  # fmt: skip
        self._place, self._server_id, self._position = place, server_id, position
        self._table, self._needed, self._decoders, self._maria = table, needed, decoders, maria
        self._key = key
        self._belt = Belt()
        self._stopped = threading.Event()
        self._altered = False
        self._connections: list[Any] = []
        self._thread = threading.Thread(target=self._work, name=f"binlog {server_id}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def next(self) -> list[Part | OpsDeckError]:
        """Give the next parts, the last of them perhaps the fault that ended the reading; none for a second."""
        ended = not self._thread.is_alive()
        return self._belt.take(1.0) or ([Unavailable("the log's reader ended.")] if ended else [])

    def stop(self) -> None:
        """End the thread; its sockets are shut, so it does not wait for the server."""
        self._stopped.set()
        for connection in self._connections:
            with suppress(Exception):  # it is going away; only a shutdown wakes a thread that reads from it
                connection._sock.shutdown(socket.SHUT_RDWR)
            with suppress(Exception):
                connection._force_close()
        self._belt.stop()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(5)

    def _connect(self, **given: Any) -> Any:
        """Connect for the library: twice and no more, since it would come back in silence and for ever."""
        if len(self._connections) >= 2 or self._stopped.is_set():
            raise Unavailable("the link to the log broke.", hint="it is read again by itself")
        if "db" in given:
            given["database"] = given.pop("db")  # as the driver calls it now
        made = connect(self._place, **given)
        self._connections.append(made)
        return made

    def _work(self) -> None:
        try:
            stream = BinLogStreamReader(
                connection_settings={**settings(self._place), "read_timeout": int(SILENCE)},
                server_id=self._server_id,
                blocking=True,
                auto_position=self._position if self._maria else self._position or gtids.NOTHING,
                is_mariadb=self._maria,
                filter_non_implemented_events=False,
                ignored_events=[],
                slave_heartbeat=HEARTBEAT,
                pymysql_wrapper=self._connect,
                enable_logging=False,
            )
            for part in self._parts(stream):
                if not self._belt.put(part):
                    return
        except pymysql.Error as fault:
            self._belt.put(translated(fault, None))
        except OpsDeckError as fault:
            self._belt.put(fault)
        except Exception as fault:  # the decoder's own: told by its class, and nothing after it is taken over
            self._belt.put(
                Refused(f"the log cannot be read: {type(fault).__name__}: {fault}", hint="report it; the index stays")
            )

    def _parts(self, stream: BinLogStreamReader) -> Iterator[Part]:
        changes: list[Change] = []
        gtid, size = "", 0
        committed: datetime | None = None
        for event in stream:
            if isinstance(event, binlog.GtidEvent | binlog.MariadbGtidEvent):
                if isinstance(event, binlog.MariadbGtidEvent) and event.flags & XA_FLAGS:
                    raise unread(38)
                gtid, committed = event.gtid, datetime.fromtimestamp(event.timestamp, UTC)
                changes, size = [], 0
                standalone = isinstance(event, binlog.MariadbGtidEvent) and event.flags & 1
            elif isinstance(event, ROWS):
                if (event.schema, event.table) == self._table:
                    if isinstance(event, rows_of.PartialUpdateRowsEvent):
                        raise unread(39)
                    changes.extend(self._rows(event))
                    size += event.event_size
                    if len(changes) >= PART_CHANGES or size >= PART_BYTES:
                        yield Part(changes, None, size, committed)
                        changes, size = [], 0
            elif isinstance(event, binlog.XidEvent):
                yield self._done(gtid, changes, size, committed)
                changes, size = [], 0
            elif isinstance(event, binlog.QueryEvent):
                query = event.query if isinstance(event.query, str) else event.query.decode("utf-8", "replace")
                word = query.strip().upper()
                if word == "BEGIN" or word.startswith("SAVEPOINT"):
                    continue
                if word.startswith("XA "):
                    raise unread(38)
                changes.extend(self._statement(query, event.schema))
                if self._altered:
                    yield Part(changes, None, size, committed, altered=True)
                    changes, size, self._altered = [], 0, False
                if word in {"COMMIT", "ROLLBACK"} or not self._maria or standalone:
                    yield self._done(gtid, changes, size, committed)
                    changes, size = [], 0
            elif not isinstance(event, KNOWN):
                raise unread(event.event_type)

    def _done(self, gtid: str, changes: list[Change], size: int, committed: datetime | None) -> Part:
        if gtid:
            self._position = gtids.advanced(self._position, gtid, maria=self._maria)
        return Part(changes, self._position, size, committed)

    def _rows(self, event: Any) -> Iterator[Change]:
        names = self._needed if self._needed is not None else self._decoders
        wanted = [(name, self._decoders[name]) for name in names]
        key = [pair for pair in wanted if pair[0] in self._key]
        for row in event.rows:
            if isinstance(event, rows_of.WriteRowsEvent):
                yield Put(self._row(row["values"], row["none_sources"], wanted))
            elif isinstance(event, rows_of.DeleteRowsEvent):
                yield Removed(self._row(row["values"], row["none_sources"], wanted))
            else:
                before = self._row(row["before_values"], row["before_none_sources"], key)
                yield Put(self._row(row["after_values"], row["after_none_sources"], wanted), before)

    def _row(self, values: dict[str, Any], why: Any, wanted: list[tuple[str, mysqlvalues.Decoder]]) -> Row:
        """Decode a row. `why` says for each column without a value why it has none."""
        if "cols bitmap" in why.values():
            missing = next((name for name, _decode in wanted if why.get(name) == "cols bitmap"), None)
            if missing is not None:
                raise Refused(
                    f"the log leaves out the column {missing!r}: somebody wrote with binlog_row_image other than FULL.",
                    hint="SET GLOBAL binlog_row_image = 'FULL'; then rebuild",
                )
        try:
            return {name: None if (raw := values[name]) is None else decode(raw) for name, decode in wanted}
        except KeyError as fault:
            name = fault.args[0]
            if name in values:
                raise
            unnamed = any(str(one).startswith("UNKNOWN_COL") for one in values)
            raise Refused(
                f"the log does not name the column {name!r}: "
                + ("binlog_row_metadata is not FULL there." if unnamed else "the table was changed."),
                hint="SET GLOBAL binlog_row_metadata = 'FULL'; then rebuild"
                if unnamed
                else "change the mapping and rebuild",
            ) from fault

    def _statement(self, query: str, schema: Any) -> Iterator[Change]:
        """What a statement in the log does to our table: empties it, or takes it away."""
        there = schema.decode() if isinstance(schema, bytes) else str(schema)
        text = re.sub(r"/\*.*?\*/", " ", query, flags=re.S).strip().rstrip(";")
        if gone := re.match(r"DROP\s+(?:DATABASE|SCHEMA)\s+(?:IF\s+EXISTS\s+)?(\S+)", text, re.I):
            if gone[1].strip("`").replace("``", "`") == self._table[0]:
                raise Refused(f"the database {self._table[0]} was dropped at the source.", hint="drop the sync")
            return
        found = re.match(
            r"(TRUNCATE(?:\s+TABLE)?|DROP\s+TABLE|RENAME\s+TABLES?|CREATE\s+OR\s+REPLACE\s+TABLE"
            r"|ALTER\s+(?:(?:ONLINE|OFFLINE|IGNORE)\s+)*TABLE)\s+(?:IF\s+EXISTS\s+)?(.*)",
            text,
            re.I | re.S,
        )
        if not found or not _names(found[2], there, self._table):
            return
        verb = found[1].split()[0].upper()
        if verb == "TRUNCATE":
            yield Emptied()
        elif verb in {"DROP", "RENAME", "CREATE"} or re.search(r"\bRENAME\s+(TO|AS)\b", text, re.I):
            raise Refused(
                f"the table {'.'.join(self._table)} was dropped, replaced or renamed at the source.",
                hint="bring it back and rebuild, or drop the sync",
            )
        elif re.search(r"\b(TRUNCATE|DROP|EXCHANGE|CONVERT|DISCARD|IMPORT)\s+(PARTITION|TABLE\s*SPACE)", text, re.I):
            raise Refused(
                f"rows of {'.'.join(self._table)} came or went with a partition or a tablespace, which the log does"
                " not name.",
                hint="rebuild; the index stays as it is until then",
            )
        else:
            self._altered = True


def unread(kind: int) -> Refused:
    """Say that an event is not read: nothing after it is taken over."""
    what, fix = UNREAD.get(kind, ("something that is not known here", "report it"))
    return Refused(
        f"the log holds an event of the kind {kind}: {what}; nothing after it was taken over.",
        hint=f"run at the source: {fix}; then rebuild" if kind in UNREAD else fix,
    )


def _names(text: str, schema: str, table: tuple[str, str]) -> bool:
    """Tell whether a statement's list of tables names ours."""
    name = r"`(?:[^`]|``)+`|[\w$]+"
    for first, second in re.findall(rf"({name})(?:\s*\.\s*({name}))?", text):
        parts = [part.strip("`").replace("``", "`") for part in (first, second) if part]
        if (tuple(parts) if len(parts) == 2 else (schema, parts[0])) == table:
            return True
    return False
