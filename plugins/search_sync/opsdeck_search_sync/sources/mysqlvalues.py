"""MySQL's and MariaDB's values as JSON-ready values: one codec for the copy and the stream.

The copy's driver and the log's decoder give other Python types for one value (a bit as bytes or as a text of digits, a
set as a text or as a set); what comes out is the same. Times are UTC: the copy's session speaks `+00:00`, the log holds
TIMESTAMP in UTC; a DATETIME has no zone and counts as UTC.
"""

from __future__ import annotations

import base64
import calendar
import ipaddress
import json
import struct
import uuid
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from opsdeck_search_sync.changes import Json
from opsdeck_search_sync.sources.pgvalues import SAFE, document, exact, real

Decoder = Callable[[Any], Json]

REFUSED = frozenset({"vector"})
"""Types whose values the log holds in a form that is not read: they must stay out of a mapping."""


def integer(value: Any) -> Json:
    """Give an integer; a text where a double could not hold it."""
    number = int(value)
    return number if -SAFE <= number <= SAFE else str(number)


def decimal(value: Any) -> Json:
    """Give a decimal as `exact` does."""
    return exact(format(value, "f") if isinstance(value, Decimal) else str(value))


def moment(value: Any) -> Json:
    """Give UNIX seconds; a zero date, which no calendar has, is null."""
    if isinstance(value, datetime):
        whole = calendar.timegm(value.timetuple())
        return whole + value.microsecond / 1_000_000 if value.microsecond else whole
    if isinstance(value, date):
        return calendar.timegm(value.timetuple())
    return None


def span(value: Any) -> Json:
    """Give a TIME in seconds."""
    if not isinstance(value, timedelta):
        return None
    seconds = value.total_seconds()
    return int(seconds) if seconds.is_integer() else seconds


def text(value: Any) -> Json:
    """Give a text; bytes that are none are shown with replacements."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes | bytearray) else str(value)


def binary(value: Any) -> Json:
    """Give bytes as base64."""
    raw = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else bytes(value)
    return base64.b64encode(raw).decode()


def fixed_binary(width: int) -> Decoder:
    """Make the decoder of BINARY(n): the log leaves out the zero bytes at its end, a query does not."""

    def decode(value: Any) -> Json:
        raw = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else bytes(value)
        return base64.b64encode(raw.ljust(width, b"\0")).decode()

    return decode


def bits(width: int) -> Decoder:
    """Make the decoder of BIT(n): a boolean for one bit, else a number."""

    def decode(value: Any) -> Json:
        number = int(value, 2) if isinstance(value, str) else int.from_bytes(bytes(value), "big")
        return bool(number) if width == 1 else integer(number)

    return decode


def members(order: list[str]) -> Decoder:
    """Make the decoder of a SET: its members in the order of the definition."""

    def decode(value: Any) -> Json:
        there = set(value) if isinstance(value, set | frozenset | list) else set(str(value).split(",")) - {""}
        return [name for name in order if name in there]

    return decode


def structure(value: Any) -> Json:
    """Give JSON; the log's decoder has keys and texts as bytes."""
    if isinstance(value, str | bytes):
        return document(text(value))  # type: ignore[arg-type]
    return document(json.dumps(_texts(value)))


def _texts(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, dict):
        return {str(_texts(key)): _texts(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_texts(inner) for inner in value]
    if isinstance(value, Decimal):
        return decimal(value)
    if isinstance(value, datetime):
        return value.isoformat(" ", "microseconds")
    return value.isoformat("microseconds") if isinstance(value, time) else value


def identifier(value: Any) -> Json:
    """Give a UUID as text; the log holds its 16 bytes."""
    return str(uuid.UUID(bytes=bytes(value)) if isinstance(value, bytes | bytearray) else uuid.UUID(str(text(value))))


def address(value: Any) -> Json:
    """Give an INET4 or INET6 as text, written as Python writes it; the log holds its bytes."""
    return str(ipaddress.ip_address(bytes(value) if isinstance(value, bytes | bytearray) else str(text(value))))


def geometry(value: Any) -> Json:
    """Give a point as a place and anything else as GeoJSON; null for what is no geometry.

    Both servers hold four bytes of reference system and then well-known binary, with x as the longitude.
    """
    raw = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else bytes(value)
    try:
        made, _end = _shape(raw, 4)
    except (struct.error, IndexError, KeyError):
        return None
    if isinstance(made, dict) and made["type"] == "Point" and isinstance(made["coordinates"], list):
        return {"lat": made["coordinates"][1], "lng": made["coordinates"][0]}
    return made


_SHAPES = {3: "Polygon", 4: "MultiPoint", 5: "MultiLineString", 6: "MultiPolygon"}


def _points(order: str, raw: bytes, at: int, count: int) -> list[Json]:
    found = struct.unpack_from(f"{order}{2 * count}d", raw, at)
    return [[real(str(x)), real(str(y))] for x, y in zip(found[::2], found[1::2], strict=True)]


def _shape(raw: bytes, at: int) -> tuple[Json, int]:
    order = "<" if raw[at] else ">"
    (kind,) = struct.unpack_from(f"{order}I", raw, at + 1)
    at += 5
    if kind == 1:
        return {"type": "Point", "coordinates": _points(order, raw, at, 1)[0]}, at + 16
    (count,) = struct.unpack_from(f"{order}I", raw, at)
    at += 4
    parts: list[Json] = []
    if kind == 2:
        return {"type": "LineString", "coordinates": _points(order, raw, at, count)}, at + 16 * count
    for _ in range(count):
        if kind == 3:
            (ring,) = struct.unpack_from(f"{order}I", raw, at)
            parts.append(_points(order, raw, at + 4, ring))
            at += 4 + 16 * ring
        else:
            inner, at = _shape(raw, at)
            parts.append(inner if kind == 7 else inner["coordinates"] if isinstance(inner, dict) else None)
    if kind == 7:
        return {"type": "GeometryCollection", "geometries": parts}, at
    return {"type": _SHAPES[kind], "coordinates": parts}, at


def words(definition: str) -> list[str]:
    """Read the members of `set('a','b')` or `enum(…)`."""
    inner = definition[definition.index("(") + 1 : definition.rindex(")")]
    found, at = [], 0
    while at < len(inner):
        at = inner.index("'", at) + 1
        made = ""
        while True:
            end = inner.index("'", at)
            made += inner[at:end]
            if inner[end : end + 2] == "''":
                made, at = made + "'", end + 2
                continue
            at = end + 1
            break
        found.append(made)
    return found


def shape(type_: str, definition: str, width: int | None) -> str:
    """Give what a column's values are read by beside its type."""
    if type_ in {"bit", "binary"}:
        return str(width)
    if type_ == "set":
        return ",".join(words(definition))
    if type_ == "tinyint" and definition.startswith("tinyint(1)"):
        return "boolean"
    return "unsigned" if " unsigned" in definition else ""


def decoder(type_: str, definition: str, width: int | None) -> Decoder:
    """Give the decoder of a column, by `DATA_TYPE`, `COLUMN_TYPE` and the width in `information_schema`."""
    if type_ == "tinyint" and definition.startswith("tinyint(1)"):
        return lambda value: bool(int(value))
    if type_ == "bit":
        return bits(width or 1)
    if type_ == "set":
        return members(words(definition))
    if type_ == "binary":
        return fixed_binary(width or 1)
    return _BASE.get(type_, text)


_BASE: dict[str, Decoder] = {
    "tinyint": integer,
    "smallint": integer,
    "mediumint": integer,
    "int": integer,
    "bigint": integer,
    "year": integer,
    "decimal": decimal,
    "float": lambda value: real(format(float(value), ".6g")),
    "double": lambda value: real(str(value)),
    "date": moment,
    "datetime": moment,
    "timestamp": moment,
    "time": span,
    "varbinary": binary,
    "tinyblob": binary,
    "blob": binary,
    "mediumblob": binary,
    "longblob": binary,
    "json": structure,
    "uuid": identifier,
    "inet4": address,
    "inet6": address,
    **dict.fromkeys(
        ("geometry", "point", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon",
         "geomcollection", "geometrycollection"), geometry,
    ),
}  # fmt: skip
