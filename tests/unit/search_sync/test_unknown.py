"""What a log holds that no release here has heard of ends the reading by its name; it is never passed over."""

from __future__ import annotations

import struct

import pytest
from opsdeck_search_sync.sources import binlog, gtids, pgoutput

from opsdeck.api import Refused

KNOWN = b"BCRIUDTYOM"


def test_a_message_of_postgresql() -> None:
    for kind in set(range(256)) - set(KNOWN):
        with pytest.raises(Refused, match="not known here"):
            pgoutput.parse(bytes([kind]) + b"\0" * 40)


def test_a_value_and_an_update_of_postgresql() -> None:
    with pytest.raises(Refused, match="'z'"):
        pgoutput.parse(b"I" + struct.pack("!I", 7) + b"N" + struct.pack("!H", 1) + b"z")
    with pytest.raises(Refused, match="b'Q'"):
        pgoutput.parse(b"U" + struct.pack("!I", 7) + b"Q" + struct.pack("!H", 0))


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
