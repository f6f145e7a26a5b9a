"""The messages of PostgreSQL's logical replication, protocol version 1 of `pgoutput`.

Source: PostgreSQL's manual, "Logical Replication Message Formats" and "Streaming Replication Protocol".
A message of a kind that is not known here is fatal and named: skipping it would lose rows in silence.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from opsdeck.api import Refused

EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


class UnknownMessage(Refused):
    """The stream holds something that this reader does not know."""


BEGIN, COMMIT, RELATION, INSERT, UPDATE, DELETE, TRUNCATE = b"BCRIUDT"
SILENT = b"YOM"
"""Kinds that say nothing about rows: types, origins, messages of applications."""
KEY, OLD, NEW = b"KON"
"""What a tuple is: the key before, the whole row before, the row now."""
TEXT, NULL, UNCHANGED = b"tnu"
"""What a value is; one that did not change may be left out."""

U16, U32 = struct.Struct("!H").unpack_from, struct.Struct("!I").unpack_from


@dataclass(frozen=True, slots=True)
class Relation:
    """A table as the changes that follow describe it."""

    oid: int
    schema: str
    name: str
    columns: tuple[tuple[str, int], ...]
    """Name, number of the type."""


def begun(data: bytes, at: int) -> datetime:
    """Read when a transaction that begins here was committed."""
    _lsn, micros = struct.unpack_from("!Qq", data, at + 1)
    return EPOCH + timedelta(microseconds=micros)


def committed(data: bytes, at: int) -> int:
    """Read where a transaction ended: everything before was said."""
    _flags, _lsn, end = struct.unpack_from("!BQQ", data, at + 1)
    return int(end)


def truncated(data: bytes, at: int) -> tuple[int, ...]:
    """Read which tables were emptied."""
    count, _options = struct.unpack_from("!IB", data, at + 1)
    return struct.unpack_from(f"!{count}I", data, at + 6)


def unknown(what: str) -> UnknownMessage:
    """Say that the stream holds something that is not read."""
    return UnknownMessage(
        f"PostgreSQL sent {what}, which is not known here.",
        hint="this release does not read what your server sends; nothing after it was taken over",
    )


def relation(data: bytes, at: int) -> Relation:
    """Read the description of a table."""
    oid = U32(data, at + 1)[0]
    schema, at = _text(data, at + 5)
    name, at = _text(data, at)
    count = U16(data, at + 1)[0]  # behind the replica identity
    at += 3
    columns = []
    for _ in range(count):
        column, at = _text(data, at + 1)
        columns.append((column, U32(data, at)[0]))
        at += 8
    return Relation(oid, schema, name, tuple(columns))


def _text(data: bytes, at: int) -> tuple[str, int]:
    end = data.index(b"\0", at)
    return data[at:end].decode(), end + 1


def lsn(text: str) -> int:
    """Read a position such as `0/16B3748`."""
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) | int(low, 16)


def lsn_text(value: int) -> str:
    """Write a position as PostgreSQL does."""
    return f"{value >> 32:X}/{value & 0xFFFFFFFF:X}"
