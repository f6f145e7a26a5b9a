"""One reading of a slot: the messages that PostgreSQL sends, as parts of transactions, and what it is told back."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from datetime import datetime
from typing import Any

import psycopg

from opsdeck.api import OpsDeckError, Unavailable, utcnow
from opsdeck_search_sync.changes import Change, LogLost, Part
from opsdeck_search_sync.sources import pgoutput
from opsdeck_search_sync.sources.pglink import translated
from opsdeck_search_sync.sources.pgoutput import lsn, lsn_text
from opsdeck_search_sync.sources.pgrows import Tables

PART_CHANGES, PART_BYTES = 1000, 1 << 20
GROUP, GROUP_BYTES = 256, 1 << 16
"""Messages that are taken from the link at once; a large one ends its group."""
FEEDBACK, SILENCE = 1.0, 60.0
"""Seconds between two feedbacks, and of silence after which the link is dead: each feedback asks for an answer."""
KEEPALIVE = 0x6B
HEADER = 25
"""Bytes before a message of `pgoutput`: what it is, where it stands in the log, the server's clock."""


class Stream:
    """Reads from a connection on which the replication begins at `position`, and closes it."""

    def __init__(self, connection: psycopg.AsyncConnection[Any], position: str) -> None:
        self._connection = connection
        self._position = position
        self.confirmed = lsn(position)
        """Nothing before this is needed any more; the server is told with the next feedback."""
        self._feeder: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Begin to say how far we are."""
        self._feeder = asyncio.create_task(self._feed(), name="feedback of a slot")

    async def parts(self, tables: Tables) -> AsyncGenerator[Part, None]:
        """Give changes for ever. Transactions that came together make one part. Raises `LogLost`, `Unavailable`."""
        changes: list[Change] = []
        size, inside = 0, False
        said = told = lsn(self._position)
        committed: datetime | None = None

        def part() -> Part:
            nonlocal changes, size, told
            made = Part(changes, lsn_text(said) if said > told else None, size, committed)
            changes, size, told = [], 0, said
            return made

        async with aclosing(self._messages()) as groups:
            async for group in groups:
                for data in group:
                    if data[0] == KEEPALIVE:
                        (end,) = struct.unpack_from("!Q", data, 1)
                        said = said if inside else max(said, end)
                        continue
                    kind = data[HEADER]
                    size += len(data)
                    if kind == pgoutput.BEGIN:
                        inside, committed = True, pgoutput.begun(data, HEADER)
                    elif kind == pgoutput.COMMIT:
                        inside, said = False, pgoutput.committed(data, HEADER)
                    else:
                        try:
                            change = tables.change(kind, data, HEADER)
                        except OpsDeckError:
                            yield part()  # what came before is as good as ever
                            raise
                        if change is not None:
                            changes.append(change)
                            if len(changes) >= PART_CHANGES or size >= PART_BYTES:
                                yield part()
                        elif tables.altered:
                            tables.altered = False
                            yield part()
                            yield Part(committed=committed, altered=True)
                if said > told:
                    yield part()

    async def _messages(self) -> AsyncGenerator[list[bytes], None]:
        """Give what the server sends, a few messages at once."""
        pg, loop = self._connection.pgconn, asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(pg.socket, readable.set)
        heard = time.monotonic()
        group: list[bytes] = []
        try:
            while True:
                try:
                    count, data = pg.get_copy_data(1)
                except psycopg.OperationalError as fault:
                    raise translated(fault) from fault
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
                        raise translated(fault) from fault
                elif count < 0:
                    result = pg.get_result()
                    text = result.error_message.decode(errors="replace") if result else ""
                    if result and result.error_message and b"requested WAL" in result.error_message:
                        raise LogLost(f"PostgreSQL removed the log: {text.strip()}", hint="rebuild the sync")
                    raise Unavailable(f"PostgreSQL ended the stream: {text.strip() or 'it was shut down'}")
        finally:
            loop.remove_reader(pg.socket)

    async def _feed(self) -> None:
        """Say every second how far we are, and ask for an answer."""
        while not self._connection.closed:
            self._feedback()
            await asyncio.sleep(FEEDBACK)

    def _feedback(self) -> None:
        now = int((utcnow() - pgoutput.EPOCH).total_seconds() * 1_000_000)
        at = self.confirmed
        with suppress(psycopg.OperationalError):  # the reading side meets the same fault and tells it
            self._connection.pgconn.put_copy_data(struct.pack("!cQQQqB", b"r", at, at, at, now, 1))
            self._connection.pgconn.flush()

    async def close(self) -> None:
        """Say how far we are once more, and let go of the connection."""
        if self._feeder is not None:
            self._feeder.cancel()
            await asyncio.gather(self._feeder, return_exceptions=True)
            if not self._connection.closed:
                self._feedback()
        await self._connection.close()
