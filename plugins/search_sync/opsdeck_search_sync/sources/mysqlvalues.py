"""MySQL's and MariaDB's values as JSON-ready values: one codec for the copy and the stream.

The copy's driver and the log's decoder give other Python types for one value (a bit as bytes or as a text of digits, a
set as a text or as a set); what comes out is the same. Times are UTC: the copy's session speaks `+00:00`, the log holds
TIMESTAMP in UTC; a DATETIME has no zone and counts as UTC.
"""

from __future__ import annotations

import base64
import calendar
import json
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from opsdeck_search_sync.changes import Json
from opsdeck_search_sync.sources.pgvalues import SAFE, document, exact, real

Decoder = Callable[[Any], Json]

REFUSED = frozenset(
    {"geometry", "point", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon", "geomcollection"}
    | {"geometrycollection", "uuid", "inet4", "inet6", "vector"}
)
"""Types whose values the log holds in another form than a query gives: they must stay out of a mapping."""


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
    return document(json.dumps(_texts(value), default=str))


def _texts(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, dict):
        return {str(_texts(key)): _texts(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_texts(inner) for inner in value]
    return value


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
}
