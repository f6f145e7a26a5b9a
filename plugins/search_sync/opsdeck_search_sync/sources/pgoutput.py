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


@dataclass(frozen=True, slots=True)
class Begin:
    """A transaction begins."""

    committed: datetime


@dataclass(frozen=True, slots=True)
class Commit:
    """A transaction ended; everything before `end` was said."""

    end: int


@dataclass(frozen=True, slots=True)
class Relation:
    """A table as the changes that follow describe it."""

    oid: int
    schema: str
    name: str
    identity: str
    columns: tuple[tuple[str, int, bool], ...]
    """Name, number of the type, whether it is a part of the replica identity."""


Cells = tuple[bytes | bool | None, ...]
"""Texts; None for null, False for a value that was left out because it did not change."""


@dataclass(frozen=True, slots=True)
class Insert:
    oid: int
    new: Cells


@dataclass(frozen=True, slots=True)
class Update:
    oid: int
    old: Cells | None
    whole: bool
    """Whether `old` is the whole row rather than its key."""
    new: Cells


@dataclass(frozen=True, slots=True)
class Delete:
    oid: int
    old: Cells


@dataclass(frozen=True, slots=True)
class Truncate:
    oids: tuple[int, ...]


Message = Begin | Commit | Relation | Insert | Update | Delete | Truncate | None


def parse(data: bytes) -> Message:
    """Read one message; None for one that says nothing about rows (types, origins, messages of applications)."""
    kind = data[:1]
    if kind == b"I":
        return Insert(_u32(data, 1), _tuple(data, 6)[0])
    if kind == b"U":
        return _update(data)
    if kind == b"D":
        return Delete(_u32(data, 1), _tuple(data, 6)[0])
    if kind == b"B":
        _lsn, micros, _xid = struct.unpack_from("!QqI", data, 1)
        return Begin(EPOCH + timedelta(microseconds=micros))
    if kind == b"C":
        _flags, _lsn, end, _micros = struct.unpack_from("!BQQq", data, 1)
        return Commit(end)
    if kind == b"R":
        return _relation(data)
    if kind == b"T":
        count, _options = struct.unpack_from("!IB", data, 1)
        return Truncate(struct.unpack_from(f"!{count}I", data, 6))
    if kind in (b"Y", b"O", b"M"):
        return None
    raise UnknownMessage(
        f"PostgreSQL sent a message of the kind {kind!r}, which is not known here.",
        hint="this release does not read what your server sends; nothing after it was taken over",
    )


def _u32(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "big")


def _update(data: bytes) -> Update:
    oid, mark = _u32(data, 1), data[5:6]
    old, at = None, 6
    if mark in (b"K", b"O"):
        old, at = _tuple(data, 6)
        at += 1  # the N that follows
    elif mark != b"N":
        raise UnknownMessage(f"PostgreSQL sent an update with the part {mark!r}, which is not known here.")
    return Update(oid, old, mark == b"O", _tuple(data, at)[0])


def _tuple(data: bytes, at: int) -> tuple[Cells, int]:
    count = int.from_bytes(data[at : at + 2], "big")
    at += 2
    cells: list[bytes | bool | None] = []
    for _ in range(count):
        kind = data[at]
        at += 1
        if kind == 0x74:  # t
            size = int.from_bytes(data[at : at + 4], "big")
            at += 4
            cells.append(data[at : at + size])
            at += size
        elif kind == 0x6E:  # n
            cells.append(None)
        elif kind == 0x75:  # u
            cells.append(False)
        else:
            raise UnknownMessage(f"PostgreSQL sent a value of the kind {chr(kind)!r}, which is not known here.")
    return tuple(cells), at


def _relation(data: bytes) -> Relation:
    oid = _u32(data, 1)
    schema, at = _text(data, 5)
    name, at = _text(data, at)
    identity = chr(data[at])
    count = int.from_bytes(data[at + 1 : at + 3], "big")
    at += 3
    columns = []
    for _ in range(count):
        key = bool(data[at] & 1)
        column, at = _text(data, at + 1)
        columns.append((column, _u32(data, at), key))
        at += 8
    return Relation(oid, schema, name, identity, tuple(columns))


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
