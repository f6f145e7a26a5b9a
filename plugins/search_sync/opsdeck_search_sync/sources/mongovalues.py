"""MongoDB's values as JSON-ready values, and its `_id`s as keys: one codec for the copy and the stream.

Source: the BSON specification, and the driver's Python types for it.
"""

from __future__ import annotations

import base64
import math
import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bson import Binary, Code, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.binary import UUID_SUBTYPE
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS
from bson.dbref import DBRef
from bson.json_util import JSONMode, JSONOptions, dumps, loads

from opsdeck_search_sync.changes import Json
from opsdeck_search_sync.sources.pgvalues import SAFE, exact

KEY = "$key"
"""The column that a document's id is made of. No field of a document is called so."""

CODEC: CodecOptions[dict[str, Any]] = CodecOptions(
    datetime_conversion=DatetimeConversion.DATETIME_MS, unicode_decode_error_handler="replace"
)
"""Dates are milliseconds, since Python's calendar ends before MongoDB's does."""

_WRITTEN = JSONOptions(json_mode=JSONMode.CANONICAL, datetime_conversion=DatetimeConversion.DATETIME_MS)

_TAKEN = re.compile(r"(-?\d+|[0-9a-f]{24}|[st]_.*)\Z", re.S)


def plain(value: Any) -> Json:
    """Give any value of a document as JSON holds it."""
    made: Json = _OF.get(type(value), _other)(value)
    return made


def _other(value: Any) -> Json:
    for kind, make in _OF.items():
        if isinstance(value, kind):
            return make(value)
    return str(value)


def _integer(value: int) -> Json:
    return int(value) if -SAFE <= value <= SAFE else str(int(value))


def _binary(value: Binary) -> Json:
    if value.subtype == UUID_SUBTYPE and len(value) == 16:
        return str(uuid.UUID(bytes=bytes(value)))
    return base64.b64encode(value).decode()


def _moment(value: DatetimeMS) -> Json:
    whole, rest = divmod(int(value), 1000)
    return whole + rest / 1000 if rest else whole


def _flags(value: Regex[Any]) -> str:
    return "".join(letter for letter, flag in _FLAGS if value.flags & flag)


_FLAGS = (("i", re.I), ("l", re.L), ("m", re.M), ("s", re.S), ("u", re.U), ("x", re.X))

_OF: Mapping[type, Callable[[Any], Json]] = {
    type(None): lambda _value: None,
    bool: bool,
    str: str,
    int: _integer,
    Int64: _integer,
    float: lambda value: value if math.isfinite(value) else None,
    dict: lambda value: {name: plain(inner) for name, inner in value.items()},
    list: lambda value: [plain(inner) for inner in value],
    ObjectId: str,
    DatetimeMS: _moment,
    Decimal128: lambda value: exact(format(value.to_decimal(), "f")) if value.to_decimal().is_finite() else None,
    Binary: _binary,
    bytes: lambda value: base64.b64encode(value).decode(),
    Regex: lambda value: f"/{value.pattern}/{_flags(value)}",
    Timestamp: lambda value: f"{value.time}:{value.inc}",
    Code: str,
    DBRef: lambda value: plain(dict(value.as_doc())),
    MinKey: lambda _value: "MinKey",
    MaxKey: lambda _value: "MaxKey",
}


def key(value: Any) -> Json:
    """Give what the id of a document is made of: different for `_id`s that differ, also where their types do.

    An integer stays one, an ObjectId is its 24 digits, a text stays as it is unless it could be taken for one of those
    (then `s_` stands before it); everything else counts by its type and value.
    """
    kind = type(value)
    if kind is ObjectId:
        return str(value)
    if kind is int or kind is Int64:
        return int(value)
    if kind is not float and kind is not Decimal128 and kind is not str:
        return ["t", written(value)]
    if kind is str:
        return f"s_{value}" if _TAKEN.match(value) else value
    number = value.to_decimal() if isinstance(value, Decimal128) else value
    if math.isfinite(number) and number == int(number) and -(2**63) <= number < 2**63:
        return int(number)  # 1, 1.0 and NumberDecimal("1") are one `_id` to MongoDB
    return ["n", str(float(number))]


def written(value: Any) -> str:
    """Write a value so that `again` gives it back, with its type."""
    return str(dumps(value, json_options=_WRITTEN))


def again(text: str) -> Any:
    """Read what `written` wrote."""
    return loads(text, json_options=_WRITTEN)


_AS_IT_IS = frozenset({str, bool, int, type(None)})
"""What JSON holds as BSON does: a 64-bit integer has a type of its own."""


def row(document: Mapping[str, Any], needed: Iterable[str] | None) -> dict[str, Any]:
    """Make a row of a document: of the needed fields (null where it lacks one), or of all of them."""
    if needed is None:
        given: Iterable[tuple[str, Any]] = document.items()
    else:
        given = ((name, document.get(name)) for name in needed)
    made = {name: value if type(value) in _AS_IT_IS else plain(value) for name, value in given}
    made[KEY] = key(document["_id"])
    return made
