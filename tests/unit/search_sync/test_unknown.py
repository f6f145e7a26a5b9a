"""What a log holds that no release here has heard of ends the reading by its name; it is never passed over."""

from __future__ import annotations

import struct
from collections.abc import AsyncGenerator
from typing import Any, cast

import pytest
from opsdeck_search_sync.changes import Change, Part, Put
from opsdeck_search_sync.sources import binlog, gtids
from opsdeck_search_sync.sources.pgrows import Tables
from opsdeck_search_sync.sources.pgstream import Stream

from opsdeck.api import Refused

KNOWN = b"BCRIUDTYOM"
DESCRIBED = (
    b"R" + struct.pack("!I", 7) + b"public\0item\0d" + struct.pack("!H", 1) + b"\1id\0" + struct.pack("!Ii", 23, -1)
)
"""The table `public.item` of the number 7, with a column `id`."""


def taken(*messages: bytes) -> list[Change | None]:
    tables = Tables({23: "int4"}, ("public", "item"), None)
    return [tables.change(message[0], message, 0) for message in messages]


def test_a_message_of_postgresql() -> None:
    for kind in set(range(256)) - set(KNOWN):
        with pytest.raises(Refused, match="not known here"):
            taken(bytes([kind]) + b"\0" * 40)


def test_a_row_of_postgresql() -> None:
    one = struct.pack("!H", 1)
    said = taken(DESCRIBED, b"I" + struct.pack("!I", 7) + b"N" + one + b"t" + struct.pack("!I", 2) + b"42")
    assert said == [None, Put({"id": 42})]
    with pytest.raises(Refused, match="'z'"):
        taken(DESCRIBED, b"I" + struct.pack("!I", 7) + b"N" + one + b"z")
    with pytest.raises(Refused, match="'Q'"):
        taken(DESCRIBED, b"U" + struct.pack("!I", 7) + b"Q" + one)
    with pytest.raises(Refused, match="'Q'"):
        taken(DESCRIBED, b"U" + struct.pack("!I", 7) + b"K" + one + b"nQ")
    with pytest.raises(Refused, match="does not fit"):
        taken(DESCRIBED, b"D" + struct.pack("!I", 7) + b"K" + struct.pack("!H", 2) + b"nn")


async def test_what_came_before_is_given() -> None:
    begin, commit = b"B" + b"\0" * 20, b"C\0" + b"\0" * 8 + struct.pack("!QQ", 42, 0)
    row = b"I" + struct.pack("!I", 7) + b"N" + struct.pack("!H", 1) + b"t" + struct.pack("!I", 1)
    said = [begin, DESCRIBED, row + b"1", row + b"2", commit, begin, row + b"3", commit, begin, row + b"4", b"Z"]

    class Burst(Stream):
        async def _messages(self) -> AsyncGenerator[list[bytes], None]:
            yield [b"w" + b"\0" * 24 + message for message in said]

    parts: list[Part] = []
    with pytest.raises(Refused, match="'Z'"):
        async for part in Burst(cast("Any", None), "0/1").parts(Tables({23: "int4"}, ("public", "item"), None)):
            parts.append(part)
    assert [[change.row for change in part.changes if isinstance(change, Put)] for part in parts] == [
        [], [], [{"id": 1}, {"id": 2}, {"id": 3}, {"id": 4}]
    ]  # fmt: skip
    assert [(part.position, part.altered) for part in parts] == [(None, False), (None, True), ("0/2A", False)]


@pytest.mark.parametrize("kind", [38, 39, 40, 42, 165, 171, 99, 250])
def test_an_event_of_a_binary_log(kind: int) -> None:
    fault = binlog.unread(kind)
    assert isinstance(fault, Refused) and str(kind) in fault.message and fault.hint


@pytest.mark.parametrize(
    ("position", "tagged"),
    [("", False), ("a0eebc99-9c0b:1-5:7", False), ("a0eebc99-9c0b:shop:1", True), ("a:1,b:1-2:x_1:3", True)],
)
def test_tags_are_seen(position: str, tagged: bool) -> None:
    assert gtids.tagged(position) is tagged
